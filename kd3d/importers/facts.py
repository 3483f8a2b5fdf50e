"""What the tensors of a checkpoint do not say, from whoever says it: flags, a configuration, or a preset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from kd3d.spec import AnchorHeadSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec


@dataclass(frozen=True)
class Facts:
    """Each is ``None`` where it is not known.

    Args:
        source: who says so, for messages and ``meta.json``.
        name: of the detector.
        range_m: x, y, z minima then maxima.
        cell_m: side of a pillar or voxel.
        height_m: of a voxel.
        classes: in the order of the model's outputs, over all tasks.
        tasks: how many classes each task has.
        features: columns of a point.
        intensity: as ``PointSpec.intensity``.
        sweeps: past sweeps.
        camera_view_only: as ``PointSpec.camera_view_only``.
        encoder: ``pillar`` or ``voxel``.
        z_paddings: of the strided convolutions of a voxel encoder.
        mode: of a pillar encoder.
        max_points: per pillar or voxel.
        max_cells: pillars or voxels per frame.
        legacy_decoration: whether x, y, z of a point are offsets from the pillar's centre (mmdetection3d's default).
        strides, layers, channels, up_strides: of the BEV backbone.
        convolution_for_stride_one: whether an up branch of stride 1 is a convolution, not a transposed one.
        out_stride: cells of the grid per cell of the head maps.
        head_eps: of the head's batch norms.
        anchors: the anchor head, where the source describes one.
        decode: how maps become boxes.
        old_boxes: boxes are (w, l, h) with yaw clockwise from -y (det3d, mmdetection3d before 1.0).
    """

    source: str = ""
    name: str | None = None
    range_m: tuple[float, ...] | None = None
    cell_m: float | None = None
    height_m: float | None = None
    classes: tuple[str, ...] | None = None
    tasks: tuple[int, ...] | None = None
    features: tuple[str, ...] | None = None
    intensity: str | None = None
    sweeps: int | None = None
    camera_view_only: bool | None = None
    encoder: str | None = None
    z_paddings: tuple[int, ...] | None = None
    mode: str | None = None
    max_points: int | None = None
    max_cells: int | None = None
    legacy_decoration: bool | None = None
    strides: tuple[int, ...] | None = None
    layers: tuple[int, ...] | None = None
    channels: tuple[int, ...] | None = None
    up_strides: tuple[float, ...] | None = None
    convolution_for_stride_one: bool | None = None
    out_stride: int | None = None
    head_eps: float | None = None
    anchors: AnchorHeadSpec | None = None
    decode: DecodeSpec | None = None
    old_boxes: bool | None = None


def merged(parts: Sequence[Facts]) -> Facts:
    """The first part that knows a fact says it; ``source`` names all parts that say something."""
    found = Facts()
    for part in parts:
        new = {
            field.name: getattr(part, field.name)
            for field in fields(Facts)
            if field.name != "source" and getattr(found, field.name) is None and getattr(part, field.name) is not None
        }
        if new:
            found = replace(found, source=", ".join(filter(None, (found.source, part.source))), **new)
    return found


_COMPARED = (
    ("range", "range_m", "--range"),
    ("cell", "cell_m", "--cell"),
    ("height of a voxel", "height_m", "--cell"),
    ("classes", "classes", "--classes"),
    ("point features", "features", "--features"),
    ("encoder", "encoder", ""),
)


def contradictions(parts: Sequence[Facts], settled: Facts) -> list[str]:
    """In what the sources disagree, one line each.

    Args:
        parts: configuration, preset, the file itself, in the order in which they count.
        settled: what flags say, of which there is nothing to disagree about.
    """
    found = []
    for what, field, option in _COMPARED:
        told = [part for part in parts if getattr(part, field) is not None]
        if getattr(settled, field) is not None:
            continue
        hint = f" ({option} settles it)" if option else ""
        found += [
            f"{what}: {told[0].source} says {_text(getattr(told[0], field))}; {part.source} says "
            f"{_text(getattr(part, field))}{hint}"
            for part in told[1:]
            if getattr(part, field) != getattr(told[0], field)
        ]
    return found


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def facts_of_preset(spec: DetectorSpec) -> Facts:
    """What a preset says of its data and of its shape; widths and depths come from the tensors."""
    encoder, points, grid = spec.encoder, spec.points, spec.grid
    pillars = isinstance(encoder, PillarEncoderSpec)
    return Facts(
        source=f"the preset {spec.name}",
        name=spec.name,
        range_m=(grid.x_min_m, grid.y_min_m, grid.z_min_m, grid.x_max_m, grid.y_max_m, grid.z_max_m),
        cell_m=grid.cell_m,
        height_m=None if isinstance(encoder, PillarEncoderSpec) else encoder.height_m,
        classes=spec.head.classes,
        tasks=tuple(map(len, spec.head.tasks)),
        features=points.features,
        intensity=points.intensity,
        sweeps=points.sweeps,
        camera_view_only=points.camera_view_only,
        encoder="pillar" if pillars else "voxel",
        z_paddings=None if isinstance(encoder, PillarEncoderSpec) else encoder.z_paddings,
        mode=encoder.mode if isinstance(encoder, PillarEncoderSpec) else None,
        max_points=encoder.max_points,
        max_cells=encoder.max_pillars if isinstance(encoder, PillarEncoderSpec) else encoder.max_voxels,
        out_stride=encoder.stride * spec.backbone.out_stride,
        anchors=None if isinstance(spec.head, CenterHeadSpec) else spec.head,
        decode=spec.decode,
    )


def points_of(facts: Facts) -> PointSpec:
    """The point side; everything but the columns has a default.

    Points with an elongation are Waymo's, of whose intensities all three frameworks take the tanh.
    """
    assert facts.features is not None
    usual = "tanh" if "elongation" in facts.features else "raw"
    intensity = facts.intensity if facts.intensity in ("raw", "unit", "tanh") else usual
    return PointSpec(
        features=facts.features,
        sweeps=facts.sweeps or 0,
        intensity=intensity,  # type: ignore[arg-type]
        camera_view_only=bool(facts.camera_view_only),
    )
