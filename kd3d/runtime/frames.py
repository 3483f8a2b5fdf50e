"""Portable frames: a folder of points, labels and calibration that needs neither torch nor the nuScenes devkit.

``frames.json`` lists the frames; ``000000.npz`` and so on hold their arrays.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from kd3d.errors import DataError, OutputError
from kd3d.geometry.boxes import Boxes3D, Floats
from kd3d.runs.atomic import atomic_folder, output_errors, read_json, write_json
from kd3d.runtime.arrays import read_arrays, reason

_INDEX, _FORMAT = "frames.json", 1


@dataclass(frozen=True)
class Frame:
    """One frame, LiDAR frame unless named otherwise.

    Args:
        token: unique in its data set.
        points: ``[N, F]`` float32, metres first.
        features: names of the ``F`` columns.
        boxes: labels, or ``None``; ``label`` indexes ``classes``.
        classes: class names of the data set.
        lidar2ego, ego2global: ``[4, 4]``.
        lidar2image: ``[3, 4]`` of the front camera (KITTI), or ``None``; with its image size.
    """

    token: str
    points: Floats
    features: tuple[str, ...]
    boxes: Boxes3D | None
    classes: tuple[str, ...]
    lidar2ego: Floats
    ego2global: Floats
    lidar2image: Floats | None = None
    image_size_px: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or self.points.shape[1] != len(self.features):
            raise DataError(
                f"{self.token}: points must have shape (N, {len(self.features)}) for {', '.join(self.features)}, "
                f"but have {self.points.shape}."
            )


def write_frames(frames: Iterable[Frame], out: Path) -> int:
    """Write frames to the folder ``out``, which appears only when all of them are written; returns their number.

    Raises:
        DataError: two frames have the same token.
        OutputError: ``out`` holds something else, or cannot be written.
    """
    entries: dict[str, dict[str, Any]] = {}
    _refuse_foreign(Path(out))
    with atomic_folder(Path(out)) as folder:
        for index, frame in enumerate(frames):
            if frame.token in entries:
                raise DataError(f"the frame {frame.token} occurs twice. Give every frame its own token.")
            name = f"{index:06d}.npz"
            buffer = io.BytesIO()  # a zip file that meets a full disk complains once more when it is thrown away
            np.savez(buffer, **_arrays(frame))
            (folder / name).write_bytes(buffer.getvalue())
            entries[frame.token] = _entry(frame, name)
        write_json(folder / _INDEX, {"format": _FORMAT, "frames": list(entries.values())})
    return len(entries)


def _refuse_foreign(out: Path) -> None:
    with output_errors(out):
        if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / _INDEX).is_file()):
            raise OutputError(f"{out}: holds something else than frames, so it is not replaced. Choose another folder.")


class FrameFolder:
    """A folder of portable frames, read one by one when asked for."""

    def __init__(self, path: Path, entries: list[dict[str, Any]]) -> None:
        self.path = path
        self._entries = entries

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def tokens(self) -> list[str]:
        """Of all frames, in order."""
        return [str(entry["token"]) for entry in self._entries]

    def __iter__(self) -> Iterator[Frame]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Frame:
        """Read one frame.

        Raises:
            IndexError: no such frame.
            DataError: its file is missing or damaged; named.
        """
        entry = self._entries[index]
        file = self.path / str(entry.get("file"))
        if not file.is_file():
            raise DataError(f"{file}: no such file, though {_INDEX} lists it. Make the frames again.")
        arrays = read_arrays(file, again="Make the frames again.")
        try:
            return _checked(_frame(entry, arrays))
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise DataError(f"{file}: not a readable frame ({reason(error)}). Make the frames again.") from error
        except DataError as error:
            raise DataError(f"{file}: {error}") from error


def read_frames(folder: Path) -> FrameFolder:
    """Open a folder that ``write_frames`` made.

    Raises:
        DataError: it is not such a folder, or its index is damaged, or of another format.
    """
    folder = Path(folder)
    index = folder / _INDEX
    if not index.is_file():
        raise DataError(f"{folder}: not a folder of frames, {_INDEX} is missing. Make one with: kd3d data frames")
    value = read_json(index)
    if not isinstance(value, dict) or value.get("format") != _FORMAT or not isinstance(value.get("frames"), list):
        raise DataError(f"{index}: not an index of frames in format {_FORMAT}. Make the frames again: kd3d data frames")
    entries = value["frames"]
    if not all(isinstance(entry, dict) and {"token", "file", "features", "classes"} <= set(entry) for entry in entries):
        raise DataError(f"{index}: a frame lacks its token, file, features or classes. Make the frames again.")
    return FrameFolder(folder, entries)


def _arrays(frame: Frame) -> dict[str, Any]:
    arrays: dict[str, Any] = {
        "points": np.asarray(frame.points, np.float32),
        "lidar2ego": np.asarray(frame.lidar2ego, np.float64),
        "ego2global": np.asarray(frame.ego2global, np.float64),
    }
    if frame.lidar2image is not None:
        arrays["lidar2image"] = np.asarray(frame.lidar2image, np.float64)
    if frame.boxes is not None:
        arrays["boxes"], arrays["labels"] = frame.boxes.array, frame.boxes.label
        if frame.boxes.score is not None:
            arrays["scores"] = frame.boxes.score
    return arrays


def _entry(frame: Frame, name: str) -> dict[str, Any]:
    return {
        "token": frame.token,
        "file": name,
        "points": len(frame.points),
        "features": list(frame.features),
        "classes": list(frame.classes),
        "image_size_px": None if frame.image_size_px is None else [int(side) for side in frame.image_size_px],
    }


def _checked(frame: Frame) -> Frame:
    """What was read, with poses that are matrices, and labels that have a class.

    Raises:
        ValueError: says what is not so.
    """
    shapes = {"lidar2ego": (4, 4), "ego2global": (4, 4), "lidar2image": (3, 4)}
    for name, shape in shapes.items():
        matrix = getattr(frame, name)
        if matrix is not None and (matrix.shape != shape or not np.isfinite(matrix).all()):
            raise ValueError(f"{name} must be a matrix of shape {shape} of finite numbers")
    if frame.boxes is not None and len(frame.boxes):
        low, high = int(frame.boxes.label.min()), int(frame.boxes.label.max())
        if low < 0 or high >= len(frame.classes):
            raise ValueError(f"labels are {low} to {high}, but there are {len(frame.classes)} classes")
    return frame


def _names(entry: dict[str, Any], key: str) -> tuple[str, ...]:
    if not isinstance(entry[key], list) or not all(isinstance(name, str) for name in entry[key]):
        raise ValueError(f"{key} must be a list of names, but is {entry[key]!r}")
    return tuple(entry[key])


def _frame(entry: dict[str, Any], arrays: dict[str, Any]) -> Frame:
    size = entry.get("image_size_px")
    boxes = Boxes3D(arrays["boxes"], arrays["labels"], arrays.get("scores")) if "boxes" in arrays else None
    return Frame(
        token=str(entry["token"]),
        points=arrays["points"],
        features=_names(entry, "features"),
        boxes=boxes,
        classes=_names(entry, "classes"),
        lidar2ego=arrays["lidar2ego"],
        ego2global=arrays["ego2global"],
        lidar2image=arrays.get("lidar2image"),
        image_size_px=None if size is None else (int(size[0]), int(size[1])),
    )
