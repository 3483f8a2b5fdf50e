"""Opening a nuScenes database with the official devkit, and saying plainly what is wrong with one."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from kd3d.datasets.quiet import quiet
from kd3d.errors import DataError, UsageError
from kd3d.optional import require
from kd3d.runs.atomic import parse_json

TABLES = (
    "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose",
    "log", "scene", "sample", "sample_data", "sample_annotation", "map",
)  # fmt: skip
SPLITS = ("train", "val", "test", "mini_train", "mini_val", "train_detect", "train_track")
# Largest first: of several versions in one folder, the one that most work is done on.
VERSIONS = ("v1.0-trainval", "v1.0-mini", "v1.0-test")
CLASSES = (
    "car", "truck", "construction_vehicle", "bus", "trailer",
    "barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone",
)  # fmt: skip
# Official categories that the detection task leaves out.
UNUSED_CATEGORIES = frozenset(
    (
        "animal", "human.pedestrian.personal_mobility", "human.pedestrian.stroller", "human.pedestrian.wheelchair",
        "movable_object.debris", "movable_object.pushable_pullable", "static_object.bicycle_rack",
        "vehicle.emergency.ambulance", "vehicle.emergency.police",
    )
)  # fmt: skip
_REPAIR = "Restore it from the archive it came from, or write the world again with kd3d data synth."


def versions_in(root: Path) -> tuple[str, ...]:
    """The database versions that lie in ``root``, the preferred one first."""
    found = sorted(folder.name for folder in Path(root).glob("v1.0-*") if folder.is_dir())
    return tuple(sorted(found, key=lambda name: VERSIONS.index(name) if name in VERSIONS else len(VERSIONS)))


def find_version(root: Path, version: str | None = None) -> str:
    """The version to read: the one asked for, or the preferred one of those present.

    Raises:
        DataError: ``root`` has no database, or not the one asked for.
    """
    root = Path(root)
    if not root.is_dir():
        raise DataError(f"{root}: no such folder. Give the folder that holds a v1.0-* folder and samples/.")
    found = versions_in(root)
    if not found:
        raise DataError(f"{root}: no nuScenes database (no v1.0-* folder). Give the folder that holds v1.0-mini or so.")
    if version is None:
        return found[0]
    if version not in found:
        raise DataError(f"{root}: has no version {version}; it has {', '.join(found)}. Choose one of these.")
    return version


def resolve_split(split: str, version: str) -> str:
    """The official split name: ``train`` and ``val`` mean ``mini_train`` and ``mini_val`` in a mini version.

    Raises:
        UsageError: there is no such split in this version.
    """
    mini = version.endswith("mini")
    if split in ("train", "val") and mini:
        return f"mini_{split}"
    allowed = tuple(
        name for name in SPLITS if mini == name.startswith("mini_") and (name == "test") == version.endswith("test")
    )
    if split not in allowed:
        raise UsageError(f"{split}: {version} has no such split. Choose one of {', '.join(allowed)}.")
    return split


def table_problems(root: Path, version: str) -> list[str]:
    """One line per table that is missing or is not JSON."""
    problems = []
    for table in TABLES:
        path = Path(root) / version / f"{table}.json"
        if not path.is_file():
            problems.append(f"{path}: the table is missing. {_REPAIR}")
            continue
        try:
            parse_json(path.read_bytes())
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}: the table is not valid JSON ({error}). {_REPAIR}")
    return problems


def open_database(root: Path, version: str) -> Any:
    """The devkit's ``NuScenes`` over ``root``; the last one opened is kept while its tables do not change.

    Raises:
        DataError: a table or map is missing or damaged.
        BackendError: nuscenes-devkit is not installed.
    """
    root = Path(root).resolve()
    for table in TABLES:
        path = root / version / f"{table}.json"
        if not path.is_file():
            raise DataError(f"{path}: the table is missing. {_REPAIR}")
    stamps = tuple((root / version / f"{table}.json").stat().st_mtime_ns for table in TABLES)
    return _open(root, version, stamps)


@lru_cache(maxsize=1)
def _open(root: Path, version: str, stamps: tuple[int, ...]) -> Any:
    del stamps  # only part of the cache's key
    devkit = require("nuscenes.nuscenes", extra="nuscenes")
    try:
        with quiet():
            return devkit.NuScenes(version=version, dataroot=str(root), verbose=False)
    except (ValueError, RecursionError) as error:  # json.JSONDecodeError does not say in which file
        problems = table_problems(root, version)
        raise DataError(problems[0] if problems else f"{root / version}: {error}. {_REPAIR}") from error
    except KeyError as error:
        raise DataError(f"{root / version}: the tables do not fit together (nothing has {error}). {_REPAIR}") from error
    except (AssertionError, OSError, IndexError, TypeError) as error:
        raise DataError(f"{root / version}: the devkit cannot open it ({error}). {_REPAIR}") from error
    except Exception as error:
        if type(error) is not Exception:  # as which the devkit reports a map table that it cannot use
            raise
        raise DataError(f"{root / version}: the devkit cannot open it ({error}). {_REPAIR}") from error


def detection_class(category: str, where: Path) -> str | None:
    """The detection class of a category, ``None`` for the categories that the task leaves out.

    Raises:
        DataError: nuScenes has no such category.
    """
    utils = require("nuscenes.eval.detection.utils", extra="nuscenes")
    name: str | None = utils.category_to_detection_name(category)
    if name is None and category not in UNUSED_CATEGORIES:
        raise DataError(
            f"{where}: an annotation has the unknown category {category!r}. "
            f"Use the category names of nuScenes, such as 'vehicle.car'."
        )
    return name


def split_scenes(split: str) -> frozenset[str]:
    """Official scene names of a split."""
    splits = require("nuscenes.utils.splits", extra="nuscenes")
    return frozenset(splits.create_splits_scenes()[split])
