"""The thirteen tables of the nuScenes schema, with tokens that depend only on seed and name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd3d.datasets.world.names import ATTRIBUTES, CAMERAS, CATEGORIES, VISIBILITY

Record = dict[str, Any]
TABLES: tuple[str, ...] = (
    "attribute",
    "calibrated_sensor",
    "category",
    "ego_pose",
    "instance",
    "log",
    "map",
    "sample",
    "sample_annotation",
    "sample_data",
    "scene",
    "sensor",
    "visibility",
)


def token(*parts: object) -> str:
    """32 hexadecimal digits that are the same for the same parts."""
    return hashlib.md5("/".join(str(part) for part in parts).encode(), usedforsecurity=False).hexdigest()


def category_token(name: str) -> str:
    """Token of a category."""
    return token("category", name)


def attribute_token(name: str) -> str:
    """Token of an attribute."""
    return token("attribute", name)


def sensor_token(channel: str) -> str:
    """Token of a sensor."""
    return token("sensor", channel)


def vocabulary() -> dict[str, list[Record]]:
    """The tables that are the same in every world."""
    channels = [("LIDAR_TOP", "lidar"), *((name, "camera") for name in CAMERAS)]
    return {
        "category": [
            {"token": category_token(name), "name": name, "description": name, "index": index + 1}
            for index, name in enumerate(CATEGORIES)
        ],
        "attribute": [{"token": attribute_token(name), "name": name, "description": name} for name in ATTRIBUTES],
        "visibility": [{"token": key, "level": level, "description": level} for key, level in VISIBILITY],
        "sensor": [
            {"token": sensor_token(channel), "channel": channel, "modality": modality} for channel, modality in channels
        ],
    }


def merge(parts: list[Mapping[str, list[Record]]]) -> dict[str, list[Record]]:
    """Join the vocabulary and the tables of all scenes, in order."""
    result: dict[str, list[Record]] = {name: [] for name in TABLES}
    for part in (vocabulary(), *parts):
        for name, records in part.items():
            result[name].extend(records)
    return result


def write_tables(folder: Path, tables: Mapping[str, list[Record]]) -> None:
    """Write one JSON file per table."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TABLES:
        (folder / f"{name}.json").write_text(json.dumps(tables[name], allow_nan=False))
