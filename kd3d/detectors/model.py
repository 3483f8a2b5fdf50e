"""CenterPoint: pillars or voxels, BEV backbone, centre head."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kd3d.detectors.anchor_head import AnchorHead
from kd3d.detectors.backbone import BevBackbone
from kd3d.detectors.batch import Batch, PillarBatch
from kd3d.detectors.blocks import scatter_to_bev
from kd3d.detectors.encoder import PillarEncoder
from kd3d.detectors.head import CenterHead
from kd3d.detectors.voxel_encoder import VoxelEncoder, scatter_columns
from kd3d.geometry.grid import BevGrid
from kd3d.spec import DetectorSpec, VoxelEncoderSpec


class BevTap(NamedTuple):
    """A feature map in metric space: ``tensor [B, C, Y, X]`` over ``grid``."""

    name: str
    tensor: Tensor
    grid: BevGrid


class DetectorOutput(NamedTuple):
    """What a detector returns: the head maps of each task (``[B, C, H, W]``) and the feature maps on the way.

    ``heads`` are ``TaskMaps`` of a centre head, or one ``AnchorMaps`` of an anchor head.
    """

    heads: tuple[Any, ...]
    taps: tuple[BevTap, ...]


class CenterPoint(nn.Module):
    """A detector with a centre or anchor head; made by ``kd3d.detectors.build.build``.

    Attributes:
        spec: what it was built from.
        encoder, backbone, head: its three parts.
    """

    def __init__(
        self,
        spec: DetectorSpec,
        *,
        encoder: PillarEncoder | VoxelEncoder,
        backbone: BevBackbone,
        head: CenterHead | AnchorHead,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.encoder = encoder
        self.backbone = backbone
        self.head = head
        self._tap_grids = _tap_grids(spec)

    def forward(self, batch: Batch) -> DetectorOutput:
        """Head maps (raw: logits, log sizes) and taps ``level0`` ... and ``neck`` for a batch of frames."""
        levels, neck = self.backbone(self._canvas(self._encode(batch), batch.cells, batch.batch_size))
        maps = [*levels, neck]
        taps = (BevTap(name, tensor, grid) for (name, grid), tensor in zip(self._tap_grids, maps, strict=True))
        return DetectorOutput(self.head(neck), tuple(taps))

    def forward_tensors(self, *inputs: Tensor, batch_size: int = 1) -> tuple[Tensor, ...]:
        """The same from and to plain tensors, for export: padded pillars, or voxels and tables, in; maps out.

        Args:
            *inputs: in the order of ``kd3d.runtime.inputs.input_names``: ``features [P, N, D]``, ``counts [P]`` and
                ``cells [P]``; or ``features [N, F]``, tables and ``cells [M]``.
            batch_size: frames.

        Returns:
            ``[B, C, H, W]`` maps in the order of ``kd3d.runtime.heads.onnx_names``.
        """
        features, *others, cells = inputs
        if isinstance(self.encoder, VoxelEncoder):
            encoded = self.encoder(features, others)
        else:
            encoded = self.encoder(features, others[0])
        _, neck = self.backbone(self._canvas(encoded, cells, batch_size))
        return tuple(tensor for task in self.head(neck) for tensor in task if tensor is not None)

    def _encode(self, batch: Batch) -> Tensor:
        device = batch.features.device.type
        mixed = torch.is_autocast_enabled(device)
        # Coordinates stay in fp32: 51.2 m is known to 0.25 m in bf16.
        with torch.autocast(device, enabled=False) if mixed else nullcontext():
            encoded = self._rows(batch)
        # Without autocast the rest may have been cast as a whole: a teacher at inference speed.
        return encoded.to(torch.get_autocast_dtype(device) if mixed else next(self.backbone.parameters()).dtype)

    def _rows(self, batch: Batch) -> Tensor:
        """One row per pillar, or per site of the last sparse layer."""
        found: Tensor
        if isinstance(self.encoder, VoxelEncoder):
            assert not isinstance(batch, PillarBatch), f"{self.spec.name} reads voxels"
            found = self.encoder(batch.features, batch.tables)
        else:
            assert isinstance(batch, PillarBatch), f"{self.spec.name} reads pillars"
            if batch.flat_pillar is None:
                found = self.encoder(batch.features, batch.counts)
            else:
                found = self.encoder.forward_flat(batch.features, batch.flat_pillar, batch.cells.shape[0])
        return found

    def _canvas(self, rows: Tensor, cells: Tensor, batch_size: int) -> Tensor:
        grid, encoder = self.spec.grid, self.spec.encoder
        if isinstance(encoder, VoxelEncoderSpec):
            ny, nx, depth = grid.ny // encoder.stride, grid.nx // encoder.stride, encoder.z_sizes(grid)[-1]
            return scatter_columns(rows, cells, frames=batch_size, ny=ny, nx=nx, depth=depth)
        return scatter_to_bev(rows, cells, batch_size=batch_size, ny=grid.ny, nx=grid.nx)


def _tap_grids(spec: DetectorSpec) -> tuple[tuple[str, BevGrid], ...]:
    found, stride = [], spec.encoder.stride
    for index, step in enumerate(spec.backbone.strides):
        stride *= step
        found.append((f"level{index}", spec.grid.coarsened(stride)))
    return (*found, ("neck", spec.output_grid))
