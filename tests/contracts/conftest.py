import pytest


@pytest.fixture(scope="session")
def tiny_export(tmp_path_factory):
    """A small detector with random weights as an export folder, and two portable frames."""
    import numpy as np
    import torch

    from kd3d.bench.synthetic import synthetic_frames
    from kd3d.detectors.build import build
    from kd3d.detectors.checkpoint import Model
    from kd3d.detectors.presets import preset
    from kd3d.export.onnx import export_onnx
    from kd3d.runtime.frames import Frame, write_frames

    torch.manual_seed(0)
    spec = preset("world-centerpoint-pillar-tiny")
    folder = tmp_path_factory.mktemp("tiny")
    made = synthetic_frames(spec, count=2, points=3000)
    frames = [
        Frame(one.token, one.points, one.features, None, spec.head.classes, np.eye(4), np.eye(4), None, None)
        for one in made
    ]
    write_frames(frames, folder / "frames")
    export_onnx(Model(spec, build(spec).eval(), {}), folder / "export")
    return folder / "export", folder / "frames"
