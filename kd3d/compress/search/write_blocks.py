"""Write ``blocks.zip``: the building blocks of a space and some whole students, for a device that is elsewhere."""

from __future__ import annotations

import hashlib
import json
import math
import random
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d import __version__
from kd3d.bench.block_file import INDEX, SCHEMA
from kd3d.compress.search.block_graphs import (
    block_graph,
    block_inputs,
    network_graph,
    network_inputs,
    overhead_graph,
)
from kd3d.compress.search.blocks import KINDS, Block, blocks, grid_key, rows, space_blocks
from kd3d.compress.search.half_blocks import lowered
from kd3d.compress.search.space import Space, scaled
from kd3d.compress.search.stats import PillarStats
from kd3d.runs.atomic import atomic_file
from kd3d.spec import DetectorSpec, to_json

NETWORKS = 10
_DRAWN = 300
_EPOCH = (2020, 1, 1, 0, 0, 0)  # the same content gives the same file
Stats = Callable[[DetectorSpec], PillarStats]


@dataclass(frozen=True)
class Written:
    """What a file holds.

    Args:
        path: of it.
        blocks, networks: how many.
        files: distinct graphs of blocks.
        families: of the blocks.
        bytes: of the file.
        precision: of the graphs.
    """

    path: Path
    blocks: int
    networks: int
    files: int
    families: int
    bytes: int
    precision: str

    def to_json(self) -> dict[str, Any]:
        """Stable keys of ``kd3d search --write-blocks --json``."""
        return {**vars(self), "path": str(self.path)}


def write_blocks(
    path: Path,
    teacher: DetectorSpec,
    space: Space,
    *,
    stats: Stats,
    precision: str = "fp32",
    networks: int = NETWORKS,
    limit: int = 600,
    progress: Callable[[int, int], None] | None = None,
) -> Written:
    """Write the blocks of ``space`` and ``networks`` whole networks (the teacher among them) to ``path``, atomically.

    Args:
        path: of the zip; an existing file is replaced when the new one is whole.
        teacher: whose students they are.
        space: what may vary.
        stats: pillar statistics of the data (a ``StatsTable``), or ``PillarStats.full`` where there is no data.
        precision: of the graphs, ``fp32`` or ``fp16``: that in which students will be exported.
        networks: whole networks; the correction of the sums of blocks is fitted to them.
        limit: about how many blocks at most.
        progress: told graphs written and graphs in all.

    Raises:
        BackendError: onnx is not installed.
        UsageError: another precision.
        OutputError: ``path`` cannot be written.
    """
    found = space_blocks(teacher, space, stats=stats, limit=limit)
    specs = spanning_networks(teacher, space, stats=stats, count=networks)
    total, done = 1 + len(found.blocks) + len(specs), 0
    items: list[dict[str, Any]] = []
    hashes: dict[str, str] = {}
    with atomic_file(Path(path)) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:

        def add(name: str, make: Callable[[], bytes]) -> None:
            nonlocal done
            if name not in hashes:
                content = make()
                hashes[name] = hashlib.sha256(content).hexdigest()
                archive.writestr(zipfile.ZipInfo(name, _EPOCH), content, zipfile.ZIP_DEFLATED)
            done += 1
            if progress is not None:
                progress(done, total)

        add("overhead.onnx", overhead_graph)
        items.append(_item("overhead", "overhead", "overhead.onnx", [{"name": "x", "shape": [1], "fill": "uniform"}]))
        for block in found.blocks:
            file = f"blocks/{block.graph_key}.onnx"
            add(file, lambda block=block: lowered(block_graph(block), block.kind, precision))  # type: ignore[misc]
            items.append(_item(block.key, "block", file, block_inputs(block, precision), **_about(block)))
        for spec in specs:
            key, pillars = network_key(spec), rows(stats(spec))
            file = f"networks/{key}.onnx"
            add(file, lambda spec=spec: lowered(network_graph(spec), "network", precision))  # type: ignore[misc]
            inputs = network_inputs(spec, pillars)
            items.append(_item(key, "network", file, inputs, spec=to_json(spec), pillars=pillars))
        about = {"teacher": teacher.name, "precision": precision, "pillars": found.pillars}
        listed = [{**item, "sha256": hashes[item["file"]]} for item in items]
        index = {"schema": SCHEMA, "kd3d": __version__, **about, "items": listed}
        archive.writestr(zipfile.ZipInfo(INDEX, _EPOCH), json.dumps(index), zipfile.ZIP_DEFLATED)
    files, families = sum(name.startswith("blocks/") for name in hashes), len({block.family for block in found.blocks})
    size = Path(path).stat().st_size
    return Written(Path(path), len(found.blocks), len(specs), files, families, size, precision)


def network_key(spec: DetectorSpec) -> str:
    """Hash of the network's structure; its name does not matter."""
    structure = [to_json(part) for part in (spec.points, spec.grid, spec.encoder, spec.backbone, spec.head)]
    return hashlib.sha256(json.dumps(structure).encode()).hexdigest()[:16]


def spanning_networks(teacher: DetectorSpec, space: Space, *, stats: Stats, count: int) -> list[DetectorSpec]:
    """The teacher and ``count - 1`` students that lie far apart in what their parts cost; the same for the same space.

    Each next one is, of a few hundred drawn, the farthest from those already taken (farthest-point sampling).
    """
    choices = list(space.choices(teacher))
    drawn = random.Random(0).sample(choices, min(_DRAWN, len(choices)))
    specs = [teacher, *(scaled(teacher, choice, multiple=space.multiple) for choice in drawn)]
    places = [_place(spec, rows(stats(spec))) for spec in specs]
    taken = [0]
    nearest = [math.dist(place, places[0]) for place in places]
    while len(taken) < min(count, len(specs)) and max(nearest) > 0:
        taken.append(max(range(len(specs)), key=nearest.__getitem__))
        nearest = [min(old, math.dist(place, places[taken[-1]])) for old, place in zip(nearest, places, strict=True)]
    return [specs[index] for index in taken]


def _place(spec: DetectorSpec, pillars: int) -> list[float]:
    found = blocks(spec, pillars)
    return [math.log(sum(block.macs for block in found if block.kind == kind)) for kind in KINDS]


def _item(key: str, role: str, file: str, inputs: Sequence[dict[str, Any]], **about: Any) -> dict[str, Any]:
    return {"key": key, "role": role, "file": file, "inputs": list(inputs), "about": about}


def _about(block: Block) -> dict[str, Any]:
    return {name: getattr(block, name) for name in ("kind", "family", "macs", "macs_padded", "elements")}


__all__ = ["NETWORKS", "Written", "grid_key", "network_key", "spanning_networks", "write_blocks"]
