"""Parquet files of the Waymo Open Dataset, version 2: columns by their names, and single rows without the rest.

A split's folder has one folder per component (``lidar``, ``lidar_box`` and so on), each with one file per segment.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from kd3d.errors import DataError
from kd3d.optional import require

TIME, LASER = "key.frame_timestamp_micros", "key.laser_name"


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """What pyarrow raises becomes a ``DataError`` that names the file."""
    arrow = require("pyarrow", extra="waymo")
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file. Restore it from the data set.") from error
    except (arrow.ArrowException, OSError, ValueError, OverflowError, MemoryError) as error:
        raise DataError(f"{path}: not readable as Parquet ({_first_line(error)}). Restore it.") from error


def open_parquet(path: Path, columns: Sequence[str]) -> Any:
    """``pyarrow.parquet.ParquetFile`` that has ``columns``.

    Raises:
        DataError: the file is missing or damaged, or lacks columns; they are named.
        BackendError: pyarrow is not installed.
    """
    parquet = require("pyarrow.parquet", extra="waymo")
    with parquet_errors(path):
        file = parquet.ParquetFile(path)
    missing = [name for name in columns if not _has(file.schema_arrow, name)]
    if missing:
        file.close()
        raise DataError(
            f"{path}: has no column {', '.join(missing)}. kd3d reads version 2 of the data set; restore this file."
        )
    return file


def read_columns(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> dict[str, list[Any]]:
    """Whole columns of a small file as Python values; those of ``optional`` that the file lacks are left out.

    Raises:
        DataError: as ``open_parquet``.
    """
    with open_parquet(path, columns) as file:
        names = [*columns, *(name for name in optional if _has(file.schema_arrow, name))]
        with parquet_errors(path):
            table = file.read(columns=names)
    return {name: table.column(name).to_pylist() for name in names}


def numbers(values: Sequence[Any], path: Path, column: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A column of numbers, or of lists of equally many, as float64.

    Raises:
        DataError: a value is missing, is no number, or is not finite.
    """
    try:
        array = np.asarray(list(values), np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path}: the column {column} holds something else than numbers ({error}). Restore it."
        ) from error
    if not np.isfinite(array).all():
        raise DataError(f"{path}: the column {column} has missing, NaN or infinite values. Restore the file.")
    return array


class RowReader:
    """Reads single rows of a file with large rows, decoding as little as its layout allows.

    Rows that are asked for in rising order are decoded once each: a cursor per run of neighbouring rows stays open.
    Going back starts the row group again.

    Args:
        path: the Parquet file.
        columns: to read.

    Raises:
        DataError: as ``open_parquet``.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self._columns = list(columns)
        self._file = open_parquet(path, columns)
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.metadata.num_row_groups)]
        self._first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self._cursors: dict[int, tuple[int, Iterator[Any]]] = {}

    def close(self) -> None:
        """Close the file."""
        self._cursors.clear()
        self._file.close()

    def rows(self, wanted: Sequence[int]) -> list[dict[str, Any]]:
        """The rows at ``wanted``, rising, each as column name to ``pyarrow.Scalar``.

        Raises:
            DataError: the file is damaged there.
        """
        found = []
        run = -1
        for place, row in enumerate(wanted):
            if place == 0 or row != wanted[place - 1] + 1:
                run += 1
            with parquet_errors(self.path):
                found.append(self._row(run, int(row)))
        return found

    def _row(self, run: int, row: int) -> dict[str, Any]:
        group = int(np.searchsorted(self._first, row, side="right")) - 1
        position, batches = self._cursors.get(run, (-1, iter(())))
        if not self._first[group] < position <= row:
            position = int(self._first[group])
            batches = self._file.iter_batches(batch_size=1, row_groups=[group], columns=self._columns)
        batch = None
        while position <= row:
            batch = next(batches, None)
            position += 1
        self._cursors[run] = (position, batches)
        if batch is None:
            raise OSError(f"row {row} is missing")
        return {name: batch.column(name)[0] for name in self._columns}


def image(row: dict[str, Any], prefix: str, path: Path) -> np.ndarray[Any, np.dtype[np.float32]] | None:
    """``[H, W, C]`` float32 of the columns ``prefix.values`` and ``prefix.shape``; ``None`` where there is none.

    Raises:
        DataError: the values do not fill the shape, or are not finite.
    """
    values, shape = row[f"{prefix}.values"], row[f"{prefix}.shape"].as_py()
    if not values.is_valid or shape is None:
        return None
    array = values.values.to_numpy(zero_copy_only=False)
    if len(shape) != 3 or int(np.prod(shape)) != len(array) or array.dtype.kind != "f":
        raise DataError(
            f"{path}: {prefix} has {len(array)} values of type {array.dtype} for the shape {shape}. Restore the file."
        )
    if not np.isfinite(array).all():
        raise DataError(f"{path}: {prefix} has missing, NaN or infinite values. Restore the file.")
    return np.asarray(array, np.float32).reshape(shape)


def _has(schema: Any, name: str) -> bool:
    return name in schema.names


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
