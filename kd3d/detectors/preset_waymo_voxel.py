"""CenterPoint-Voxel for Waymo: SparseKD's teacher and three narrower students."""

from __future__ import annotations

from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PointSpec, VoxelEncoderSpec


def waymo_voxel(suffix: str, *, encoder: float, backbone: float, head: float) -> DetectorSpec:
    """One of the family; they differ in width only.

    Args:
        suffix: of the name.
        encoder: width ratio of the sparse 3D backbone (SparseKD's PFE).
        backbone: width ratio of the BEV backbone with its up branches (BFE).
        head: width ratio of the head.
    """

    def narrow(*widths: int, ratio: float) -> tuple[int, ...]:
        return tuple(int(width * ratio) for width in widths)

    first, *stages, last = narrow(16, 16, 32, 64, 128, 128, ratio=encoder)
    (shared,) = narrow(64, ratio=head)
    return DetectorSpec(
        name=f"waymo-centerpoint-voxel{suffix}",
        points=PointSpec(features=("x", "y", "z", "intensity", "elongation"), intensity="tanh"),
        grid=BevGrid(-75.2, -75.2, -2.0, 75.2, 75.2, 4.0, 0.1),
        encoder=VoxelEncoderSpec(
            height_m=0.15,
            channels=tuple(stages),
            blocks=(2, 2, 2, 2),
            input_channels=first,
            out_channels=last,
            max_points=5,
            max_voxels=150000,
        ),
        backbone=BevBackboneSpec(
            strides=(1, 2),
            layers=(5, 5),
            channels=narrow(128, 256, ratio=backbone),
            up_strides=(1.0, 2.0),
            up_channels=narrow(256, 256, ratio=backbone),
        ),
        head=CenterHeadSpec(
            tasks=(("Vehicle", "Pedestrian", "Cyclist"),), shared_channels=shared, branch_channels=shared
        ),
        decode=DecodeSpec(
            peak_kernel=1,
            top_k=500,
            score_threshold=0.1,
            center_limit_m=(-75.2, -75.2, -2.0, 75.2, 75.2, 4.0),
            nms="rotate",
            nms_threshold=(0.7,),
            nms_pre=4096,
            nms_post=500,
        ),
    )
