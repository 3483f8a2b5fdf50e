"""The detector as it was trained, between the steps of Autoware's node: what the exported files are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kd3d.detectors.model import CenterPoint
from kd3d.export.autoware_rules import Decoration
from kd3d.runtime.autoware import NodeSteps
from kd3d.runtime.autoware_rules import NodeRules
from kd3d.runtime.heads import onnx_names
from kd3d.spec import DetectorSpec

Arrays = Mapping[str, NDArray[Any]]


class TorchNode(NodeSteps):
    """The node around the detector as it was trained, fed kd3d's decoration of the same pillars.

    Args:
        spec, rules: of the node, see ``NodeSteps``.
        decoration: how kd3d's columns follow from the node's.
        module: the detector.
        slots: points per pillar that it looks at.
    """

    def __init__(
        self, spec: DetectorSpec, rules: NodeRules, *, decoration: Decoration, module: CenterPoint, slots: int
    ) -> None:
        super().__init__(spec, rules)
        self.decoration, self.module, self.slots = decoration, module.eval(), slots

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
