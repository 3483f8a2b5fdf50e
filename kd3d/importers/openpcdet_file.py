"""The way back: a detector of kd3d as a checkpoint and a configuration of OpenPCDet."""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kd3d.detectors.checkpoint import Model
from kd3d.errors import SpecError
from kd3d.optional import require
from kd3d.runs.atomic import atomic_file, write_text
from kd3d.spec import AnchorHeadSpec, DetectorSpec, VoxelEncoderSpec

_PLACES = [
    (r"encoder\.layers\.(\d+)\.(.*)", r"vfe.pfn_layers.\1.\2"),
    (r"backbone\.ups\.(\d+)\.conv\.(.*)", r"backbone_2d.deblocks.\1.0.\2"),
    (r"backbone\.ups\.(\d+)\.norm\.(.*)", r"backbone_2d.deblocks.\1.1.\2"),
    (r"head\.shared\.conv\.(.*)", r"dense_head.shared_conv.0.\1"),
    (r"head\.shared\.norm\.(.*)", r"dense_head.shared_conv.1.\1"),
    (r"head\.tasks\.(\d+)\.(\w+)\.hidden\.conv\.(.*)", r"dense_head.heads_list.\1.\2.0.0.\3"),
    (r"head\.tasks\.(\d+)\.(\w+)\.hidden\.norm\.(.*)", r"dense_head.heads_list.\1.\2.0.1.\3"),
    (r"head\.tasks\.(\d+)\.(\w+)\.out\.(.*)", r"dense_head.heads_list.\1.\2.1.\3"),
    (r"encoder\.input\.conv\.(.*)", r"backbone_3d.conv_input.0.\1"),
    (r"encoder\.input\.norm\.(.*)", r"backbone_3d.conv_input.1.\1"),
    (r"encoder\.out\.conv\.(.*)", r"backbone_3d.conv_out.0.\1"),
    (r"encoder\.out\.norm\.(.*)", r"backbone_3d.conv_out.1.\1"),
]
_FEATURES = {"time_lag": "timestamp"}
_DATA_SETS = {"raw": "NuScenesDataset", "tanh": "WaymoDataset"}


def write_openpcdet(folder: Path, model: Model) -> tuple[Path, Path]:
    """Write ``folder/model.pth`` and ``folder/model.yaml``.

    Where kd3d divides intensities by 255 the first layer does so instead, since OpenPCDet's are raw. The way from maps
    to boxes is in the configuration where OpenPCDet has it: it has no local maxima, and always suppresses.

    Returns:
        The checkpoint, and its configuration.

    Raises:
        SpecError: not a CenterPoint, or one whose encoder OpenPCDet does not have.
        OutputError: the folder cannot be written.
    """
    spec = model.spec
    if isinstance(spec.head, AnchorHeadSpec):
        raise SpecError(f"{spec.name} has an anchor head; only CenterPoints are written for OpenPCDet.")
    if isinstance(spec.encoder, VoxelEncoderSpec) and spec.encoder.block != "residual":
        raise SpecError(f"{spec.name} has plain sparse blocks; only residual ones are written for OpenPCDet.")
    checkpoint, config = Path(folder) / "model.pth", Path(folder) / "model.yaml"
    content = {"epoch": 0, "it": 0, "model_state": _state(model), "optimizer_state": None, "version": "none"}
    with atomic_file(checkpoint) as file:
        torch.save(content, file, _use_new_zipfile_serialization=False)  # as OpenPCDet itself saves
    write_text(config, require("yaml", extra="torch").safe_dump(_settings(spec), sort_keys=False))
    return checkpoint, config


def _state(model: Model) -> OrderedDict[str, Tensor]:
    """Its tensors by their names: rot is (cos, sin) there."""
    state = OrderedDict()
    points, voxels = model.spec.points, isinstance(model.spec.encoder, VoxelEncoderSpec)
    scaled = points.features.index("intensity") if points.intensity == "unit" else None
    first = "encoder.input.conv.weight" if voxels else "encoder.layers.0.linear.weight"
    for name, ours in model.module.state_dict().items():
        tensor = ours.detach().cpu().clone()
        if name == first and scaled is not None:
            tensor[:, scaled] /= 255
        state[_their_name(name)] = _their_layout(name, tensor)
    return state


def _their_layout(name: str, tensor: Tensor) -> Tensor:
    if re.search(r"\.rot\.out\.(weight|bias)$", name):
        return tensor.flip(0)
    if not (name.startswith("encoder.") and name.endswith("conv.weight")):
        return tensor
    side = round((tensor.shape[2] / 3) ** 0.5)  # [C', C, kz * ky * kx] becomes [C', kz, ky, kx, C] of spconv 2
    return tensor.unflatten(2, (3, side, side)).permute(0, 2, 3, 4, 1).contiguous()


def _their_name(name: str) -> str:
    level = re.fullmatch(r"backbone\.levels\.(\d+)\.(\d+)\.(conv|norm)\.(.*)", name)
    if level:  # a padding leads each level
        return f"backbone_2d.blocks.{level[1]}.{3 * int(level[2]) + 1 + (level[3] == 'norm')}.{level[4]}"
    down = re.fullmatch(r"encoder\.stages\.(\d+)\.down\.(conv|norm)\.(.*)", name)
    if down:
        return f"backbone_3d.conv{int(down[1]) + 1}.0.{int(down[2] == 'norm')}.{down[3]}"
    block = re.fullmatch(r"encoder\.stages\.(\d+)\.blocks\.(\d+)\.convs\.(\d+)\.(conv|norm)\.(.*)", name)
    if block:
        stage, index, kind = int(block[1]), int(block[2]), {"conv": "conv", "norm": "bn"}[block[4]]
        return f"backbone_3d.conv{stage + 1}.{index + (1 if stage else 0)}.{kind}{int(block[3]) + 1}.{block[5]}"
    return next(re.sub(pattern, to, name) for pattern, to in _PLACES if re.fullmatch(pattern, name))


def _settings(spec: DetectorSpec) -> dict[str, Any]:
    encoder, trunk = spec.encoder, spec.backbone
    if isinstance(encoder, VoxelEncoderSpec):
        sparse = {"NAME": "VoxelResBackBone8x", **({} if encoder.block_bias else {"USE_BIAS": False})}
        points = {"VFE": {"NAME": "MeanVFE"}, "BACKBONE_3D": sparse, "MAP_TO_BEV": {"NAME": "HeightCompression"}}
    else:
        kind = "DynPillarVFE" if encoder.mode == "dynamic" else "PillarVFE"
        vfe = {"NAME": kind, "NUM_FILTERS": list(encoder.filters)}
        points = {"VFE": vfe, "MAP_TO_BEV": {"NAME": "PointPillarScatter"}}
    network = {
        "NAME": "CenterPoint",
        **points,
        "BACKBONE_2D": {
            "NAME": "BaseBEVBackbone",
            "LAYER_NUMS": list(trunk.layers),
            "LAYER_STRIDES": list(trunk.strides),
            "NUM_FILTERS": list(trunk.channels),
            "UPSAMPLE_STRIDES": list(trunk.up_strides),
            "NUM_UPSAMPLE_FILTERS": list(trunk.up_channels),
        },
        "DENSE_HEAD": {
            "NAME": "CenterHead",
            "CLASS_NAMES_EACH_HEAD": [list(task) for task in spec.head.tasks],
            "SHARED_CONV_CHANNEL": spec.center_head.shared_channels,
            "TARGET_ASSIGNER_CONFIG": {"FEATURE_MAP_STRIDE": encoder.stride * trunk.out_stride},
            **_boxes(spec),
        },
    }
    return {"CLASS_NAMES": list(spec.head.classes), "DATA_CONFIG": _data(spec), "MODEL": network}


def _data(spec: DetectorSpec) -> dict[str, Any]:
    grid, encoder = spec.grid, spec.encoder
    height = encoder.height_m if isinstance(encoder, VoxelEncoderSpec) else grid.height_m
    return {
        "DATASET": _DATA_SETS.get(spec.points.intensity, "NuScenesDataset"),
        "MAX_SWEEPS": spec.points.sweeps + 1,
        "POINT_CLOUD_RANGE": [grid.x_min_m, grid.y_min_m, grid.z_min_m, grid.x_max_m, grid.y_max_m, grid.z_max_m],
        "POINT_FEATURE_ENCODING": {"used_feature_list": [_FEATURES.get(name, name) for name in spec.points.features]},
        "DATA_PROCESSOR": [
            {
                "NAME": "transform_points_to_voxels",
                "VOXEL_SIZE": [grid.cell_m, grid.cell_m, height],
                "MAX_POINTS_PER_VOXEL": encoder.max_points,
                "MAX_NUMBER_OF_VOXELS": {"train": encoder.rows, "test": encoder.rows},
            }
        ],
    }


def _boxes(spec: DetectorSpec) -> dict[str, Any]:
    rule = spec.decode
    if rule.peak_kernel != 1 or rule.nms != "rotate" or rule.top_k_rule != "class" or len(set(rule.nms_threshold)) != 1:
        return {}
    nms = {"NMS_TYPE": "nms_gpu", "NMS_THRESH": rule.nms_threshold[0]}
    return {
        "POST_PROCESSING": {
            "SCORE_THRESH": rule.score_threshold,
            "POST_CENTER_LIMIT_RANGE": list(rule.center_limit_m),
            "MAX_OBJ_PER_SAMPLE": rule.top_k,
            "NMS_CONFIG": {**nms, "NMS_PRE_MAXSIZE": rule.nms_pre, "NMS_POST_MAXSIZE": rule.nms_post},
        }
    }
