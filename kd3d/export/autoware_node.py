"""The node's part in numpy, around two networks: the gate's view of an export, in the stages of a pipeline.

Arrival order stands for the node's: it shuffles the points, and its threads keep 32 per pillar in no fixed order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from kd3d.detectors.model import CenterPoint
from kd3d.export.autoware_rules import OUTPUTS, PILLAR_CHANNELS, POINTS_PER_PILLAR, Decoration
from kd3d.geometry.boxes import Boxes3D, Floats
from kd3d.runtime.decode import candidates, suppress
from kd3d.runtime.frames import Frame
from kd3d.runtime.heads import heads_from_arrays, onnx_names
from kd3d.runtime.pillars import hard_pillars
from kd3d.runtime.points import check_finite, select_features
from kd3d.spec import DetectorSpec

Arrays = Mapping[str, NDArray[Any]]


class Network(Protocol):
    """What a runner does."""

    def infer(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Outputs by name."""


class NodeStages(ABC):
    """What the node does before and after the networks.

    Args:
        spec: of the detector; its ``decode`` is the node's.
        decoration: what the node feeds.
    """

    def __init__(self, spec: DetectorSpec, decoration: Decoration) -> None:
        self.spec, self.decoration = spec, decoration

    def pre(self, frame: Frame) -> dict[str, NDArray[Any]]:
        """``features [V, 32, F]`` float32, zero in unused slots and pillars; ``cells [P]`` and ``counts [P]``."""
        points = check_finite(select_features(frame.points, frame.features, self.spec.points), frame.token)
        grid, encoder = self.spec.grid, self.spec.pillar_encoder
        pillars = hard_pillars(
            self._columns(points), grid, max_points=POINTS_PER_PILLAR, max_pillars=encoder.max_pillars
        )
        features = np.zeros((encoder.max_pillars, POINTS_PER_PILLAR, self.decoration.features), np.float32)
        features[: len(pillars.cells)] = pillars.features[..., : self.decoration.features]
        return {"features": features, "cells": pillars.cells, "counts": pillars.counts}

    def _columns(self, points: Floats) -> Floats:
        """The node's columns before decoration; those that the detector does not know are zero."""
        found = np.zeros((len(points), self.decoration.point_features), np.float32)
        for column, name in enumerate(self.spec.points.features):
            place = self.decoration.names.index(name)
            found[:, place] = points[:, column] / self.decoration.matrix[column, place]
        return found

    def decode(self, arrays: Arrays) -> Boxes3D:
        """Candidates of kd3d's maps."""
        return candidates(heads_from_arrays(arrays, self.spec), self.spec)

    def nms(self, found: Boxes3D) -> Boxes3D:
        """Boxes after the circle suppression."""
        return suppress(found, self.spec)

    def __call__(self, frame: Frame) -> Boxes3D:
        """All stages."""
        return self.nms(self.decode(self.network(self.pre(frame))))

    @abstractmethod
    def network(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """kd3d's maps by name."""


class ExportedNode(NodeStages):
    """The node around the two exported files.

    Args:
        spec, decoration: as above.
        encoder, head: run the two files.
    """

    def __init__(self, spec: DetectorSpec, decoration: Decoration, *, encoder: Network, head: Network) -> None:
        super().__init__(spec, decoration)
        self.encoder, self.head = encoder, head

    def canvas(self, feeds: Arrays) -> NDArray[np.float32]:
        """``[1, 32, Y, X]``, as the node scatters it."""
        pillars = self.encoder.infer({"input_features": feeds["features"]})["pillar_features"]
        grid, cells = self.spec.grid, feeds["cells"]
        canvas = np.zeros((PILLAR_CHANNELS, grid.ny * grid.nx), np.float32)
        canvas[:, cells] = pillars[: len(cells)].T
        return canvas.reshape(1, PILLAR_CHANNELS, grid.ny, grid.nx)

    def network(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """The two networks, and the maps back in kd3d's conventions."""
        found = self.head.infer({"spatial_features": self.canvas(feeds)})
        hm, center, height, dim, rot, vel = (found[name] for name in OUTPUTS)
        maps = [hm, center, height, dim[:, [1, 0, 2]], -rot[:, [1, 0]], vel]
        return dict(zip(onnx_names(self.spec), maps, strict=False))  # a detector without velocity has no sixth name


class TorchNode(NodeStages):
    """The node around the detector as it was trained, fed kd3d's decoration of the same pillars.

    Args:
        spec, decoration: as above.
        module: the detector.
        slots: points per pillar that it looks at.
    """

    def __init__(self, spec: DetectorSpec, decoration: Decoration, *, module: CenterPoint, slots: int) -> None:
        super().__init__(spec, decoration)
        self.module, self.slots = module.eval(), slots

    def network(self, feeds: Arrays) -> dict[str, NDArray[Any]]:
        """Maps of the original weights."""
        counts, cells, grid = feeds["counts"], feeds["cells"], self.spec.grid
        rows = feeds["features"][: max(len(cells), 1), : self.slots].astype(np.float64)
        if not len(cells):  # one row that stands for no pillar
            counts, cells = np.zeros(1, np.int64), np.array([grid.ny * grid.nx])
        counts = np.minimum(counts, self.slots)
        used = np.arange(self.slots) < counts[:, None]
        features = (rows @ self.decoration.matrix.T + self.decoration.offset) * used[..., None]
        tensors = (torch.from_numpy(array) for array in (features.astype(np.float32), counts, cells))
        with torch.inference_mode():
            points, count, cell = tensors
            maps = self.module.forward_tensors(points, count.long(), cell.long())
        return {name: array.numpy() for name, array in zip(onnx_names(self.spec), maps, strict=True)}
