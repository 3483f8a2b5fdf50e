"""A foreign checkpoint becomes a kd3d model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kd3d.detectors.blocks import HEAD_EPS
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.errors import CheckpointError, SpecError, UsageError
from kd3d.importers.architecture import Architecture, read_architecture
from kd3d.importers.assemble import Source, assemble, complete, mismatches
from kd3d.importers.container import ForeignCheckpoint, Framework
from kd3d.importers.conventions import Convention, convert
from kd3d.importers.embedded import facts_of_file, old_boxes
from kd3d.importers.facts import Facts, contradictions, merged
from kd3d.importers.names import Naming, rename
from kd3d.importers.voxel_names import unify_layouts
from kd3d.spec import DetectorSpec


@dataclass(frozen=True)
class Imported:
    """What an import made.

    Args:
        model: the detector.
        framework: whose checkpoint it was.
        tensors: how many the file has.
        used: how many of them the detector has.
        skipped: the others, with the reason.
        notes: what was changed to fit kd3d's conventions, and what was taken from where.
    """

    model: Model
    framework: Framework
    tensors: int
    used: int
    skipped: dict[str, str]
    notes: tuple[str, ...]


def import_checkpoint(found: ForeignCheckpoint, facts: Sequence[Facts] = ()) -> Imported:
    """Convert a checkpoint.

    Args:
        found: the checkpoint, as ``read_checkpoint`` gives it.
        facts: what is known beside the tensors; of two that say something the first counts. What the file itself
            carries comes last.

    Raises:
        CheckpointError: its tensors contradict each other or ``facts``; lists everything that does not fit.
        UsageError: something that the tensors do not say is in none of ``facts``.
    """
    source = Source(found.framework, str(found.path))
    naming = rename(list(found.tensors), found.framework)
    problems = [f"{name} is not a tensor of a detector that kd3d knows" for name in naming.unknown]
    problems += [f"{names} are the same tensor" for names in naming.clashes]
    if not naming.ours or len(naming.unknown) > len(naming.ours):
        raise CheckpointError(_message(source, problems))
    known, disagreements = _all_facts(found, facts)
    tensors = {ours: found.tensors[theirs] for ours, theirs in naming.ours.items()}
    tensors, layouts = unify_layouts(tensors)
    if known.convolution_for_stride_one is None:
        # What their published configurations have; a kernel of 1 x 1 does not show which way it goes.
        anchors = "head.cls.weight" in tensors
        known = replace(known, convolution_for_stride_one=found.framework != "openpcdet" and not anchors)
    shape = read_architecture(tensors, known, source.where, problems)
    problems += disagreements + mismatches(shape, known, source)
    try:
        known = complete(shape, known, source)
        convention = _convention(found, naming, shape, known)
        converted, notes = convert(tensors, shape, convention)
        spec = _specification(shape, known, source)
        problems += _misfits(spec, converted, naming)
    except (UsageError, SpecError, CheckpointError, RuntimeError) as error:
        if problems:  # what is wrong already explains it
            raise CheckpointError(_message(source, problems)) from error
        raise
    if problems:
        raise CheckpointError(_message(source, problems))
    module = build(spec)
    module.load_state_dict(converted)
    notes += layouts
    meta = {"origin": "import", "framework": found.framework, "checkpoint": found.path.name, "notes": notes}
    model = Model(spec, module.eval(), {**meta, "facts": known.source})
    used = len(naming.ours)
    return Imported(model, found.framework, len(found.tensors), used, naming.skipped, tuple(notes))


def _convention(found: ForeignCheckpoint, naming: Naming, shape: Architecture, known: Facts) -> Convention:
    """How the weights differ from kd3d's.

    Raises:
        CheckpointError: boxes are those of an anchor head before they changed.
        UsageError: a file of mmdetection3d does not say its version.
    """
    assert known.features is not None
    # HardVFE has layers of another name, and no legacy decoration.
    legacy = known.legacy_decoration
    if legacy is None:
        legacy = shape.head == "anchor" and not any(".vfe_layers." in name for name in naming.ours.values())
    convention = Convention(
        found.framework,
        features=len(known.features),
        old_boxes=old_boxes(found, known),
        legacy_decoration=legacy and found.framework == "mmdet3d",
        head_eps=known.head_eps or HEAD_EPS,
    )
    if convention.old_boxes and shape.head == "anchor":
        raise CheckpointError(
            f"{found.path}: an anchor head of mmdetection3d before 1.0, whose anchors and boxes this version does not "
            "convert. Give a checkpoint trained with 1.0.0rc0 or later, such as those of its v1.0.0 model zoo."
        )
    return convention


def _specification(shape: Architecture, known: Facts, source: Source) -> DetectorSpec:
    try:
        return assemble(shape, known, source)
    except SpecError as error:
        raise SpecError(f"{source.where}: {error} (from {known.source})") from error


def _all_facts(found: ForeignCheckpoint, facts: Sequence[Facts]) -> tuple[Facts, list[str]]:
    """All facts in one, and where two sources disagree without a flag that settles it."""
    flags = [part for part in facts if part.source.startswith("--")]
    others = [part for part in facts if not part.source.startswith("--")]
    others.append(facts_of_file(found))
    return merged([*flags, *others]), contradictions(others, settled=merged(flags))


def _misfits(spec: DetectorSpec, tensors: dict[str, Tensor], naming: Naming) -> list[str]:
    """Every missing, superfluous, misshapen or damaged tensor, as the framework names it."""
    with torch.device("meta"):  # shapes alone: those of a damaged file may fill any memory
        wanted = build(spec).state_dict()
    problems = [f"{name} (kd3d's name) is missing" for name in wanted if name not in tensors]
    for name, tensor in tensors.items():
        theirs = naming.ours.get(name, name)
        if name not in wanted:
            problems.append(f"{theirs} has no place in this architecture")
        elif tensor.shape != wanted[name].shape:
            problems.append(f"{theirs} has shape {list(tensor.shape)}, which must be {list(wanted[name].shape)} here")
        elif tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            problems.append(f"{theirs} holds NaN or infinity")
    return problems


def _message(source: Source, problems: list[str]) -> str:
    return (
        f"{source.where}: {len(problems)} thing(s) do not fit: {'; '.join(problems)}. Nothing was written. Use the "
        "configuration or preset that the checkpoint was trained with."
    )
