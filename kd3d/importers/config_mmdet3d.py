"""What mmdetection3d's configuration says."""

from __future__ import annotations

from typing import Any

from kd3d.importers.anchor_config import anchors_of_mmdet3d, decode_of_mmdet3d
from kd3d.importers.config_parts import (
    cap_at_test,
    columns,
    data_set,
    deformable,
    detector_name,
    first,
    flat,
    groups_of,
    is_pillar,
    kind_of,
    refuse,
    repeated,
    square,
)
from kd3d.importers.facts import Facts
from kd3d.importers.lookup import at, flag, number, numbers, text, whole, wholes, words
from kd3d.spec import DecodeSpec

_SWEEPS = 9  # of nuScenes; the key frame is not counted


def facts_of_mmdet3d(config: dict[str, Any], source: str) -> Facts:
    """Read ``config`` of mmdetection3d; ``source`` names it in messages.

    Raises:
        CheckpointError: it describes a network that kd3d does not have; names every such setting.
    """
    model = at(config, "model")
    refuse(_unsupported(model), source)
    encoder = first(model, "pts_voxel_encoder", "voxel_encoder")
    grid = first(model, "pts_voxel_layer", "voxel_layer") or at(model, "data_preprocessor", "voxel_layer")
    head = first(model, "pts_bbox_head", "bbox_head")
    trunk, neck = first(model, "pts_backbone", "backbone"), first(model, "pts_neck", "neck")
    size = numbers(first(grid, "voxel_size") or at(config, "voxel_size") or at(encoder, "voxel_size"), 3)
    pillars, data, center = is_pillar(encoder), data_set(config), "CenterHead" in kind_of(head)
    groups, limits = groups_of(at(head, "tasks")), _range(config, grid, encoder)
    classes = flat(groups) or words(at(config, "class_names")) or words(at(config, "metainfo", "classes"))
    rule = at(model, "test_cfg", "pts") or at(model, "test_cfg") or at(head, "test_cfg")
    count = whole(first(encoder, "in_channels", "num_features"))
    return Facts(
        source=source,
        name=detector_name(data, center, pillars),
        range_m=limits,
        cell_m=square(size, source),
        height_m=size[2] if size and pillars is False else None,
        classes=classes,
        tasks=tuple(map(len, groups)) if groups else None,
        features=columns(data, count, sweeps=False),
        intensity="tanh" if data == "waymo" else ("raw" if data else None),
        sweeps=_SWEEPS if data == "nuscenes" else None,
        camera_view_only=True if data == "kitti" else None,
        encoder=None if pillars is None else ("pillar" if pillars else "voxel"),
        mode="hard" if pillars else None,
        max_points=whole(at(grid, "max_num_points")),
        max_cells=cap_at_test(at(grid, "max_voxels")),
        legacy_decoration=_legacy(encoder) if pillars else None,
        strides=wholes(at(trunk, "layer_strides")),
        layers=wholes(at(trunk, "layer_nums")),
        channels=wholes(at(trunk, "out_channels")),
        up_strides=numbers(at(neck, "upsample_strides")),
        convolution_for_stride_one=flag(at(neck, "use_conv_for_no_stride")) or False if neck else None,
        out_stride=whole(at(head, "bbox_coder", "out_size_factor")),
        head_eps=number(at(head, "norm_cfg", "eps")) if center else None,
        anchors=None if center else anchors_of_mmdet3d(head, classes, source, range_m=limits),
        decode=_center_decode(head, rule, len(groups)) if center else decode_of_mmdet3d(rule),
        old_boxes=False if at(model, "data_preprocessor") or at(config, "default_scope") else None,
    )


def _unsupported(model: Any) -> list[str]:
    encoder, head = first(model, "pts_voxel_encoder", "voxel_encoder"), first(model, "pts_bbox_head", "bbox_head")
    rule = at(model, "test_cfg", "pts") or at(model, "test_cfg")
    wrong = deformable(head)
    if at(encoder, "with_distance") is True:
        wrong.append("voxel_encoder.with_distance=True")
    if at(head, "norm_bbox") is False:
        wrong.append("bbox_head.norm_bbox=False")
    kind = kind_of(head)
    if kind and kind not in ("CenterHead", "Anchor3DHead"):
        wrong.append(f"bbox_head of type {kind} (kd3d has CenterHead, Anchor3DHead)")
    if kind == "Anchor3DHead" and at(rule, "use_rotate_nms") is False:
        wrong.append("test_cfg.use_rotate_nms=False")
    kinds = at(rule, "nms_type")
    if kinds is not None and kinds not in ("rotate", "circle"):
        wrong.append(f"test_cfg.nms_type={kinds!r}")
    fusing = [name for name in ("img_backbone", "roi_head", "pts_fusion_layer") if at(model, name)]
    return wrong + [f"a {name}" for name in fusing]


def _range(config: dict[str, Any], grid: Any, encoder: Any) -> tuple[float, ...] | None:
    places = (at(grid, "point_cloud_range"), at(config, "point_cloud_range"), at(encoder, "point_cloud_range"))
    return next((found for found in (numbers(place, 6) for place in places) if found), None)


def _legacy(encoder: Any) -> bool:
    """Only PillarFeatureNet has a legacy decoration, and has it unless it is told not to."""
    told = flag(at(encoder, "legacy"))
    return kind_of(encoder) != "HardVFE" if told is None else told


def _center_decode(head: Any, rule: Any, tasks: int) -> DecodeSpec | None:
    coder = at(head, "bbox_coder")
    limit = numbers(first(coder, "post_center_range") or at(rule, "post_center_limit_range"), 6)
    circle = text(at(rule, "nms_type")) == "circle"
    thresholds = numbers(at(rule, "min_radius")) if circle else repeated(number(at(rule, "nms_thr")), tasks)
    most = whole(at(coder, "max_num")) or 500
    post = whole(at(rule, "post_max_size"))
    pre = most if circle else whole(at(rule, "pre_max_size"))
    score = number(at(coder, "score_threshold"))
    if not tasks or limit is None or thresholds is None or len(thresholds) != tasks or not post or not pre:
        return None
    return DecodeSpec(
        peak_kernel=1,
        top_k=most,
        score_threshold=0.1 if score is None else score,
        center_limit_m=limit,  # type: ignore[arg-type]
        nms="circle" if circle else "rotate",
        nms_threshold=thresholds,
        nms_pre=pre,
        nms_post=post,
    )
