"""What ``search`` and ``compress`` share: axes, strategy, rungs, storage."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from kd3d.errors import UsageError

Widths = Annotated[
    list[str] | None,
    typer.Option("--widths", help="Width multipliers: 0.25,0.5,1 of every part, or backbone=0.25,0.5. Repeatable."),
]
Depths = Annotated[str | None, typer.Option("--depths", help="Shares of each level's further layers: 0,0.5,1.")]
Cells = Annotated[str | None, typer.Option("--cells", help="Cell size multipliers: 1,1.25,1.5,2.")]
Strategy = Annotated[
    str | None, typer.Option("--strategy", help="Train some students shortly: grid, random, nsga2 or tpe.")
]
Trials = Annotated[int, typer.Option("--trials", min=1, help="Students that are trained.")]
Rungs = Annotated[str, typer.Option("--rungs", help="Steps after which only the best go on: 100,200,400.")]
Eta = Annotated[float, typer.Option("--eta", help="One student in so many goes on.")]
Storage = Annotated[
    str | None, typer.Option("--storage", help="Shared study: a .journal or .db file, or postgresql://...")
]
Study = Annotated[str, typer.Option("--study", help="Name of the study in the storage.")]


def space(widths: list[str] | None, depths: str | None, cells: str | None) -> Any:
    """The search space that the axes name."""
    from kd3d.compress.search.axes import parse_space

    return parse_space(widths or (), depths=depths, cells=cells)


def settings(strategy: str | None, *, rungs: str, **rest: Any) -> Any:
    """``SearchSettings``, or ``None`` where nothing is to be trained."""
    from kd3d.compress.search.settings import SearchSettings, parse_rungs

    if strategy is None:
        if rest.get("storage") is not None:
            raise UsageError("--storage keeps the trainings of a search; add --strategy.")
        return None
    return SearchSettings(strategy, rungs=parse_rungs(rungs), **rest)  # type: ignore[arg-type]
