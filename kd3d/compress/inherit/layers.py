"""A detector as layers that read and write channel groups: the data flow that inheritance follows.

This is the only place of inheritance that knows parameter names, and it never reads meaning out of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from kd3d.spec import AnchorHeadSpec, CenterHeadSpec, DetectorSpec, VoxelEncoderSpec

Key = tuple[str | int, ...]
Kind = Literal["linear", "conv", "deconv"]
POINTS: Key = ("points",)
NORM_TENSORS = ("weight", "bias", "running_mean", "running_var")


@dataclass(frozen=True)
class Piece:
    """A run of input channels: all that ``source`` writes. ``role`` tells apart two runs of the same source."""

    source: Key
    width: int
    role: str = ""


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
        kernel: its square kernel's size.
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
    """All weighted layers of the network of ``spec``, in the order of the data.

    Raises:
        SpecError: the encoder is not one of pillars.
    """
    branches = () if isinstance(spec.head, AnchorHeadSpec) else branch_layers(spec.head)
    return (*encoder_layers(spec), *trunk_layers(spec), *branches)


def trunk_layers(spec: DetectorSpec) -> Iterator[Layer]:
    """Those from the first BEV map, whatever the encoder, to the anchor head or the centre head's shared layer."""
    yield from _backbone(spec)
    neck = tuple(Piece(("up", level), width) for level, width in enumerate(spec.backbone.up_channels))
    if isinstance(spec.head, AnchorHeadSpec):
        for name, outputs in spec.head.maps:
            names = tuple(f"{name}[{index}]" for index in range(outputs))
            yield Layer(("head", name), f"head.{name}", None, "conv", outputs, neck, bias=True, outputs=names)
        return
    width = spec.head.shared_channels
    yield Layer(("shared",), "head.shared.conv", "head.shared.norm", "conv", width, neck, bias=True, kernel=3)


def point_channels(spec: DetectorSpec) -> tuple[str, ...]:
    """Names of a decorated point's channels."""
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


def canvas_source(spec: DetectorSpec) -> Key:
    """The layer whose output becomes the first BEV map."""
    if isinstance(spec.encoder, VoxelEncoderSpec):
        return ("encoder", "out")
    return ("encoder", len(spec.encoder.filters) - 1)


def _backbone(spec: DetectorSpec) -> Iterator[Layer]:
    backbone = spec.backbone
    source, width = canvas_source(spec), spec.bev_channels
    for level, (extra, channels) in enumerate(zip(backbone.layers, backbone.channels, strict=True)):
        for position in range(extra + 1):
            key: Key = ("level", level, position)
            module = f"backbone.levels.{level}.{position}"
            yield Layer(key, f"{module}.conv", f"{module}.norm", "conv", channels, (Piece(source, width),), kernel=3)
            source, width = key, channels
    for level, (up, channels) in enumerate(zip(backbone.up_strides, backbone.up_channels, strict=True)):
        kind: Kind = "deconv" if up >= 1 else "conv"
        read = Piece(("level", level, backbone.layers[level]), backbone.channels[level])
        module = f"backbone.ups.{level}"
        kernel = round(up if up >= 1 else 1 / up)
        yield Layer(("up", level), f"{module}.conv", f"{module}.norm", kind, channels, (read,), kernel=kernel)


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
