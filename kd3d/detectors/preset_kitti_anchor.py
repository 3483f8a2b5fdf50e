"""SECOND and PointPillars for KITTI with their anchor heads, after OpenPCDet."""

from __future__ import annotations

from kd3d.detectors.preset_kitti import CLASSES
from kd3d.geometry.grid import BevGrid
from kd3d.spec import (
    AnchorHeadSpec,
    AnchorSpec,
    BevBackboneSpec,
    DecodeSpec,
    DetectorSpec,
    PillarEncoderSpec,
    PointSpec,
    VoxelEncoderSpec,
)

_SIZES_M = ((3.9, 1.6, 1.56), (0.8, 0.6, 1.73), (1.76, 0.6, 1.73))
_BOTTOMS_M = (-1.78, -0.6, -0.6)
_HEAD = AnchorHeadSpec(
    tuple(AnchorSpec(name, size, bottom) for name, size, bottom in zip(CLASSES, _SIZES_M, _BOTTOMS_M, strict=True))
)
_FAR_M = 1000.0  # OpenPCDet has no limit on centres here
_DECODE = DecodeSpec(
    peak_kernel=1,
    top_k=4096,
    score_threshold=0.1,
    center_limit_m=(-_FAR_M, -_FAR_M, -_FAR_M, _FAR_M, _FAR_M, _FAR_M),
    nms="rotate",
    nms_threshold=(0.01,),
    nms_pre=4096,
    nms_post=500,
    top_k_rule="cell",
)


def kitti_second(suffix: str, *, encoder: float = 1.0, backbone: float = 1.0) -> DetectorSpec:
    """SECOND or a narrower student of it: 0.05 x 0.05 x 0.1 m, 1408 x 1600 cells, output at 0.4 m.

    Args:
        suffix: of the name.
        encoder: width ratio of the sparse 3D backbone.
        backbone: width ratio of the BEV backbone with its up branches.
    """
    first, *stages, last = (int(width * encoder) for width in (16, 16, 32, 64, 64, 128))
    return DetectorSpec(
        name=f"kitti-second{suffix}",
        points=PointSpec(camera_view_only=True),
        grid=BevGrid(0.0, -40.0, -3.0, 70.4, 40.0, 1.0, 0.05),
        encoder=VoxelEncoderSpec(
            height_m=0.1,
            channels=tuple(stages),
            blocks=(1, 2, 2, 2),
            input_channels=first,
            out_channels=last,
            block="plain",
            block_bias=False,
            max_points=5,
            max_voxels=40000,
        ),
        backbone=BevBackboneSpec(
            strides=(1, 2),
            layers=(5, 5),
            channels=(int(128 * backbone), int(256 * backbone)),
            up_strides=(1.0, 2.0),
            up_channels=(int(256 * backbone), int(256 * backbone)),
        ),
        head=_HEAD,
        decode=_DECODE,
    )


def kitti_pointpillars() -> DetectorSpec:
    """PointPillars: 0.16 m, 432 x 496 cells, output at 0.32 m; 4,834,888 parameters."""
    return DetectorSpec(
        name="kitti-pointpillars",
        points=PointSpec(camera_view_only=True),
        grid=BevGrid(0.0, -39.68, -3.0, 69.12, 39.68, 1.0, 0.16),
        encoder=PillarEncoderSpec(filters=(64,), max_points=32, max_pillars=40000),
        backbone=BevBackboneSpec(
            strides=(2, 2, 2),
            layers=(3, 5, 5),
            channels=(64, 128, 256),
            up_strides=(1.0, 2.0, 4.0),
            up_channels=(128, 128, 128),
        ),
        head=_HEAD,
        decode=_DECODE,
    )
