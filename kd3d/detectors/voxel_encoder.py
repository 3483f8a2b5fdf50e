"""The voxel encoder: a sparse 3D backbone whose height becomes channels (SECOND, CenterPoint-Voxel)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kd3d.detectors.blocks import TRUNK_EPS, TRUNK_MOMENTUM
from kd3d.detectors.sparse import KernelMap, SparseConv


class SparseConvNorm(nn.Module):
    """A sparse convolution and batch norm over the active sites; the activation is left to its user."""

    def __init__(self, inputs: int, outputs: int, *, kernel: tuple[int, int, int] = (3, 3, 3), bias: bool = False):
        super().__init__()
        self.conv: nn.Module = SparseConv(inputs, outputs, kernel=kernel, bias=bias)
        self.norm: nn.Module = nn.BatchNorm1d(outputs, eps=TRUNK_EPS, momentum=TRUNK_MOMENTUM)

    def forward(self, features: Tensor, kernel_map: KernelMap) -> Tensor:
        """``[N, C]`` to ``[M, C']``."""
        return self.norm(self.conv(features, kernel_map))


class SparseBlock(nn.Module):
    """Submanifold convolutions of one width.

    Args:
        width: in and out.
        residual: two convolutions and a sum, else one.
        bias: of the convolutions.
    """

    def __init__(self, width: int, *, residual: bool, bias: bool) -> None:
        super().__init__()
        self.convs = nn.ModuleList(SparseConvNorm(width, width, bias=bias) for _ in range(2 if residual else 1))

    def forward(self, features: Tensor, kernel_map: KernelMap) -> Tensor:
        """``[N, C]`` to ``[N, C]``, not negative."""
        out = self.convs[0](features, kernel_map)
        for conv in self.convs[1:]:
            out = conv(torch.relu(out), kernel_map) + features
        return torch.relu(out)


class SparseStage(nn.Module):
    """A strided convolution (in all stages but the first) and blocks."""

    def __init__(self, inputs: int, width: int, *, strided: bool, blocks: int, residual: bool, bias: bool) -> None:
        super().__init__()
        self.down = SparseConvNorm(inputs, width) if strided else None
        self.blocks = nn.ModuleList(SparseBlock(width, residual=residual, bias=bias) for _ in range(blocks))

    def forward(self, features: Tensor, strided: KernelMap | None, submanifold: KernelMap | None) -> Tensor:
        """``[N, C]`` to ``[M, C']``."""
        if self.down is not None:
            assert strided is not None
            features = torch.relu(self.down(features, strided))
        for block in self.blocks:
            features = block(features, submanifold)
        return features


class VoxelEncoder(nn.Module):
    """Mean features of voxels to features of the columns above the BEV cells.

    Args:
        inputs: features of a point.
        channels: width of each stage.
        blocks: submanifold blocks per stage.
        input_channels: width of the first convolution.
        out_channels: width of the last.
        residual: kind of the blocks.
        bias: whether the convolutions in blocks have one.
    """

    def __init__(
        self,
        inputs: int,
        *,
        channels: Sequence[int],
        blocks: Sequence[int],
        input_channels: int,
        out_channels: int,
        residual: bool,
        bias: bool,
    ) -> None:
        super().__init__()
        self.input = SparseConvNorm(inputs, input_channels)
        widths = [input_channels, *channels]
        self.stages = nn.ModuleList()
        for stage, (width, count) in enumerate(zip(channels, blocks, strict=True)):
            # A plain first block changes the width; a residual one keeps it (VoxelEncoderSpec sees to that).
            made = SparseStage(widths[stage], width, strided=stage > 0, blocks=count, residual=residual, bias=bias)
            if stage == 0 and widths[0] != width:
                made.blocks[0] = _widening(widths[0], width, bias=bias)
            self.stages.append(made)
        self.out = SparseConvNorm(widths[-1], out_channels, kernel=(3, 1, 1))
        self.out_channels = out_channels

    def forward(self, features: Tensor, tables: Sequence[Tensor]) -> Tensor:
        """Encode voxels.

        Args:
            features: ``[N, F]``, one row per voxel.
            tables: neighbour tables in the order of ``kd3d.spec.VoxelEncoderSpec.tables``.

        Returns:
            ``[M, out_channels]``, not negative: one row per active site of the output.
        """
        found = iter(tables)
        submanifold: KernelMap | None = KernelMap(next(found), features.shape[0], True)
        x = torch.relu(self.input(features, submanifold))
        for index, stage in enumerate(self.stages):
            assert isinstance(stage, SparseStage)
            strided = None
            if index:
                strided = KernelMap(next(found), x.shape[0], False)
                submanifold = KernelMap(next(found), strided.table.shape[0], True) if len(stage.blocks) else None
            x = stage(x, strided, submanifold)
        return torch.relu(self.out(x, KernelMap(next(found), x.shape[0], False)))


def _widening(inputs: int, width: int, *, bias: bool) -> SparseBlock:
    block = SparseBlock(width, residual=False, bias=bias)
    block.convs[0] = SparseConvNorm(inputs, width, bias=bias)
    return block


def scatter_columns(sites: Tensor, cells: Tensor, *, frames: int, ny: int, nx: int, depth: int) -> Tensor:
    """Place the sites of the last sparse layer on the canvas, height folded into channels.

    Args:
        sites: ``[M, C]``.
        cells: ``[M]`` int64, ``((frame * ny + row) * nx + column) * depth + z``; padding rows carry
            ``frames * ny * nx * depth``.
        frames: in the batch.
        ny: rows of the map.
        nx: columns of the map.
        depth: sites above each other.

    Returns:
        ``[B, C * depth, ny, nx]``; the channel of c and z is ``c * depth + z``.
    """
    area, width = frames * ny * nx * depth, sites.shape[1]
    canvas = sites.new_zeros((area + 1, width)).index_put((cells,), sites)
    columns = canvas[:area].view(frames, ny, nx, depth, width)
    return columns.permute(0, 4, 3, 1, 2).reshape(frames, width * depth, ny, nx)
