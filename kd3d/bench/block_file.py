"""Read ``blocks.zip``: graphs to measure, with an index. Nothing in it is trusted, nothing is extracted by its name."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from dataclasses import dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kd3d.errors import DataError
from kd3d.runs.atomic import parse_json

SCHEMA = "kd3d.blocks/1"
INDEX = "index.json"
_LARGEST = 2 << 30  # bytes of one unpacked graph; an ONNX file cannot be larger
_AGAIN = "Write it again with: kd3d search --write-blocks"


@dataclass(frozen=True)
class Item:
    """One graph of the file.

    Args:
        key: hash of what it computes and of its input's size.
        role: ``overhead``, ``block`` or ``network``.
        file: its name in the zip.
        sha256: of the file's content.
        inputs: what to feed: ``name``, ``shape`` and ``fill`` (``uniform``, ``distinct`` cells, ``constant``); uniform
            values are fp32 unless ``type`` is ``float16``.
        about: what is carried into the table: family, kind, macs, elements; or spec and pillars.
    """

    key: str
    role: str
    file: str
    sha256: str
    inputs: tuple[dict[str, Any], ...]
    about: dict[str, Any]

    def feeds(self) -> dict[str, NDArray[Any]]:
        """Arrays to feed; the same for the same item."""
        rng = np.random.default_rng(0)
        return {str(one["name"]): _array(one, rng) for one in self.inputs}


def _array(one: dict[str, Any], rng: np.random.Generator) -> NDArray[Any]:
    shape = tuple(int(side) for side in one["shape"])
    if one["fill"] == "uniform":
        values = rng.random(shape, dtype=np.float32)
        return values.astype(np.float16) if one.get("type") == "float16" else values
    if one["fill"] == "distinct":
        return rng.permutation(int(one["below"]))[: shape[0]].astype(np.int64)
    if one["fill"] == "constant":
        return np.full(shape, int(one["value"]), np.int64)
    raise DataError(f"unknown fill {one['fill']!r} of the input {one['name']!r}. Update kd3d on this machine.")


class BlockFile:
    """An open ``blocks.zip``.

    Attributes:
        items: all graphs, in the file's order.
        precision, pillars: as written.
        sha256: of the index; it names every graph's content, so it stands for the whole file.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._zip: zipfile.ZipFile | None = None

    def __enter__(self) -> BlockFile:
        """Open and check the index.

        Raises:
            DataError: not a zip, no index, another version, or an index that names files that are not there.
        """
        try:
            self._zip = zipfile.ZipFile(self.path)
        except FileNotFoundError as error:
            raise DataError(f"{self.path}: no such file.") from error
        except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
            raise DataError(f"{self.path}: not a whole zip file ({error}). {_AGAIN} {self.path}") from error
        try:
            self._index()
        except BaseException:
            self._zip.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._zip is not None:
            self._zip.close()

    def graph(self, item: Item) -> bytes:
        """The ONNX bytes of ``item``.

        Raises:
            DataError: they are not what the index promises.
        """
        content = self._read(item.file)
        if hashlib.sha256(content).hexdigest() != item.sha256:
            raise DataError(f"{self.path}: {item.file} is damaged (its hash differs). {_AGAIN} {self.path}")
        return content

    def _index(self) -> None:
        text = self._read(INDEX)
        try:
            value = parse_json(text)
            schema = str(value["schema"])
            if schema != SCHEMA:
                raise DataError(f"{self.path}: its index is {schema!r}, not {SCHEMA!r}. {_AGAIN} {self.path}")
            names = {one.name for one in fields(Item)}
            self.items = tuple(
                Item(**{**{name: one[name] for name in names}, "inputs": tuple(one["inputs"])})
                for one in value["items"]
            )
            self.precision = str(value["precision"])
            self.pillars = {str(key): int(rows) for key, rows in value["pillars"].items()}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{self.path}: its {INDEX} is damaged ({error!r}). {_AGAIN} {self.path}") from error
        assert self._zip is not None
        missing = sorted({item.file for item in self.items} - set(self._zip.namelist()))
        if missing or not any(item.role == "block" for item in self.items):
            lacks = f"{len(missing)} graph(s), first {missing[0]}" if missing else "every block"
            raise DataError(f"{self.path}: lacks {lacks}. {_AGAIN} {self.path}")
        self.sha256 = hashlib.sha256(text).hexdigest()

    def _read(self, name: str) -> bytes:
        assert self._zip is not None
        try:
            if self._zip.getinfo(name).file_size > _LARGEST:
                raise DataError(f"{self.path}: {name} claims more than 2 GiB. {_AGAIN} {self.path}")
            return self._zip.read(name)
        except KeyError as error:
            raise DataError(f"{self.path}: has no {name}, so it holds no blocks. {_AGAIN} {self.path}") from error
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise DataError(f"{self.path}: {name} is damaged ({error}). {_AGAIN} {self.path}") from error
