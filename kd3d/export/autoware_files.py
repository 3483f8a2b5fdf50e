"""The parameter files of Autoware's CenterPoint node, in its layouts before and after its model bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kd3d.export.autoware_rules import Decoration, node_range
from kd3d.spec import DetectorSpec

BUNDLE_VERSION = "v4.1"
BUNDLE_FILE = "ml_package.param.yaml"
REMAPPER_FILE = "detection_class_remapper.param.yaml"
_LABELS = 8  # of Autoware's ObjectClassification: UNKNOWN to PEDESTRIAN
_FAR_M = 1000.0  # upper end of the only distance bin


@dataclass(frozen=True)
class NodeParameters:
    """What the node is told besides the model.

    Args:
        class_names: in the order of the heatmap's channels.
        score_threshold: boxes below it are dropped, of every class.
        yaw_norm: boxes whose rotation vector is shorter are dropped, of every class; 0 keeps all, as kd3d does.
        circle_m: radius of the circle suppression.
    """

    class_names: tuple[str, ...]
    score_threshold: float = 0.35
    yaw_norm: float = 0.0
    circle_m: float = 0.5


def file_names(name: str) -> tuple[str, str]:
    """The two networks' file names, as the node's launch file makes them from the model's name."""
    return f"pts_voxel_encoder_{name}.onnx", f"pts_backbone_neck_head_{name}.onnx"


def parameter_files(
    name: str, spec: DetectorSpec, decoration: Decoration, parameters: NodeParameters, *, precision: str
) -> dict[str, str]:
    """Content by file name.

    Args:
        name: of the model, as in ``model_name:=NAME``.
        spec: of the detector.
        decoration: what the node is to feed.
        parameters: thresholds and class names.
        precision: ``fp32`` or ``fp16``: ``trt_precision``.

    Raises:
        LayoutError: the node cannot count the grid's cells.
    """
    model = _model_parameters(spec, decoration, parameters)
    return {
        f"{name}_ml_package.param.yaml": _yaml({"model_params": model}),
        f"{name}.param.yaml": _yaml(_node_parameters(spec, parameters, precision)),
        REMAPPER_FILE: _yaml(_remapper()),
        BUNDLE_FILE: _yaml(_bundle(name, model, parameters, precision)),
    }


def _model_parameters(spec: DetectorSpec, decoration: Decoration, parameters: NodeParameters) -> dict[str, Any]:
    grid = spec.grid
    return {
        "class_names": list(parameters.class_names),
        "point_feature_size": decoration.point_features,
        "max_voxel_size": spec.pillar_encoder.max_pillars,
        "point_cloud_range": list(node_range(grid)),
        "voxel_size": [grid.cell_m, grid.cell_m, grid.height_m],
        "downsample_factor": spec.encoder.stride * spec.backbone.out_stride,
        "encoder_in_feature_size": decoration.features,
        "has_variance": False,
        "has_twist": spec.center_head.velocity,
    }


def _node_parameters(spec: DetectorSpec, parameters: NodeParameters, precision: str) -> dict[str, Any]:
    classes = len(parameters.class_names)
    files = {
        f"{part}_{kind}_path": f"$(var model_path)/pts_{stem}_$(var model_name).{kind}"
        for part, stem in (("encoder", "voxel_encoder"), ("head", "backbone_neck_head"))
        for kind in ("onnx", "engine")
    }
    return {
        **files,
        "trt_precision": precision,
        "cloud_capacity": 2_000_000,
        "post_process_params": {
            "score_threshold": parameters.score_threshold,
            "score_thresholds": [parameters.score_threshold] * classes,  # what later revisions read instead
            "yaw_norm_thresholds": [parameters.yaw_norm] * classes,
            "circle_nms_dist_threshold": parameters.circle_m,
            "iou_nms_search_distance_2d": 10.0,
            "iou_nms_threshold": 0.1,
        },
        "densification_params": {"world_frame_id": "map", "num_past_frames": spec.points.sweeps},
    }


def _bundle(name: str, model: Mapping[str, Any], parameters: NodeParameters, precision: str) -> dict[str, Any]:
    encoder, head = file_names(name)
    return {
        "version": BUNDLE_VERSION,
        "encoder_onnx_path": encoder,
        "encoder_engine_path": encoder.replace(".onnx", ".engine"),
        "head_onnx_path": head,
        "head_engine_path": head.replace(".onnx", ".engine"),
        "class_remapper_param_path": REMAPPER_FILE,
        "trt_precision": precision,
        "model_params": {
            **model,
            "yaw_norm_thresholds": [parameters.yaw_norm] * len(parameters.class_names),
            "detection_score_thresholds": {
                "distance_bin_upper_limits": [_FAR_M],
                "min_confidence_scores": {item: [parameters.score_threshold] for item in parameters.class_names},
            },
        },
    }


def _remapper() -> dict[str, Any]:
    """No class becomes another by its size."""
    cells = _LABELS**2
    return {
        "allow_remapping_by_area_matrix": [0] * cells,
        "min_area_matrix": [0.0] * cells,
        "max_area_matrix": [0.0] * cells,
    }


def _yaml(parameters: Mapping[str, Any]) -> str:
    lines = ["# Written by kd3d export autoware.", "/**:", "  ros__parameters:"]
    return "\n".join([*lines, *_entries(parameters, 4)]) + "\n"


def _entries(values: Mapping[str, Any], indent: int) -> list[str]:
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += [f"{' ' * indent}{name}:", *_entries(value, indent + 2)]
        else:
            found.append(f"{' ' * indent}{name}: {_scalar(value)}")
    return found


def _scalar(value: Any) -> str:
    """ROS takes the type from the text: a double needs its point, and no exponent."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return np.format_float_positional(value, trim="0")
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, Sequence):
        return f"[{', '.join(_scalar(item) for item in value)}]"
    return str(value)
