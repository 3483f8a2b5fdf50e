"""Autoware's CenterPoint node without Autoware: its steps in numpy, around the two networks of its layout. No torch.

Arrival order stands for the node's: it shuffles the points, and its threads keep 32 per pillar in no fixed order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError, UsageError
from kd3d.geometry.boxes import Boxes3D, Floats
from kd3d.geometry.iou import paired_iou
from kd3d.runs.atomic import read_json
from kd3d.runtime.autoware_rules import (
    OUTPUTS,
    PEDESTRIAN,
    PILLAR_CHANNELS,
    POINTS_PER_PILLAR,
    NodeRules,
    node_decode,
)
from kd3d.runtime.decode import candidates, suppress
from kd3d.runtime.engine_file import is_engine, read_engine_file
from kd3d.runtime.frames import Frame
from kd3d.runtime.heads import heads_from_arrays, onnx_names
from kd3d.runtime.pillars import hard_pillars
from kd3d.runtime.points import check_finite, select_features
from kd3d.runtime.runners import OrtRunner, Runner
from kd3d.runtime.spec_file import spec_from_file
from kd3d.runtime.trt_runner import TrtRunner
from kd3d.spec.detector import DetectorSpec

Arrays = Mapping[str, NDArray[Any]]
_ROWS = 256  # of pairs of boxes that are looked at together: bounds memory
FORMAT = 2  # of pipeline.json: two networks, and the node's rules
_AGAIN = "Export the detector again: kd3d export autoware"


class NodeSteps:
    """What the node does before and after the networks.

    Args:
        spec: of the detector; its ``decode`` is the node's (``node_decode``).
        rules: of the node.

    Attributes:
        dropped_points, dropped_pillars, total_dropped_points, total_dropped_pillars: as those of
            ``kd3d.runtime.pipeline.Pipeline``.
    """

    def __init__(self, spec: DetectorSpec, rules: NodeRules) -> None:
        self.spec, self.rules = spec, rules
        self.dropped_points = self.dropped_pillars = 0
        self.total_dropped_points = self.total_dropped_pillars = 0

    def pre(self, frame: Frame) -> dict[str, NDArray[Any]]:
        """``features [V, 32, F]`` float32, zero in unused slots and pillars; ``cells [P]`` and ``counts [P]``.

        Raises:
            DataError: the cloud lacks a column, or holds NaN or infinite values.
        """
        points = check_finite(select_features(frame.points, frame.features, self.spec.points), frame.token)
        grid, encoder = self.spec.grid, self.spec.pillar_encoder
        pillars = hard_pillars(
            self._columns(points), grid, max_points=POINTS_PER_PILLAR, max_pillars=encoder.max_pillars
        )
        self.dropped_points, self.dropped_pillars = pillars.dropped_points, pillars.dropped_pillars
        self.total_dropped_points += pillars.dropped_points
        self.total_dropped_pillars += pillars.dropped_pillars
        width = len(self.rules.columns)
        features = np.zeros((encoder.max_pillars, POINTS_PER_PILLAR, width), np.float32)
        features[: len(pillars.cells)] = pillars.features[..., :width]
        return {"features": features, "cells": pillars.cells, "counts": pillars.counts}

    def _columns(self, points: Floats) -> Floats:
        """The node's columns before decoration; those that the detector does not know are zero."""
        found = np.zeros((len(points), self.rules.point_columns), np.float32)
        for column, name in enumerate(self.spec.points.features):
            scale = self.rules.intensity_scale if name == "intensity" else 1.0
            found[:, self.rules.columns.index(name)] = points[:, column] / scale
        return found

    def decode(self, arrays: Arrays) -> Boxes3D:
        """Candidates of kd3d's maps: the best class of every cell whose rotation vector is long enough."""
        heads = heads_from_arrays(arrays, self.spec)
        if self.rules.yaw_norm > 0:
            hm = np.array(heads[0].hm, np.float32)
            hm[:, np.hypot(*heads[0].rot) < self.rules.yaw_norm] = -np.inf
            heads = (heads[0]._replace(hm=hm),)
        return candidates(heads, self.spec)

    def nms(self, found: Boxes3D) -> Boxes3D:
        """Boxes after the circle suppression."""
        return suppress(found, self.spec)


class AutowareNode(NodeSteps):
    """The node around its two networks, as a pipeline: stages that can be timed one by one.

    Args:
        spec, rules: as above.
        runners: of the encoder and of the rest; entered with the node.
        by_iou: whether the node's last step, suppression by BEV IoU, is done too.
    """

    stages = ("pre", "encoder", "scatter", "head", "decode", "nms")

    def __init__(
        self, spec: DetectorSpec, rules: NodeRules, *, runners: tuple[Runner, Runner], by_iou: bool = True
    ) -> None:
        super().__init__(spec, rules)
        self.runners, self.by_iou = runners, by_iou
        self._held = ExitStack()

    @property
    def runner(self) -> Runner:
        """The larger network's: what reports name."""
        return self.runners[1]

    @property
    def name(self) -> str:
        """Detector and runner, for reports."""
        return f"{self.spec.name} in Autoware's node ({self.runner.name})"

    def __enter__(self) -> AutowareNode:
        with ExitStack() as stack:
            for runner in self.runners:
                stack.enter_context(runner)
            self._held = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def __call__(self, frame: Frame) -> Boxes3D:
        """Boxes of a frame; labels index ``spec.head.classes``."""
        return self.nms(self.decode(self.network(self.pre(frame))))

    def network(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """kd3d's maps by name: encoder, scatter and head."""
        return self.head(self.scatter(self.encoder(feeds)))

    def encoder(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """``pillars [V, 32]`` of the first file, and the ``cells`` of those in use."""
        found = self.runners[0].infer({"input_features": feeds["features"]})
        return {"pillars": found["pillar_features"], "cells": feeds["cells"]}

    def scatter(self, found: Arrays) -> dict[str, NDArray[Any]]:
        """``spatial_features [1, 32, Y, X]``, zero where no pillar is."""
        grid, cells = self.spec.grid, found["cells"]
        canvas = np.zeros((PILLAR_CHANNELS, grid.ny * grid.nx), np.float32)
        canvas[:, cells] = found["pillars"][: len(cells)].T
        return {"spatial_features": canvas.reshape(1, PILLAR_CHANNELS, grid.ny, grid.nx)}

    def head(self, canvas: Arrays) -> dict[str, NDArray[Any]]:
        """The six maps of the second file in kd3d's conventions."""
        found = self.runners[1].infer(canvas)
        hm, center, height, dim, rot, vel = (found[name] for name in OUTPUTS)
        maps = [hm, center, height, dim[:, [1, 0, 2]], -rot[:, [1, 0]], vel]
        return dict(zip(onnx_names(self.spec), maps, strict=False))  # a detector without velocity has no sixth name

    def nms(self, found: Boxes3D) -> Boxes3D:
        """Boxes after the circle suppression and, with ``by_iou``, after that by BEV IoU."""
        kept = super().nms(found)
        return kept.select(self._spared(kept)) if self.by_iou and len(kept) > 1 else kept

    def bound(self, feeds: Arrays) -> Callable[[], object]:
        """Both networks with their inputs on the device already, for timing; see ``OrtRunner.bound``.

        Raises:
            UsageError: a runner cannot do that.
        """
        if not all(hasattr(runner, "bound") for runner in self.runners):
            raise UsageError(f"{self.name}: cannot be timed without the copies. Leave --no-include-transfers out.")
        encoder, head = (getattr(runner, "bound") for runner in self.runners)  # noqa: B009  not of the protocol
        first = encoder({"input_features": feeds["features"]})
        second = head(self.scatter(self.encoder(feeds)))

        def run() -> None:
            first()
            second()

        return run

    def _spared(self, boxes: Boxes3D) -> NDArray[np.int64]:
        """Which boxes, best first, no better one overlaps; one that goes itself still takes others with it."""
        walks = np.array([self.rules.class_names[int(at)] == PEDESTRIAN for at in boxes.label])
        bev = boxes.bev.astype(np.float64)
        better, worse = _near_pairs(bev, self.rules.iou_reach_m)
        minded = walks[better] == walks[worse]
        better, worse = better[minded], worse[minded]
        hit = paired_iou(bev[better], bev[worse]) > self.rules.iou
        return np.setdiff1d(np.arange(len(boxes)), worse[hit])


def _near_pairs(bev: Floats, reach_m: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs ``first < second`` of ``bev [N, 5]`` that are within reach and may overlap; a few rows at a time."""
    radius = np.hypot(bev[:, 2], bev[:, 3]) / 2
    pairs = [np.zeros((2, 0), np.int64)]
    for start in range(0, len(bev), _ROWS):
        rows = slice(start, start + _ROWS)
        apart = np.hypot(bev[rows, None, 0] - bev[None, :, 0], bev[rows, None, 1] - bev[None, :, 1])
        near = apart <= np.minimum(reach_m, radius[rows, None] + radius[None])
        second, first = np.nonzero(near & (np.arange(len(bev)) < np.arange(len(bev))[rows, None]))
        pairs.append(np.stack([first, second + start]))
    first, second = np.concatenate(pairs, axis=1)
    return first, second


def is_autoware(folder: Path) -> bool:
    """Whether a folder is an export in Autoware's layout."""
    index = Path(folder) / "pipeline.json"
    value = read_json(index) if index.is_file() else None
    return isinstance(value, dict) and value.get("layout") == "autoware"


def network_runner(file: Path) -> Runner:
    """ONNX Runtime on the CPU for an ``.onnx``; TensorRT for an engine that has a JSON file of its own name beside it.

    Raises:
        DataError: an engine without its record.
    """
    return TrtRunner(read_engine_file(file)) if is_engine(file) else OrtRunner(file)


def network_files(folder: Path) -> tuple[Path, Path]:
    """The encoder's and the other network's file of an export.

    Raises:
        DataError: ``pipeline.json`` or a file that it names is missing or damaged.
    """
    index = Path(folder) / "pipeline.json"
    value = _index(index)
    steps = value.get("steps")
    named = [step.get("file") for step in steps if isinstance(step, dict)] if isinstance(steps, list) else []
    files = [Path(folder) / name for name in named if isinstance(name, str)]
    if len(files) != 2:
        raise DataError(f"{index}: must have two steps with a file, but has {len(files)}. {_AGAIN}")
    for file in files:
        if not file.is_file():
            raise DataError(f"{file}: no such file, though {index.name} names it. Copy the whole folder again.")
    return files[0], files[1]


def load_autoware(folder: Path, open_runner: Callable[[Path], Runner] = network_runner) -> AutowareNode:
    """The node around the two networks of an export.

    Args:
        folder: of ``kd3d export autoware``, or of the engines made of one.
        open_runner: makes the runner of each file.

    Raises:
        DataError: files are missing or damaged, or an earlier kd3d wrote them.
        SpecError: the specification is not valid.
    """
    index = Path(folder) / "pipeline.json"
    value = _index(index)
    encoder, head = network_files(folder)
    try:
        rules = NodeRules.from_json(value.get("node"))
    except DataError as error:
        raise DataError(f"{index}: {error}. {_AGAIN}") from error
    spec = spec_from_file(Path(folder) / str(value.get("spec", "spec.json")))
    if len(rules.class_names) != len(spec.head.classes):
        raise DataError(f"{index}: names {len(rules.class_names)} classes of {len(spec.head.classes)}. {_AGAIN}")
    return AutowareNode(node_decode(spec, rules), rules, runners=(open_runner(encoder), open_runner(head)))


def _index(file: Path) -> dict[str, Any]:
    value = read_json(file)
    if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("layout") != "autoware":
        raise DataError(f"{file}: not a pipeline of Autoware's layout in format {FORMAT}. {_AGAIN}")
    return value
