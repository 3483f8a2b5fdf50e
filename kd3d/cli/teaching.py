"""What ``distill`` and ``compress`` share: frames, settings, and progress by stages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import TerminalProgress
from kd3d.cli.labelling import ALL, Labelling, labelled_frames, unlabelled_frames
from kd3d.errors import UsageError

Rule = Annotated[
    str,
    typer.Option(
        "--inherit",
        help="Which teacher channels the student takes: auto (taylor, or l1 without labels), l1, first, bn, taylor, "
        "random, copy, none.",
    ),
]
Logits = Annotated[
    float | None, typer.Option("--logit-weight", help="Of pivotal-position logit distillation, usually 7; 0: none.")
]
Mask = Annotated[
    str | None,
    typer.Option("--mask", help="Pivotal positions: gaussian (usual), confidence, rank, foreground, everywhere."),
]
Features = Annotated[
    float | None, typer.Option("--feature-weight", help="Of cross-scale BEV feature distillation; usually 0, none.")
]
Labels = Annotated[
    float | None,
    typer.Option("--label-threshold", help="Teacher boxes above this score (usually 0.35) become labels; 1: none."),
]
PseudoLabels = Annotated[
    float | None,
    typer.Option(
        "--pseudo-labels", help="Teacher boxes above this score (0.35, say) label the frames of --unlabelled."
    ),
]
RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="auto (usual), sparsekd, unidistill, crossscale, labelfree, ssad, or a recipe file; options that are "
        "given override it.",
    ),
]
Blend = Annotated[
    str | None,
    typer.Option(
        "--blend",
        help="Join gradients without weights: off, auto, params, cut or interval, and FIELD=VALUE after commas.",
    ),
]
LrScales = Annotated[
    list[str] | None, typer.Option("--lr-scale", help="PART=FACTOR of --lr, such as encoder=0.1; may be repeated.")
]
Control = Annotated[bool, typer.Option("--control", help="Also train the same student, as long, without the teacher.")]

Cache = Annotated[
    str | None,
    typer.Option("--teacher-cache", help="Keep the teacher's answers in this folder, or auto: in the run folder."),
]
CacheDraws = Annotated[
    int, typer.Option("--cache-augmentations", min=1, help="Recorded augmentations per frame, with --teacher-cache.")
]
TeacherPrecision = Annotated[
    str, typer.Option("--teacher-precision", help="fp32, bf16, fp16 (GPU only); auto follows --precision.")
]
CompileTeacher = Annotated[bool, typer.Option("--compile-teacher", help="Run the teacher through torch.compile.")]


def frames(data: Path, sweeps: int, *, augment: bool, val: bool = True, labels: Labelling = ALL) -> Any:
    """Training and (with ``val``) validation frames, with the data set's usual augmentation."""
    from kd3d.cli.train import augmentation
    from kd3d.compress.data import CompressData
    from kd3d.datasets.open import open_dataset

    train = labelled_frames(data, sweeps, labels.labelled)
    scored = open_dataset(data, split="val", sweeps=sweeps) if val else None
    others = unlabelled_frames(labels, sweeps, train=train, val=scored)
    return CompressData(train, scored, augmentation(train.kind, ()) if augment else None, **others)


def cache(folder: str | None, augmentations: int) -> Any:
    """``CacheSettings`` of ``--teacher-cache``, or ``None`` without it."""
    from kd3d.compress.distill.cache import CacheSettings

    if folder is None:
        return None
    return CacheSettings(None if folder == "auto" else Path(folder), augmentations)


def lr_scales(given: list[str] | None) -> tuple[tuple[str, float], ...]:
    """``TrainSettings.lr_scales`` of ``--lr-scale``.

    Raises:
        UsageError: one is not PART=FACTOR.
    """
    found = []
    for text in given or ():
        part, _, factor = text.partition("=")
        try:
            found.append((part.strip(), float(factor)))
        except ValueError as error:
            raise UsageError(f"--lr-scale takes PART=FACTOR, such as encoder=0.1, not {text!r}.") from error
    return tuple(found)


def running(precision: str, *, compiled: bool) -> Any:
    """``TeacherSettings`` from the options."""
    from kd3d.compress.distill.teacher import TeacherSettings

    return TeacherSettings(precision=precision, compiled=compiled)  # type: ignore[arg-type]


def settings(
    training: Any,
    *,
    inherit: str,
    recipe: dict[str, Any],
    control: bool = False,
    base: str | None = None,
    models: tuple[Any, ...] = (),
    **rest: Any,
) -> Any:
    """``DistillSettings`` from what the options said; those that are not ``None`` override the recipe ``base``.

    ``models`` are the specifications of student and teacher: between anchor heads a recipe's edition for them is taken.

    Raises:
        UsageError: the recipe cannot join ``models``; nothing was written.
    """
    from dataclasses import replace

    from kd3d.compress.blend_option import parse_blend
    from kd3d.compress.distilling import DistillSettings
    from kd3d.compress.recipe_file import DEFAULT, edition, load_recipe

    given = {name: value for name, value in recipe.items() if value is not None}
    if "blend" in given:
        given["blend"] = parse_blend(given["blend"])
    if given.get("label_threshold", 0.0) >= 1:
        given["label_threshold"] = None
    made = replace(load_recipe(edition(base or DEFAULT, *models)), **given)
    if models:
        made.check(*models)
    return DistillSettings(training, made, None if inherit == "none" else inherit, control, **rest)


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
