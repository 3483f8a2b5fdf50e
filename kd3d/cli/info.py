"""``kd3d info``"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from kd3d.cli.console import emit, say
from kd3d.cli.models import load_model
from kd3d.cli.options import Json


def info(
    model: Annotated[str, typer.Argument(help="Model folder, run folder, or preset name.")],
    data: Annotated[
        Path | None, typer.Option("--data", "--data-root", help="Measure pillars per frame on this data.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of --data.")] = "train",
    json_line: Json = False,
) -> None:
    """Size and cost of a detector, stage by stage. One MAC is one multiply-accumulate."""
    from kd3d.compress.search.cost import cost
    from kd3d.report.table import cost_table, show

    loaded = load_model(model, presets=True)
    stats, source = _stats(loaded, data, split)
    found = cost(loaded.spec, stats)
    show(cost_table(loaded.spec.name, found))
    say(f"pillar statistics: {source}")
    emit({"model": model, "name": loaded.spec.name, "statistics": source, **_as_json(found)}, as_json=json_line)


def _stats(loaded: Any, data: Path | None, split: str) -> tuple[Any, str]:
    from kd3d.compress.search.cost import PillarStats, measure_stats
    from kd3d.datasets.open import open_dataset

    if data is not None:
        dataset = open_dataset(data, split=split, sweeps=loaded.spec.points.sweeps)
        return measure_stats(dataset, loaded.spec, n=20), f"measured on {data}"
    stored = loaded.meta.get("pillar_stats")
    if stored:
        return PillarStats(**stored), "stored with the model"
    return PillarStats.full(loaded.spec), "every pillar slot counted as full (give --data for the data's own)"


def _as_json(found: Any) -> dict[str, Any]:
    from kd3d.spec.codec import to_json

    return dict(to_json(found))
