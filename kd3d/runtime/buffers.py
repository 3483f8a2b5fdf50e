"""Large arrays that are used again, because fresh memory costs more than filling it."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_FREE = 2  # references to a buffer nobody else holds: the pool's, and the argument of getrefcount


class BufferPool(threading.local):
    """One array per name and thread, handed out again only when nobody holds it or a view of it any more.

    An array a caller still holds is never written: it gets a fresh one instead.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, NDArray[Any]] = {}

    def empty(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """An uninitialised C-contiguous array, as ``np.empty`` gives."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if name not in self._buffers or self._buffers[name].size < size or self._held(name):
            self._buffers[name] = np.empty(size, np.uint8)
        return self._buffers[name][:size].view(dtype).reshape(shape)

    def _held(self, name: str) -> bool:
        return sys.getrefcount(self._buffers[name]) > _FREE
