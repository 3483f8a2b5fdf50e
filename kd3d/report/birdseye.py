"""Frames from above as inline SVG: points, ground truth, the boxes of teacher and student where they differ most."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kd3d.errors import DataError
from kd3d.report.parts import read_object
from kd3d.report.picture import corners_bev

if TYPE_CHECKING:
    from kd3d.geometry.boxes import Floats
    from kd3d.runtime.frames import Frame

REACH_M, PIXELS = 50.0, 500
SCORE, NEAR_M = 0.3, 2.0
LARGEST = 200_000_000  # bytes of a results file that is still read
Boxes = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Detections:
    """Boxes of one frame in the global frame.

    Args:
        xy: ``[N, 2]`` centres in metres.
        names: classes.
        rows: as in the results file.
    """

    xy: Floats
    names: tuple[str, ...]
    rows: Boxes


def read_boxes(path: Path) -> dict[str, Detections]:
    """Detections above the score that is drawn, by token, of an official results file.

    Raises:
        DataError: the file is damaged.
    """
    whole = read_object(path) or {}
    try:
        return {token: _detections(rows) for token, rows in whole["results"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: not an official results file ({error!r}). Evaluate again.") from error


def _detections(rows: Boxes) -> Detections:
    kept = [row for row in rows if float(row["detection_score"]) >= SCORE]
    xy = np.array([row["translation"][:2] for row in kept], np.float64).reshape(-1, 2)
    return Detections(xy, tuple(str(row["detection_name"]) for row in kept), kept)


def difference(first: Detections, second: Detections) -> int:
    """Boxes of either that have no partner of their class within two metres in the other, each used once."""
    if not len(first.xy) or not len(second.xy):
        return len(first.xy) + len(second.xy)
    apart = np.linalg.norm(first.xy[:, None] - second.xy[None], axis=-1)
    apart[np.array(first.names)[:, None] != np.array(second.names)[None]] = np.inf
    matched = 0
    while apart.size and (at := np.unravel_index(np.argmin(apart), apart.shape)) and apart[at] <= NEAR_M:
        apart[at[0]], apart[:, at[1]] = np.inf, np.inf
        matched += 1
    return len(first.xy) + len(second.xy) - 2 * matched


def most_different(boxes: Mapping[str, Mapping[str, Detections]], count: int) -> list[tuple[str, int]]:
    """Tokens of the frames in which the two models differ most, and by how many boxes; then one in the middle."""
    first, second = boxes.values()
    found = [(token, difference(first[token], second[token])) for token in first if token in second]
    ranked = sorted(found, key=lambda one: (-one[1], one[0]))
    return ranked[:count] + ([ranked[len(ranked) // 2]] if len(ranked) > 2 * count else [])


def view(frame: Frame, models: Mapping[str, Detections], *, number: int, differing: int) -> str:
    """One frame: a panel per model over the same points, each with the ground truth."""
    truth = np.zeros((0, 4, 2)) if frame.boxes is None else _near(corners_bev(frame.boxes))
    cloud = f"cloud-{number}"
    panels = []
    for index, (name, found) in enumerate(models.items()):
        corners = _near(_corners(found, frame))
        image = _cloud(cloud, frame.points) if index == 0 else f'<use href="#{cloud}"/>'
        said = f"{name}: {len(corners)} boxes at score {SCORE:g} or more, {len(truth)} true ones"
        box = f"{-REACH_M:g} {-REACH_M:g} {2 * REACH_M:g} {2 * REACH_M:g}"
        panels.append(
            f'<figure class="bev"><svg viewBox="{box}" role="img" aria-label="{html.escape(said)}">'
            f"{image}{_outlines(truth, 'truth')}{_outlines(corners, f'c{index}')}</svg>"
            f'<figcaption><b class="c{index}">{html.escape(name)}</b> {len(corners)}, '
            f'<b class="truth">ground truth</b> {len(truth)}</figcaption></figure>'
        )
    title = f"{html.escape(frame.token)}: {differing} boxes without a partner"
    return f'<h3>{title}</h3><div class="pair">{"".join(panels)}</div>'


def _cloud(name: str, points: Floats) -> str:
    """The points as an image over the whole view."""
    place = f'x="{-REACH_M:g}" y="{-REACH_M:g}" width="{2 * REACH_M:g}" height="{2 * REACH_M:g}"'
    content = base64.b64encode(cloud_png(points)).decode()
    return f'<image id="{name}" class="cloud" {place} href="data:image/png;base64,{content}"/>'


def cloud_png(points: Floats) -> bytes:
    """The points from above as a PNG of black with alpha, x to the right, y up."""
    at = np.floor((np.asarray(points)[:, :2] + REACH_M) / (2 * REACH_M) * PIXELS).astype(int)
    at = at[((at >= 0) & (at < PIXELS)).all(1)]
    counts = np.zeros((PIXELS, PIXELS), np.int64)
    np.add.at(counts, (PIXELS - 1 - at[:, 1], at[:, 0]), 1)
    alpha = np.where(counts > 0, np.minimum(90 + 40 * counts, 230), 0).astype(np.uint8)
    rows = np.zeros((PIXELS, 1 + 2 * PIXELS), np.uint8)
    rows[:, 2::2] = alpha
    header = struct.pack(">IIBBBBB", PIXELS, PIXELS, 8, 4, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def _corners(found: Detections, frame: Frame) -> Floats:
    """Corners in the LiDAR frame, ``[N, 4, 2]``; results files are global, their size is width, length, height."""
    half = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]], np.float64) / 2
    inverse = np.linalg.inv(np.asarray(frame.ego2global, np.float64) @ np.asarray(frame.lidar2ego, np.float64))
    corners = np.zeros((len(found.rows), 4, 2))
    for index, row in enumerate(found.rows):
        width, length = row["size"][:2]
        w, x, y, z = row["rotation"]
        yaw = np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        flat = half * [length, width] @ turn.T + row["translation"][:2]
        whole = np.column_stack([flat, np.full(4, row["translation"][2]), np.ones(4)])
        corners[index] = (whole @ inverse.T)[:, :2]
    return corners


def _near(corners: Floats) -> Floats:
    return corners[(np.abs(corners.mean(1)) < REACH_M).all(1)] if len(corners) else corners


def _outlines(corners: Floats, kind: str) -> str:
    drawn = []
    for box in np.asarray(corners, np.float64).reshape(-1, 4, 2) * [1, -1]:
        outline = "L".join(f"{x:.2f} {y:.2f}" for x, y in box)
        centre, front = box.mean(0), box[:2].mean(0)
        drawn.append(f"M{outline}ZM{centre[0]:.2f} {centre[1]:.2f}L{front[0]:.2f} {front[1]:.2f}")
    return f'<path class="box {kind}" d="{"".join(drawn)}"/>' if drawn else ""
