import numpy as np
import pytest
import torch
from training_frames import boxes_of

from kd3d.detectors.presets import preset
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.targets import assign_targets
from kd3d.training.targets import assign_targets_batch

SPECS = ["world-centerpoint-pillar-tiny", "world-centerpoint-pillar-six-tasks"]


@pytest.mark.parametrize("name", SPECS)
def test_a_batch_is_the_reference_of_each_frame(name):
    spec = preset(name)
    frames = [boxes_of(np.random.default_rng(seed), count=12) for seed in range(3)]
    frames.insert(1, Boxes3D.empty())
    batch = assign_targets_batch(frames, spec)
    assert len(batch) == len(spec.head.tasks)
    size = spec.output_grid.ny * spec.output_grid.nx
    for task, got in enumerate(batch):
        taken = 0
        for index, frame in enumerate(frames):
            want = assign_targets(frame, spec)[task]
            np.testing.assert_array_equal(got.heatmap[index].numpy(), want.heatmap)
            rows = slice(taken, taken + len(want.cell))
            np.testing.assert_array_equal(got.cell[rows].numpy(), want.cell + index * size)
            np.testing.assert_array_equal(got.mask[rows].numpy(), want.mask)
            known = want.mask > 0
            np.testing.assert_array_equal(got.values[rows].numpy()[known], want.values[known])
            taken += len(want.cell)
        assert len(got.cell) == taken


def test_unknown_velocities_are_masked_and_finite():
    spec = preset(SPECS[0])
    (target,) = assign_targets_batch([boxes_of(np.random.default_rng(0))], spec)
    assert bool(torch.isfinite(target.values).all())
    assert target.mask[0, 8:].tolist() == [0, 0]
    assert target.mask[1:].min() == 1


def test_frames_without_boxes_have_empty_lists_and_zero_maps():
    spec = preset(SPECS[0])
    (target,) = assign_targets_batch([Boxes3D.empty(), Boxes3D.empty()], spec)
    assert target.heatmap.shape == (2, 10, 64, 64)
    assert target.heatmap.abs().sum() == 0
    assert target.values.shape == (0, 10)
    assert target.cell.dtype == torch.int64
