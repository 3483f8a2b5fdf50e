"""Gradient blending as one option of the command line: ``MODE[,FIELD=VALUE ...]``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from kd3d.compress.distill.coefs import BlendSettings
from kd3d.errors import UsageError

OFF = "off"


def parse_blend(text: str) -> BlendSettings | None:
    """``off`` (``None``), or a mode with settings, such as ``auto`` or ``params,granularity=block,warmup_steps=50``.

    Raises:
        UsageError: there is no such field, or its value is wrong; says what there is.
    """
    mode, *rest = [part.strip() for part in text.split(",")]
    if mode == OFF and not rest:
        return None
    settable = [field for field in fields(BlendSettings) if field.name != "mode"]
    known: dict[str, Any] = {one.name: int if one.default is None else type(one.default) for one in settable}
    values: dict[str, Any] = {"mode": mode}
    for part in rest:
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in known:
            raise UsageError(
                f"--blend has no setting {part!r}. It takes {OFF}, or a mode and FIELD=VALUE with commas between: "
                f"{', '.join(known)}."
            )
        try:
            values[name] = known[name](value)
        except ValueError as error:
            raise UsageError(f"--blend {name} must be a number, not {value!r}.") from error
    return BlendSettings(**values)
