"""How head maps become boxes; part of a detector, because frameworks differ and accuracy depends on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from kd3d.errors import SpecError
from kd3d.spec.limits import MOST_ROWS, at_most


@dataclass(frozen=True)
class DecodeSpec:
    """From heatmaps to boxes.

    Args:
        peak_kernel: keep only local maxima of a window of this many cells; 1 keeps every cell (as OpenPCDet does).
        top_k: candidates kept per task before suppression.
        top_k_rule: ``class`` takes the best cells of each class and then of all (OpenPCDet, mmdetection3d);
            ``cell`` takes the best class of each cell (det3d, Autoware).
        score_threshold: strictly above.
        center_limit_m: x, y, z minima then maxima; a box whose centre is outside is dropped.
        nms: ``rotate`` by rotated BEV IoU, ``circle`` by squared centre distance, ``none``: within a task all classes
            suppress each other. ``rotate_by_class``: each class suppresses only itself, an anchor may give a box of
            each class, and ``nms_post`` counts over the classes (mmdetection3d's anchor heads).
        nms_threshold: one per task: IoU (a box is suppressed above it), or square metres for ``circle`` (suppressed
            at or below it).
        nms_pre: boxes per task before suppression.
        nms_post: boxes per task after suppression.
    """

    peak_kernel: int
    top_k: int
    score_threshold: float
    center_limit_m: tuple[float, float, float, float, float, float]
    nms: Literal["rotate", "rotate_by_class", "circle", "none"]
    nms_threshold: tuple[float, ...]
    nms_pre: int
    nms_post: int
    top_k_rule: Literal["class", "cell"] = "class"

    def __post_init__(self) -> None:
        if self.peak_kernel not in (1, 3):
            raise SpecError(f"peak_kernel must be 1 or 3, not {self.peak_kernel}.")
        for name in ("top_k", "nms_pre", "nms_post"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} must be at least 1, not {getattr(self, name)}.")
            at_most(MOST_ROWS, **{name: getattr(self, name)})
        if not 0 <= self.score_threshold < 1:
            raise SpecError(f"score_threshold must be in 0..1, not {self.score_threshold:g}.")
