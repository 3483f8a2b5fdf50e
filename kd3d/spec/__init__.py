"""What a detector is, as data: frozen, JSON both ways, no torch."""

from kd3d.spec.anchor import AnchorHeadSpec, AnchorSpec
from kd3d.spec.codec import from_json, to_json
from kd3d.spec.decode import DecodeSpec
from kd3d.spec.detector import BevBackboneSpec, CenterHeadSpec, DetectorSpec, PillarEncoderSpec, PointSpec
from kd3d.spec.voxel import VoxelEncoderSpec

__all__ = [
    "AnchorHeadSpec",
    "AnchorSpec",
    "BevBackboneSpec",
    "CenterHeadSpec",
    "DecodeSpec",
    "DetectorSpec",
    "PillarEncoderSpec",
    "PointSpec",
    "VoxelEncoderSpec",
    "from_json",
    "to_json",
]
