import numpy as np
import pytest

from kd3d.datasets.world.camera import FAR_M, _ground_depth


class Rise:
    """Ground that rises by 5 % along x."""

    def base(self, x, y):
        return 0.05 * np.asarray(x, np.float64) + 0 * np.asarray(y, np.float64)


def test_grazing_rays_meet_rising_ground_where_it_is():
    slope = np.linspace(-0.07, 0.03, 41).astype(np.float32)
    direction = (np.ones(41, np.float32), np.zeros(41, np.float32), slope)
    depth = _ground_depth(Rise(), np.array([0.0, 0.0, 1.5]), direction)
    assert depth == pytest.approx(1.5 / (0.05 - slope), rel=0.02)


def test_rays_above_the_ground_see_the_sky():
    direction = (np.ones(3, np.float32), np.zeros(3, np.float32), np.array([0.049, 0.06, 0.5], np.float32))
    depth = _ground_depth(Rise(), np.array([0.0, 0.0, 1.5]), direction)
    assert np.isinf(depth).all()
    assert FAR_M < 1.5 / (0.05 - 0.049)
