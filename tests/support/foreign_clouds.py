"""Clouds for imported detectors, and how their maps are compared."""

import numpy as np


def generated_cloud(seed=0, points=6000, reach=60.0, columns=5):
    """Clusters, so that some pillars are full and most are not; points above, below and beside the range too."""
    random = np.random.default_rng(seed)
    centres = random.uniform(-reach, reach, (points // 60, 2))
    cloud = np.zeros((points, columns), np.float32)
    cloud[:, :2] = centres[random.integers(len(centres), size=points)] + random.normal(0, 0.4, (points, 2))
    cloud[:, 2] = random.uniform(-6, 4, points)
    cloud[:, 3] = random.uniform(0, 255, points) if columns > 4 else random.uniform(0, 1, points)
    cloud[:, 4:] = random.integers(0, 10, (points, columns - 4)) * 0.05
    return cloud


def nuscenes_cloud(shared_data):
    """The real key frame; its ring column becomes a time lag of zero."""
    file = next((shared_data / "nuscenes_keyframe").glob("*.pcd.bin"))
    cloud = np.fromfile(file, np.float32).reshape(-1, 5).copy()
    cloud[:, 4] = 0
    return cloud


def kitti_cloud(shared_data):
    return np.fromfile(shared_data / "kitti_fov_crop" / "000008.bin", np.float32).reshape(-1, 4)


def assert_close(ours, theirs, what):
    """The tolerance of the specification: 1e-4 of the largest value, at least of one."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape, what
    worst = np.abs(ours - theirs).max()
    assert worst <= 1e-4 * max(1.0, np.abs(theirs).max()), f"{what}: {worst}"


def maps_of(model, cloud):
    """Head maps of the imported model by their ONNX names, without the batch axis."""
    from kd3d.detectors.torch_pipeline import TorchPipeline
    from kd3d.runtime.frames import Frame

    features = model.spec.points.features
    frame = Frame("t", cloud, features, None, model.spec.head.classes, np.eye(4), np.eye(4))
    pipeline = TorchPipeline(model)
    return {name: value[0] for name, value in pipeline.network(pipeline.pre(frame)).items()}
