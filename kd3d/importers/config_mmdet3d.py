"""What mmdetection3d's configuration says, and det3d's (tianweiy/CenterPoint), which has the same ancestor."""

from __future__ import annotations

from typing import Any

from kd3d.errors import CheckpointError
from kd3d.importers.anchor_config import anchors_of_mmdet3d, decode_of_mmdet3d
from kd3d.importers.container import Framework
from kd3d.importers.decodes import EVERY_CELL
from kd3d.importers.facts import Facts
from kd3d.importers.lookup import at, flag, number, numbers, text, whole, wholes, words
from kd3d.spec import DecodeSpec

_COLUMNS = {
    "nuscenes": ("x", "y", "z", "intensity", "time_lag"),
    "waymo": ("x", "y", "z", "intensity", "elongation"),
    "kitti": ("x", "y", "z", "intensity"),
}
_SETS = ("nuscenes", "waymo", "kitti")


def facts_of_mmdet3d(config: dict[str, Any], source: str) -> Facts:
    """Read ``config`` of mmdetection3d; ``source`` names it in messages.

    Raises:
        CheckpointError: it describes a network that kd3d does not have.
    """
    model = at(config, "model")
    _refuse_deformable(model, source)
    encoder = _any(model, "pts_voxel_encoder", "voxel_encoder")
    grid = _any(model, "pts_voxel_layer", "voxel_layer") or at(model, "data_preprocessor", "voxel_layer")
    head = _any(model, "pts_bbox_head", "bbox_head")
    trunk, neck = _any(model, "pts_backbone", "backbone"), _any(model, "pts_neck", "neck")
    size = numbers(_any(grid, "voxel_size") or at(config, "voxel_size") or at(encoder, "voxel_size"), 3)
    pillars = _is_pillar(text(at(encoder, "type")))
    data = _data_set(config)
    center = "CenterHead" in text(at(head, "type"))
    groups = _groups(at(head, "tasks"))
    classes = _flat(groups) or words(at(config, "class_names")) or words(at(config, "metainfo", "classes"))
    return Facts(
        source=source,
        name=_name(data, center, pillars),
        range_m=_range(config, grid, encoder),
        cell_m=_square(size, source),
        height_m=size[2] if size and pillars is False else None,
        classes=classes,
        tasks=tuple(map(len, groups)) if groups else None,
        features=_COLUMNS.get(data),
        intensity="tanh" if data == "waymo" else ("raw" if data else None),
        sweeps=9 if data == "nuscenes" else None,
        camera_view_only=True if data == "kitti" else None,
        encoder=None if pillars is None else ("pillar" if pillars else "voxel"),
        mode="hard" if pillars else None,
        max_points=whole(at(grid, "max_num_points")),
        max_cells=_test_cap(at(grid, "max_voxels")),
        legacy_decoration=_legacy(encoder) if pillars else None,
        strides=wholes(at(trunk, "layer_strides")),
        layers=wholes(at(trunk, "layer_nums")),
        channels=wholes(at(trunk, "out_channels")),
        up_strides=numbers(at(neck, "upsample_strides")),
        convolution_for_stride_one=flag(at(neck, "use_conv_for_no_stride")) or False if neck else None,
        out_stride=whole(at(head, "bbox_coder", "out_size_factor")),
        head_eps=number(at(head, "norm_cfg", "eps")) if center else None,
        anchors=None if center else anchors_of_mmdet3d(head, classes, source),
        decode=_mmdet_decode(head, model, len(groups)) if center else decode_of_mmdet3d(at(model, "test_cfg")),
        old_boxes=False if at(model, "data_preprocessor") or at(config, "default_scope") else None,
    )


def facts_of_det3d(config: dict[str, Any], source: str) -> Facts:
    """Read ``config`` of det3d; ``source`` names it in messages.

    Raises:
        CheckpointError: it describes a network that kd3d does not have.
    """
    model, grid, rule = at(config, "model"), at(config, "voxel_generator"), at(config, "test_cfg")
    _refuse_deformable(model, source)
    size = numbers(at(grid, "voxel_size"), 3)
    pillars = _is_pillar(text(at(model, "reader", "type")))
    data = _data_set(config)
    groups = _groups(at(config, "tasks")) or _groups(at(model, "bbox_head", "tasks"))
    sweeps = whole(at(config, "nsweeps"))
    return Facts(
        source=source,
        name=_name(data, True, pillars),
        range_m=numbers(at(grid, "range"), 6),
        cell_m=_square(size, source),
        height_m=size[2] if size and pillars is False else None,
        classes=_flat(groups),
        tasks=tuple(map(len, groups)) if groups else None,
        features=_COLUMNS.get(data),
        intensity="tanh" if data == "waymo" else ("raw" if data else None),
        sweeps=sweeps - 1 if sweeps else (9 if data == "nuscenes" else None),
        encoder=None if pillars is None else ("pillar" if pillars else "voxel"),
        max_points=whole(at(grid, "max_points_in_voxel")),
        max_cells=_test_cap(at(grid, "max_voxel_num")),
        strides=wholes(at(model, "neck", "ds_layer_strides")),
        layers=wholes(at(model, "neck", "layer_nums")),
        channels=wholes(at(model, "neck", "ds_num_filters")),
        up_strides=numbers(at(model, "neck", "us_layer_strides")),
        convolution_for_stride_one=True,
        out_stride=whole(at(rule, "out_size_factor")),
        decode=_det3d_decode(rule, len(groups)),
        old_boxes=True,
    )


def _any(owner: Any, *names: str) -> Any:
    return next((at(owner, name) for name in names if at(owner, name) is not None), None)


def _refuse_deformable(model: Any, source: str) -> None:
    head = _any(model, "pts_bbox_head", "bbox_head")
    if "DCN" in text(at(head, "separate_head", "type")) or at(head, "dcn_head") is True:
        raise CheckpointError(f"{source}: its head has deformable convolutions, which kd3d does not have.")


def _is_pillar(kind: str) -> bool | None:
    if "Pillar" in kind:
        return True
    return False if kind in ("HardSimpleVFE", "DynamicSimpleVFE", "VoxelFeatureExtractorV3") else None


def _data_set(config: dict[str, Any]) -> str:
    kind = text(at(config, "dataset_type")).lower()
    return next((name for name in _SETS if name in kind), "")


def _name(data: str, center: bool, pillars: bool | None) -> str | None:
    if not data or pillars is None:
        return None
    if center:
        return f"{data}-centerpoint-{'pillar' if pillars else 'voxel'}"
    return f"{data}-{'pointpillars' if pillars else 'second'}"


def _range(config: dict[str, Any], grid: Any, encoder: Any) -> tuple[float, ...] | None:
    places = (at(grid, "point_cloud_range"), at(config, "point_cloud_range"), at(encoder, "point_cloud_range"))
    return next((found for found in (numbers(place, 6) for place in places) if found), None)


def _square(size: tuple[float, ...] | None, source: str) -> float | None:
    if size and size[0] != size[1]:
        raise CheckpointError(f"{source}: cells of {size[0]:g} x {size[1]:g} m; kd3d's are square.")
    return size[0] if size else None


def _test_cap(value: Any) -> int | None:
    """Of (training, test) the latter."""
    found = wholes(value)
    return found[-1] if found else whole(value)


def _legacy(encoder: Any) -> bool:
    told = flag(at(encoder, "legacy"))
    return True if told is None else told  # mmdetection3d's default


def _groups(tasks: Any) -> list[tuple[str, ...]]:
    found = [words(at(task, "class_names")) for task in tasks] if isinstance(tasks, (list, tuple)) else []
    return [group for group in found if group] if all(found) else []


def _flat(groups: list[tuple[str, ...]]) -> tuple[str, ...] | None:
    return tuple(name for group in groups for name in group) or None


def _mmdet_decode(head: Any, model: Any, tasks: int) -> DecodeSpec | None:
    coder = at(head, "bbox_coder")
    rule = at(model, "test_cfg", "pts") or at(head, "test_cfg")
    limit = numbers(_any(coder, "post_center_range") or at(rule, "post_center_limit_range"), 6)
    circle = text(at(rule, "nms_type")) == "circle"
    thresholds = numbers(at(rule, "min_radius")) if circle else _repeated(number(at(rule, "nms_thr")), tasks)
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


def _det3d_decode(rule: Any, tasks: int) -> DecodeSpec | None:
    nms = at(rule, "nms")
    limit, score = numbers(at(rule, "post_center_limit_range"), 6), number(at(rule, "score_threshold"))
    circle = at(rule, "circular_nms") is True
    thresholds = numbers(at(rule, "min_radius")) if circle else _repeated(number(at(nms, "nms_iou_threshold")), tasks)
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


def _repeated(value: float | None, count: int) -> tuple[float, ...] | None:
    return None if value is None else (value,) * count


FACTS = {"mmdet3d": facts_of_mmdet3d, "det3d": facts_of_det3d}


def framework_of(config: dict[str, Any]) -> Framework:
    """Whose Python configuration it is: det3d has a ``voxel_generator`` at its top."""
    return "det3d" if "voxel_generator" in config or "assigner" in config else "mmdet3d"
