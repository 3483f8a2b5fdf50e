"""Where the sensors sit on the vehicle: LIDAR_TOP and six cameras, placed like those of the real cars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]
Vec3 = tuple[float, float, float]

LIDAR_POSITION: Vec3 = (0.943713, 0.0, 1.84023)
IMAGE_SIZE = (1600, 900)


@dataclass(frozen=True)
class CameraMount:
    """One camera.

    Args:
        name: channel.
        position: metres in the vehicle's frame (rear axle on the ground, x forward).
        yaw_deg, pitch_deg: viewing direction; pitch is positive downwards.
        focal_px, centre_px: pinhole intrinsics.
        delay_us: exposure time relative to the key sweep, microseconds.
    """

    name: str
    position: Vec3
    yaw_deg: float
    pitch_deg: float
    focal_px: float
    centre_px: tuple[float, float]
    delay_us: int

    def rotation(self) -> Floats:
        """``[3, 3]``, camera axes (x right, y down, z forward) to the vehicle's."""
        yaw, pitch = np.radians(self.yaw_deg), np.radians(self.pitch_deg)
        forward = np.array([np.cos(yaw) * np.cos(pitch), np.sin(yaw) * np.cos(pitch), -np.sin(pitch)])
        right = np.array([np.sin(yaw), -np.cos(yaw), 0.0])
        return np.stack([right, np.cross(forward, right), forward], axis=1)

    def intrinsic(self) -> list[list[float]]:
        """``[3, 3]``."""
        return [[self.focal_px, 0.0, self.centre_px[0]], [0.0, self.focal_px, self.centre_px[1]], [0.0, 0.0, 1.0]]


CAMERAS: tuple[CameraMount, ...] = (
    CameraMount("CAM_FRONT", (1.7008, 0.0159, 1.5110), 0.3, 0.3, 1266.417, (816.267, 491.507), -35491),
    CameraMount("CAM_FRONT_RIGHT", (1.5508, -0.4934, 1.4957), -56.4, 0.8, 1260.847, (807.968, 495.334), -27632),
    CameraMount("CAM_BACK_RIGHT", (1.0149, -0.4806, 1.5624), -110.8, 0.9, 1259.514, (807.253, 501.196), -20058),
    CameraMount("CAM_BACK", (0.0283, 0.0035, 1.5791), 179.9, -1.0, 809.221, (829.220, 481.778), -10426),
    CameraMount("CAM_BACK_LEFT", (1.0357, 0.4848, 1.5910), 108.6, 0.9, 1256.741, (792.113, 492.776), -528),
    CameraMount("CAM_FRONT_LEFT", (1.5239, 0.4946, 1.5093), 55.2, -0.1, 1272.598, (826.615, 479.752), -43107),
)


def yaw_quaternion(yaw: float) -> list[float]:
    """w, x, y, z of a rotation about the vertical."""
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def quaternion(matrix: Floats) -> list[float]:
    """w, x, y, z of a rotation matrix."""
    trace = np.array(
        [
            [matrix[0, 0] - matrix[1, 1] - matrix[2, 2], 0, 0, 0],
            [matrix[0, 1] + matrix[1, 0], matrix[1, 1] - matrix[0, 0] - matrix[2, 2], 0, 0],
            [matrix[0, 2] + matrix[2, 0], matrix[1, 2] + matrix[2, 1], matrix[2, 2] - matrix[0, 0] - matrix[1, 1], 0],
            [
                matrix[2, 1] - matrix[1, 2],
                matrix[0, 2] - matrix[2, 0],
                matrix[1, 0] - matrix[0, 1],
                matrix[0, 0] + matrix[1, 1] + matrix[2, 2],
            ],
        ]
    )
    _, vectors = np.linalg.eigh(trace, UPLO="L")
    x, y, z, w = vectors[:, -1] * (1.0 if vectors[3, -1] >= 0 else -1.0)
    return [float(w), float(x), float(y), float(z)]
