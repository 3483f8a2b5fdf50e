"""A detector as layers that read and write channel groups: the data flow that inheritance follows.

This is the only place of inheritance that knows parameter names, and it never reads meaning out of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from kd3d.spec import AnchorHeadSpec, CenterHeadSpec, DetectorSpec, VoxelEncoderSpec

Key = tuple[str | int, ...]
Kind = Literal["linear", "conv", "deconv", "sparse"]
POINTS: Key = ("points",)
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Piece:
    """A run of input channels: all that ``source`` writes.

    Args:
        source: the layer that writes them.
        width: how many.
        role: tells apart two runs of the same source.
        depth: heights folded into channels: channel ``c`` of the source is here ``c * depth`` to
            ``c * depth + depth - 1``.
    """

    source: Key
    width: int
    role: str = ""
    depth: int = 1


@dataclass(frozen=True)
class Layer:
    """One weighted layer with its normalisation.

    Args:
        key: its place in the network: ``("level", 1, 3)``; also names the channels it writes.
        module: prefix of its parameters.
        norm: prefix of its batch norm, or ``None``.
        kind: axis order of the weight: ``[out, in, ...]``, for ``deconv`` ``[in, out, ...]``.
        out: channels written.
        pieces: runs of input channels, in order.
        bias: whether it has one.
        outputs: names of the output channels where they have a meaning (classes), else empty.
        kernel: its square kernel's size; of a sparse convolution its number of taps.
    """

    key: Key
    module: str
    norm: str | None
    kind: Kind
    out: int
    pieces: tuple[Piece, ...]
    bias: bool = False
    outputs: tuple[str, ...] = ()
    kernel: int = 1


def layers(spec: DetectorSpec) -> tuple[Layer, ...]:
    """All weighted layers of the network of ``spec``, in the order of the data."""
    branches = () if isinstance(spec.head, AnchorHeadSpec) else branch_layers(spec.head)
    encoder = sparse_layers(spec) if isinstance(spec.encoder, VoxelEncoderSpec) else encoder_layers(spec)
    return (*encoder, *trunk_layers(spec), *branches)


def trunk_layers(spec: DetectorSpec) -> Iterator[Layer]:
    """Those from the first BEV map, whatever the encoder, to the anchor head or the centre head's shared layer."""
    yield from _backbone(spec)
    neck = tuple(Piece(("up", level), width) for level, width in enumerate(spec.backbone.up_channels))
    if isinstance(spec.head, AnchorHeadSpec):
        for name, names in anchor_outputs(spec.head):
            yield Layer(("head", name), f"head.{name}", None, "conv", len(names), neck, bias=True, outputs=names)
        return
    width = spec.head.shared_channels
    yield Layer(("shared",), "head.shared.conv", "head.shared.norm", "conv", width, neck, bias=True, kernel=3)


@lru_cache(maxsize=64)  # a search asks for the same head again and again
def anchor_outputs(head: AnchorHeadSpec) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The maps of an anchor head, and what each channel says of which anchor: what two heads have in common by name."""
    anchors = [f"{name} at {yaw:g}" for name in head.classes for yaw in head.rotations_rad]
    meanings = {
        "cls": [f"is {name}" for name in head.classes],
        "box": ["x", "y", "z", "length", "width", "height", "yaw"],
        "dir": [f"bin {index} of {head.direction_bins}" for index in range(head.direction_bins)],
    }
    return tuple(
        (name, tuple(f"{anchor}: {meaning}" for anchor in anchors for meaning in meanings[name]))
        for name, _ in head.maps
    )


def point_channels(spec: DetectorSpec) -> tuple[str, ...]:
    """Names of the channels of a point, decorated where the encoder is one of pillars."""
    if isinstance(spec.encoder, VoxelEncoderSpec):
        return spec.points.features
    offsets = [f"{axis} - {of}" for of in ("mean", "centre") for axis in "xyz"]
    return (*spec.points.features, *offsets)


def encoder_layers(spec: DetectorSpec) -> Iterator[Layer]:
    """Those that work on the points of pillars.

    Raises:
        SpecError: the encoder is not one of pillars.
    """
    filters = spec.pillar_encoder.filters
    pieces: tuple[Piece, ...] = (Piece(POINTS, spec.point_inputs),)
    last = len(filters) - 1
    for index, width in enumerate(filters):
        out = width if index == last else width // 2
        key: Key = ("encoder", index)
        module = f"encoder.layers.{index}"
        yield Layer(key, f"{module}.linear", f"{module}.norm", "linear", out, pieces)
        pieces = (Piece(key, out),) if index == last else (Piece(key, out, "point"), Piece(key, out, "max"))


def sparse_layers(spec: DetectorSpec) -> Iterator[Layer]:
    """Those of a voxel encoder: ``("encoder", "input")``, per stage ``down`` and blocks, ``("encoder", "out")``."""
    encoder = spec.encoder
    assert isinstance(encoder, VoxelEncoderSpec)
    key: Key = ("encoder", "input")
    yield _sparse(key, "encoder.input", encoder.input_channels, Piece(POINTS, spec.point_inputs))
    read = Piece(key, encoder.input_channels)
    for stage, width in enumerate(encoder.channels):
        module = f"encoder.stages.{stage}"
        if stage:
            key = ("encoder", stage, "down")
            yield _sparse(key, f"{module}.down", width, read)
            read = Piece(key, width)
        for block in range(encoder.blocks[stage]):
            for index in range(2 if encoder.block == "residual" else 1):
                key = ("encoder", stage, block, index)
                name = f"{module}.blocks.{block}.convs.{index}"
                yield _sparse(key, name, width, read, bias=encoder.block_bias)
                read = Piece(key, width)
    yield _sparse(("encoder", "out"), "encoder.out", encoder.out_channels, read, taps=3)


def _sparse(key: Key, module: str, out: int, read: Piece, *, bias: bool = False, taps: int = 27) -> Layer:
    return Layer(key, f"{module}.conv", f"{module}.norm", "sparse", out, (read,), bias=bias, kernel=taps)


def canvas_source(spec: DetectorSpec) -> Key:
    """The layer whose output becomes the first BEV map."""
    if isinstance(spec.encoder, VoxelEncoderSpec):
        return ("encoder", "out")
    return ("encoder", len(spec.encoder.filters) - 1)


def _backbone(spec: DetectorSpec) -> Iterator[Layer]:
    backbone = spec.backbone
    source, width, depth = canvas_source(spec), spec.bev_channels, 1
    if isinstance(spec.encoder, VoxelEncoderSpec):
        depth = spec.encoder.z_sizes(spec.grid)[-1]
    for level, (extra, channels) in enumerate(zip(backbone.layers, backbone.channels, strict=True)):
        for position in range(extra + 1):
            key: Key = ("level", level, position)
            module = f"backbone.levels.{level}.{position}"
            read = Piece(source, width, depth=depth)
            yield Layer(key, f"{module}.conv", f"{module}.norm", "conv", channels, (read,), kernel=3)
            source, width, depth = key, channels, 1
    for level, (up, channels) in enumerate(zip(backbone.up_strides, backbone.up_channels, strict=True)):
        kind: Kind = "deconv" if up >= 1 else "conv"
        top = Piece(("level", level, backbone.layers[level]), backbone.channels[level])
        module = f"backbone.ups.{level}"
        kernel = round(up if up >= 1 else 1 / up)
        yield Layer(("up", level), f"{module}.conv", f"{module}.norm", kind, channels, (top,), kernel=kernel)


def branch_layers(head: CenterHeadSpec) -> Iterator[Layer]:
    """Those of a centre head after its shared layer."""
    shared: Key = ("shared",)
    for task, classes in enumerate(head.tasks):
        for name, outputs in (*head.branches, ("hm", len(classes))):
            hidden: Key = ("hidden", task, name)
            module = f"head.tasks.{task}.{name}"
            read = (Piece(shared, head.shared_channels),)
            yield Layer(
                hidden, f"{module}.hidden.conv", f"{module}.hidden.norm", "conv", head.branch_channels, read,
                bias=True, kernel=3,
            )  # fmt: skip
            names = classes if name == "hm" else tuple(f"{name}[{index}]" for index in range(outputs))
            read = (Piece(hidden, head.branch_channels),)
            yield Layer(
                ("out", task, name), f"{module}.out", None, "conv", outputs, read, bias=True, outputs=names, kernel=3
            )
