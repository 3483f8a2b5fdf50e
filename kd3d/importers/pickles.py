"""A pickle read without running anything: names are looked up in a list, and tensors are rebuilt by our own code.

The operations are scanned before any is executed, so that a name that is not allowed, or an operation that torch never
writes, is refused by name while nothing has been built yet.
"""

from __future__ import annotations

import _compat_pickle
import io
import pickle
import pickletools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from kd3d.errors import CheckpointError
from kd3d.importers.pickle_names import Inert, Ordered, StorageType, stand_in

# torch writes none of these; the first five call or import by other ways than GLOBAL and REDUCE.
_REFUSED = ("INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER", "PERSID")
_REBUILD = (
    *("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor_v3"),
    *("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"),
    "torch._tensor._rebuild_from_type_v2",
)
_MAX_SIDE = 2**40


class Storage:
    """Where a tensor's numbers are: filled when they have been read.

    Args:
        dtype: of the elements.
        count: how many the pickle claims.
    """

    def __init__(self, dtype: torch.dtype, count: int) -> None:
        self.dtype, self.count = dtype, count
        self.data: Tensor | None = None


class LazyTensor:
    """A tensor as the pickle describes it, over a storage that may not be read yet."""

    def __init__(self, storage: Storage, offset: int, size: Sequence[int], stride: Sequence[int]) -> None:
        self.storage, self.offset = storage, offset
        self.size, self.stride = tuple(size), tuple(stride)
        self.dtype = storage.dtype

    def __setstate__(self, state: Any) -> None:
        """Attributes of a tensor are not needed."""

    def tensor(self) -> Tensor:
        """The tensor itself, a copy.

        Raises:
            CheckpointError: it reaches outside of its storage.
        """
        last = self.offset + sum((side - 1) * step for side, step in zip(self.size, self.stride, strict=True))
        elements = 1
        for side in self.size:
            elements *= side
        data = self.storage.data
        if data is not None and self.dtype != data.dtype:
            data = data.view(self.dtype)
        if elements == 0:
            return torch.empty(self.size, dtype=self.dtype)
        if data is None or last >= data.numel() or elements > data.numel():
            raise CheckpointError(f"a tensor of shape {list(self.size)} reaches outside of its storage")
        return data.as_strided(self.size, self.stride, self.offset).clone()


def scan(content: bytes, where: str) -> int:
    """Check the first pickle in ``content`` operation by operation, executing none; returns its length in bytes.

    Raises:
        CheckpointError: it is damaged, names something that is not allowed, or uses an operation that is not.
    """
    refused: list[str] = []
    end, memo_top = 0, 0
    try:
        for operation, argument, position in _operations(content):
            end = (position or 0) + 1
            name = operation.name
            if name in _REFUSED:
                raise CheckpointError(f"{where}: the pickle uses the operation {name}, which could run code.")
            if name == "GLOBAL":  # what STACK_GLOBAL names is on the stack: find_class sees to it
                module, attribute = _todays_name(*str(argument).partition(" ")[::2])
                if not allowed(module, attribute):
                    refused.append(f"{module}.{attribute}")
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                memo_top = max(memo_top, int(str(argument)))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{where}: the pickle is damaged ({type(error).__name__}: {error}).") from error
    if refused:
        raise CheckpointError(
            f"{where}: the pickle names {', '.join(sorted(set(refused)))}, which could run code, so it is not opened. "
            "Checkpoints need nothing of the kind: do not trust this file."
        )
    if memo_top > len(content):
        raise CheckpointError(f"{where}: the pickle is damaged (memo entry {memo_top} in {len(content)} bytes).")
    return end


def _operations(content: bytes) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of backslashes in texts of a damaged file
        yield from pickletools.genops(io.BytesIO(content))


def _todays_name(module: str, name: str) -> tuple[str, str]:
    """Protocol 2 writes Python 2's names (``__builtin__``, ``commands``); pickle reads them as today's."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        return _compat_pickle.NAME_MAPPING[module, name]
    return _compat_pickle.IMPORT_MAPPING.get(module, module), name


def allowed(module: str, name: str) -> bool:
    """Whether a checkpoint may name ``module.name``."""
    return f"{module}.{name}" in _REBUILD or stand_in(module, name) is not None


class Reader(pickle.Unpickler):
    """The unpickler: names through the list, persistent ids through ``storage``.

    Args:
        content: one pickle.
        storage: makes a ``Storage`` of a persistent id; ``None`` where there must be none.
    """

    def __init__(self, content: bytes, storage: Callable[[Any], Storage] | None = None) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._storage = storage

    def find_class(self, module: str, name: str) -> Any:
        """What stands in for ``module.name``.

        Raises:
            CheckpointError: it is not allowed.
        """
        module, name = _todays_name(module, name)
        if f"{module}.{name}" in _REBUILD:
            return _REBUILDERS.get(name, _rebuild)
        found = stand_in(module, name)
        if found is None:
            raise CheckpointError(
                f"the pickle names {module}.{name}, which could run code, so it is not opened. "
                "Checkpoints need nothing of the kind: do not trust this file."
            )
        return found

    def persistent_load(self, pid: Any) -> Storage:
        """The storage of ``pid``.

        Raises:
            CheckpointError: there should be none here.
        """
        if self._storage is None:
            raise CheckpointError("the pickle refers to a storage where there is none.")
        return self._storage(pid)


def read_pickle(content: bytes, where: str, storage: Callable[[Any], Storage] | None = None) -> Any:
    """The object of a pickle; tensors are ``LazyTensor``, what kd3d does not need is ``Inert``.

    Args:
        content: begins with the pickle; the rest is ignored.
        where: for messages.
        storage: as in ``Reader``.

    Raises:
        CheckpointError: as ``scan`` does.
    """
    length = scan(content, where)
    try:
        return Reader(content[:length], storage).load()
    except CheckpointError as error:
        raise CheckpointError(f"{where}: {str(error).removeprefix(f'{where}: ')}") from error
    except Exception as error:
        raise CheckpointError(f"{where}: the pickle is damaged ({type(error).__name__}: {error}).") from error


def storage_of(pid: Any, known: dict[str, Storage]) -> Storage:
    """The storage that a persistent id of torch names, made when it is met first.

    Raises:
        CheckpointError: the id is not one that torch writes.
    """
    good = isinstance(pid, tuple) and len(pid) >= 5 and pid[0] == "storage" and isinstance(pid[1], StorageType)
    if not good or not isinstance(pid[2], (str, int)) or not isinstance(pid[4], int) or pid[4] < 0:
        raise CheckpointError("the pickle refers to a storage in a way that torch does not.")
    key = str(pid[2])
    found = known.setdefault(key, Storage(pid[1].dtype, pid[4]))
    if found.dtype != pid[1].dtype or found.count != pid[4]:
        raise CheckpointError(f"the pickle describes the storage {key} in two ways.")
    view = pid[5] if len(pid) > 5 else None
    if view is None:
        return found
    # Legacy files of shared storages: (key, offset, size) within the first. No framework here writes them.
    raise CheckpointError(f"the storage {key} is a view of another, which this version does not read.")


def _rebuild(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> LazyTensor:
    numbers = [offset, *size, *stride] if isinstance(size, tuple) and isinstance(stride, tuple) else [None]
    if not isinstance(storage, Storage) or not all(isinstance(n, int) and 0 <= n < _MAX_SIDE for n in numbers):
        raise CheckpointError("a tensor in the pickle has no valid shape.")
    if len(size) != len(stride) or len(size) > 8:
        raise CheckpointError("a tensor in the pickle has no valid shape.")
    return LazyTensor(storage, offset, size, stride)


def _rebuild_typed(*arguments: Any) -> LazyTensor:
    made = _rebuild(*arguments[:4])
    if len(arguments) > 6 and isinstance(arguments[6], torch.dtype):
        made.dtype = arguments[6]
    return made


def _parameter(data: Any, *_: Any) -> LazyTensor:
    if not isinstance(data, LazyTensor):
        raise CheckpointError("a parameter in the pickle is not a tensor.")
    return data


def _from_type(function: Any, _: Any, arguments: Any, *__: Any) -> LazyTensor:
    """A tensor of a subclass, or with attributes: the tensor alone."""
    if function not in (_rebuild, _rebuild_typed, _parameter) or not isinstance(arguments, tuple):
        raise CheckpointError("the pickle rebuilds a tensor in a way that torch does not.")
    made = function(*arguments)
    assert isinstance(made, LazyTensor)
    return made


_REBUILDERS = {
    "_rebuild_parameter": _parameter,
    "_rebuild_parameter_with_state": _parameter,
    "_rebuild_tensor_v3": _rebuild_typed,
    "_rebuild_from_type_v2": _from_type,
}

__all__ = ["Inert", "LazyTensor", "Ordered", "Reader", "Storage", "allowed", "read_pickle", "scan", "storage_of"]
