"""A small Waymo Open Dataset, version 2, of a known scene: ground and boxes, ray cast into range images.

Everything is computed with 4 x 4 matrices, pixel by pixel, and never with kd3d.
"""

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

TOP, SIDES = 1, (2, 3, 4, 5)
VEHICLE, PEDESTRIAN, SIGN, CYCLIST = 1, 2, 3, 4
# type, x, y, z, length, width, height, heading in the vehicle frame; velocity over the ground; difficulty (0: not set)
OBJECTS = (
    (VEHICLE, 9.0, 3.0, 0.8, 4.5, 2.0, 1.6, 0.4, (5.0, 1.0), 0),
    (PEDESTRIAN, 6.0, -2.5, 0.9, 0.9, 0.8, 1.8, -2.0, (0.0, 1.2), 2),
    (CYCLIST, -7.0, 1.0, 0.8, 1.8, 0.8, 1.6, 3.0, (-3.0, 0.0), 1),
    (SIGN, 8.0, 6.0, 2.0, 0.3, 1.0, 1.0, 0.0, (0.0, 0.0), 0),
    (VEHICLE, 60.0, 40.0, 0.8, 4.5, 2.0, 1.6, 1.0, (0.0, 0.0), 0),  # out of sight: no point
)
REACH_M = 50.0
START = 1_550_000_000_000_000  # microseconds


def rotation(roll, pitch, yaw):
    def about(axis, angle):
        cos, sin = np.cos(angle), np.sin(angle)
        matrix = np.eye(3)
        i, j = [(1, 2), (2, 0), (0, 1)][axis]
        matrix[i, i] = matrix[j, j] = cos
        matrix[i, j], matrix[j, i] = -sin, sin
        return matrix

    return about(2, yaw) @ about(1, pitch) @ about(0, roll)


def transform(angles, shift):
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = rotation(*angles), shift
    return matrix


@dataclass
class Lidar:
    number: int
    size: tuple[int, int]  # rows, columns
    extrinsic: np.ndarray
    low: float
    high: float
    listed: bool  # whether the calibration lists every beam

    @property
    def beams(self):
        """Lowest first."""
        parts = (np.arange(self.size[0]) + 0.5) / self.size[0]
        return self.low + (parts**1.5 if self.listed else parts) * (self.high - self.low)

    def direction(self, row, column):
        """Of a pixel, in the sensor: rows run downwards, columns from behind, over the left, to ahead and the right."""
        inclination = self.beams[self.size[0] - 1 - row]
        vehicle_azimuth = np.pi - 2 * np.pi * (column + 0.5) / self.size[1]
        azimuth = vehicle_azimuth - np.arctan2(self.extrinsic[1, 0], self.extrinsic[0, 0])
        level = np.cos(inclination)
        return np.array([level * np.cos(azimuth), level * np.sin(azimuth), np.sin(inclination)])


def lidars():
    top = Lidar(TOP, (12, 72), transform((0.01, -0.02, 2.6), (1.4, 0.1, 2.1)), -0.35, 0.05, True)
    sides = [
        Lidar(number, (5, 24), transform((0.0, 0.03, 0.9 * number), (0.3 * number, 0.5, 0.9)), -0.9, 0.1, False)
        for number in SIDES
    ]
    return [top, *sides]


@dataclass
class Frame:
    stamp: int
    vehicle2world: np.ndarray
    points: dict = field(default_factory=dict)  # (LiDAR, return) to [N, 5] expected rows in the vehicle frame


def hits(origin, ray, boxes):
    """Distances along a ray to what it meets in the world, near first: boxes, and the ground at height 0.

    A box is the matrix from the world to its own frame, and its size.
    """
    found = []
    for inverse, size in boxes:
        start, way = (inverse @ [*origin, 1.0])[:3], inverse[:3, :3] @ ray
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.sort(np.stack([(-size / 2 - start) / way, (size / 2 - start) / way]), axis=0)
        enter, leave = ends[0].max(), ends[1].min()
        if 0 < enter < leave:
            found.append(enter)
    if ray[2] < 0:
        found.append(-origin[2] / ray[2])
    return [distance for distance in sorted(found) if distance < REACH_M]


def render(lidar, frame, boxes, motion):
    """Two range images, and the poses of their pixels; fills ``frame.points``."""
    height, width = lidar.size
    images = np.zeros((2, height, width, 4), np.float32)
    images[..., 0] = -1
    poses = np.zeros((height, width, 6), np.float32)
    points = ([], [])
    world2vehicle = np.linalg.inv(frame.vehicle2world)
    poses[:] = [motion(column / width) for column in range(width)]
    moved = [transform(pose[:3].astype(float), pose[3:].astype(float)) for pose in poses[0]]
    for row, column in np.ndindex(height, width):
        sensor = (moved[column] if lidar.number == TOP else frame.vehicle2world) @ lidar.extrinsic
        ray = sensor[:3, :3] @ lidar.direction(row, column)
        for place, distance in enumerate(hits(sensor[:3, 3], ray, boxes)[:2]):
            intensity, elongation = 0.1 + row + place, 0.01 * column
            images[place, row, column] = distance, intensity, elongation, row % 2
            world = sensor[:3, 3] + np.float32(distance) * ray
            inside = world2vehicle @ [*world, 1.0]
            points[place].append([*inside[:3], np.float32(intensity), np.float32(elongation)])
    for place in range(2):
        frame.points[lidar.number, place] = np.array(points[place]).reshape(-1, 5)
    return images, poses


def inside_count(points, box):
    _, x, y, z, length, width, height, heading = box[:8]
    offset = (points[:, :3] - [x, y, z]) @ rotation(0, 0, heading)
    return int((np.abs(offset) <= np.array([length, width, height]) / 2 + 1e-3).all(axis=1).sum())


class Table(dict):
    """Columns by name, as lists."""

    def add(self, **values):
        for name, value in values.items():
            self.setdefault(name, []).append(value)


@lru_cache
def frame_of(index):
    """The frame at a tenth of a second times ``index``, with its images and poses by LiDAR."""
    angles, shift = (0.01, -0.015, 0.7 + 0.05 * index), (120.0 + index, -45.0, 0.0)
    frame = Frame(START + 100_000 * index, transform(angles, shift))
    boxes = [
        (np.linalg.inv(frame.vehicle2world @ transform((0, 0, heading), (x, y, z))), np.array([length, width, height]))
        for _, x, y, z, length, width, height, heading, *_ in OBJECTS
    ]

    def motion(share):
        """Roll, pitch, yaw and place while the LiDAR on the roof turns once."""
        late = share - 0.5
        return (
            *np.add(angles, np.multiply(late, (0.002, 0.001, 0.02))),
            *np.add(shift, np.multiply(late, (1, 0.3, 0))),
        )

    return frame, {lidar.number: render(lidar, frame, boxes, motion) for lidar in lidars()}


def write_segment(folder, name, *, frames=2, labels=True, row_group_size=None, order=None):
    """Write one segment into a split's folder.

    ``order`` sorts the rows of ``lidar``: ``None`` by frame, ``"laser"`` by LiDAR. Returns its frames.
    """
    tables = {part: Table() for part in ("lidar", "lidar_pose", "lidar_calibration", "lidar_box", "vehicle_pose")}
    made = []
    for lidar in lidars():
        tables["lidar_calibration"].add(
            segment=name, laser=lidar.number, extrinsic=lidar.extrinsic.ravel().tolist(),
            low=lidar.low, high=lidar.high, values=lidar.beams.tolist() if lidar.listed else None,
        )  # fmt: skip
    for index in range(frames):
        frame, rendered = frame_of(index)
        tables["vehicle_pose"].add(segment=name, time=frame.stamp, pose=frame.vehicle2world.ravel().tolist())
        for lidar in lidars():
            images, poses = rendered[lidar.number]
            shape = list(images.shape[1:])
            tables["lidar"].add(
                segment=name, time=frame.stamp, laser=lidar.number, values1=images[0].ravel().tolist(), shape1=shape,
                values2=images[1].ravel().tolist(), shape2=shape,
            )  # fmt: skip
            if lidar.number == TOP:
                tables["lidar_pose"].add(
                    segment=name, time=frame.stamp, laser=TOP, values=poses.ravel().tolist(), shape=list(poses.shape)
                )
        cloud = np.concatenate(list(frame.points.values()))
        for number, box in enumerate(OBJECTS):
            tables["lidar_box"].add(
                segment=name, time=frame.stamp, id=f"o{number}", box=box[1:8], type=box[0],
                points=inside_count(cloud, box), speed=(*box[8], 0.0), level=box[9],
            )  # fmt: skip
        made.append(frame)
    if order == "laser":
        rows = sorted(range(len(tables["lidar"]["laser"])), key=lambda row: tables["lidar"]["laser"][row])
        tables["lidar"] = Table({key: [column[row] for row in rows] for key, column in tables["lidar"].items()})
    for part, table in tables.items():
        if part != "lidar_box" or labels:
            path = Path(folder) / part / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(COLUMNS[part](table), path, row_group_size=row_group_size)
    return made


def write_dataset(root, *, segments=2, frames=2):
    """``segments`` in training, one in validation, one in testing; their frames by the name of the segment."""
    made = {}
    for split, count, labels in (("training", segments, True), ("validation", 1, True), ("testing", 1, False)):
        for index in range(count):
            name = f"{split}-{index}"
            made[name] = write_segment(Path(root) / split, name, frames=frames, labels=labels)
    return made


def edit(path, change):
    """Replace a file by ``change(table)``."""
    pq.write_table(change(pq.read_table(path)), path)


IMAGE, SHAPE, MATRIX = pa.list_(pa.float32()), pa.list_(pa.int32(), 3), pa.list_(pa.float64(), 16)


def _keys(table, *more):
    columns = {"key.segment_context_name": pa.array(table["segment"], pa.string())}
    if "time" in more:
        columns["key.frame_timestamp_micros"] = pa.array(table["time"], pa.int64())
    if "laser" in more:
        columns["key.laser_name"] = pa.array(table["laser"], pa.int8())
    return columns


def _lidar(table):
    columns = _keys(table, "time", "laser")
    for place in ("1", "2"):
        prefix = f"[LiDARComponent].range_image_return{place}"
        columns[f"{prefix}.values"] = pa.array(table[f"values{place}"], IMAGE)
        columns[f"{prefix}.shape"] = pa.array(table[f"shape{place}"], SHAPE)
    return pa.table(columns)


def _lidar_pose(table):
    prefix = "[LiDARPoseComponent].range_image_return1"
    columns = {f"{prefix}.values": pa.array(table["values"], IMAGE), f"{prefix}.shape": pa.array(table["shape"], SHAPE)}
    return pa.table({**_keys(table, "time", "laser"), **columns})


def _calibration(table):
    prefix = "[LiDARCalibrationComponent]"
    columns = {
        f"{prefix}.extrinsic.transform": pa.array(table["extrinsic"], MATRIX),
        f"{prefix}.beam_inclination.min": pa.array(table["low"], pa.float64()),
        f"{prefix}.beam_inclination.max": pa.array(table["high"], pa.float64()),
        f"{prefix}.beam_inclination.values": pa.array(table["values"], pa.list_(pa.float64())),
    }
    return pa.table({**_keys(table, "laser"), **columns})


def _vehicle_pose(table):
    name = "[VehiclePoseComponent].world_from_vehicle.transform"
    return pa.table({**_keys(table, "time"), name: pa.array(table["pose"], MATRIX)})


def _lidar_box(table):
    prefix = "[LiDARBoxComponent]"
    columns = {**_keys(table, "time"), "key.laser_object_id": pa.array(table["id"], pa.string())}
    parts = ("center.x", "center.y", "center.z", "size.x", "size.y", "size.z", "heading")
    for place, part in enumerate(parts):
        columns[f"{prefix}.box.{part}"] = pa.array([box[place] for box in table["box"]], pa.float64())
    columns[f"{prefix}.type"] = pa.array(table["type"], pa.int8())
    columns[f"{prefix}.num_lidar_points_in_box"] = pa.array(table["points"], pa.int64())
    for place, axis in enumerate("xyz"):
        columns[f"{prefix}.speed.{axis}"] = pa.array([speed[place] for speed in table["speed"]], pa.float64())
    columns[f"{prefix}.difficulty_level.detection"] = pa.array(table["level"], pa.int8())
    return pa.table(columns)


COLUMNS = {
    "lidar": _lidar,
    "lidar_pose": _lidar_pose,
    "lidar_calibration": _calibration,
    "vehicle_pose": _vehicle_pose,
    "lidar_box": _lidar_box,
}
