"""A data set's classes become a detector's."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kd3d.errors import DataError
from kd3d.geometry.boxes import Boxes3D


def map_labels(boxes: Boxes3D, have: Sequence[str], want: Sequence[str]) -> Boxes3D:
    """Boxes with labels in ``want`` instead of ``have``, matched by name; boxes of other classes are dropped.

    Raises:
        DataError: a label is not an index into ``have``.
    """
    if len(boxes) and (boxes.label.min() < 0 or boxes.label.max() >= len(have)):
        raise DataError(
            f"labels run from {boxes.label.min()} to {boxes.label.max()}, but there are {len(have)} classes."
        )
    position = {name: index for index, name in enumerate(want)}
    table = np.array([position.get(name, -1) for name in have], np.int64)
    label = table[boxes.label] if len(boxes) else boxes.label
    kept = label >= 0
    return Boxes3D(boxes.array[kept], label[kept], None if boxes.score is None else boxes.score[kept])


def check_classes(have: Sequence[str], want: Sequence[str]) -> None:
    """Refuse a data set that labels none of a detector's classes.

    Raises:
        DataError: no class in common.
    """
    if not set(have) & set(want):
        raise DataError(
            f"the data set's classes ({', '.join(have)}) have none in common with the detector's ({', '.join(want)}). "
            "Choose a preset or a specification made for this data."
        )
