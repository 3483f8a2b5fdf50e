"""``kd3d info``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kd3d.cli.console import emit, say
from kd3d.cli.models import find_model, load_model
from kd3d.cli.options import Json
from kd3d.errors import UsageError

if TYPE_CHECKING:
    from kd3d.compress.search.cost import Cost, Stats
    from kd3d.spec import DetectorSpec

CONVENTIONS = {
    "macs": "physical; kd3d's budgets, and RDD's KITTI PointPillars row",
    "macs_thop": "thop; SparseKD's tables, and RDD's where it reprints them",
}


def info(
    model: Annotated[str, typer.Argument(help="Model folder, run folder, specification file, or preset name.")],
    data: Annotated[
        Path | None, typer.Option("--data", "--data-root", help="Measure pillars or voxels per frame on this data.")
    ] = None,
    split: Annotated[str, typer.Option("--split", help="Of --data.")] = "train",
    bits: Annotated[int, typer.Option("--bits", min=1, max=64, help="Per number, for memory.")] = 16,
    json_line: Json = False,
) -> None:
    """Size and cost of a detector, stage by stage. One MAC is one multiply-accumulate."""
    from kd3d.compress.search.cost import cost
    from kd3d.report.table import cost_table, show

    spec, meta, is_preset = _specification(model)
    stats, source = _stats(spec, meta, data, split=split, is_preset=is_preset)
    found = cost(spec, stats)
    show(cost_table(spec.name, found))
    for line in _explanation(found, bits):
        say(line)
    say(f"{'pillar' if 'Pillar' in type(stats).__name__ else 'voxel'} statistics: {source}")
    record = {
        "model": model, "name": spec.name, "statistics": source, "buildable": True, **_as_json(found),
        "memory_bits": bits, "weight_bytes": found.weight_bytes(bits),
        "peak_activation_bytes": found.peak_activation_bytes(bits), "conventions": CONVENTIONS,
    }  # fmt: skip
    emit(record, as_json=json_line)


def _specification(model: str) -> tuple[DetectorSpec, dict[str, Any], bool]:
    """The specification, what is stored with it, and whether it is a preset; networks are built for folders only."""
    from kd3d.cli.train import read_spec

    if Path(model).suffix == ".json":
        return read_spec(model), {}, False
    if find_model(model).kind == "preset":
        return read_spec(model), {}, True
    loaded = load_model(model)
    return loaded.spec, dict(loaded.meta), False


def _stats(
    spec: DetectorSpec, meta: dict[str, Any], data: Path | None, *, split: str, is_preset: bool
) -> tuple[Stats, str]:
    from kd3d.compress.search.cost import PillarStats, SparseStats, measure_stats
    from kd3d.compress.search.published import published_stats
    from kd3d.spec import VoxelEncoderSpec, from_json

    voxels = isinstance(spec.encoder, VoxelEncoderSpec)
    if data is not None:
        from kd3d.compress.search.sparse_sites import measure_sparse
        from kd3d.datasets.open import open_dataset

        dataset = open_dataset(data, split=split, sweeps=spec.points.sweeps)
        return (measure_sparse if voxels else measure_stats)(dataset, spec, n=20), f"measured on {data}"
    if meta.get("pillar_stats") and not voxels:
        return PillarStats(**meta["pillar_stats"]), "stored with the model"
    if meta.get("sparse_stats") and voxels:
        return from_json(SparseStats, meta["sparse_stats"]), "stored with the model"
    known = published_stats(spec.name) if is_preset else None
    if known is not None:
        return known
    if voxels:
        raise UsageError(
            f"the cost of {spec.name} depends on the data: sparse convolutions count occupied voxels. Give --data."
        )
    return PillarStats.full(spec), "every pillar slot counted as full (give --data for the data's own)"


def _explanation(found: Cost, bits: int) -> tuple[str, ...]:
    read, written = (elements * bits / 8e6 for elements in (found.read_elements, found.written_elements))
    return (
        f"MACs         {found.macs / 1e9:10.3f} G  {CONVENTIONS['macs']}",
        f"MACs (thop)  {found.macs_thop / 1e9:10.3f} G  {CONVENTIONS['macs_thop']}",
        f"memory at {bits} bits: weights {found.weight_bytes(bits) / 1e6:.2f} MB, "
        f"activations at least {found.peak_activation_bytes(bits) / 1e6:.2f} MB at once",
        f"memory traffic per frame at least {read:.1f} MB read and {written:.1f} MB written",
    )


def _as_json(found: Cost) -> dict[str, Any]:
    from kd3d.spec.codec import to_json

    return dict(to_json(found))
