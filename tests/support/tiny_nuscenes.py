"""A nuScenes database of two scenes and six samples, written by hand: enough for the devkit, small enough to damage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

# category, (w, l, h), speed m/s, attribute when evaluated
OBJECTS = [
    ("vehicle.car", (1.9, 4.6, 1.7), 5.0, "vehicle.moving"),
    ("vehicle.truck", (2.5, 7.0, 3.0), 0.0, "vehicle.parked"),
    ("vehicle.bus.rigid", (2.9, 11.0, 3.5), 0.0, "vehicle.stopped"),
    ("vehicle.trailer", (2.9, 12.0, 3.9), 0.0, "vehicle.parked"),
    ("vehicle.construction", (2.8, 6.0, 3.2), 0.0, "vehicle.parked"),
    ("human.pedestrian.adult", (0.7, 0.7, 1.8), 1.5, "pedestrian.moving"),
    ("vehicle.motorcycle", (0.8, 2.1, 1.5), 6.0, "cycle.with_rider"),
    ("vehicle.bicycle", (0.6, 1.7, 1.3), 0.0, "cycle.without_rider"),
    ("movable_object.trafficcone", (0.4, 0.4, 1.1), 0.0, ""),
    ("movable_object.barrier", (2.5, 0.5, 1.0), 0.0, ""),
    ("static_object.bicycle_rack", (1.0, 3.0, 1.0), 0.0, ""),  # not in the detection task
    ("vehicle.car", (1.9, 4.6, 1.7), 0.0, "vehicle.parked"),  # nothing hits it
]
NO_POINTS = len(OBJECTS) - 1
SCENES = ("scene-0061", "scene-0103")  # mini_train, mini_val
SAMPLES = 3
SWEEPS_BETWEEN = 2
CAMERAS = {"CAM_FRONT": 0.0, "CAM_BACK": np.pi}
IMAGE = (64, 36)


def quaternion(yaw: float) -> list[float]:
    return [float(np.cos(yaw / 2)), 0.0, 0.0, float(np.sin(yaw / 2))]


def tilted(yaw: float, pitch: float) -> list[float]:
    """Rz(yaw) Ry(pitch)."""
    return multiply((np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)), (np.cos(pitch / 2), 0, np.sin(pitch / 2), 0))


def multiply(p: tuple[float, ...], q: tuple[float, ...]) -> list[float]:
    """Product of two quaternions."""
    (a, b, c, d), (e, f, g, h) = p, q
    rows = (a * e - b * f - c * g - d * h, a * f + b * e + c * h - d * g)
    rows += (a * g - b * h + c * e + d * f, a * h + b * g - c * f + d * e)
    return [float(v) for v in rows]


def matrix(rotation: list[float], translation: list[float]) -> np.ndarray:
    w, x, y, z = rotation
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = translation
    return out


class Writer:
    def __init__(self, root: Path, version: str) -> None:
        self.root, self.version = root, version
        self.rng = np.random.default_rng(7)
        names = ("category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose")
        names += ("log", "scene", "sample", "sample_data", "sample_annotation", "map")
        self.tables: dict[str, list[dict]] = {name: [] for name in names}

    def add(self, table: str, token: str, **fields) -> str:
        self.tables[table].append({"token": token, **fields})
        return token

    def write(self, scenes: tuple[str, ...]) -> None:
        self.fixed_tables()
        for scene in scenes:
            self.scene(scene)
        (self.root / self.version).mkdir(parents=True, exist_ok=True)
        for name, rows in self.tables.items():
            (self.root / self.version / f"{name}.json").write_text(json.dumps(rows))

    def fixed_tables(self) -> None:
        for name in dict.fromkeys(obj[0] for obj in OBJECTS):
            self.add("category", f"cat-{name}", name=name, description="")
        for name in sorted({obj[3] for obj in OBJECTS if obj[3]}):
            self.add("attribute", f"att-{name}", name=name, description="")
        self.add("visibility", "4", level="v80-100", description="")
        self.add("log", "log", logfile="", vehicle="", date_captured="", location="singapore-onenorth")
        maps = self.root / "maps"
        maps.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(maps / "map.png")
        self.add("map", "map", log_tokens=["log"], category="semantic_prior", filename="maps/map.png")
        self.add("sensor", "LIDAR_TOP", channel="LIDAR_TOP", modality="lidar")
        self.lidar = {"translation": [0.9, 0.0, 1.8], "rotation": tilted(-np.pi / 2, 0.02)}
        self.add("calibrated_sensor", "cs-LIDAR_TOP", sensor_token="LIDAR_TOP", camera_intrinsic=[], **self.lidar)
        for name, yaw in CAMERAS.items():
            self.add("sensor", name, channel=name, modality="camera")
            cos, sin = np.cos(yaw / 2), np.sin(yaw / 2)
            # Rz(yaw) times (x right, y down, z ahead).
            q = multiply((cos, 0, 0, sin), (0.5, -0.5, 0.5, -0.5))
            self.add(
                "calibrated_sensor", f"cs-{name}", sensor_token=name, translation=[1.5, 0.0, 1.5],
                rotation=q, camera_intrinsic=[[50.0, 0, 32], [0, 50.0, 18], [0, 0, 1]],
            )  # fmt: skip

    def scene(self, name: str) -> None:
        start = 1_500_000_000_000_000 + 10_000_000 * len(self.tables["scene"])
        steps = SWEEPS_BETWEEN + 1
        count = (SAMPLES - 1) * steps + 1
        samples = [f"{name}-s{i}" for i in range(SAMPLES)]
        for i, token in enumerate(samples):
            self.add(
                "sample", token, timestamp=start + i * 500_000, scene_token=name,
                prev=samples[i - 1] if i else "", next=samples[i + 1] if i + 1 < SAMPLES else "",
            )  # fmt: skip
        self.add(
            "scene", name, log_token="log", name=name, description="", nbr_samples=SAMPLES,
            first_sample_token=samples[0], last_sample_token=samples[-1],
        )  # fmt: skip
        for step in range(count):
            seconds = 0.5 * step / steps
            self.lidar_sweep(name, step, count, start, seconds, samples)
            if step % steps == 0:
                for camera in CAMERAS:
                    self.camera_image(name, step // steps, start, seconds + 0.02, camera, samples)
        self.annotations(name, samples)

    def ego(self, seconds: float) -> dict[str, list[float]]:
        return {
            "translation": [400.0 + 8 * seconds, 1100.0 + seconds, 0.0],
            "rotation": quaternion(0.3 + 0.1 * seconds),
        }

    def object_pose(self, index: int, seconds: float) -> tuple[np.ndarray, float]:
        yaw = 0.3 + 0.5 * index
        angle = 2 * np.pi * index / len(OBJECTS)
        base = np.array([400.0, 1100.0, OBJECTS[index][1][2] / 2])
        base[:2] += (10 + index) * np.array([np.cos(angle), np.sin(angle)])
        base[:2] += OBJECTS[index][2] * seconds * np.array([np.cos(yaw), np.sin(yaw)])
        return base, yaw

    def lidar_sweep(self, scene: str, step: int, count: int, start: int, seconds: float, samples: list[str]) -> None:
        token = f"{scene}-l{step}"
        pose = self.ego(seconds)
        self.add("ego_pose", f"ego-{token}", timestamp=start + int(seconds * 1e6), **pose)
        key = step % (SWEEPS_BETWEEN + 1) == 0
        filename = f"{'samples' if key else 'sweeps'}/LIDAR_TOP/{token}.pcd.bin"
        to_lidar = np.linalg.inv(
            matrix(pose["rotation"], pose["translation"]) @ matrix(self.lidar["rotation"], self.lidar["translation"])
        )
        parts = [self.rng.uniform(-30, 30, (150, 3)) * [1, 1, 0.05], self.rng.uniform(-0.9, 0.9, (10, 3))]
        for index, (_, (width, length, height), _, _) in enumerate(OBJECTS[:NO_POINTS]):
            center, yaw = self.object_pose(index, seconds)
            inside = self.rng.uniform(-0.4, 0.4, (6 + index, 3)) * [length, width, height]
            world = matrix(quaternion(yaw), center.tolist()) @ np.c_[inside, np.ones(len(inside))].T
            parts.append((to_lidar @ world)[:3].T)
        xyz = np.concatenate(parts)
        extra = np.c_[self.rng.uniform(0, 255, len(xyz)), self.rng.integers(0, 32, len(xyz))]
        path = self.root / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        np.c_[xyz, extra].astype(np.float32).tofile(path)
        self.add(
            "sample_data", token, sample_token=samples[step // (SWEEPS_BETWEEN + 1)], ego_pose_token=f"ego-{token}",
            calibrated_sensor_token="cs-LIDAR_TOP", timestamp=start + int(seconds * 1e6), fileformat="pcd",
            is_key_frame=key, height=0, width=0, filename=filename,
            prev=f"{scene}-l{step - 1}" if step else "", next=f"{scene}-l{step + 1}" if step + 1 < count else "",
        )  # fmt: skip

    def camera_image(self, scene: str, i: int, start: int, seconds: float, camera: str, samples: list[str]) -> None:
        token = f"{scene}-{camera}-{i}"
        self.add("ego_pose", f"ego-{token}", timestamp=start + int(seconds * 1e6), **self.ego(seconds))
        filename = f"samples/{camera}/{token}.jpg"
        path = self.root / filename
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", IMAGE, (90, 120, 150)).save(path)
        self.add(
            "sample_data", token, sample_token=samples[i], ego_pose_token=f"ego-{token}",
            calibrated_sensor_token=f"cs-{camera}", timestamp=start + int(seconds * 1e6), fileformat="jpg",
            is_key_frame=True, height=IMAGE[1], width=IMAGE[0], filename=filename,
            prev=f"{scene}-{camera}-{i - 1}" if i else "", next=f"{scene}-{camera}-{i + 1}" if i + 1 < SAMPLES else "",
        )  # fmt: skip

    def annotations(self, scene: str, samples: list[str]) -> None:
        for index, (category, size, _, attribute) in enumerate(OBJECTS):
            instance = f"{scene}-o{index}"
            tokens = [f"{instance}-a{i}" for i in range(SAMPLES)]
            self.add(
                "instance", instance, category_token=f"cat-{category}", nbr_annotations=SAMPLES,
                first_annotation_token=tokens[0], last_annotation_token=tokens[-1],
            )  # fmt: skip
            for i, token in enumerate(tokens):
                center, yaw = self.object_pose(index, 0.5 * i)
                self.add(
                    "sample_annotation", token, sample_token=samples[i], instance_token=instance, visibility_token="4",
                    attribute_tokens=[f"att-{attribute}"] if attribute else [], translation=center.tolist(),
                    size=list(size), rotation=quaternion(yaw), num_radar_pts=0,
                    num_lidar_pts=0 if index == NO_POINTS else 6 + index,
                    prev=tokens[i - 1] if i else "", next=tokens[i + 1] if i + 1 < SAMPLES else "",
                )  # fmt: skip


def write_tiny(root: Path, *, version: str = "v1.0-mini", scenes: tuple[str, ...] = SCENES) -> Path:
    """Write the database and return ``root``."""
    Writer(Path(root), version).write(scenes)
    return Path(root)
