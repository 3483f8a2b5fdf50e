"""A detector as it ships: points in, boxes out, in four stages that can be timed one by one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D, Floats
from kd3d.runs.atomic import read_json
from kd3d.runtime.decode import candidates, suppress
from kd3d.runtime.engine_file import is_engine, read_engine_file
from kd3d.runtime.frames import Frame
from kd3d.runtime.heads import heads_from_arrays
from kd3d.runtime.pillars import hard_pillars, pad_pillars
from kd3d.runtime.points import check_finite, crop_to_image, select_features
from kd3d.runtime.runners import OrtRunner, Runner
from kd3d.runtime.spec_file import SPEC_KEY, spec_from_file, spec_from_text
from kd3d.runtime.tensors import TensorInfo, find_tensor
from kd3d.runtime.trt_runner import TrtRunner
from kd3d.runtime.voxels import mean_voxels, voxel_inputs
from kd3d.spec.detector import DetectorSpec
from kd3d.spec.limits import MOST_ROWS
from kd3d.spec.voxel import VoxelEncoderSpec

Arrays = Mapping[str, NDArray[Any]]


class Pipeline:
    """Stages ``pre``, ``network``, ``decode``, ``nms`` of one detector; each returns when its result is ready.

    Args:
        spec: the detector.
        runner: of its network; entered with the pipeline.

    Attributes:
        dropped_points, dropped_pillars: of the last frame: points inside the range that found their pillar or the list
            of pillars full, and cells that found the list full; voxels count as pillars.
        total_dropped_points, total_dropped_pillars: of all frames so far.
    """

    stages = ("pre", "network", "decode", "nms")

    def __init__(self, spec: DetectorSpec, runner: Runner) -> None:
        self.spec, self.runner = spec, runner
        self.dropped_points = self.dropped_pillars = 0
        self.total_dropped_points = self.total_dropped_pillars = 0
        self._tensor: TensorInfo | None = None

    @property
    def name(self) -> str:
        """Detector and runner, for reports."""
        return f"{self.spec.name} ({self.runner.name})"

    def __enter__(self) -> Pipeline:
        self.runner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.runner.__exit__(kind, error, trace)

    def __call__(self, frame: Frame) -> Boxes3D:
        """Boxes of a frame; labels index ``spec.head.classes``."""
        return self.nms(self.decode(self.network(self.pre(frame))))

    def pre(self, frame: Frame) -> dict[str, NDArray[Any]]:
        """Network inputs of a frame: ``features [P, N, D]`` float32, ``counts [P]`` and ``cells [P]`` int64.

        Of voxels ``features [N, F]`` float32, the neighbour tables of the stages (int32), and ``cells [M]`` int64.
        Encoders of mode ``dynamic`` get the same padded pillars; their exported graph masks the unused slots. There are
        as many rows as the runner asks for, at least one; rows without a pillar have count 0 and the cell ``ny * nx``.
        What does not fit the runner's limit is dropped and counted.

        Raises:
            DataError: the cloud lacks a column, or holds NaN or infinite values.
        """
        points = select_features(frame.points, frame.features, self.spec.points)
        check_finite(points, frame.token)
        if self.spec.points.camera_view_only and frame.lidar2image is not None and frame.image_size_px is not None:
            points = crop_to_image(points, frame.lidar2image, frame.image_size_px)
        if isinstance(self.spec.encoder, VoxelEncoderSpec):
            return self._voxels(points, self.spec.encoder)
        tensor, grid, encoder = self._pillar_tensor(), self.spec.grid, self.spec.pillar_encoder
        limit = min(tensor.high[0] or encoder.max_pillars, encoder.max_pillars)
        pillars = hard_pillars(points, grid, max_points=encoder.max_points, max_pillars=limit)
        self._count(pillars.dropped_points, pillars.dropped_pillars)
        pillars = pad_pillars(pillars, tensor.round_up(0, len(pillars.counts)), grid.ny * grid.nx)
        return {
            "features": pillars.features,
            "counts": pillars.counts.astype(np.int64),
            "cells": pillars.cells.astype(np.int64),
        }

    def _voxels(self, points: Floats, encoder: VoxelEncoderSpec) -> dict[str, NDArray[Any]]:
        """Mean features of voxels, the neighbour tables of the stages, and the BEV cells of the last one's sites."""
        voxels = mean_voxels(points, self.spec.grid, encoder)
        self._count(voxels.dropped_points, voxels.dropped_voxels)
        made = voxel_inputs([voxels], self.spec.grid, encoder)
        return {"features": made.features, **dict(zip(encoder.tables, made.tables, strict=True)), "cells": made.cells}

    def _count(self, points: int, pillars: int) -> None:
        self.dropped_points, self.dropped_pillars = points, pillars
        self.total_dropped_points += points
        self.total_dropped_pillars += pillars

    def network(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Head maps by name, ``[1, C, H, W]``."""
        return self.runner.infer(feeds)

    def decode(self, arrays: Arrays) -> Boxes3D:
        """Candidates of head maps."""
        return candidates(heads_from_arrays(arrays, self.spec), self.spec)

    def nms(self, candidates: Boxes3D) -> Boxes3D:
        """Boxes that survive suppression."""
        return suppress(candidates, self.spec)

    def _pillar_tensor(self) -> TensorInfo:
        """The input that says how many pillars the network takes."""
        if self._tensor is None:
            self._tensor = find_tensor(self.runner.inputs, "features")
        if self._tensor is None:
            raise DataError(
                f"{self.runner.name}: the network has no input 'features'. Export the detector with: kd3d export onnx"
            )
        if self._tensor.low[0] > MOST_ROWS:
            raise DataError(
                f"{self.runner.name}: the network wants {self._tensor.low[0]:,} pillars, more than any frame has. The "
                "file is damaged; export the detector again: kd3d export onnx"
            )
        return self._tensor


def load_pipeline(folder_or_onnx: Path, runner: Runner | None = None) -> Pipeline:
    """The pipeline of an export folder, an ``.onnx`` file, an engine folder, or an engine with its record beside it.

    Args:
        folder_or_onnx: a folder with ``pipeline.json`` and the files it names; or an ``.onnx`` that carries its
            specification in its metadata (``kd3d.spec``) or has a ``spec.json`` beside it; or an engine that has
            ``engine.json`` and ``spec.json`` beside it.
        runner: of the network; ONNX Runtime on the CPU, or TensorRT for an engine, unless given. It is entered where
            its metadata are needed.

    Raises:
        DataError: files are missing or damaged, or the ``.onnx`` comes from elsewhere and has no specification.
        SpecError: the specification is not valid.
        GraphError: the ``.onnx`` is refused.
    """
    path = Path(folder_or_onnx)
    if path.is_dir():
        return _load_folder(path, runner)
    if not path.is_file():
        raise DataError(f"{path}: no such file or folder.")
    beside = path.parent / "spec.json"
    if is_engine(path):
        runner = runner or TrtRunner(read_engine_file(path))
        return Pipeline(spec_from_file(beside), runner)
    runner = runner or OrtRunner(path)
    text = runner.__enter__().metadata.get(SPEC_KEY)
    if text is not None:
        return Pipeline(spec_from_text(text, path), runner)
    if beside.is_file():
        return Pipeline(spec_from_file(beside), runner)
    raise DataError(
        f"{path}: does not say which detector it is: no '{SPEC_KEY}' in its metadata and no spec.json beside it. "
        f"Export it with kd3d export onnx, or put the detector's spec.json beside it."
    )


def _load_folder(folder: Path, runner: Runner | None) -> Pipeline:
    index = folder / "pipeline.json"
    if not index.is_file():
        raise DataError(f"{folder}: not an export, pipeline.json is missing. Make one with: kd3d export onnx")
    value = read_json(index)
    if isinstance(value, dict) and value.get("layout") == "autoware":
        raise DataError(f"{index}: two networks in Autoware's layout; kd3d.runtime.autoware.load_autoware runs them.")
    if not isinstance(value, dict) or value.get("format") != 1:
        raise DataError(f"{index}: not a pipeline in format 1. Export the detector again: kd3d export onnx")
    if value.get("state"):
        raise DataError(f"{index}: this pipeline keeps state between frames, which this version of kd3d cannot run.")
    steps = value.get("steps")
    networks = [
        step for step in (steps if isinstance(steps, list) else []) if isinstance(step, dict) and step.get("file")
    ]
    if len(networks) != 1:
        raise DataError(f"{index}: must have exactly one step with a file, but has {len(networks)}. Export again.")
    spec = spec_from_file(folder / str(value.get("spec", "spec.json")))
    kind, file = networks[0].get("kind"), folder / str(networks[0]["file"])
    if kind not in ("onnx", "engine"):
        raise DataError(f"{index}: its network is of kind {kind!r}, which this version of kd3d cannot run.")
    if runner is None:
        runner = OrtRunner(file) if kind == "onnx" else TrtRunner(read_engine_file(folder))
    return Pipeline(spec, runner)
