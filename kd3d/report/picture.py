"""A picture from above: one cloud, the ground truth, and what each model found in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kd3d.optional import require
from kd3d.runs.atomic import atomic_file

if TYPE_CHECKING:
    from kd3d.geometry.boxes import Boxes3D, Floats

TRUTH, COLOURS = "#1a9850", ("#d73027", "#2b5fd9", "#e08214", "#762a83")


def corners_bev(boxes: Boxes3D) -> Floats:
    """``[N, 4, 2]`` corners in x and y: front left, front right, rear right, rear left."""
    half = boxes.size_m[:, None, :2] / 2 * np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]], np.float32)
    cos, sin = np.cos(boxes.yaw_rad)[:, None], np.sin(boxes.yaw_rad)[:, None]
    turned = np.stack([half[..., 0] * cos - half[..., 1] * sin, half[..., 0] * sin + half[..., 1] * cos], -1)
    return np.asarray(turned + boxes.center_m[:, None, :2])


def draw(
    out: Path,
    points: Floats,
    predictions: Mapping[str, Boxes3D],
    *,
    truth: Boxes3D | None = None,
    reach_m: float = 50.0,
    score_threshold: float = 0.3,
    captions: Mapping[str, str] | None = None,
) -> Path:
    """Draw one panel per model over the same cloud and write a PNG.

    Args:
        out: the ``.png`` to write.
        points: ``[N, >= 3]``, LiDAR frame.
        predictions: boxes per model name; those below ``score_threshold`` are not drawn.
        truth: boxes with ground truth, in every panel.
        reach_m: half the side of the square that is shown.
        score_threshold: of predictions.
        captions: a line under each model's name.

    Raises:
        BackendError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    require("matplotlib", extra="plot")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2 * len(predictions), 7.8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = np.atleast_1d(figure.subplots(1, len(predictions)))
    for panel, colour, (name, boxes) in zip(
        panels, _repeat(COLOURS, len(predictions)), predictions.items(), strict=True
    ):
        _cloud(panel, points, reach_m)
        if truth is not None:
            _boxes(panel, truth, TRUTH, "ground truth")
        assert boxes.score is not None
        _boxes(panel, boxes.select(boxes.score >= score_threshold), colour, f"{name}, score >= {score_threshold:g}")
        caption = (captions or {}).get(name)
        panel.set_title(name if caption is None else f"{name}\n{caption}")
        panel.legend(loc="upper right", fontsize=8)
    with atomic_file(Path(out)) as temporary:
        figure.savefig(temporary, format="png")
    return Path(out)


def _cloud(panel: Any, points: Floats, reach_m: float) -> None:
    near = np.abs(points[:, :2]).max(1, initial=0) < reach_m
    shown = points[near]
    panel.scatter(
        shown[:, 0], shown[:, 1], s=0.25, c=np.clip(shown[:, 2], -2.5, 3), cmap="Greys_r", vmin=-4, vmax=4, linewidths=0
    )
    panel.set_xlim(-reach_m, reach_m)
    panel.set_ylim(-reach_m, reach_m)
    panel.set_aspect("equal")
    panel.set_xlabel("x, m")
    panel.set_ylabel("y, m")


def _boxes(panel: Any, boxes: Boxes3D, colour: str, label: str) -> None:
    from matplotlib.collections import LineCollection

    corners = corners_bev(boxes)
    outline = np.concatenate([corners, corners[:, :1]], 1)
    front = corners[:, :2].mean(1)
    heading = np.stack([boxes.center_m[:, :2], front], 1)
    panel.add_collection(LineCollection([*outline, *heading], colors=colour, linewidths=1.1))
    panel.plot([], [], color=colour, label=f"{label} ({len(boxes)})")


def _repeat(colours: Sequence[str], count: int) -> list[str]:
    return [colours[index % len(colours)] for index in range(count)]
