"""An engine and the record beside it: whether it is whole, and whether it belongs on this machine.

TensorRT says of a foreign engine that a tag does not match, and of a damaged one sometimes nothing: so everything is
compared before a byte is handed to it. Deserialising runs code that is inside the engine; only engines with a record
of ``kd3d export trt`` are accepted.
"""

from __future__ import annotations

import hashlib
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd3d.errors import DataError, EngineError
from kd3d.runs.atomic import read_json
from kd3d.runs.environment import board_name
from kd3d.runtime.device.protocol import DeviceInfo

ENGINE_SUFFIXES = (".engine", ".plan")
ENGINE_FILE, RECORD_FILE = "model.engine", "engine.json"
_REBUILD = "Build it on this device: kd3d export trt --model EXPORT --out NEW."


@dataclass(frozen=True)
class EngineFile:
    """An engine as written by ``kd3d export trt``.

    Args:
        path: of the engine.
        record: ``engine.json``.
    """

    path: Path
    record: dict[str, Any]

    @property
    def module(self) -> str:
        """The Python module that runs it: ``tensorrt`` or ``tensorrt_rtx``."""
        return str(self.record.get("runtime", "tensorrt"))

    @property
    def settings(self) -> dict[str, Any]:
        """With which it was built."""
        return dict(self.record.get("settings", {}))

    def read(self) -> bytes:
        """The engine.

        Raises:
            DataError: it is not the file that was built: cut off, changed, or missing.
        """
        if not self.path.is_file():
            raise DataError(f"{self.path}: no such file. Copy the whole folder of the engine again.")
        data, wanted = self.path.read_bytes(), self.record.get("engine", {})
        if len(data) != wanted.get("bytes"):
            raise DataError(
                f"{self.path}: has {len(data)} bytes, but {wanted.get('bytes')} were built. Copy the whole folder "
                f"again."
            )
        if hashlib.sha256(data).hexdigest() != wanted.get("sha256"):
            raise DataError(
                f"{self.path}: is damaged: it is not the engine that {RECORD_FILE} describes. Copy the folder again."
            )
        return data

    def check_version(self, version: str) -> None:
        """Compare TensorRT's version with the one that built the engine.

        Raises:
            EngineError: they differ in a way that TensorRT does not bridge.
        """
        built = str(self.record.get("version"))
        if built == version:
            return
        newer = _numbers(built)[0] == _numbers(version)[0] and _numbers(built) <= _numbers(version)
        if self.settings.get("version_compatible") and newer:
            return
        raise EngineError(f"{self.path}: was built by {self.module} {built}, but here is {version}. {_REBUILD}")

    def check_device(self, info: DeviceInfo) -> None:
        """Compare the machine and the device with those that the engine was built for.

        Raises:
            EngineError: the engine is for another kind of device, or of processor.
        """
        built = str(self.record.get("machine", {}).get("architecture", platform.machine()))
        if built != platform.machine():
            raise EngineError(f"{self.path}: was built on {built}, but this is {platform.machine()}. {_REBUILD}")
        if self.settings.get("capabilities"):
            self._check_ahead_of_time(info)
        else:
            self._check_same_kind(info)

    def _check_ahead_of_time(self, info: DeviceInfo) -> None:
        here, wanted = "SM{}{}".format(*info.compute_capability), list(self.settings["capabilities"])
        if here not in wanted and "CURRENT" not in wanted:
            raise EngineError(
                f"{self.path}: was built for {', '.join(wanted)}, but the device here is {info.name} ({here}). "
                f"{_REBUILD}"
            )

    def _check_same_kind(self, info: DeviceInfo) -> None:
        device = self.record.get("device", {})
        name, found = str(device.get("name")), device.get("compute_capability")
        if found is None:  # a record of an older kd3d
            same = name in (info.name, board_name())
        elif self.settings.get("hardware") == "ampere+":
            same = info.compute_capability >= (8, 0)
        else:
            same = tuple(found) == info.compute_capability
        if not same:
            built = name if found is None else f"{name} (compute capability {found[0]}.{found[1]})"
            here = "{} (compute capability {}.{})".format(info.name, *info.compute_capability)
            raise EngineError(f"{self.path}: was built for {built}, but the device here is {here}. {_REBUILD}")


def is_engine(path: Path) -> bool:
    """Whether a path is an engine, or the folder of one."""
    path = Path(path)
    return path.suffix in ENGINE_SUFFIXES if path.is_file() else (path / RECORD_FILE).is_file()


def read_engine_file(path: Path) -> EngineFile:
    """The engine of a folder, or a lone engine with its record beside it.

    Args:
        path: a folder of ``kd3d export trt``, or an engine that has ``engine.json``, or a JSON file of its own name,
            beside it.

    Raises:
        DataError: there is no record, or it is damaged.
    """
    path = Path(path)
    if path.is_dir():
        records, engine = [path / RECORD_FILE], None
    else:
        records, engine = [path.with_suffix(".json"), path.parent / RECORD_FILE], path
    record = next((file for file in records if file.is_file()), None)
    if record is None:
        raise DataError(
            f"{path}: no {RECORD_FILE} beside it, so it cannot be told what this engine is. Only engines of "
            f"kd3d export trt are run: an engine holds code."
        )
    value = read_json(record)
    if not isinstance(value, dict) or value.get("format") != 1 or not isinstance(value.get("engine"), dict):
        raise DataError(f"{record}: not the record of an engine. Build the engine again: kd3d export trt")
    odd = [name for name in ("device", "machine", "settings") if not isinstance(value.get(name, {}), dict)]
    found = value["device"].get("compute_capability") if not odd and "device" in value else None
    if odd or not (found is None or _is_capability(found)):
        what = odd[0] if odd else "compute_capability"
        raise DataError(f"{record}: its {what} is damaged. Copy the folder again, or build the engine again.")
    return EngineFile(engine or path / str(value["engine"].get("file", ENGINE_FILE)), value)


def _is_capability(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(isinstance(number, int) for number in value)


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")[:3]
    return tuple(int(part) if part.isdigit() else 0 for part in parts)
