"""Heavy packages are imported late, and a missing one is named together with the line that installs it."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

from kd3d.errors import BackendError


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
