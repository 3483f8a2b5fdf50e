"""What Autoware's CenterPoint node does around its two networks, as data: read by the exporter and by the runtime.

docs/autoware.md has the sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from kd3d.errors import DataError
from kd3d.spec.decode import DecodeSpec
from kd3d.spec.detector import DetectorSpec

POINTS_PER_PILLAR = 32  # a constant of the node's kernels
PILLAR_CHANNELS = 32  # a constant of its configuration
OUTPUTS = ("heatmap", "reg", "height", "dim", "rot", "vel")  # the node binds them by this order, not by name
PEDESTRIAN = "PEDESTRIAN"
IOU_REACH_M, IOU = 10.0, 0.1  # as in the parameter files of Autoware's own models
_FAR_M = 1e6


@dataclass(frozen=True)
class NodeRules:
    """What the node feeds, and how it makes boxes of maps.

    Args:
        columns: of a point as the node decorates it: x, y, z, (intensity), time_lag, then offsets.
        class_names: the node's, in the order of the heatmap's channels.
        intensity_scale: what the node's intensity is multiplied by to become the detector's.
        score_threshold: strictly above.
        yaw_norm: a cell whose rotation vector is shorter gives no box.
        circle_m: radius of the circle suppression.
        iou_reach_m: boxes farther apart do not suppress each other by BEV IoU.
        iou: a box goes where any better one overlaps it by more; pedestrians and others spare each other.
    """

    columns: tuple[str, ...]
    class_names: tuple[str, ...]
    intensity_scale: float = 1.0
    score_threshold: float = 0.35
    yaw_norm: float = 0.0
    circle_m: float = 0.5
    iou_reach_m: float = IOU_REACH_M
    iou: float = IOU

    @property
    def point_columns(self) -> int:
        """Of a point before decoration: 4, or 5 with intensity."""
        return 5 if "intensity" in self.columns else 4

    def to_json(self) -> dict[str, Any]:
        """As ``pipeline.json`` has it under ``node``."""
        return {**asdict(self), "columns": list(self.columns), "class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, value: Any) -> NodeRules:
        """The inverse of ``to_json``.

        Raises:
            DataError: something is missing, unknown, or of another type.
        """
        if not isinstance(value, Mapping) or set(value) != set(cls.__dataclass_fields__):
            raise DataError("it does not say what the node does (key 'node')")
        words = {name: value[name] for name in ("columns", "class_names")}
        numbers = {name: number for name, number in value.items() if name not in words}
        if not all(isinstance(held, list) and all(isinstance(item, str) for item in held) for held in words.values()):
            raise DataError("the node's columns and class_names must be lists of words")
        if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers.values()):
            raise DataError("the node's thresholds must be numbers")
        return cls(columns=tuple(words["columns"]), class_names=tuple(words["class_names"]), **numbers)


def node_decode(spec: DetectorSpec, rules: NodeRules, *, most: int | None = None) -> DetectorSpec:
    """The detector decoded as the node does up to its circle suppression: every cell, its best class.

    Args:
        spec: of the detector.
        rules: thresholds.
        most: candidates and boxes that are looked at; by default every cell, for the node has no such limit.
    """
    held = spec.output_grid.nx * spec.output_grid.ny if most is None else most
    rule = DecodeSpec(
        peak_kernel=1,
        top_k=held,
        top_k_rule="cell",
        score_threshold=rules.score_threshold,
        center_limit_m=(-_FAR_M, -_FAR_M, -_FAR_M, _FAR_M, _FAR_M, _FAR_M),
        nms="circle",
        nms_threshold=(rules.circle_m**2,),
        nms_pre=held,
        nms_post=held,
    )
    return replace(spec, decode=rule)
