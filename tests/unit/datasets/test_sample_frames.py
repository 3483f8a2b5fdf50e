import json

import numpy as np
import pytest

from kd3d.datasets.frames import portable_frames, to_frame
from kd3d.datasets.inside import points_in_boxes
from kd3d.datasets.nuscenes import NuScenesDataset
from kd3d.errors import UsageError
from kd3d.runtime.frames import read_frames, write_frames
from kd3d.runtime.points import NUSCENES_COLUMNS, read_points


def test_a_frame_carries_what_the_sample_has(tiny_root):
    sample = NuScenesDataset(tiny_root, split="train", sweeps=1)[1]
    frame = to_frame(sample)
    assert (frame.token, frame.features, frame.classes) == (sample.token, sample.features, sample.classes)
    np.testing.assert_array_equal(frame.points, sample.points)
    np.testing.assert_array_equal(frame.boxes.array, sample.boxes.array)
    np.testing.assert_array_equal(frame.ego2global @ frame.lidar2ego, sample.ego2global @ sample.lidar2ego)


def test_frames_are_spread_over_the_split_and_survive_the_disk(tiny_root, tmp_path):
    dataset = NuScenesDataset(tiny_root, split="train")
    assert [frame.token for frame in portable_frames(dataset, 2)] == [dataset.tokens[0], dataset.tokens[2]]
    assert write_frames(portable_frames(dataset), tmp_path / "frames") == 3
    again = read_frames(tmp_path / "frames")
    assert len(again) == 3
    np.testing.assert_array_equal(again[1].points, dataset[1].points)
    np.testing.assert_allclose(again[1].boxes.array, dataset[1].boxes.array)


@pytest.mark.parametrize("count", [0, 4])
def test_an_impossible_number_of_frames_is_refused(tiny_root, count):
    dataset = NuScenesDataset(tiny_root, split="train")
    with pytest.raises(UsageError, match=f"{count} frames asked for, but the split mini_train has 3"):
        list(portable_frames(dataset, count))


def test_the_real_key_frame_has_the_labelled_points_in_its_boxes(shared_data):
    folder = shared_data / "nuscenes_keyframe"
    described = json.loads((folder / "annotations.json").read_text())
    points = read_points(folder / described["lidar"]["lidar_path"], NUSCENES_COLUMNS)
    boxes = described["boxes"]
    found = points_in_boxes(points, np.array([box["box"][:7] for box in boxes]))
    counts = np.array([box["num_lidar_pts"] for box in boxes])
    # The labelled counts were made with boxes that were then rounded.
    assert np.abs(found.sum(axis=1) - counts).mean() < 0.1 * counts.mean()
    assert (found.sum(axis=1) > 0).mean() > 0.8
