"""A detector as data. ``kd3d.detectors.build`` is the only way from here to a network."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from kd3d.errors import SpecError
from kd3d.geometry.grid import BevGrid
from kd3d.spec.anchor import AnchorHeadSpec
from kd3d.spec.decode import DecodeSpec
from kd3d.spec.limits import MOST_CHANNELS, MOST_LAYERS, MOST_POINTS, MOST_ROWS, at_most
from kd3d.spec.voxel import VoxelEncoderSpec


@dataclass(frozen=True)
class PointSpec:
    """What of the cloud the detector eats.

    Args:
        features: columns in the order the network sees them, out of ``x y z intensity time_lag elongation ring``.
            ``time_lag`` is seconds before the key frame (0 or positive).
        sweeps: how many past sweeps are added to the key frame.
        intensity: ``raw`` as in the file, ``unit`` divided by 255, ``tanh``.
        camera_view_only: keep only points that project into the front camera (KITTI's convention).
    """

    features: tuple[str, ...] = ("x", "y", "z", "intensity")
    sweeps: int = 0
    intensity: Literal["raw", "unit", "tanh"] = "raw"
    camera_view_only: bool = False

    def __post_init__(self) -> None:
        known = ("x", "y", "z", "intensity", "time_lag", "elongation", "ring")
        unknown = [name for name in self.features if name not in known]
        if unknown or self.features[:3] != ("x", "y", "z"):
            raise SpecError(
                f"point features must begin with x, y, z and be out of {', '.join(known)}; got {self.features}."
            )
        if not 0 <= self.sweeps <= MOST_LAYERS:
            raise SpecError(f"sweeps must be 0 to {MOST_LAYERS}, not {self.sweeps}.")


@dataclass(frozen=True)
class PillarEncoderSpec:
    """PointNet over the points of each pillar.

    Args:
        filters: output width of each layer. Every layer but the last puts out half its width and appends the
            pillar's maximum to each point, as in PointPillars' code base.
        max_points: points kept per pillar. With ``hard`` this is part of the detector; with ``dynamic`` all points
            count in torch, and this is only the padding of an export.
        max_pillars: pillars kept per frame, in order of their first point.
        mode: ``hard``: unused point slots are zero rows that take part in normalisation-and-maximum, as in OpenPCDet's
            PillarVFE. ``dynamic``: no padding rows, as in DynPillarVFE.
    """

    filters: tuple[int, ...] = (64,)
    max_points: int = 20
    max_pillars: int = 30000
    mode: Literal["hard", "dynamic"] = "hard"

    def __post_init__(self) -> None:
        if not self.filters or min(self.filters) < 1 or any(width % 2 for width in self.filters[:-1]):
            raise SpecError(f"encoder filters must be positive, and even but for the last; got {self.filters}.")
        if self.max_points < 1 or self.max_pillars < 1:
            raise SpecError("max_points and max_pillars must be at least 1.")
        at_most(MOST_CHANNELS, filters=self.filters)
        at_most(MOST_POINTS, max_points=self.max_points)
        at_most(MOST_ROWS, max_pillars=self.max_pillars)

    @property
    def rows(self) -> int:
        """Most rows that an export is planned for."""
        return self.max_pillars

    def capped(self, rows: int) -> PillarEncoderSpec:
        """The same, keeping at most ``rows`` pillars per frame."""
        return replace(self, max_pillars=min(self.max_pillars, rows))

    @property
    def stride(self) -> int:
        """Grid cells per cell of the BEV map."""
        return 1

    def bev_channels(self, grid: BevGrid) -> int:
        """Channels of the BEV map; only a voxel encoder's depend on ``grid``."""
        return self.filters[-1]


@dataclass(frozen=True)
class BevBackboneSpec:
    """Strided levels, each brought to one resolution by an up branch; the branches are concatenated.

    Args:
        strides: of the first convolution of each level.
        layers: further 3x3 convolutions per level (a level has ``layers + 1``).
        channels: per level.
        up_strides: 2 or 4 is a transposed convolution, 1 a 1x1 transposed convolution, 0.5 a strided convolution.
        up_channels: per branch.
    """

    strides: tuple[int, ...]
    layers: tuple[int, ...]
    channels: tuple[int, ...]
    up_strides: tuple[float, ...]
    up_channels: tuple[int, ...]

    def __post_init__(self) -> None:
        lengths = {len(self.strides), len(self.layers), len(self.channels), len(self.up_strides), len(self.up_channels)}
        if len(lengths) != 1 or 0 in lengths:
            raise SpecError("strides, layers, channels, up_strides and up_channels must be equally long and not empty.")
        if min(self.channels) < 1 or min(self.up_channels) < 1 or min(self.layers) < 0 or min(self.strides) < 1:
            raise SpecError("channels and strides must be at least 1, and layers at least 0.")
        at_most(MOST_CHANNELS, channels=self.channels, up_channels=self.up_channels)
        at_most(MOST_LAYERS, layers=self.layers, strides=self.strides, levels=len(self.layers))
        if not all(_whole(up) or _whole(1 / up if up else 0) for up in self.up_strides):
            raise SpecError(f"up_strides must be whole numbers, or one over such, not {self.up_strides}.")
        if len(set(self._out_strides())) != 1:
            raise SpecError(f"the up branches end at different strides {self._out_strides()}; they must agree.")
        if self._out_strides()[0] != int(self._out_strides()[0]):
            raise SpecError(f"the output stride {self._out_strides()[0]:g} must be a whole number of cells.")

    def _out_strides(self) -> list[float]:
        total, found = 1, []
        for stride, up in zip(self.strides, self.up_strides, strict=True):
            total *= stride
            found.append(total / up)
        return found

    @property
    def out_stride(self) -> int:
        """Grid cells per cell of the output."""
        return int(self._out_strides()[0])

    @property
    def out_channels(self) -> int:
        """Channels of the concatenated output."""
        return sum(self.up_channels)

    @property
    def total_stride(self) -> int:
        """Grid cells per cell of the coarsest level; the grid must be a multiple of it."""
        product = 1
        for stride in self.strides:
            product *= stride
        return product


def _whole(number: float) -> bool:
    return 1 <= number <= MOST_LAYERS and abs(number - round(number)) < 1e-6


@dataclass(frozen=True)
class CenterHeadSpec:
    """CenterPoint's head: a shared convolution, then per task one branch per regressed quantity and one heatmap.

    Args:
        tasks: class names, grouped; the order is the order of the output labels.
        shared_channels: width of the shared convolution.
        branch_channels: width of the hidden convolution of each branch.
        velocity: whether there is a ``vel`` branch.
    """

    tasks: tuple[tuple[str, ...], ...]
    shared_channels: int = 64
    branch_channels: int = 64
    velocity: bool = False

    def __post_init__(self) -> None:
        if not self.tasks or not all(self.tasks):
            raise SpecError("a head needs at least one task, and each task at least one class.")
        if len(set(self.classes)) != len(self.classes):
            raise SpecError(f"a class occurs twice in the tasks {self.tasks}.")
        if self.shared_channels < 1 or self.branch_channels < 1:
            raise SpecError("shared_channels and branch_channels must be at least 1.")
        at_most(MOST_CHANNELS, shared_channels=self.shared_channels, branch_channels=self.branch_channels)

    @property
    def classes(self) -> tuple[str, ...]:
        """All class names, in the order of the output labels."""
        return tuple(name for task in self.tasks for name in task)

    @property
    def branches(self) -> tuple[tuple[str, int], ...]:
        """Regression branches and their channels, in order; the heatmap follows them."""
        found = (("center", 2), ("center_z", 1), ("dim", 3), ("rot", 2))
        return (*found, ("vel", 2)) if self.velocity else found


@dataclass(frozen=True)
class DetectorSpec:
    """Everything that makes a detector but its weights. ``format`` is the version of this description."""

    name: str
    points: PointSpec
    grid: BevGrid
    encoder: PillarEncoderSpec | VoxelEncoderSpec
    backbone: BevBackboneSpec
    head: CenterHeadSpec | AnchorHeadSpec
    decode: DecodeSpec
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        stride = self.encoder.stride * self.backbone.total_stride
        if self.grid.nx % stride or self.grid.ny % stride:
            raise SpecError(
                f"the grid of {self.grid.ny} x {self.grid.nx} cells is not a multiple of the backbone's "
                f"stride {stride}. Change the range or the cell."
            )
        if isinstance(self.encoder, VoxelEncoderSpec):
            self.encoder.z_sizes(self.grid)
        if len(self.decode.nms_threshold) != len(self.head.tasks):
            raise SpecError(
                f"decode.nms_threshold has {len(self.decode.nms_threshold)} entries for {len(self.head.tasks)} task(s)."
            )

    @property
    def pillar_encoder(self) -> PillarEncoderSpec:
        """The encoder, for code that works on pillars only.

        Raises:
            SpecError: the detector has another encoder.
        """
        if not isinstance(self.encoder, PillarEncoderSpec):
            raise SpecError(f"{self.name} has a {self.encoder.kind} encoder, but this works with pillars only.")
        return self.encoder

    @property
    def center_head(self) -> CenterHeadSpec:
        """The head, for code that works on centre heads only.

        Raises:
            SpecError: the detector has another head.
        """
        if not isinstance(self.head, CenterHeadSpec):
            raise SpecError(f"{self.name} has an {self.head.kind} head, but this works with centre heads only.")
        return self.head

    @property
    def anchor_head(self) -> AnchorHeadSpec:
        """The head, for code that works on anchor heads only.

        Raises:
            SpecError: the detector has another head.
        """
        if not isinstance(self.head, AnchorHeadSpec):
            raise SpecError(f"{self.name} has a centre head, but this works with anchor heads only.")
        return self.head

    @property
    def output_grid(self) -> BevGrid:
        """The grid of the head maps."""
        return self.grid.coarsened(self.encoder.stride * self.backbone.out_stride)

    @property
    def bev_channels(self) -> int:
        """Channels of the map that the backbone reads."""
        return self.encoder.bev_channels(self.grid)

    @property
    def point_inputs(self) -> int:
        """Channels of a point: its features; in pillars also offsets to the pillar's mean (3) and centre (3)."""
        return len(self.points.features) + (6 if isinstance(self.encoder, PillarEncoderSpec) else 0)
