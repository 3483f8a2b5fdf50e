"""Whether what a killed command left is whole or absent, file by file, without loading a model."""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np


def half_written(folder: Path) -> list[str]:
    """Files under their final names that are not whole. Temporary names begin with a dot."""
    found = []
    for path in sorted(folder.rglob("*")) if folder.is_dir() else []:
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(folder).parts):
            found += [f"{path.relative_to(folder)}: {problem}" for problem in _problems(path)]
    return [*found, *_half_folders(folder)]


def _problems(path: Path) -> Iterator[str]:
    """Of one file, by its ending."""
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            for line in path.read_text().split("\n")[:-1]:
                json.loads(line)
        elif path.suffix in (".npz", ".pt", ".zip"):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    yield "a damaged member"
        elif path.suffix == ".safetensors":
            yield from _weights(path.read_bytes())
        elif path.suffix == ".kdt":
            yield from _shard(path.read_bytes())
        elif path.suffix == ".html" and not path.read_text().rstrip().endswith("</html>"):
            yield "half a page"
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        yield f"{type(error).__name__}: {error}"


def _weights(content: bytes) -> Iterator[str]:
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    end = max(one["data_offsets"][1] for name, one in header.items() if name != "__metadata__")
    if len(content) != 8 + length + end:
        yield f"{len(content)} bytes, not {8 + length + end}"


def _shard(content: bytes) -> Iterator[str]:
    head = np.frombuffer(content[:32], np.int64)
    if len(head) < 4 or head[3] != len(content) - 32 or zlib.crc32(content[32:]) != head[1]:
        yield "a damaged shard"


def _half_folders(folder: Path) -> Iterator[str]:
    """A model, an export or a set of frames is a folder that is whole or absent."""
    for marker, others in (
        ("spec.json", ()),
        ("weights.safetensors", ("spec.json", "meta.json")),
        ("model.onnx", ("spec.json", "pipeline.json", "export.json")),
        ("frames.json", ("000000.npz",)),
    ):
        for path in folder.rglob(marker):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            missing = [name for name in others if not (path.parent / name).is_file()]
            if missing and not hidden:
                yield f"{path.parent.relative_to(folder)}: has {marker} but not {', '.join(missing)}"
