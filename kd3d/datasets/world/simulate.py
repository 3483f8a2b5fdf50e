"""Runs one scene: moves the ego vehicle, takes sweeps and pictures, and records the tables."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.datasets.world.actors import Actor
from kd3d.datasets.world.layout import Scene, lay_scene
from kd3d.datasets.world.lidar import Sweep, scan
from kd3d.datasets.world.mapmask import write_map
from kd3d.datasets.world.paint import METAL
from kd3d.datasets.world.primitives import PlacedPrimitives, Primitives, Shape
from kd3d.datasets.world.recorder import KeyFrame, Recorder
from kd3d.datasets.world.rig import CAMERAS, LIDAR_POSITION
from kd3d.datasets.world.tables import Record, token

Floats = NDArray[Any]
SWEEP_S = 0.05
KEY_S = 10 * SWEEP_S
ANNOTATED_M = 80.0
FIRST_STAMP_US = 1_532_402_900_000_000
SCENE_GAP_US = 120_000_000


@dataclass(frozen=True)
class Job:
    """What one scene needs to be made, in any process.

    Args:
        root: folder of the data set being written.
        name: official scene name.
        split: ``train`` or ``val``.
        index: position of the scene in its split; with ``seed`` and ``split`` it fixes everything random.
        seed: of the world.
        samples: key frames.
        sweeps: intermediate sweeps before each key frame, 0 to 9.
        cameras: whether to render pictures.
    """

    root: Path
    name: str
    split: str
    index: int
    seed: int
    samples: int
    sweeps: int
    cameras: bool

    @property
    def key(self) -> str:
        """What the scene's tokens are made of."""
        return f"{self.seed}/{self.split}/{self.index}"

    def rng(self, stream: int) -> np.random.Generator:
        """One of the scene's random streams (0: layout, 1: LiDAR, 2: cameras)."""
        return np.random.default_rng([self.seed, 0 if self.split == "train" else 1, self.index, stream])

    @property
    def first_stamp_us(self) -> int:
        """Time of the first key frame."""
        return FIRST_STAMP_US + (self.index + (0 if self.split == "train" else 1000)) * SCENE_GAP_US


@dataclass(frozen=True)
class SceneTables:
    """One finished scene."""

    tables: dict[str, list[Record]]
    boxes: int


def make_scene(job: Job) -> SceneTables:
    """Write one scene's files and return its tables."""
    scene = lay_scene(job.rng(0), (job.samples - 1) * KEY_S)
    solids = Primitives.stack([actor.shape for actor in scene.actors.actors] + [_ego_roof()])
    recorder = Recorder(job.key)
    recorder.calibrations(job.cameras)
    frames = _drive(job, scene, solids, recorder)
    if job.cameras:
        _film(job, scene, solids, recorder)
    recorder.link()
    boxes = recorder.annotations(scene.actors.actors, frames, ANNOTATED_M)
    _scene_records(job, scene, recorder)
    return SceneTables(recorder.tables, boxes)


def _drive(job: Job, scene: Scene, solids: Primitives, recorder: Recorder) -> list[KeyFrame]:
    """Take every sweep; returns the key frames."""
    rng = job.rng(1)
    frames = []
    for sample in range(job.samples):
        for before in range(job.sweeps, -1, -1):
            time_s = sample * KEY_S - before * SWEEP_S
            frame = _sweep(
                job, scene, solids, recorder=recorder, time_s=time_s, sample=sample, rng=rng, key=before == 0
            )
            if frame is not None:
                frames.append(frame)
    return frames


def _sweep(
    job: Job,
    scene: Scene,
    solids: Primitives,
    *,
    recorder: Recorder,
    time_s: float,
    sample: int,
    key: bool,
    rng: np.random.Generator,
) -> KeyFrame | None:
    poses, ego = scene.actors.poses(time_s), scene.ego_pose(time_s)
    sensor = lidar_pose(ego)
    sweep = scan(solids.place(np.vstack([poses, ego])), scene.terrain, sensor, len(poses) + 1, rng)
    stamp = job.first_stamp_us + round(time_s * 1e6)
    filename = sensor_file(job, "LIDAR_TOP", stamp, key)
    (job.root / filename).write_bytes(sweep.points.tobytes())
    own = sample_token(job, sample)
    recorder.data("LIDAR_TOP", sample=own, stamp=stamp, filename=filename, ego=ego, key_frame=key)
    if not key:
        return None
    recorder.add("sample", token=own, timestamp=stamp, prev="", next="", scene_token=token(job.key, "scene"))
    return _key_frame(scene, own, time_s, poses=poses, sensor=sensor, sweep=sweep)


def _key_frame(
    scene: Scene,
    sample: str,
    time_s: float,
    *,
    poses: Floats,
    sensor: tuple[float, float, float, float],
    sweep: Sweep,
) -> KeyFrame:
    world = sensor_to_world(sweep.points[:, :3], sensor)
    actors = scene.actors.actors
    range_m = np.hypot(poses[:, 0] - sensor[0], poses[:, 1] - sensor[1])
    points = np.zeros(len(actors), np.int64)
    for index, actor in enumerate(actors):
        if actor.category is not None and range_m[index] < ANNOTATED_M + 10:
            points[index] = count_inside(world, poses[index], actor)
    visible = sweep.hits[:-1] / np.maximum(sweep.reach[:-1], 1)
    return KeyFrame(sample, poses, scene.actors.speeds(time_s), points, visible, range_m)


def count_inside(world: Floats, pose: Floats, actor: Actor) -> int:
    """Number of points ``[N, 3]`` inside an actor's annotated box."""
    radius = np.hypot(actor.size[0], actor.size[1]) / 2
    near = world[(np.abs(world[:, 0] - pose[0]) <= radius) & (np.abs(world[:, 1] - pose[1]) <= radius)]
    dx, dy, dz = near[:, 0] - pose[0], near[:, 1] - pose[1], near[:, 2] - pose[2]
    cos, sin = np.cos(pose[3]), np.sin(pose[3])
    inside = (np.abs(cos * dx + sin * dy) <= actor.size[0] / 2) & (np.abs(cos * dy - sin * dx) <= actor.size[1] / 2)
    return int((inside & (dz >= 0) & (dz <= actor.size[2])).sum())


def lidar_pose(ego: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """x, y, z of LIDAR_TOP and the vehicle's yaw."""
    cos, sin = np.cos(ego[3]), np.sin(ego[3])
    x, y, z = LIDAR_POSITION
    return float(ego[0] + cos * x - sin * y), float(ego[1] + sin * x + cos * y), ego[2] + z, ego[3]


def sensor_to_world(points: Floats, sensor: tuple[float, float, float, float]) -> Floats:
    """Points of the LiDAR's frame (x right, y forward) in the world, float64."""
    cos, sin = np.cos(sensor[3]), np.sin(sensor[3])
    right, ahead = points[:, 0].astype(np.float64), points[:, 1].astype(np.float64)
    x = sensor[0] + cos * ahead + sin * right
    y = sensor[1] + sin * ahead - cos * right
    return np.stack([x, y, sensor[2] + points[:, 2]], axis=1)


def _film(job: Job, scene: Scene, solids: Primitives, recorder: Recorder) -> None:
    """Take the six pictures of every key frame."""
    from kd3d.datasets.world.camera import render, write_jpeg

    texture = int(job.rng(2).integers(1 << 31))
    for sample in range(job.samples):
        for mount in CAMERAS:
            stamp = job.first_stamp_us + round(sample * KEY_S * 1e6) + mount.delay_us
            time_s = sample * KEY_S + mount.delay_us / 1e6
            ego = scene.ego_pose(time_s)
            placed: PlacedPrimitives = solids.place(np.vstack([scene.actors.poses(time_s), ego]))
            filename = sensor_file(job, mount.name, stamp, True)
            write_jpeg(job.root / filename, render(placed, scene.terrain, mount, ego, texture))
            recorder.data(
                mount.name, sample=sample_token(job, sample), stamp=stamp, filename=filename, ego=ego, key_frame=True
            )


def sample_token(job: Job, sample: int) -> str:
    """Token of a key frame."""
    return token(job.key, "sample", sample)


def sensor_file(job: Job, channel: str, stamp: int, key_frame: bool) -> str:
    """Path of a sensor file relative to the root, in nuScenes' style."""
    ending = "pcd.bin" if channel == "LIDAR_TOP" else "jpg"
    return f"{'samples' if key_frame else 'sweeps'}/{channel}/{job.name}__{channel}__{stamp}.{ending}"


def _ego_roof() -> Shape:
    """The part of the vehicle's own roof that the LiDAR sees, below and around its mount."""
    shape = Shape()
    shape.box((0.95, 0.0, 1.52), (1.5, 0.62, 0.12), METAL)
    return shape


def _scene_records(job: Job, scene: Scene, recorder: Recorder) -> None:
    samples = recorder.tables["sample"]
    log, name = token(job.key, "log"), f"maps/{token(job.key, 'map')}.png"
    write_map(job.root / name, scene.terrain, scene.extent_m)
    recorder.add(
        "scene",
        token=token(job.key, "scene"),
        log_token=log,
        nbr_samples=len(samples),
        first_sample_token=samples[0]["token"],
        last_sample_token=samples[-1]["token"],
        name=job.name,
        description=f"Generated street scene, seed {job.key}",
    )
    recorder.add(
        "log",
        token=log,
        logfile=f"world-{job.seed}-{job.name}",
        vehicle="n015",
        date_captured="2018-07-24",
        location="singapore-onenorth",
    )
    recorder.add("map", token=token(job.key, "map"), log_tokens=[log], category="semantic_prior", filename=name)
