"""What OpenPCDet's configuration says (also SparseKD's and other forks')."""

from __future__ import annotations

from typing import Any

from kd3d.errors import CheckpointError
from kd3d.importers.anchor_config import anchors_of_openpcdet
from kd3d.importers.decodes import EVERYWHERE_M
from kd3d.importers.facts import Facts
from kd3d.importers.lookup import at, flag, number, numbers, text, whole, wholes, words
from kd3d.spec import DecodeSpec

_COLUMNS = {"timestamp": "time_lag", "time_lag": "time_lag", "elongation": "elongation", "ring": "ring"}
_ENCODERS = {
    "PillarVFE": ("pillar", "hard"),
    "DynPillarVFE": ("pillar", "dynamic"),
    "DynamicPillarVFE": ("pillar", "dynamic"),
    "MeanVFE": ("voxel", None),
}


def facts_of_openpcdet(config: dict[str, Any], source: str) -> Facts:
    """Read ``config``; ``source`` names it in messages.

    Raises:
        CheckpointError: it describes a network that kd3d does not have; names every such setting.
    """
    _refuse_unsupported(config, source)
    data, model = at(config, "DATA_CONFIG"), at(config, "MODEL")
    encoder, mode = _ENCODERS.get(text(at(model, "VFE", "NAME")), (None, None))
    voxels = _processor(data)
    size = numbers(at(voxels, "VOXEL_SIZE"), 3)
    kind = text(at(data, "DATASET"))
    classes = words(at(config, "CLASS_NAMES"))
    tasks = _tasks(model, classes)
    trunk = at(model, "BACKBONE_2D")
    ratio = number(at(trunk, "WIDTH"))
    channels = wholes(at(trunk, "NUM_FILTERS"))
    anchors = text(at(model, "DENSE_HEAD", "NAME")).startswith("AnchorHead")
    return Facts(
        source=source,
        name=_name(kind, anchors, encoder),
        range_m=numbers(at(data, "POINT_CLOUD_RANGE"), 6),
        cell_m=_square(size, source),
        height_m=size[2] if size and encoder == "voxel" else None,
        classes=_ordered(model, classes),
        tasks=None if anchors else tasks,
        features=_columns(words(at(data, "POINT_FEATURE_ENCODING", "used_feature_list"))),
        intensity="tanh" if kind == "WaymoDataset" else ("raw" if kind else None),
        sweeps=_sweeps(data),
        camera_view_only=flag(at(data, "FOV_POINTS_ONLY")),
        encoder=encoder,
        mode=mode,
        max_points=whole(at(voxels, "MAX_POINTS_PER_VOXEL")),
        max_cells=whole(at(voxels, "MAX_NUMBER_OF_VOXELS", "test")),
        strides=wholes(at(trunk, "LAYER_STRIDES")),
        layers=wholes(at(trunk, "LAYER_NUMS")),
        channels=tuple(int(width * ratio) for width in channels) if channels and ratio else channels,
        up_strides=numbers(at(trunk, "UPSAMPLE_STRIDES")),
        convolution_for_stride_one=flag(at(trunk, "USE_CONV_FOR_NO_STRIDE")),
        out_stride=whole(at(model, "DENSE_HEAD", "TARGET_ASSIGNER_CONFIG", "FEATURE_MAP_STRIDE")),
        head_eps=None if anchors else number(at(model, "DENSE_HEAD", "BN_EPS")),
        anchors=anchors_of_openpcdet(config, source) if anchors else None,
        decode=_anchor_decode(model) if anchors else _center_decode(model, len(tasks or ())),
    )


def _refuse_unsupported(config: dict[str, Any], source: str) -> None:
    model = at(config, "MODEL")
    wrong = []
    if at(model, "VFE", "WITH_DISTANCE") is True:
        wrong.append("VFE.WITH_DISTANCE: True")
    if at(model, "VFE", "USE_ABSLOTE_XYZ") is False:
        wrong.append("VFE.USE_ABSLOTE_XYZ: False")
    if at(model, "VFE", "USE_NORM") is False:
        wrong.append("VFE.USE_NORM: False")
    if at(model, "DENSE_HEAD", "USE_MULTIHEAD") is True:
        wrong.append("DENSE_HEAD.USE_MULTIHEAD: True")
    wrong += _suppression(model)
    for part, allowed in _KNOWN.items():
        name = text(at(model, part, "NAME"))
        if name and name not in allowed:
            wrong.append(f"{part}.NAME: {name} (kd3d has {', '.join(allowed)})")
    wrong += [f"a {part}" for part in ("PFE", "ROI_HEAD", "POINT_HEAD") if isinstance(at(model, part), dict)]
    if wrong:
        raise CheckpointError(f"{source}: describes a network that kd3d does not have: {'; '.join(wrong)}.")


def _suppression(model: Any) -> list[str]:
    """Ways from maps to boxes that are not kd3d's."""
    wrong = []
    for path in (("POST_PROCESSING",), ("DENSE_HEAD", "POST_PROCESSING")):
        rule, where = at(model, *path), ".".join(path)
        if at(rule, "NMS_CONFIG", "MULTI_CLASSES_NMS") is True:
            wrong.append(f"{where}.NMS_CONFIG.MULTI_CLASSES_NMS: True")
        kind = at(rule, "NMS_CONFIG", "NMS_TYPE")
        if kind is not None and kind != "nms_gpu":
            wrong.append(f"{where}.NMS_CONFIG.NMS_TYPE: {kind}")
        if at(rule, "USE_IOU_TO_RECTIFY_SCORE") is True:
            wrong.append(f"{where}.USE_IOU_TO_RECTIFY_SCORE: True")
    return wrong


_KNOWN = {
    "VFE": tuple(_ENCODERS),
    "BACKBONE_3D": ("VoxelResBackBone8x", "VoxelBackBone8x"),
    "MAP_TO_BEV": ("PointPillarScatter", "HeightCompression"),
    "BACKBONE_2D": ("BaseBEVBackbone",),
    "DENSE_HEAD": ("CenterHead", "AnchorHeadSingle"),
}


def _processor(data: Any) -> Any:
    steps = at(data, "DATA_PROCESSOR")
    for step in steps if isinstance(steps, list) else []:
        if text(at(step, "NAME")).startswith(("transform_points_to_voxels", "calculate_grid_size")):
            return step
    return None


def _square(size: tuple[float, ...] | None, source: str) -> float | None:
    if size and size[0] != size[1]:
        raise CheckpointError(f"{source}: cells of {size[0]:g} x {size[1]:g} m; kd3d's are square.")
    return size[0] if size else None


def _columns(used: tuple[str, ...] | None) -> tuple[str, ...] | None:
    return None if used is None else tuple(_COLUMNS.get(name, name) for name in used)


def _sweeps(data: Any) -> int | None:
    most = whole(at(data, "MAX_SWEEPS"))
    return None if most is None else max(most - 1, 0)  # it counts the key frame


def _tasks(model: Any, classes: tuple[str, ...] | None) -> tuple[int, ...] | None:
    groups = at(model, "DENSE_HEAD", "CLASS_NAMES_EACH_HEAD")
    if isinstance(groups, list) and all(words(group) for group in groups):
        return tuple(map(len, groups))
    return (len(classes),) if classes else None


def _ordered(model: Any, classes: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """Classes in the order of the tasks, where the head has several."""
    groups = at(model, "DENSE_HEAD", "CLASS_NAMES_EACH_HEAD")
    if isinstance(groups, list) and all(words(group) for group in groups):
        return tuple(name for group in groups for name in group)
    return classes


def _name(kind: str, anchors: bool, encoder: str | None) -> str | None:
    data = {"NuScenesDataset": "nuscenes", "WaymoDataset": "waymo", "KittiDataset": "kitti"}.get(kind)
    if data is None or encoder is None:
        return None
    if anchors:
        return f"{data}-{'pointpillars' if encoder == 'pillar' else 'second'}"
    return f"{data}-centerpoint-{encoder}"


def _center_decode(model: Any, tasks: int) -> DecodeSpec | None:
    rule = at(model, "DENSE_HEAD", "POST_PROCESSING")
    nms = at(rule, "NMS_CONFIG")
    limit, threshold = numbers(at(rule, "POST_CENTER_LIMIT_RANGE"), 6), number(at(nms, "NMS_THRESH"))
    score, most = number(at(rule, "SCORE_THRESH")), whole(at(rule, "MAX_OBJ_PER_SAMPLE"))
    pre, post = whole(at(nms, "NMS_PRE_MAXSIZE")), whole(at(nms, "NMS_POST_MAXSIZE"))
    told = (limit, threshold, score, most, pre, post)
    if not tasks or any(value is None for value in told):
        return None
    assert limit and threshold is not None and score is not None and most and pre and post
    return DecodeSpec(
        peak_kernel=1,
        top_k=most,
        score_threshold=score,
        center_limit_m=limit,  # type: ignore[arg-type]
        nms="rotate",
        nms_threshold=(threshold,) * tasks,
        nms_pre=pre,
        nms_post=post,
    )


def _anchor_decode(model: Any) -> DecodeSpec | None:
    rule = at(model, "POST_PROCESSING")
    nms = at(rule, "NMS_CONFIG")
    score, threshold = number(at(rule, "SCORE_THRESH")), number(at(nms, "NMS_THRESH"))
    pre, post = whole(at(nms, "NMS_PRE_MAXSIZE")), whole(at(nms, "NMS_POST_MAXSIZE"))
    if score is None or threshold is None or not pre or not post:
        return None
    return DecodeSpec(
        peak_kernel=1,
        top_k=pre,
        score_threshold=score,
        center_limit_m=EVERYWHERE_M,
        nms="rotate",
        nms_threshold=(threshold,),
        nms_pre=pre,
        nms_post=post,
        top_k_rule="cell",
    )
