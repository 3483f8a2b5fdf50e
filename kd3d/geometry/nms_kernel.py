"""The suppression loop for numba, valid as plain Python: it looks only at pairs with a kept box, and stops early."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from kd3d.optional import with_numba


def common_area(a: Any, b: Any, vertices: Any, clipped: Any) -> float:
    """Area in common of two boxes ``[5]``; the steps of ``iou.paired_intersection`` for one pair.

    ``vertices`` and ``clipped`` are ``[8, 2]`` scratch.
    """
    cos, sin = np.cos(a[4]), np.sin(a[4])
    x, y = b[0] - a[0], b[1] - a[1]
    x, y = x * cos + y * sin, y * cos - x * sin
    cos, sin = np.cos(b[4] - a[4]), np.sin(b[4] - a[4])
    for i in range(4):
        along = b[2] * (0.5 if i in (0, 3) else -0.5)
        across = b[3] * (0.5 if i < 2 else -0.5)
        vertices[i, 0] = x + along * cos - across * sin
        vertices[i, 1] = y + along * sin + across * cos
    count = 4
    for side in range(4):
        axis, sign, half = side // 2, 1.0 - 2.0 * (side % 2), a[2 + side // 2] / 2
        left = 0
        for i in range(count):
            j = i + 1 if i + 1 < count else 0
            here, there = half - sign * vertices[i, axis], half - sign * vertices[j, axis]
            if here >= 0 and left < 8:
                clipped[left, 0], clipped[left, 1] = vertices[i, 0], vertices[i, 1]
                left += 1
            if (here >= 0) != (there >= 0) and left < 8:
                part = here / (here - there)
                clipped[left, 0] = vertices[i, 0] + part * (vertices[j, 0] - vertices[i, 0])
                clipped[left, 1] = vertices[i, 1] + part * (vertices[j, 1] - vertices[i, 1])
                left += 1
        count = left
        vertices, clipped = clipped, vertices
    twice = 0.0
    for i in range(count):
        j = i + 1 if i + 1 < count else 0
        twice += vertices[i, 0] * vertices[j, 1] - vertices[i, 1] * vertices[j, 0]
    return max(twice / 2, 0.0)


def suppress(boxes: Any, threshold: float, post: int) -> Any:
    """``[K]`` int64 positions kept out of ``boxes [N, 5]`` float64, which are sorted best first."""
    vertices, clipped = np.empty((8, 2)), np.empty((8, 2))
    alive = np.ones(len(boxes), np.bool_)
    kept = np.empty(min(post, len(boxes)), np.int64)
    found = 0
    for i in range(len(boxes)):
        if found == len(kept):
            break
        if not alive[i]:
            continue
        kept[found] = i
        found += 1
        area, reach = boxes[i, 2] * boxes[i, 3], np.hypot(boxes[i, 2], boxes[i, 3]) / 2
        for j in range(i + 1, len(boxes)):
            x, y = boxes[i, 0] - boxes[j, 0], boxes[i, 1] - boxes[j, 1]
            far = reach + np.hypot(boxes[j, 2], boxes[j, 3]) / 2
            if not alive[j] or x * x + y * y > far * far:
                continue
            common = common_area(boxes[i], boxes[j], vertices, clipped)
            union = area + boxes[j, 2] * boxes[j, 3] - common
            alive[j] = not ((common / union if union > 0 else 0.0) > threshold)
    return kept[:found]


@functools.cache
def compiled_suppress() -> Callable[..., Any] | None:
    """``suppress`` compiled, and kept on disk where possible; ``None`` without a working numba."""
    return with_numba(_link)


def _link(compile_: Callable[[Any], Any]) -> Callable[..., Any]:
    global common_area  # noqa: PLW0603 -- numba resolves the callee by its global name
    if not hasattr(common_area, "py_func"):
        common_area = compile_(common_area)
    return compile_(suppress)  # type: ignore[no-any-return]
