"""Which frames count as labelled, and which are learnt from without labels: options of the commands that train."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.errors import UsageError

Labelled = Annotated[
    str | None,
    typer.Option("--labelled", help="Take only these training scenes as labelled: a share (10%), or a file of names."),
]
Unlabelled = Annotated[
    Path | None,
    typer.Option("--unlabelled", help="A folder of the same kind, from whose frames the teacher teaches; no label."),
]
UnlabelledSplit = Annotated[
    str | None, typer.Option("--unlabelled-split", help="Of that folder; train, else test, if it is not given.")
]
UnlabelledShare = Annotated[
    float, typer.Option("--unlabelled-share", help="Of the frames of a batch: how many are such frames.")
]


@dataclass(frozen=True)
class Labelling:
    """What the options said.

    Args:
        labelled: share or file; ``None`` takes all scenes.
        unlabelled: folder, or ``None``.
        split: of it.
        share: of a batch.
        pseudo: threshold of the labels that the teacher gives them, or ``None``.
    """

    labelled: str | None = None
    unlabelled: Path | None = None
    split: str | None = None
    share: float = 0.5
    pseudo: float | None = None

    def __post_init__(self) -> None:
        if self.unlabelled is None and self.split is not None:
            raise UsageError("--unlabelled-split says which frames of --unlabelled: give that folder too.")
        if self.unlabelled is None and self.pseudo is not None:
            raise UsageError("--pseudo-labels are labels of the frames of --unlabelled: give that folder too.")


ALL = Labelling()


def labelled_frames(data: Path, sweeps: int, labelled: str | None) -> Any:
    """The training frames that count as labelled; says how many that are, if not all."""
    from kd3d.cli.console import say
    from kd3d.datasets.open import open_dataset
    from kd3d.datasets.parts import labelled_part

    whole = open_dataset(data, split="train", sweeps=sweeps)
    chosen = labelled_part(whole, labelled)
    if labelled is not None:
        say(f"labelled: {len(chosen)} of {len(whole)} training frames ({labelled})")
    return chosen


def unlabelled_frames(chosen: Labelling, sweeps: int, *, train: Any, val: Any) -> dict[str, Any]:
    """Fields of ``CompressData`` for the frames without labels; none of ``train`` and ``val`` is among them."""
    from kd3d.cli.console import say
    from kd3d.datasets.unlabelled import open_unlabelled

    if chosen.unlabelled is None:
        return {}
    elsewhere = [] if val is None else [val]
    found = open_unlabelled(chosen.unlabelled, split=chosen.split, sweeps=sweeps, like=train, elsewhere=elsewhere)
    left = f"; {found.dropped} more are training or validation frames" if found.dropped else ""
    say(f"unlabelled: {len(found.dataset)} frames of {chosen.unlabelled}{left}")
    return {"unlabelled": found.dataset, "unlabelled_share": chosen.share}
