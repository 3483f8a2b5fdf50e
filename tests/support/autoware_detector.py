"""Small detectors that fit Autoware's node, clouds for them, and the node around exported files."""

from pathlib import Path

import numpy as np

from kd3d.detectors.checkpoint import Model
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.frames import Frame
from kd3d.runtime.runners import OrtRunner
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec
from tests.support import autoware_node, trained

ALL = ("x", "y", "z", "intensity", "time_lag")
THRESHOLD, CIRCLE = 0.5, 0.5


def small(
    *, points=("x", "y", "z"), mode="hard", filters=(16,), velocity=True, z=(-3.0, 5.0), intensity="raw", max_points=32
) -> DetectorSpec:
    """16 x 12 cells of 0.8 m, output at half of that, a rectangle that is nowhere symmetric."""
    return DetectorSpec(
        name="small",
        points=PointSpec(features=points, intensity=intensity),
        grid=BevGrid(-3.2, -1.6, z[0], 9.6, 8.0, z[1], 0.8),
        encoder=PillarEncoderSpec(filters=filters, max_points=max_points, max_pillars=160, mode=mode),
        backbone=BevBackboneSpec(
            strides=(2, 2), layers=(1, 0), channels=(12, 16), up_strides=(1.0, 2.0), up_channels=(8, 8)
        ),
        head=CenterHeadSpec(
            tasks=(("car", "cyclist", "pedestrian"),), shared_channels=12, branch_channels=8, velocity=velocity
        ),
        decode=DecodeSpec(
            peak_kernel=1, top_k=500, top_k_rule="cell", score_threshold=THRESHOLD, nms="circle",
            center_limit_m=(-100.0, -100.0, -100.0, 100.0, 100.0, 100.0), nms_threshold=(CIRCLE**2,),
            nms_pre=500, nms_post=500,
        ),
    )  # fmt: skip


def trained_like(spec: DetectorSpec, seed: int = 0) -> Model:
    """Weights as training leaves them, with scores on both sides of the threshold."""
    model = trained.trained_like(spec, seed)
    for task in model.module.head.tasks:
        task["hm"].out.bias.data.zero_()
        for name in ("dim", "rot"):
            task[name].out.bias.data.normal_(0, 0.5)
    return model


def cloud(spec: DetectorSpec, seed: int = 0, *, crowd: int = 32):
    """Points inside and outside the range, a cell that is exactly full, none that is more than full."""
    rng = np.random.default_rng(seed)
    grid = spec.grid
    cells = np.concatenate([rng.choice(grid.nx * grid.ny, 90), np.full(crowd, 17), [-1] * 5])
    cells = cells[(cells != 17) | (np.arange(len(cells)) >= 90)]
    inside = rng.uniform(0.05, 0.95, (len(cells), 3))
    x = grid.x_min_m + (cells % grid.nx + inside[:, 0]) * grid.cell_m
    y = grid.y_min_m + (cells // grid.nx + inside[:, 1]) * grid.cell_m
    z = grid.z_min_m + inside[:, 2] * grid.height_m
    z[:3] = grid.z_max_m + 1
    intensity, lag = rng.integers(0, 256, len(cells)), rng.uniform(0, 0.5, len(cells))
    return np.stack([x, y, z, intensity, lag], axis=1).astype(np.float32)


def frame_of(points, spec) -> Frame:
    return Frame(
        token="cloud", points=points, features=("x", "y", "z", "intensity", "time_lag"), boxes=None,
        classes=spec.head.classes, lidar2ego=np.eye(4), ego2global=np.eye(4), lidar2image=None, image_size_px=None,
    )  # fmt: skip


def file_node(folder: Path, name: str):
    """The node around the exported files; outputs by their order, as it binds them."""
    sessions = [OrtRunner(folder / f"pts_{part}_{name}.onnx") for part in ("voxel_encoder", "backbone_neck_head")]
    encoder, head = (session.__enter__() for session in sessions)
    texts = [(folder / f"{name}{end}.param.yaml").read_text() for end in ("", "_ml_package")]
    return autoware_node.Node(
        autoware_node.parameters(*texts),
        lambda array: next(iter(encoder.infer({"input_features": array}).values())),
        lambda array: list(head.infer({"spatial_features": array}).values()),
    )
