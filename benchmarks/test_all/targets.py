"""What is damaged, and how it is read: every kind of file that kd3d takes from outside or finds again on the disk."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


class UnexpectedError(Exception):
    """A command ended with code 1."""


@dataclass(frozen=True)
class Target:
    """A kind of input.

    Args:
        name: of the kind.
        make: writes the whole files into an empty folder.
        files: patterns of those that are damaged.
        read: what kd3d does with the folder; the folder is also the working directory.
        sane: says what is wrong with what was read, or nothing.
        count: of damaged inputs.
    """

    name: str
    make: Callable[[Path], Any]
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    sane: Callable[[Any], str] = lambda value: ""
    count: int = 250


def support(name: str) -> ModuleType:
    """A module of tests/support."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "tests" / "support" / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def command(*words: Any) -> dict[str, Any]:
    """Run a command line in this process; the object on its last line.

    Raises:
        Kd3dError: it was refused; with its exit code.
        UnexpectedError: it ended with code 1, with the end of the traceback.
    """
    from kd3d.cli.main import run
    from kd3d.errors import Kd3dError

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run([*map(str, words), "--json", "--debug"])
    last = json.loads((out.getvalue().strip().splitlines() or ["{}"])[-1])
    if code == 1:
        raise UnexpectedError(err.getvalue())
    if code and "error" in last:  # data check ends with 7 and a report
        refused = Kd3dError(str(last["error"]))
        refused.exit_code = code
        raise refused
    return dict(last)


def finite(values: Any) -> bool:
    """Whether all numbers are finite."""
    import numpy as np

    return bool(np.isfinite(np.asarray(values, np.float64)).all())


def _all() -> dict[str, Target]:
    from targets_data import DATA
    from targets_models import MODELS
    from targets_runs import RUNS
    from targets_vehicle import VEHICLE

    return {target.name: target for target in (*MODELS, *DATA, *VEHICLE, *RUNS)}


if __name__ != "__main__":
    sys.modules.setdefault("targets", sys.modules[__name__])
    TARGETS: dict[str, Target] = _all()
