import numpy as np

from kd3d.bench.synthetic import synthetic_frames


def spec():
    from kd3d.detectors.presets import preset

    return preset("world-centerpoint-pillar-tiny")


def test_synthetic_frames_have_the_models_features_and_the_same_seed_gives_the_same_cloud():
    first, again = (synthetic_frames(spec(), count=2, points=500, seed=3) for _ in range(2))
    assert first[0].features == spec().points.features
    assert first[0].points.shape == (500, len(first[0].features))
    assert first[0].points.dtype == np.float32
    assert np.array_equal(first[1].points, again[1].points)
    assert not np.array_equal(first[0].points, first[1].points)


def test_density_falls_with_range():
    points = synthetic_frames(spec(), count=1, points=20000)[0].points
    distance = np.hypot(points[:, 0], points[:, 1])
    near, far = (distance < 20).mean() / 20**2, (distance > 30).mean() / (51.2**2 - 30**2)
    assert near > 2 * far
