"""Voxels and the sparse 3D backbone over them (SECOND, CenterPoint-Voxel), as data."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from kd3d.errors import SpecError
from kd3d.geometry.grid import BevGrid
from kd3d.spec.limits import MOST_CHANNELS, MOST_LAYERS, MOST_POINTS, MOST_ROWS, at_most

_MOST_STAGES, _MOST_HEIGHT = 12, 4096
_WHOLE = 1e-4  # 6.0 / 0.15 is not exact in binary


@dataclass(frozen=True)
class VoxelEncoderSpec:
    """Mean of each voxel's points, a sparse 3D backbone, and its height folded into BEV channels.

    OpenPCDet's ``VoxelResBackBone8x`` (``residual``) and ``VoxelBackBone8x`` (``plain``): a submanifold 3x3x3
    convolution of the points, then stages. Every stage but the first begins with a strided 3x3x3 convolution that
    halves z, y and x. At the end a (3, 1, 1) convolution of z stride 2; BEV channel = channel * depth + z.

    Args:
        height_m: of a voxel; its sides are the grid's ``cell_m``.
        channels: width of each stage.
        blocks: submanifold blocks per stage, after the strided convolution.
        input_channels: width of the first convolution.
        out_channels: width of the last convolution, before height is folded in.
        block: ``residual`` is two submanifold convolutions and a sum, ``plain`` is one.
        block_bias: whether the convolutions in blocks have a bias (OpenPCDet's residual ones do, despite their norm).
        z_paddings: of the strided convolutions, one per stage but the first; y and x have 1.
        max_points: points kept per voxel.
        max_voxels: voxels kept per frame, in order of their first point.
    """

    height_m: float
    channels: tuple[int, ...]
    blocks: tuple[int, ...]
    input_channels: int = 16
    out_channels: int = 128
    block: Literal["residual", "plain"] = "residual"
    block_bias: bool = True
    z_paddings: tuple[int, ...] = (1, 1, 0)
    max_points: int = 5
    max_voxels: int = 150000
    kind: Literal["voxel"] = "voxel"

    def __post_init__(self) -> None:
        if not self.height_m > 0:
            raise SpecError(f"the voxel height_m must be positive, not {self.height_m:g}.")
        if (
            not self.channels
            or len(self.blocks) != len(self.channels)
            or len(self.z_paddings) != len(self.channels) - 1
        ):
            raise SpecError(
                "channels and blocks of a voxel encoder must be equally long and z_paddings one shorter; they have "
                f"{len(self.channels)}, {len(self.blocks)} and {len(self.z_paddings)} entries."
            )
        if min(*self.channels, self.input_channels, self.out_channels) < 1 or min(self.blocks) < 0:
            raise SpecError("channels of a voxel encoder must be at least 1, and blocks at least 0.")
        if self.block == "residual" and self.blocks[0] and self.input_channels != self.channels[0]:
            raise SpecError(
                f"a residual first stage keeps its width: input_channels is {self.input_channels}, "
                f"channels[0] {self.channels[0]}."
            )
        if self.block == "plain" and not self.blocks[0] and self.input_channels != self.channels[0]:
            raise SpecError(f"without blocks the first stage has input_channels {self.input_channels} channels.")
        if any(padding not in (0, 1) for padding in self.z_paddings):
            raise SpecError(f"z_paddings must be 0 or 1, not {self.z_paddings}.")
        if self.max_points < 1 or self.max_voxels < 1:
            raise SpecError("max_points and max_voxels must be at least 1.")
        at_most(MOST_CHANNELS, channels=self.channels, inputs=self.input_channels, outputs=self.out_channels)
        at_most(MOST_LAYERS, blocks=self.blocks)
        at_most(_MOST_STAGES, stages=len(self.channels))
        at_most(MOST_POINTS, max_points=self.max_points)
        at_most(MOST_ROWS, max_voxels=self.max_voxels)

    @property
    def rows(self) -> int:
        """Most sites that a stage of an export is planned for."""
        return self.max_voxels

    def capped(self, rows: int) -> VoxelEncoderSpec:
        """The same, keeping at most ``rows`` voxels per frame."""
        return replace(self, max_voxels=min(self.max_voxels, rows))

    @property
    def stride(self) -> int:
        """Grid cells per cell of the BEV map."""
        return int(2 ** (len(self.channels) - 1))

    @property
    def tables(self) -> tuple[str, ...]:
        """Names of the neighbour tables that the network reads, in its order.

        ``submanifold0``, then per further stage ``strided1`` and (where it has blocks) ``submanifold1``; last
        ``strided_out``.
        """
        names = ["submanifold0"]
        for stage, blocks in enumerate(self.blocks[1:], start=1):
            names += [f"strided{stage}", *([f"submanifold{stage}"] if blocks else [])]
        return (*names, "strided_out")

    def z_sizes(self, grid: BevGrid) -> tuple[int, ...]:
        """Height in voxels of each stage, and of the output: 41, 21, 11, 5, 2 for the published ones.

        Raises:
            SpecError: the grid's height is not a whole number of voxels, or too low for the stages.
        """
        layers = grid.height_m / self.height_m
        if not layers <= _MOST_HEIGHT:
            raise SpecError(f"{layers:g} voxels of height are more than {_MOST_HEIGHT}; use higher voxels.")
        if abs(layers - round(layers)) > _WHOLE:
            raise SpecError(
                f"the z range of {grid.height_m:g} m is {layers:.3f} voxels of {self.height_m:g} m; "
                "it must be a whole number."
            )
        sizes = [round(layers) + 1]  # the code bases add an empty layer on top
        for padding in self.z_paddings:
            sizes.append((sizes[-1] + 2 * padding - 3) // 2 + 1)
        sizes.append((sizes[-1] - 3) // 2 + 1)
        if min(sizes) < 1:
            raise SpecError(
                f"{round(layers)} voxels of height are too few for {len(self.channels)} stages; use lower voxels."
            )
        return tuple(sizes)

    def bev_channels(self, grid: BevGrid) -> int:
        """Channels of the BEV map."""
        return self.out_channels * self.z_sizes(grid)[-1]
