"""A foreign checkpoint becomes a kd3d model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from kd3d.detectors.blocks import HEAD_EPS
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.errors import CheckpointError, SpecError
from kd3d.importers.architecture import read_architecture
from kd3d.importers.assemble import Source, assemble, complete, mismatches
from kd3d.importers.container import ForeignCheckpoint, Framework
from kd3d.importers.conventions import Convention, convert
from kd3d.importers.embedded import facts_of_file, old_boxes
from kd3d.importers.facts import Facts, merged
from kd3d.importers.names import Naming, rename
from kd3d.importers.voxel_names import unify_layouts


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
    problems += disagreements
    tensors = {ours: found.tensors[theirs] for ours, theirs in naming.ours.items()}
    tensors, layouts = unify_layouts(tensors)
    if known.convolution_for_stride_one is None:
        # What their published configurations have; a kernel of 1 x 1 does not show which way it goes.
        anchors = "head.cls.weight" in tensors
        known = replace(known, convolution_for_stride_one=found.framework != "openpcdet" and not anchors)
    shape = read_architecture(tensors, known, source.where)
    problems += mismatches(shape, known, source)
    if problems:
        raise CheckpointError(_message(source, problems))
    known = complete(shape, known, source)
    assert known.features is not None
    legacy = known.legacy_decoration if known.legacy_decoration is not None else shape.head == "anchor"
    convention = Convention(
        found.framework,
        features=len(known.features),
        old_boxes=old_boxes(found, known),
        legacy_decoration=legacy and found.framework == "mmdet3d",
        head_eps=known.head_eps or HEAD_EPS,
    )
    if convention.old_boxes and shape.head == "anchor":
        raise CheckpointError(
            f"{found.path}: an anchor head of mmdetection3d before 1.0, whose boxes this version does not convert. "
            "Convert the checkpoint with mmdetection3d's own tool first."
        )
    converted, notes = convert(tensors, shape, convention)
    notes += layouts
    try:
        spec = assemble(shape, known, source)
    except SpecError as error:
        raise SpecError(f"{found.path}: {error} (from {known.source})") from error
    module = build(spec)
    _load(module, converted, naming, source)
    meta = {"origin": "import", "framework": found.framework, "checkpoint": found.path.name, "notes": notes}
    model = Model(spec, module.eval(), {**meta, "facts": known.source})
    used = len(naming.ours)
    return Imported(model, found.framework, len(found.tensors), used, naming.skipped, tuple(notes))


def _all_facts(found: ForeignCheckpoint, facts: Sequence[Facts]) -> tuple[Facts, list[str]]:
    """All facts in one, and where two sources disagree on the classes without a flag that settles it."""
    flags = [part for part in facts if part.source.startswith("--")]
    others = [part for part in facts if not part.source.startswith("--")]
    others.append(facts_of_file(found))
    told = [part for part in others if part.classes is not None]
    problems = [
        f"classes: {told[0].source} says {', '.join(told[0].classes or ())}; {part.source} says "
        f"{', '.join(part.classes or ())} (--classes settles it)"
        for part in told[1:]
        if part.classes != told[0].classes
    ]
    settled = any(part.classes is not None for part in flags)
    return merged([*flags, *others]), [] if settled else problems


def _load(module: nn.Module, tensors: dict[str, Tensor], naming: Naming, source: Source) -> None:
    """Copy the weights; every missing, superfluous, misshapen or damaged one is named as the framework names it."""
    wanted = module.state_dict()
    problems = [f"{name} (kd3d's name) is missing" for name in wanted if name not in tensors]
    for name, tensor in tensors.items():
        theirs = naming.ours.get(name, name)
        if name not in wanted:
            problems.append(f"{theirs} has no place in this architecture")
        elif tensor.shape != wanted[name].shape:
            problems.append(f"{theirs} has shape {list(tensor.shape)}, which must be {list(wanted[name].shape)} here")
        elif tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            problems.append(f"{theirs} holds NaN or infinity")
    if problems:
        raise CheckpointError(_message(source, problems))
    module.load_state_dict(tensors)


def _message(source: Source, problems: list[str]) -> str:
    return (
        f"{source.where}: {len(problems)} thing(s) do not fit: {'; '.join(problems)}. Nothing was written. Use the "
        "configuration or preset that the checkpoint was trained with."
    )
