"""Range images of the Waymo Open Dataset become points in the vehicle frame.

Sun et al., CVPR 2020 (arXiv:1912.04838), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kd3d.errors import DataError
from kd3d.geometry.boxes import Floats

RANGE, INTENSITY, ELONGATION = 0, 1, 2  # channels of a range image; the fourth marks zones without labels


@dataclass(frozen=True)
class LidarCalibration:
    """Where one LiDAR is, and which way its beams go.

    Args:
        extrinsic: ``[4, 4]``, from the sensor to the vehicle.
        inclination_rad: lowest and highest edge of the evenly spaced rows.
        inclinations_rad: ``[H]`` of the beams, lowest first; ``None`` where they are evenly spaced.
    """

    extrinsic: Floats
    inclination_rad: tuple[float, float]
    inclinations_rad: Floats | None = None

    def rows_rad(self, height: int) -> Floats:
        """``[height]`` inclination of each row of the image; the first row looks highest.

        Evenly spaced rows lie at the centres of ``height`` equal parts: ``low + (i + 1/2) / H (high - low)``.

        Raises:
            DataError: the beams are listed, but are not ``height``.
        """
        if self.inclinations_rad is None:
            low, high = self.inclination_rad
            return np.asarray((low + (np.arange(height) + 0.5) / height * (high - low))[::-1])
        if len(self.inclinations_rad) != height:
            raise DataError(
                f"the calibration lists {len(self.inclinations_rad)} beam inclinations, the range image has {height} "
                "rows. Restore the files of this segment together."
            )
        return np.asarray(self.inclinations_rad[::-1])

    def columns_rad(self, width: int) -> Floats:
        """``[width]`` azimuth of each column in the sensor's frame, from ``pi`` down to ``-pi`` in the vehicle's.

        ``(2 (W - j - 1/2) / W - 1) pi - atan2(E10, E00)``: the sensor's own yaw is taken off.
        """
        share = (width - np.arange(width) - 0.5) / width
        return np.asarray((2 * share - 1) * np.pi - np.arctan2(self.extrinsic[1, 0], self.extrinsic[0, 0]))


def range_image_points(
    image: Floats,
    calibration: LidarCalibration,
    *,
    pixel_pose: Floats | None = None,
    vehicle2world: Floats | None = None,
) -> Floats:
    """Points of one return of one LiDAR.

    A pixel of range ``r``, inclination ``i`` and azimuth ``a`` is at ``r (cos i cos a, cos i sin a, sin i)`` in the
    sensor, and at ``E p`` in the vehicle. The LiDAR on the roof turns while the vehicle moves: there each pixel has the
    vehicle's pose ``T_p = (Rz(yaw) Ry(pitch) Rx(roll), t)`` at its own time, and is moved to the vehicle frame of the
    whole frame by ``inverse(T_v) T_p E p``. The other LiDARs have no such poses.

    Args:
        image: ``[H, W, 4]`` range in metres (0 or less: no return), intensity, elongation, zone without labels.
        calibration: of the LiDAR.
        pixel_pose: ``[H, W, 6]`` roll, pitch, yaw, x, y, z, vehicle to world; or ``None``.
        vehicle2world: ``[4, 4]`` of the frame; needed with ``pixel_pose``.

    Returns:
        ``[N, 5]`` float32: x, y, z in the vehicle frame, intensity as recorded, elongation; in the image's order.

    Raises:
        DataError: arrays do not fit together.
    """
    if image.ndim != 3 or image.shape[2] < 3:
        raise DataError(f"a range image must have shape (H, W, 4), but has {image.shape}.")
    row, column = np.nonzero(image[..., RANGE] > 0)
    pixels = image[row, column]
    inclination = calibration.rows_rad(image.shape[0])[row]
    azimuth = calibration.columns_rad(image.shape[1])[column]
    distance = pixels[:, RANGE].astype(np.float64)
    level = distance * np.cos(inclination)
    sensor = np.stack([level * np.cos(azimuth), level * np.sin(azimuth), distance * np.sin(inclination)], axis=1)
    xyz = sensor @ calibration.extrinsic[:3, :3].T + calibration.extrinsic[:3, 3]
    if pixel_pose is not None:
        if pixel_pose.shape != (*image.shape[:2], 6) or vehicle2world is None:
            raise DataError(f"poses of shape {pixel_pose.shape} do not fit a range image of shape {image.shape}.")
        world = _posed(xyz, pixel_pose[row, column].astype(np.float64))
        xyz = (world - vehicle2world[:3, 3]) @ vehicle2world[:3, :3]
    return np.column_stack([xyz, pixels[:, INTENSITY], pixels[:, ELONGATION]]).astype(np.float32)


def _posed(points: Floats, pose: Floats) -> Floats:
    """``[N, 3]`` points each moved by its own ``[N, 6]`` pose: turned about x, then y, then z, then shifted."""
    x, y, z = points.T
    (sin_roll, sin_pitch, sin_yaw), (cos_roll, cos_pitch, cos_yaw) = np.sin(pose[:, :3].T), np.cos(pose[:, :3].T)
    y, z = cos_roll * y - sin_roll * z, sin_roll * y + cos_roll * z
    x, z = cos_pitch * x + sin_pitch * z, cos_pitch * z - sin_pitch * x
    x, y = cos_yaw * x - sin_yaw * y, sin_yaw * x + cos_yaw * y
    return np.asarray(np.stack([x, y, z], axis=1) + pose[:, 3:])
