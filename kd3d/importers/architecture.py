"""The shape of a detector, read off its tensors: widths, depths, tasks, and which way an up branch convolves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from kd3d.errors import CheckpointError
from kd3d.importers.facts import Facts

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class UpBranch:
    """One up branch: its stride (0.5 halves), its output channels, and whether its weight is a transposed kernel's."""

    stride: float
    channels: int
    transposed: bool


@dataclass(frozen=True)
class VoxelShape:
    """Widths and depths of a sparse 3D backbone, as ``VoxelEncoderSpec`` counts them."""

    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    input_channels: int
    out_channels: int
    residual: bool
    bias: bool


@dataclass(frozen=True)
class Architecture:
    """What the tensors say.

    Args:
        encoder: ``pillar`` or ``voxel``.
        inputs: channels of the first layer of the encoder.
        filters: of a pillar encoder, as ``PillarEncoderSpec`` counts them.
        layers, channels: of the BEV backbone.
        ups: its branches.
        head: ``center`` or ``anchor``.
        tasks: classes per task.
        shared, hidden: widths of a centre head.
        velocity: whether it has a velocity branch.
        maps: channels of an anchor head's ``cls``, ``box``, ``dir``.
        voxel: the sparse backbone, if the encoder is one.
    """

    encoder: Literal["pillar", "voxel"]
    inputs: int
    filters: tuple[int, ...]
    layers: tuple[int, ...]
    channels: tuple[int, ...]
    ups: tuple[UpBranch, ...]
    head: Literal["center", "anchor"]
    tasks: tuple[int, ...] = ()
    shared: int = 0
    hidden: int = 0
    velocity: bool = False
    maps: tuple[int, int, int] = (0, 0, 0)
    voxel: VoxelShape | None = None


def read_architecture(
    tensors: Mapping[str, Tensor], facts: Facts, where: str, known: Sequence[str] = ()
) -> Architecture:
    """Infer the architecture.

    Args:
        tensors: by kd3d's names, in the framework's layout.
        facts: ``convolution_for_stride_one`` and ``up_strides`` settle what square kernels leave open.
        where: for messages.
        known: what does not fit already, to be reported together.

    Raises:
        CheckpointError: a part is missing altogether, or has tensors of the wrong rank.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    problems = _wrong_ranks(shapes) + _far_indices(shapes)
    lacking = [part for part, start in _PARTS.items() if not any(re.match(start, name) for name in shapes)]
    problems += [f"it has no {part}" for part in lacking]
    if problems:
        raise CheckpointError(f"{where}: not a whole detector: {'; '.join([*problems, *known])}. Nothing was written.")
    levels = _count(shapes, r"backbone\.levels\.(\d+)\.")
    layers = tuple(_count(shapes, rf"backbone\.levels\.{i}\.(\d+)\.") - 1 for i in range(levels))
    channels = tuple(_width(shapes, f"backbone.levels.{i}.0.conv.weight", 0) for i in range(levels))
    ups = tuple(_up_branch(shapes, i, channels[i], facts) for i in range(levels))
    return Architecture(**_encoder(shapes), layers=layers, channels=channels, ups=ups, **_head(shapes))  # type: ignore[arg-type]


_PARTS = {
    "point encoder": r"encoder\.(layers\.0\.linear|input\.conv)\.weight$",
    "BEV backbone": r"backbone\.levels\.0\.0\.conv\.weight$",
    "up branches": r"backbone\.ups\.0\.conv\.weight$",
    "head": r"head\.(tasks\.0\.hm\.out|cls)\.weight$",
}
_MOST_LAYERS = 255
_RANKS = {
    r"encoder\.layers\.\d+\.linear\.weight": 2,
    r"(backbone|head)\..*conv\.weight": 4,
    r"head\..*(out|cls|box|dir)\.weight": 4,
    r"encoder\.(input|out|stages)\..*conv\.weight": 3,
    r".*\.norm\.(weight|bias|running_mean|running_var)": 1,
    r".*\.bias": 1,
}


def _wrong_ranks(shapes: Shapes) -> list[str]:
    found = []
    for name, shape in shapes.items():
        rank = next((rank for pattern, rank in _RANKS.items() if re.fullmatch(pattern, name)), None)
        if rank is not None and len(shape) != rank:
            found.append(f"{name} has shape {list(shape)}, but {rank} axes are expected")
    return found


def _far_indices(shapes: Shapes) -> list[str]:
    """A damaged name must not make a network of a million layers."""
    return [
        f"{name} has an index beyond {_MOST_LAYERS}"
        for name in shapes
        if any(len(index) > 4 or int(index) > _MOST_LAYERS for index in re.findall(r"\.(\d+)", name))
    ]


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the highest index at ``pattern``."""
    found = [int(match[1]) for name in shapes if (match := re.match(pattern, name))]
    return max(found, default=-1) + 1


def _width(shapes: Shapes, name: str, axis: int) -> int:
    """A side of a tensor; 0 where it is missing, which later shows as a missing tensor."""
    shape = shapes.get(name, ())
    return shape[axis] if axis < len(shape) else 0


def _encoder(shapes: Shapes) -> dict[str, object]:
    if "encoder.input.conv.weight" in shapes:
        inputs = _width(shapes, "encoder.input.conv.weight", 1)
        return {"encoder": "voxel", "inputs": inputs, "filters": (), "voxel": _voxel(shapes)}
    count = _count(shapes, r"encoder\.layers\.(\d+)\.")
    widths = [_width(shapes, f"encoder.layers.{i}.linear.weight", 0) for i in range(count)]
    filters = (*(2 * width for width in widths[:-1]), widths[-1])
    return {"encoder": "pillar", "inputs": _width(shapes, "encoder.layers.0.linear.weight", 1), "filters": filters}


def _voxel(shapes: Shapes) -> VoxelShape:
    count = _count(shapes, r"encoder\.stages\.(\d+)\.")
    stages = [f"encoder.stages.{stage}" for stage in range(count)]
    return VoxelShape(
        channels=tuple(_width(shapes, f"{stage}.blocks.0.convs.0.conv.weight", 0) for stage in stages),
        blocks=tuple(_count(shapes, rf"{re.escape(stage)}\.blocks\.(\d+)\.") for stage in stages),
        input_channels=_width(shapes, "encoder.input.conv.weight", 0),
        out_channels=_width(shapes, "encoder.out.conv.weight", 0),
        residual=any(".convs.1." in name for name in shapes),
        bias=any(re.fullmatch(r"encoder\.stages\..*blocks.*conv\.bias", name) for name in shapes),
    )


def _head(shapes: Shapes) -> dict[str, object]:
    if "head.cls.weight" in shapes:
        maps = tuple(_width(shapes, f"head.{name}.weight", 0) for name in ("cls", "box", "dir"))
        return {"head": "anchor", "maps": maps}
    tasks = _count(shapes, r"head\.tasks\.(\d+)\.")
    return {
        "head": "center",
        "tasks": tuple(_width(shapes, f"head.tasks.{task}.hm.out.weight", 0) for task in range(tasks)),
        "shared": _width(shapes, "head.shared.conv.weight", 0),
        "hidden": _width(shapes, "head.tasks.0.hm.hidden.conv.weight", 0),
        "velocity": any(re.match(r"head\.tasks\.\d+\.vel\.", name) for name in shapes),
    }


def _up_branch(shapes: Shapes, level: int, inputs: int, facts: Facts) -> UpBranch:
    first, second, size = (_width(shapes, f"backbone.ups.{level}.conv.weight", axis) for axis in range(3))
    if size <= 1:
        transposed = not facts.convolution_for_stride_one
        return UpBranch(1.0, second if transposed else first, transposed)
    told = facts.up_strides[level] if facts.up_strides is not None and level < len(facts.up_strides) else None
    # [in, out, k, k] raises the resolution, [out, in, k, k] lowers it; square ones are raised unless we are told.
    transposed = told > 1 if told is not None and first == second else first == inputs
    return UpBranch(float(size) if transposed else 1.0 / size, second if transposed else first, transposed)
