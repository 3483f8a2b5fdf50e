"""Boxes in three dimensions, checked when they are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError

Floats = NDArray[np.floating]
Ints = NDArray[np.integer]


@dataclass(frozen=True)
class Boxes3D:
    """``N`` boxes, with optional labels and scores.

    Args:
        array: ``[N, 9]`` float32: x, y, z of the centre, length, width, height (metres), yaw (radians,
            counter-clockwise from +x), vx, vy (metres per second; NaN where unknown).
        label: ``[N]`` int64, index into the class names of whoever made the boxes.
        score: ``[N]`` float32 in 0..1, or ``None`` for ground truth.
    """

    array: Floats
    label: Ints
    score: Floats | None = None

    def __post_init__(self) -> None:
        array = np.asarray(self.array, np.float32)
        if array.ndim != 2 or array.shape[1] != 9:
            raise DataError(f"boxes must be an array with shape (N, 9), but got shape {array.shape}.")
        label = np.asarray(self.label, np.int64)
        if label.shape != (len(array),):
            raise DataError(f"labels of {len(array)} boxes must have shape ({len(array)},), but got {label.shape}.")
        if not np.isfinite(array[:, :7]).all():
            raise DataError("a box has a centre, size or yaw that is not finite. Remove or repair it.")
        object.__setattr__(self, "array", array)
        object.__setattr__(self, "label", label)
        if self.score is not None:
            score = np.asarray(self.score, np.float32)
            if score.shape != label.shape:
                raise DataError(f"scores of {len(array)} boxes must have shape {label.shape}, but got {score.shape}.")
            object.__setattr__(self, "score", score)

    def __len__(self) -> int:
        return len(self.array)

    @classmethod
    def empty(cls, *, scored: bool = False) -> Boxes3D:
        """No boxes."""
        score = np.zeros(0, np.float32) if scored else None
        return cls(np.zeros((0, 9), np.float32), np.zeros(0, np.int64), score)

    @classmethod
    def concatenate(cls, parts: Sequence[Boxes3D]) -> Boxes3D:
        """All boxes of ``parts``, in order. Scores are kept when every part has them."""
        if not parts:
            return cls.empty()
        scores = [part.score for part in parts if part.score is not None]
        return cls(
            np.concatenate([part.array for part in parts]),
            np.concatenate([part.label for part in parts]),
            np.concatenate(scores) if len(scores) == len(parts) else None,
        )

    def select(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Boxes3D:
        """The boxes at ``index`` (positions or a mask)."""
        return Boxes3D(self.array[index], self.label[index], None if self.score is None else self.score[index])

    @property
    def center_m(self) -> Floats:
        """``[N, 3]`` centres."""
        return self.array[:, :3]

    @property
    def size_m(self) -> Floats:
        """``[N, 3]`` length, width, height."""
        return self.array[:, 3:6]

    @property
    def yaw_rad(self) -> Floats:
        """``[N]`` yaw."""
        return self.array[:, 6]

    @property
    def velocity_m_s(self) -> Floats:
        """``[N, 2]`` velocity over the ground."""
        return self.array[:, 7:9]

    @property
    def bev(self) -> Floats:
        """``[N, 5]``: x, y, length, width, yaw."""
        return self.array[:, [0, 1, 3, 4, 6]]
