"""Reading everything a data set has, and listing what is damaged: ``kd3d data check``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.datasets.base import Kind
from kd3d.datasets.kitti import KittiDataset
from kd3d.datasets.nuscenes_tables import detection_class, find_version, open_database, table_problems
from kd3d.datasets.open import recognise
from kd3d.datasets.waymo import FOLDERS, WaymoDataset, segment_names
from kd3d.errors import DataError
from kd3d.optional import require
from kd3d.runtime.points import NUSCENES_COLUMNS, read_points

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CheckReport:
    """``format`` of the data set, number of key ``frames``, and one line per thing that is damaged."""

    format: Kind
    frames: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is damaged."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """The stable keys of the command line."""
        return {"format": self.format, "frames": self.frames, "problems": list(self.problems)}


def check_dataset(path: Path | str, *, version: str | None = None, progress: Progress | None = None) -> CheckReport:
    """Read every table, point file, image, label and calibration below ``path``.

    Raises:
        DataError: ``path`` is not a data set at all.
    """
    kind = recognise(path)
    if kind == "kitti":
        return _check_kitti(Path(path), progress)
    if kind == "waymo":
        return _check_waymo(Path(path), progress)
    return _check_nuscenes(Path(path), find_version(Path(path), version), progress)


def _check_nuscenes(root: Path, version: str, progress: Progress | None) -> CheckReport:
    damaged = table_problems(root, version)
    if damaged:
        return CheckReport("nuscenes", 0, tuple(damaged))
    try:
        nusc = open_database(root, version)
    except DataError as error:
        return CheckReport("nuscenes", 0, (str(error),))
    problems = list(_category_problems(nusc, root / version / "sample_annotation.json"))
    for done, record in enumerate(nusc.sample_data, start=1):
        try:
            _check_file(record, root / record["filename"])
        except DataError as error:
            problems.append(str(error))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            table = root / version / "sample_data.json"
            problems.append(f"{table}: record {record.get('token')} is not as in nuScenes ({error!r}). Restore it.")
        if progress is not None:
            progress(done, len(nusc.sample_data))
    return CheckReport("nuscenes", len(nusc.sample), tuple(problems))


def _category_problems(nusc: Any, table: Path) -> Iterator[str]:
    for category in sorted({str(record.get("category_name")) for record in nusc.sample_annotation}):
        try:
            detection_class(category, table)
        except DataError as error:
            yield str(error)


def _check_file(record: dict[str, Any], path: Path) -> None:
    if record["sensor_modality"] == "lidar":
        read_points(path, NUSCENES_COLUMNS)
    elif not path.is_file():
        raise DataError(f"{path}: the file is missing. Restore it.")
    elif record["sensor_modality"] == "camera":
        _check_image(path, (int(record["width"]), int(record["height"])))


def _check_image(path: Path, size_px: tuple[int, int] | None) -> None:
    pillow = require("PIL.Image", extra="nuscenes")
    try:
        with pillow.open(path) as image:
            image.load()
            found = (int(image.width), int(image.height))
    except (OSError, SyntaxError) as error:
        raise DataError(f"{path}: not readable as an image ({error}). Restore it.") from error
    if size_px is not None and found != size_px:
        raise DataError(
            f"{path}: the image is {found[0]}x{found[1]}, the table says {size_px[0]}x{size_px[1]}. Restore it."
        )


def _check_kitti(root: Path, progress: Progress | None) -> CheckReport:
    sets = sorted(path.stem for path in (root / "ImageSets").glob("*.txt")) or ["trainval"]
    frames: dict[str, tuple[KittiDataset, int]] = {}
    problems: list[str] = []
    for split in sets:
        if split == "test" and not (root / "testing").is_dir():
            continue  # many have only the labelled half
        try:
            dataset = KittiDataset(root, split=split)
        except DataError as error:
            problems.append(str(error))
            continue
        for index, token in enumerate(dataset.tokens):
            frames.setdefault(f"{dataset.folder.name}/{token}", (dataset, index))
    for done, (dataset, index) in enumerate(frames.values(), start=1):
        try:
            sample = dataset[index]
            image = dataset.path(index, "image_2", ".png")
            if image.is_file():
                _check_image(image, sample.image_size_px)
        except DataError as error:
            problems.append(str(error))
        if progress is not None:
            progress(done, len(frames))
    return CheckReport("kitti", len(frames), tuple(problems))


def _check_waymo(root: Path, progress: Progress | None) -> CheckReport:
    folders = {split: root / folder for split, folder in FOLDERS.items() if (root / folder / "lidar").is_dir()}
    datasets: list[WaymoDataset] = []
    problems: list[str] = []
    for split, folder in folders.items():
        try:
            names = segment_names(folder)
        except DataError as error:
            problems.append(str(error))
            continue
        for name in names:
            try:
                datasets.append(WaymoDataset(root, split=split, segments=(name,)))
            except DataError as error:
                problems.append(str(error))
    frames = [(dataset, index) for dataset in datasets for index in range(len(dataset))]
    for done, (dataset, index) in enumerate(frames, start=1):
        try:
            dataset[index]
        except DataError as error:
            problems.append(str(error))
        if progress is not None:
            progress(done, len(frames))
    # A file that is missing as a whole is a problem of each of its frames, and named once.
    return CheckReport("waymo", len(frames), tuple(dict.fromkeys(problems)))
