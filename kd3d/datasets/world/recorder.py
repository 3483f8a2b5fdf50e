"""Collects one scene's records while its frames are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.world.actors import Actor
from kd3d.datasets.world.rig import CAMERAS, IMAGE_SIZE, LIDAR_POSITION, quaternion, yaw_quaternion
from kd3d.datasets.world.tables import Record, attribute_token, category_token, sensor_token, token

Floats = NDArray[Any]
MOVING_M_S = 0.3


@dataclass(frozen=True)
class KeyFrame:
    """What annotations need to know about a key frame.

    Args:
        sample: its token.
        poses: ``[O, 4]`` of all actors.
        speeds: ``[O]``.
        points: ``[O]`` LiDAR points inside each annotated box.
        visible: ``[O]`` fraction of rays on the object that nothing hides.
        range_m: ``[O]`` distance from the ego vehicle.
    """

    sample: str
    poses: Floats
    speeds: Floats
    points: Floats
    visible: Floats
    range_m: Floats


@dataclass
class Recorder:
    """Tables of one scene. ``key`` (seed and scene) makes its tokens unique."""

    key: str
    tables: dict[str, list[Record]] = field(default_factory=dict)

    def add(self, table: str, **fields: Any) -> None:
        """Append a record."""
        self.tables.setdefault(table, []).append(fields)

    def calibrations(self, cameras: bool) -> None:
        """One calibrated sensor per channel."""
        lidar = yaw_quaternion(-np.pi / 2)
        self._calibrated("LIDAR_TOP", list(LIDAR_POSITION), lidar, [])
        for mount in CAMERAS if cameras else ():
            self._calibrated(mount.name, list(mount.position), quaternion(mount.rotation()), mount.intrinsic())

    def _calibrated(
        self, channel: str, position: list[float], rotation: list[float], intrinsic: list[list[float]]
    ) -> None:
        self.add(
            "calibrated_sensor",
            token=token(self.key, "calibrated", channel),
            sensor_token=sensor_token(channel),
            translation=position,
            rotation=rotation,
            camera_intrinsic=intrinsic,
        )

    def data(
        self, channel: str, *, sample: str, stamp: int, filename: str, ego: tuple[float, ...], key_frame: bool
    ) -> None:
        """One sensor file and the ego pose at its time. Files of a channel must come in order of time."""
        own = token(self.key, channel, stamp)
        self.add(
            "ego_pose",
            token=own,
            timestamp=stamp,
            rotation=yaw_quaternion(ego[3]),
            translation=[ego[0], ego[1], ego[2]],
        )
        lidar = channel == "LIDAR_TOP"
        self.add(
            "sample_data",
            token=own,
            sample_token=sample,
            ego_pose_token=own,
            calibrated_sensor_token=token(self.key, "calibrated", channel),
            timestamp=stamp,
            fileformat="pcd" if lidar else "jpg",
            is_key_frame=key_frame,
            height=0 if lidar else IMAGE_SIZE[1],
            width=0 if lidar else IMAGE_SIZE[0],
            filename=filename,
            prev="",
            next="",
        )

    def link(self) -> None:
        """Chain the sensor files of each channel, and the samples, by ``prev`` and ``next``."""
        chains: dict[str, list[Record]] = {}
        for record in self.tables["sample_data"]:
            chains.setdefault(record["calibrated_sensor_token"], []).append(record)
        for chain in (*chains.values(), self.tables["sample"]):
            _chain(chain)

    def annotations(self, actors: tuple[Actor, ...], frames: list[KeyFrame], reach_m: float) -> int:
        """Annotate every object from the first to the last key frame in which it has points; returns how many boxes."""
        total = 0
        for index, actor in enumerate(actors):
            if actor.category is None:
                continue
            seen = [i for i, frame in enumerate(frames) if frame.points[index] > 0 and frame.range_m[index] < reach_m]
            if not seen:
                continue
            instance = token(self.key, "instance", index)
            records = [self._annotation(actor, index, instance, frames[i]) for i in range(seen[0], seen[-1] + 1)]
            _chain(records)
            self.tables.setdefault("sample_annotation", []).extend(records)
            self.add(
                "instance",
                token=instance,
                category_token=category_token(actor.category),
                nbr_annotations=len(records),
                first_annotation_token=records[0]["token"],
                last_annotation_token=records[-1]["token"],
            )
            total += len(records)
        return total

    def _annotation(self, actor: Actor, index: int, instance: str, frame: KeyFrame) -> Record:
        length, width, height = actor.size
        x, y, z, yaw = (float(value) for value in frame.poses[index])
        attribute = actor.moving if frame.speeds[index] > MOVING_M_S else actor.resting
        return {
            "token": token(self.key, frame.sample, index),
            "sample_token": frame.sample,
            "instance_token": instance,
            "visibility_token": visibility_level(float(frame.visible[index])),
            "attribute_tokens": [attribute_token(attribute)] if attribute else [],
            "translation": [x, y, z + height / 2],
            "size": [width, length, height],
            "rotation": yaw_quaternion(yaw),
            "prev": "",
            "next": "",
            "num_lidar_pts": int(frame.points[index]),
            "num_radar_pts": 0,
        }


def visibility_level(fraction: float) -> str:
    """Token of the visibility bin: 0-40, 40-60, 60-80 or 80-100 percent."""
    return str(1 + sum(fraction > limit for limit in (0.4, 0.6, 0.8)))


def _chain(records: list[Record]) -> None:
    for before, after in pairwise(records):
        before["next"] = after["token"]
        after["prev"] = before["token"]
