"""What a detector is, as data: frozen, JSON both ways, no torch."""

from kd3d.spec.codec import from_json, to_json
from kd3d.spec.decode import DecodeSpec
from kd3d.spec.detector import BevBackboneSpec, CenterHeadSpec, DetectorSpec, PillarEncoderSpec, PointSpec

__all__ = [
    "BevBackboneSpec",
    "CenterHeadSpec",
    "DecodeSpec",
    "DetectorSpec",
    "PillarEncoderSpec",
    "PointSpec",
    "from_json",
    "to_json",
]
