"""Heavy packages are imported late, and a missing one is named together with the line that installs it."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from types import ModuleType
from typing import Any, TypeVar

from kd3d.errors import BackendError

Made = TypeVar("Made")


def require(module: str, *, extra: str) -> ModuleType:
    """Import ``module``, or say how to install it.

    Args:
        module: dotted module name, such as ``"onnxruntime"``.
        extra: the extra of kd3d that brings it.

    Raises:
        BackendError: the module is not installed, or is broken.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise BackendError(
            f"{module} is needed here and could not be imported ({error}). Install it with: pip install 'kd3d[{extra}]'"
        ) from error


def available(module: str) -> bool:
    """Whether ``module`` is installed, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def with_numba(make: Callable[[Callable[[Any], Any]], Made]) -> Made | None:
    """What ``make`` makes with numba's compiler, which takes a function; ``None`` without a working numba.

    Compiled code is kept on disk where there is a folder for it.
    """
    if not available("numba"):
        return None
    try:
        from numba import njit
    except ImportError:  # installed, but not for this numpy
        return None
    try:
        return make(njit(cache=True, nogil=True))
    except RuntimeError:  # no folder to keep compiled code in
        return make(njit(nogil=True))
