"""``--like`` and ``--config`` on every command that takes a model: what a ``.pth`` or ``.pt`` does not say itself."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd3d.cli.options import ImportConfig, Like

if TYPE_CHECKING:
    from kd3d.detectors.checkpoint import Model

FOREIGN = (".pth", ".pt", ".ckpt")
_ASKED: ContextVar[tuple[str | None, Path | None]] = ContextVar("_ASKED", default=(None, None))


def takes_foreign(command: Callable[..., None]) -> Callable[..., None]:
    """``command`` with the two options; its own code need not know of them."""
    signature = inspect.signature(command)
    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in (("like", Like), ("config", ImportConfig))
    ]

    @wraps(command)
    def asked(*arguments: Any, like: str | None = None, config: Path | None = None, **options: Any) -> None:
        token = _ASKED.set((like, config))
        try:
            command(*arguments, **options)
        finally:
            _ASKED.reset(token)

    hints = inspect.get_annotations(command, eval_str=True)
    own = [parameter.replace(annotation=hints[name]) for name, parameter in signature.parameters.items()]
    positional = [parameter for parameter in own if parameter.kind is not inspect.Parameter.KEYWORD_ONLY]
    rest = [parameter for parameter in own if parameter.kind is inspect.Parameter.KEYWORD_ONLY]
    asked.__signature__ = signature.replace(parameters=[*positional, *rest, *extra], return_annotation=None)  # type: ignore[attr-defined]
    asked.__annotations__ = {**hints, "like": Like, "config": ImportConfig}
    return asked


def import_asked(path: Path) -> Model:
    """The model of a foreign checkpoint, with the command's ``--like`` and ``--config``."""
    from kd3d.importers.request import import_file

    like, config = _ASKED.get()
    return import_file(path, like=like, config=config).model


def keep_imported(model: Model, run: Path) -> None:
    """Leave an imported teacher in its run as a model folder, so that the run does not depend on the foreign file."""
    if model.meta.get("origin") == "import" and not (run / "teacher").exists():
        from kd3d.detectors.checkpoint import save_model

        save_model(run / "teacher", model.module, model.meta)
