"""Recipes as small JSON files: the package's own by name, or a user's copy by path."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from kd3d.compress.distill.coefs import BlendSettings
from kd3d.compress.distill.frame_weights import FrameSettings
from kd3d.compress.distill.registry import check_entry
from kd3d.compress.recipe import Recipe
from kd3d.errors import UsageError
from kd3d.runs.atomic import parse_json
from kd3d.spec import AnchorHeadSpec, DetectorSpec

FOLDER = Path(__file__).parent / "recipes"
DEFAULT = "auto"
_NOTES = {"format", "name", "about"}


def recipe_names() -> tuple[str, ...]:
    """Recipes that come with the package."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def edition(name: str, *specs: DetectorSpec) -> str:
    """``name``, or where all these models have anchor heads the package's recipe ``NAME-anchor``, if there is one."""
    anchors = bool(specs) and all(isinstance(spec.head, AnchorHeadSpec) for spec in specs)
    return f"{name}-anchor" if anchors and f"{name}-anchor" in recipe_names() else name


def load_recipe(name: str) -> Recipe:
    """The recipe called ``name``, or in the file ``name``.

    Raises:
        UsageError: there is no such recipe, or the file is wrong; names the field and what it may be.
    """
    path = FOLDER / f"{name}.json" if name in recipe_names() else Path(name)
    if not path.is_file():
        raise UsageError(f"there is no recipe {name!r}. Use {', '.join(recipe_names())}, or the path of a recipe file.")
    try:
        content = parse_json(path.read_text())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as a recipe: {error}.") from error
    if not isinstance(content, dict) or content.get("format") != 1:
        raise UsageError(f'{path} is not a recipe: it must be a JSON object with "format": 1.')
    return _recipe(path, {key: value for key, value in content.items() if key not in _NOTES})


def _recipe(path: Path, content: dict[str, Any]) -> Recipe:
    known = {field.name for field in fields(Recipe)} - {"more"} | {"signals"}
    _only(path, "a recipe", content, known)
    entries = content.pop("signals", [])
    blend, frames = content.pop("blend", None), content.pop("frames", None)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise UsageError(f"{path}: signals must be a list of objects, not {entries!r}.")
    if "taps" in content:
        content["taps"] = tuple(content["taps"])
    try:
        for entry in entries:
            check_entry(entry)
        if blend is not None:
            _only(path, "blend", blend, {field.name for field in fields(BlendSettings)})
            content["blend"] = BlendSettings(**blend)
        if frames is not None:
            _only(path, "frames", frames, {field.name for field in fields(FrameSettings)})
            content["frames"] = FrameSettings(**frames)
        return Recipe(**content, more=tuple(entries) or None)
    except TypeError as error:
        raise UsageError(f"{path}: a value is of the wrong type ({error}).") from error
    except UsageError as error:
        raise UsageError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from error


def _only(path: Path, what: str, content: Any, known: set[str]) -> None:
    if not isinstance(content, dict):
        raise UsageError(f"{path}: {what} must be an object, not {content!r}.")
    unknown = sorted(set(content) - known)
    if unknown:
        raise UsageError(f"{path}: {what} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}.")
