"""From samples to the portable frames that the vehicle side reads without torch or the devkit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kd3d.datasets.base import SampleDataset
from kd3d.datasets.sample import Sample
from kd3d.errors import UsageError
from kd3d.runtime.frames import Frame


def to_frame(sample: Sample) -> Frame:
    """The portable part of a sample: points, boxes and calibration, without camera views."""
    return Frame(
        token=sample.token,
        points=sample.points,
        features=sample.features,
        boxes=sample.boxes,
        classes=sample.classes,
        lidar2ego=sample.lidar2ego,
        ego2global=sample.ego2global,
        lidar2image=sample.lidar2image,
        image_size_px=sample.image_size_px,
    )


def portable_frames(dataset: SampleDataset, count: int | None = None) -> Iterator[Frame]:
    """``count`` frames spread evenly over the data set, read one at a time; all of them when ``None``.

    Raises:
        UsageError: ``count`` is below one or above the number of frames.
    """
    total = len(dataset)
    wanted = total if count is None else count
    if not 1 <= wanted <= total:
        raise UsageError(f"{wanted} frames asked for, but the split {dataset.split} has {total}. Ask for 1 to {total}.")
    # Neighbouring frames of a scene look alike; spread ones give latencies of the whole data set.
    for index in np.linspace(0, total - 1, wanted).round().astype(int):
        yield to_frame(dataset[int(index)])
