"""The specification of an imported detector, from its tensors and from what is known beside them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from kd3d.errors import CheckpointError, UsageError
from kd3d.geometry.grid import BevGrid
from kd3d.importers.architecture import Architecture
from kd3d.importers.container import Framework
from kd3d.importers.decodes import anchor_decode, center_decode
from kd3d.importers.facts import Facts, points_of
from kd3d.spec import (
    AnchorHeadSpec,
    BevBackboneSpec,
    CenterHeadSpec,
    DecodeSpec,
    DetectorSpec,
    PillarEncoderSpec,
    VoxelEncoderSpec,
)

_CAPS = {"openpcdet": (20, 30000), "mmdet3d": (20, 40000), "det3d": (20, 60000)}
_VOXEL_CAPS = {"openpcdet": (10, 160000), "mmdet3d": (10, 120000), "det3d": (10, 160000)}
_OPTIONS = {
    "height of a voxel": "--cell with three numbers",
    "range": "--range (x, y, z minima, then maxima, in metres)",
    "cell": "--cell (metres)",
    "classes": "--classes (in the order of the model's outputs)",
    "anchors": "a configuration or preset of an anchor head (there is no option for anchors)",
    "features": "--features (columns of a point, such as x,y,z,intensity,time_lag)",
    "stride": "--stride (grid cells per cell of the head maps)",
}


@dataclass(frozen=True)
class Source:
    """Whose checkpoint it is: the framework, and the file for messages."""

    framework: Framework
    where: str


def raw_features(shape: Architecture, facts: Facts, source: Source) -> tuple[str, ...] | None:
    """The columns of a point; of the usual four they need not be named."""
    if facts.features is not None:
        return facts.features
    offsets = 5 if source.framework == "det3d" else 6
    count = shape.inputs - (offsets if shape.encoder == "pillar" else 0)
    return ("x", "y", "z", "intensity") if count == 4 else None


def complete(shape: Architecture, facts: Facts, source: Source) -> Facts:
    """``facts`` with what the tensors settle.

    Raises:
        UsageError: something is still unknown; names all of it, and the options that say it.
    """
    facts = replace(facts, features=raw_features(shape, facts, source))
    unknown = [name for name, value in (("range", facts.range_m), ("cell", facts.cell_m)) if value is None]
    if shape.head == "anchor" and facts.anchors is None:
        unknown.append("anchors")
    elif facts.classes is None:
        unknown.append("classes")
    if facts.features is None:
        unknown.append("features")
    if shape.voxel is not None and facts.height_m is None:
        unknown.append("height of a voxel")
    if shape.voxel is None and facts.strides is None and facts.out_stride is None:
        unknown.append("stride")
    if unknown:
        raise UsageError(
            f"{source.where}: the checkpoint does not say its {', '.join(unknown)}. Give --config FILE (the "
            f"framework's own configuration), --like PRESET, or {'; '.join(_OPTIONS[name] for name in unknown)}."
        )
    return facts


def mismatches(shape: Architecture, facts: Facts, source: Source) -> list[str]:
    """Everything in which the tensors contradict ``facts``, one line each."""
    found = []

    def compare(what: str, tensors: object, told: object) -> None:
        if told is not None and tensors != told:
            found.append(f"{what}: the tensors say {tensors}, {facts.source} says {told}")

    compare("encoder", shape.encoder, facts.encoder)
    told_head = "anchor" if facts.anchors is not None else (None if facts.tasks is None else "center")
    compare("head", shape.head, told_head)
    if shape.encoder == "pillar" and facts.encoder != "voxel" and facts.features is not None:
        offsets = (5, 6) if source.framework == "mmdet3d" else ((5,) if source.framework == "det3d" else (6,))
        if shape.inputs - len(facts.features) not in offsets:
            found.append(
                f"point features: the first layer reads {shape.inputs} channels, but {', '.join(facts.features)} with "
                f"offsets are {len(facts.features) + offsets[-1]}"
            )
    if shape.encoder == "voxel" and facts.encoder != "pillar" and facts.features is not None:
        compare("point features", shape.inputs, len(facts.features))
    compare("layers", shape.layers, facts.layers)
    compare("channels", shape.channels, facts.channels)
    compare("up strides", tuple(up.stride for up in shape.ups), facts.up_strides)
    if shape.head == "center":
        compare("classes per task", shape.tasks, facts.tasks)
        if facts.tasks is None and facts.classes is not None and sum(shape.tasks) != len(facts.classes):
            found.append(f"classes: the head has {sum(shape.tasks)}, but {', '.join(facts.classes)} are named")
    if shape.head == "anchor" and facts.anchors is not None:
        compare("channels of the anchor head", shape.maps, tuple(channels for _, channels in facts.anchors.maps))
    return found


def assemble(shape: Architecture, facts: Facts, source: Source) -> DetectorSpec:
    """The specification; ``facts`` are complete and fit the tensors.

    Raises:
        CheckpointError: the strides fit no grid.
        SpecError: the facts contradict each other.
    """
    assert facts.range_m is not None and facts.cell_m is not None
    x0, y0, z0, x1, y1, z1 = facts.range_m
    grid = BevGrid(x0, y0, z0, x1, y1, z1, facts.cell_m)
    backbone = BevBackboneSpec(
        strides=_strides(shape, facts, source),
        layers=shape.layers,
        channels=shape.channels,
        up_strides=tuple(up.stride for up in shape.ups),
        up_channels=tuple(up.channels for up in shape.ups),
    )
    return DetectorSpec(
        name=_name(facts, source),
        points=points_of(facts),
        grid=grid,
        encoder=_encoder(shape, facts, source),
        backbone=backbone,
        head=_head(shape, facts),
        decode=_decode(shape, facts, source),
    )


def _encoder(shape: Architecture, facts: Facts, source: Source) -> PillarEncoderSpec | VoxelEncoderSpec:
    if shape.voxel is not None:
        assert facts.height_m is not None
        points, voxels = _VOXEL_CAPS[source.framework]
        found = shape.voxel
        usual = (*(1,) * (len(found.channels) - 2), 0)  # all published ones: the last leaves out the edge
        told = facts.z_paddings
        return VoxelEncoderSpec(
            height_m=facts.height_m,
            channels=found.channels,
            blocks=found.blocks,
            input_channels=found.input_channels,
            out_channels=found.out_channels,
            block="residual" if found.residual else "plain",
            block_bias=found.bias,
            z_paddings=told if told is not None and len(told) == len(usual) else usual,
            max_points=facts.max_points or points,
            max_voxels=facts.max_cells or voxels,
        )
    points, pillars = _CAPS[source.framework]
    return PillarEncoderSpec(
        filters=shape.filters,
        max_points=facts.max_points or points,
        max_pillars=facts.max_cells or pillars,
        mode="dynamic" if facts.mode == "dynamic" and source.framework == "openpcdet" else "hard",
    )


def _head(shape: Architecture, facts: Facts) -> CenterHeadSpec | AnchorHeadSpec:
    if shape.head == "anchor":
        assert facts.anchors is not None
        return facts.anchors
    assert facts.classes is not None
    return CenterHeadSpec(
        tasks=_tasks(facts.classes, shape.tasks),
        shared_channels=shape.shared,
        branch_channels=shape.hidden,
        velocity=shape.velocity,
    )


def _tasks(classes: tuple[str, ...], sizes: tuple[int, ...]) -> tuple[tuple[str, ...], ...]:
    rest, found = list(classes), []
    for size in sizes:
        found.append(tuple(rest[:size]))
        rest = rest[size:]
    return tuple(found)


def _strides(shape: Architecture, facts: Facts, source: Source) -> tuple[int, ...]:
    """Of the levels: told, or the first from the head's stride and the rest from the up branches, which must meet."""
    if facts.strides is not None:
        if len(facts.strides) != len(shape.layers):
            raise CheckpointError(
                f"{source.where}: the backbone has {len(shape.layers)} levels, but {facts.source} has strides "
                f"{facts.strides}."
            )
        return facts.strides
    # The stages of a sparse backbone halve the map; all published ones leave the rest to the up branches.
    halvings = len(shape.voxel.channels) - 1 if shape.voxel is not None else 0
    stride = 2**halvings if facts.out_stride is None else facts.out_stride
    totals = [stride / 2**halvings * up.stride for up in shape.ups]
    steps = [totals[0], *(after / before for before, after in itertools.pairwise(totals))]
    if any(step < 1 or step != int(step) for step in steps):
        raise CheckpointError(
            f"{source.where}: up branches of strides {tuple(up.stride for up in shape.ups)} and head maps of stride "
            f"{stride} need levels of strides {tuple(steps)}, which are not whole. Check --stride."
        )
    return tuple(int(step) for step in steps)


def _name(facts: Facts, source: Source) -> str:
    name = facts.name or "detector"
    suffix = "" if source.framework == "openpcdet" or name.endswith(source.framework) else f"-{source.framework}"
    return f"{name}{suffix}"


def _decode(shape: Architecture, facts: Facts, source: Source) -> DecodeSpec:
    assert facts.range_m is not None
    if facts.decode is not None:
        return facts.decode
    if shape.head == "anchor":
        return anchor_decode(source.framework)
    return center_decode(source.framework, len(shape.tasks), facts.range_m)
