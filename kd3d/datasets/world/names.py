"""The fixed vocabulary of nuScenes: categories, attributes, visibility levels, sensors and scene names."""

from __future__ import annotations

from kd3d.errors import UsageError

CATEGORIES: tuple[str, ...] = (
    "human.pedestrian.adult",
    "human.pedestrian.child",
    "human.pedestrian.wheelchair",
    "human.pedestrian.stroller",
    "human.pedestrian.personal_mobility",
    "human.pedestrian.police_officer",
    "human.pedestrian.construction_worker",
    "animal",
    "vehicle.car",
    "vehicle.motorcycle",
    "vehicle.bicycle",
    "vehicle.bus.bendy",
    "vehicle.bus.rigid",
    "vehicle.truck",
    "vehicle.construction",
    "vehicle.emergency.ambulance",
    "vehicle.emergency.police",
    "vehicle.trailer",
    "movable_object.barrier",
    "movable_object.trafficcone",
    "movable_object.pushable_pullable",
    "movable_object.debris",
    "static_object.bicycle_rack",
)

ATTRIBUTES: tuple[str, ...] = (
    "vehicle.moving",
    "vehicle.stopped",
    "vehicle.parked",
    "cycle.with_rider",
    "cycle.without_rider",
    "pedestrian.sitting_lying_down",
    "pedestrian.standing",
    "pedestrian.moving",
)

VISIBILITY: tuple[tuple[str, str], ...] = (("1", "v0-40"), ("2", "v40-60"), ("3", "v60-80"), ("4", "v80-100"))

CAMERAS: tuple[str, ...] = (
    "CAM_FRONT",
    "CAM_FRONT_RIGHT",
    "CAM_BACK_RIGHT",
    "CAM_BACK",
    "CAM_BACK_LEFT",
    "CAM_FRONT_LEFT",
)

MINI_TRAIN: tuple[str, ...] = tuple(f"scene-{n:04d}" for n in (61, 553, 655, 757, 796, 1077, 1094, 1100))
MINI_VAL: tuple[str, ...] = ("scene-0103", "scene-0916")
VERSIONS: tuple[str, ...] = ("v1.0-mini", "v1.0-trainval")


def official_scenes(version: str) -> dict[str, tuple[str, ...]]:
    """The official scene names of a version's two splits, keyed ``train`` and ``val``.

    Raises:
        UsageError: the version is not one of ``VERSIONS``.
        BackendError: the nuScenes devkit, which knows the names of ``v1.0-trainval``, is not installed.
    """
    if version == "v1.0-mini":
        return {"train": MINI_TRAIN, "val": MINI_VAL}
    if version != "v1.0-trainval":
        raise UsageError(f"version {version!r} is unknown. Choose one of: {', '.join(VERSIONS)}.")
    from kd3d.optional import require

    splits = require("nuscenes.utils.splits", extra="nuscenes")
    return {"train": tuple(splits.train), "val": tuple(splits.val)}


def scene_plan(scenes: int, *, version: str, split: str) -> list[tuple[str, str]]:
    """Which scenes a world has: ``(split, official name)``.

    Args:
        scenes: how many in all.
        version: ``v1.0-mini`` or ``v1.0-trainval``.
        split: ``train``, ``val``, or ``both`` (about three to one, at least one each).

    Raises:
        UsageError: fewer scenes than needed, or more than the version has names for.
    """
    names = official_scenes(version)
    if split not in ("train", "val", "both"):
        raise UsageError(f"split {split!r} is unknown. Choose train, val or both.")
    if scenes < (2 if split == "both" else 1):
        raise UsageError(f"{scenes} scenes are too few for split {split!r}. Ask for at least 1, or 2 for both.")
    if split == "both":
        val = max(1, round(scenes / 4))
        wanted = {"train": scenes - val, "val": val}
    else:
        wanted = {split: scenes}
    for part, count in wanted.items():
        if count > len(names[part]):
            more = " Use version v1.0-trainval, which has 700 and 150." if version == "v1.0-mini" else ""
            raise UsageError(f"{version} has {len(names[part])} {part} scenes, but {count} are needed.{more}")
    return [(part, name) for part, count in wanted.items() for name in names[part][:count]]
