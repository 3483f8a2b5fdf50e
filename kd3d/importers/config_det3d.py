"""What det3d's configuration says (tianweiy/CenterPoint)."""

from __future__ import annotations

from typing import Any

from kd3d.importers.config_parts import (
    cap_at_test,
    columns,
    data_set,
    deformable,
    detector_name,
    flat,
    groups_of,
    is_pillar,
    refuse,
    repeated,
    square,
)
from kd3d.importers.decodes import EVERY_CELL
from kd3d.importers.facts import Facts
from kd3d.importers.lookup import at, number, numbers, whole, wholes
from kd3d.spec import DecodeSpec


def facts_of_det3d(config: dict[str, Any], source: str) -> Facts:
    """Read ``config`` of det3d; ``source`` names it in messages.

    Raises:
        CheckpointError: it describes a network that kd3d does not have; names every such setting.
    """
    model, grid, rule = at(config, "model"), at(config, "voxel_generator"), at(config, "test_cfg")
    refuse(_unsupported(model, rule), source)
    size = numbers(at(grid, "voxel_size"), 3)
    pillars, data = is_pillar(at(model, "reader")), data_set(config)
    groups = groups_of(at(config, "tasks")) or groups_of(at(model, "bbox_head", "tasks"))
    frames = whole(at(config, "nsweeps"))
    count = whole(at(model, "reader", "num_input_features"))
    return Facts(
        source=source,
        name=detector_name(data, True, pillars),
        range_m=numbers(at(grid, "range"), 6),
        cell_m=square(size, source),
        height_m=size[2] if size and pillars is False else None,
        classes=_usual_names(flat(groups), data),
        tasks=tuple(map(len, groups)) if groups else None,
        features=columns(data, count, sweeps=bool(frames and frames > 1)),
        intensity="tanh" if data == "waymo" else ("raw" if data else None),
        sweeps=frames - 1 if frames else (9 if data == "nuscenes" else None),
        encoder=None if pillars is None else ("pillar" if pillars else "voxel"),
        max_points=whole(at(grid, "max_points_in_voxel")),
        max_cells=cap_at_test(at(grid, "max_voxel_num")),
        strides=wholes(at(model, "neck", "ds_layer_strides")),
        layers=wholes(at(model, "neck", "layer_nums")),
        channels=wholes(at(model, "neck", "ds_num_filters")),
        up_strides=numbers(at(model, "neck", "us_layer_strides")),
        convolution_for_stride_one=True,
        out_stride=whole(at(rule, "out_size_factor")),
        decode=_decode(rule, len(groups)),
        old_boxes=True,
    )


def _usual_names(classes: tuple[str, ...] | None, data: str) -> tuple[str, ...] | None:
    """det3d writes Waymo's classes in capitals, unlike everyone else."""
    return tuple(name.capitalize() for name in classes) if classes and data == "waymo" else classes


def _unsupported(model: Any, rule: Any) -> list[str]:
    wrong = deformable(at(model, "bbox_head"))
    if at(model, "reader", "with_distance") is True:
        wrong.append("reader.with_distance=True")
    if isinstance(at(model, "bbox_head", "common_heads"), dict) and "iou" in at(model, "bbox_head", "common_heads"):
        wrong.append("its head has an IoU branch")
    if at(rule, "nms", "use_multi_class_nms") is True:
        wrong.append("test_cfg.nms.use_multi_class_nms=True")
    if at(rule, "per_class_nms") is True:
        wrong.append("test_cfg.per_class_nms=True")
    return wrong


def _decode(rule: Any, tasks: int) -> DecodeSpec | None:
    nms = at(rule, "nms")
    limit, score = numbers(at(rule, "post_center_limit_range"), 6), number(at(rule, "score_threshold"))
    circle = at(rule, "circular_nms") is True
    thresholds = numbers(at(rule, "min_radius")) if circle else repeated(number(at(nms, "nms_iou_threshold")), tasks)
    pre, post = whole(at(nms, "nms_pre_max_size")), whole(at(nms, "nms_post_max_size"))
    if not tasks or limit is None or score is None or thresholds is None or len(thresholds) != tasks or not post:
        return None
    return DecodeSpec(
        peak_kernel=1,
        top_k=EVERY_CELL,
        score_threshold=score,
        center_limit_m=limit,  # type: ignore[arg-type]
        nms="circle" if circle else "rotate",
        nms_threshold=thresholds,
        nms_pre=EVERY_CELL if circle else pre or EVERY_CELL,
        nms_post=post,
        top_k_rule="cell",
    )
