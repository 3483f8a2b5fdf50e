"""Frozen dataclasses to JSON values and back, strictly: an unknown or missing field is an error that names it."""

from __future__ import annotations

import dataclasses
import types
import typing
from typing import Any, TypeVar

from kd3d.errors import SpecError

T = TypeVar("T")
_TOO_LARGE = 2**31  # nothing in a specification comes near; NaN and infinity are not below it either


def to_json(value: Any) -> Any:
    """A JSON value (dict, list, number, string, bool, None) for a dataclass built of such."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value


def from_json(kind: type[T], value: Any, *, where: str = "") -> T:
    """Rebuild a ``kind`` from what ``to_json`` gave.

    Args:
        kind: a dataclass.
        value: a JSON object.
        where: the path of ``value`` in its file, for messages.

    Raises:
        SpecError: names the field, its value and what was expected.
    """
    if not isinstance(value, dict):
        raise SpecError(f"{where or kind.__name__} must be an object, but is {value!r}.")
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = sorted(set(value) - set(fields))
    if unknown:
        raise SpecError(
            f"{where or kind.__name__} has unknown field(s) {', '.join(unknown)}; "
            f"the known ones are {', '.join(fields)}."
        )
    missing = [
        name
        for name, field in fields.items()
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise SpecError(f"{where or kind.__name__} lacks field(s) {', '.join(missing)}.")
    return kind(**{name: _decode(hints[name], item, f"{where}.{name}".lstrip(".")) for name, item in value.items()})


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_json(hint, value, where=where)  # type: ignore[arg-type]
    if origin is tuple:
        return _decode_tuple(arguments, value, where)
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise SpecError(f"{where} must be one of {', '.join(map(repr, arguments))}, but is {value!r}.")
        return value
    if isinstance(value, (int, float)) and not abs(value) < _TOO_LARGE:
        raise SpecError(f"{where} must be a number of ordinary size, but is {value!r}.")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise SpecError(f"{where} must be of type {hint.__name__}, but is {value!r}.")
    return value


def _decode_union(arguments: tuple[Any, ...], value: Any, where: str) -> Any:
    """``X | None``, or dataclasses of which ``value`` names one by ``kind``; the first of them has no such field."""
    kinds = [argument for argument in arguments if argument is not type(None)]
    if value is None and len(kinds) < len(arguments):
        return None
    if len(kinds) == 1 or not isinstance(value, dict) or "kind" not in value:
        return _decode(kinds[0], value, where)
    tagged = {field.default: kind for kind in kinds for field in dataclasses.fields(kind) if field.name == "kind"}
    if not isinstance(value["kind"], str) or value["kind"] not in tagged:
        known = ", ".join(map(repr, tagged))
        raise SpecError(f"{where}.kind must be {known} or be left out, but is {value['kind']!r}.")
    return _decode(tagged[value["kind"]], value, where)


def _decode_tuple(arguments: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise SpecError(f"{where} must be a list, but is {value!r}.")
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_decode(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(arguments) != len(value):
        raise SpecError(f"{where} must have {len(arguments)} entries, but has {len(value)}.")
    return tuple(
        _decode(hint, item, f"{where}[{i}]") for i, (hint, item) in enumerate(zip(arguments, value, strict=True))
    )
