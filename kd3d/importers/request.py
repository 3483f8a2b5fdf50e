"""What a user says of a checkpoint on the command line, as facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from kd3d.detectors.presets import PRESETS, preset
from kd3d.errors import UsageError
from kd3d.importers.container import FRAMEWORKS, Framework, read_checkpoint
from kd3d.importers.embedded import facts_of_config
from kd3d.importers.facts import Facts, facts_of_preset
from kd3d.importers.importer import Imported, import_checkpoint
from kd3d.spec import AnchorHeadSpec


def import_file(
    path: Path,
    *,
    form: str = "auto",
    like: str | None = None,
    config: Path | None = None,
    flags: Facts | None = None,
) -> Imported:
    """Import ``path``.

    Args:
        path: a checkpoint of one of ``FRAMEWORKS``.
        form: which, or ``auto``.
        like: a preset that says what the tensors do not. Where there is an edition of it for the checkpoint's framework
            (``NAME-mmdet3d``), that one.
        config: the framework's own configuration.
        flags: single facts, which come before all others.

    Raises:
        UsageError: an unknown format or preset, or facts that nobody says.
        CheckpointError: as ``import_checkpoint`` does.
    """
    if form != "auto" and form not in FRAMEWORKS:
        raise UsageError(f"--format must be auto, {', '.join(FRAMEWORKS)}, not {form}.")
    framework: Framework | None = next((name for name in FRAMEWORKS if name == form), None)
    if like is not None:
        preset(like)  # an unknown name is reported before a large file is read
    told = [flags] if flags is not None else []
    if config is not None:
        told.append(facts_of_config(config, whole=like is None))
    found = read_checkpoint(path, framework)
    if like is not None:
        told.append(_edition(like, found.framework))
    return import_checkpoint(found, told)


def _edition(like: str, framework: Framework) -> Facts:
    """What the framework's own edition of a preset says; without one only what does not depend on the framework."""
    own = f"{like}-{framework}"
    if own in PRESETS or like.endswith(framework) or framework == "openpcdet":
        return facts_of_preset(preset(own if own in PRESETS else like))
    if isinstance(preset(like).head, AnchorHeadSpec):
        raise UsageError(
            f"--like {like}: its anchors are OpenPCDet's in order and place, not {framework}'s. Give --config."
        )
    return replace(facts_of_preset(preset(like)), decode=None, mode=None, max_cells=None)


def facts_of_flags(
    *,
    range_m: str | None,
    cell: str | None,
    classes: str | None,
    features: str | None,
    stride: int | None,
    boxes: str | None,
) -> Facts:
    """Options of the command line as facts.

    Raises:
        UsageError: one cannot be read; says how it is written.
    """
    size = _numbers("--cell", cell, (1, 3))
    if size is not None and len(size) == 3 and size[0] != size[1]:
        raise UsageError(f"--cell {cell}: cells are square; got {size[0]:g} x {size[1]:g} m.")
    if boxes not in (None, "old", "new"):
        raise UsageError(f"--boxes must be old or new, not {boxes}.")
    return Facts(
        source="--options",
        range_m=_numbers("--range", range_m, (6,)),
        cell_m=size[0] if size else None,
        height_m=size[2] if size and len(size) == 3 else None,
        classes=_words(classes),
        features=_words(features),
        out_stride=stride,
        old_boxes=None if boxes is None else boxes == "old",
    )


def _words(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(option: str, text: str | None, counts: tuple[int, ...]) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} {text}: must be numbers with commas between them.") from error
    if len(found) not in counts:
        raise UsageError(f"{option} {text}: must be {' or '.join(map(str, counts))} number(s), but is {len(found)}.")
    return found
