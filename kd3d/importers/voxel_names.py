"""Names and layouts of sparse 3D backbones: VoxelResBackBone8x, VoxelBackBone8x, SparseEncoder, SpMiddleResNetFHD."""

from __future__ import annotations

import re
from collections.abc import Callable

from torch import Tensor

from kd3d.importers.container import Framework

_REST = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_PARTS = {"0": "conv", "1": "norm"}
Write = Callable[[re.Match[str]], "str | None"]


def voxel_rules(framework: Framework, residual: bool) -> list[tuple[str, Write]]:
    """Patterns and writers of kd3d's names; ``residual`` tells mmdetection3d's two kinds of stages apart."""
    prefix = {"openpcdet": r"backbone_3d\.", "mmdet3d": r"(?:pts_)?middle_encoder\.", "det3d": r"backbone\."}[framework]
    last = "extra_conv" if framework == "det3d" else "conv_out"
    rules: list[tuple[str, Write]] = [
        (rf"{prefix}conv_input\.([01])\.{_REST}", lambda m: f"encoder.input.{_PARTS[m[1]]}.{m[2]}"),
        (rf"{prefix}{last}\.([01])\.{_REST}", lambda m: f"encoder.out.{_PARTS[m[1]]}.{m[2]}"),
    ]
    stage = r"encoder_layers\.encoder_layer([1-4])" if framework == "mmdet3d" else r"conv([1-4])"
    rules.append((rf"{prefix}{stage}\.(\d+)\.(conv|bn)([12])\.{_REST}", _residual(framework)))
    if framework == "det3d":
        rules.append((rf"{prefix}{stage}\.([01])\.{_REST}", _det3d_down))
    elif framework == "mmdet3d" and residual:
        rules.append((rf"{prefix}{stage}\.2\.([01])\.{_REST}", _mmdet_down))
    else:
        rules.append((rf"{prefix}{stage}\.(\d+)\.([01])\.{_REST}", _plain))
    return rules


def _residual(framework: Framework) -> Write:
    def write(match: re.Match[str]) -> str | None:
        stage, block = int(match[1]) - 1, int(match[2])
        first = {"openpcdet": 1, "mmdet3d": 0, "det3d": 3}[framework] if stage else 0
        if block < first:
            return None
        part = "conv" if match[3] == "conv" else "norm"
        return f"encoder.stages.{stage}.blocks.{block - first}.convs.{int(match[4]) - 1}.{part}.{match[5]}"

    return write


def _plain(match: re.Match[str]) -> str:
    stage, block, part = int(match[1]) - 1, int(match[2]), _PARTS[match[3]]
    if stage and not block:
        return f"encoder.stages.{stage}.down.{part}.{match[4]}"
    return f"encoder.stages.{stage}.blocks.{block - (1 if stage else 0)}.convs.0.{part}.{match[4]}"


def _mmdet_down(match: re.Match[str]) -> str:
    """mmdetection3d puts the strided convolution at the end of the stage before."""
    return f"encoder.stages.{match[1]}.down.{_PARTS[match[2]]}.{match[3]}"


def _det3d_down(match: re.Match[str]) -> str | None:
    stage = int(match[1]) - 1
    return f"encoder.stages.{stage}.down.{_PARTS[match[2]]}.{match[3]}" if stage else None


def unify_layouts(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Sparse kernels as ``[C', C, kz * ky * kx]``, whatever version of spconv wrote them, and which one that was.

    A first axis of 1 or 3 is spconv 1.x (kz, ky, kx, C, C') or the native layout of 2.0 (kz, ky, kx, C', C), which the
    first convolution tells apart by the width of its norm; any other is 2.x (C', kz, ky, kx, C).
    """
    first, norm = tensors.get("encoder.input.conv.weight"), tensors.get("encoder.input.norm.weight")
    if first is None or first.ndim != 5 or norm is None:
        return tensors, []
    width = norm.shape[0]
    if first.shape[0] not in (1, 3):
        layout, order = "spconv 2.x", (0, 4, 1, 2, 3)
    elif first.shape[4] != width and first.shape[3] == width:
        layout, order = "spconv 2.0 native", (3, 4, 0, 1, 2)
    else:
        layout, order = "spconv 1.x", (4, 3, 0, 1, 2)
    made = {
        name: tensor.permute(order).flatten(2).contiguous()
        if name.startswith("encoder.") and name.endswith("conv.weight") and tensor.ndim == 5
        else tensor
        for name, tensor in tensors.items()
    }
    return made, [f"sparse kernels are in the layout of {layout}"]
