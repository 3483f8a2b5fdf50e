"""Points of boxes and their samples: checks 1 to 4 of the cross-modal specification."""

import numpy as np
import pytest
import torch

from kd3d.compress.distill.points import nine_points, roi_grid, sample_points
from kd3d.geometry.boxes import Boxes3D
from kd3d.geometry.grid import BevGrid

GRID = BevGrid(-54, -54, -5, 54, 54, 3, 0.6)


def box(x, y, length, width, yaw):
    return Boxes3D(np.array([[x, y, 0, length, width, 1, yaw, 0, 0]], np.float32), np.zeros(1, np.int64))


def probe(grid):
    """A map whose two channels are x and y of each cell's centre."""
    x = grid.x_min_m + (torch.arange(grid.nx) + 0.5) * grid.cell_m
    y = grid.y_min_m + (torch.arange(grid.ny) + 0.5) * grid.cell_m
    return torch.stack([x.expand(grid.ny, -1), y[:, None].expand(-1, grid.nx)])[None]


def test_nine_points_of_a_turned_box_are_where_the_specification_has_them():
    corners = [[8.7679, 3.1340], [7.7679, 4.8660], [11.2321, 6.8660], [12.2321, 5.1340]]
    middles = [[8.2679, 4.0], [9.5, 5.8660], [11.7321, 6.0], [10.5, 4.1340]]
    expected = torch.tensor([*corners, [10.0, 5.0], *middles])
    torch.testing.assert_close(nine_points(box(10, 5, 4, 2, np.pi / 6))[0], expected, atol=1e-4, rtol=0)


def test_samples_of_positions_are_the_points_and_with_axes_swapped_their_mirror():
    points = nine_points(box(10, 5, 4, 2, np.pi / 6))
    torch.testing.assert_close(sample_points(probe(GRID), GRID, [points]), points, atol=1e-4, rtol=0)
    mirrored = sample_points(probe(GRID), GRID, [points], swap=True)
    torch.testing.assert_close(mirrored, points.flip(-1), atol=1e-4, rtol=0)


def test_points_outside_of_the_map_are_zero():
    assert sample_points(probe(GRID) + 99, GRID, [nine_points(box(200, 5, 4, 2, 0))]).abs().max() == 0


@pytest.mark.parametrize(("width", "turn"), [(3.0, np.pi / 2), (1.5, np.pi)])
def test_half_turns_and_quarter_turns_of_squares_keep_the_set_of_points(width, turn):
    one, other = (nine_points(box(1, 2, 3, width, yaw))[0] for yaw in (0.4, 0.4 + turn))
    assert torch.cdist(one, other).min(1).values.max() < 1e-5


def test_a_roi_grid_lies_inside_of_its_box_and_averages_to_its_centre():
    grid = roi_grid(box(10, 5, 7, 14, 0.0))[0]
    assert grid.shape == (49, 2)
    torch.testing.assert_close(grid.mean(0), torch.tensor([10.0, 5.0]))
    assert grid[:, 0].max().item() == pytest.approx(13.0)
    assert grid[:, 1].max().item() == pytest.approx(11.0)


def test_frames_keep_their_own_points():
    maps = torch.stack([torch.full((1, 180, 180), value) for value in (1.0, 2.0, 3.0)])
    points = [nine_points(box(0, 0, 4, 2, 0)), nine_points(Boxes3D.empty()), nine_points(box(5, 5, 4, 2, 0))]
    assert sample_points(maps, GRID, points).mean((1, 2)).tolist() == [1.0, 3.0]
