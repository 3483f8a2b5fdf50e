"""What ``distill`` and ``compress`` share: frames, settings, and progress by stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import TerminalProgress

Rule = Annotated[str, typer.Option("--inherit", help="Which teacher channels the student takes: l1, first, or none.")]
Logits = Annotated[float, typer.Option("--logit-weight", help="Of pivotal-position logit distillation; 0: none.")]
Mask = Annotated[
    str, typer.Option("--mask", help="Pivotal positions: gaussian, confidence, rank, foreground, everywhere.")
]
Features = Annotated[float, typer.Option("--feature-weight", help="Of cross-scale BEV feature distillation; 0: none.")]
Labels = Annotated[
    float, typer.Option("--label-threshold", help="Teacher boxes above this score become labels; 1: none.")
]
Control = Annotated[bool, typer.Option("--control", help="Also train the same student, as long, without the teacher.")]


def frames(data: Path, sweeps: int, *, augment: bool, val: bool = True) -> Any:
    """Training and (with ``val``) validation frames, with the data set's usual augmentation."""
    from kd3d.cli.train import augmentation
    from kd3d.compress.data import CompressData
    from kd3d.datasets.open import open_dataset

    train = open_dataset(data, split="train", sweeps=sweeps)
    scored = open_dataset(data, split="val", sweeps=sweeps) if val else None
    return CompressData(train, scored, augmentation(train.kind, ()) if augment else None)


def settings(training: Any, *, inherit: str, recipe: dict[str, Any], control: bool) -> Any:
    """``DistillSettings`` from what the options said."""
    from kd3d.compress.distilling import DistillSettings
    from kd3d.compress.recipe import Recipe

    threshold = recipe.pop("label_threshold")
    made = Recipe(label_threshold=None if threshold >= 1 else threshold, **recipe)
    return DistillSettings(training, made, None if inherit == "none" else inherit, control)


@contextmanager
def stages() -> Iterator[Callable[[Any], None]]:
    """Progress of a run in stages: a bar (or plain lines) for each, and its notes."""
    progress = TerminalProgress()
    with ExitStack() as all_stages:
        current: dict[str, Any] = {"stage": None, "bar": ExitStack()}
        all_stages.callback(lambda: current["bar"].close())

        def update(news: Any) -> None:
            if news.stage != current["stage"]:
                current["bar"].close()
                current.update(stage=news.stage, bar=ExitStack())
                current["step"] = current["bar"].enter_context(progress.phase(news.stage))
            current["step"](news.done, news.total)
            if news.note:
                progress.line(f"{news.stage}: {news.note}")

        yield update
