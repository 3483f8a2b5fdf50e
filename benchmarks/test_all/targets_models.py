"""Stored detectors and checkpoints of other frameworks, damaged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from targets import Target, command, finite, support

TINY = "world-centerpoint-pillar-tiny"
YAML = """CLASS_NAMES: ['Car', 'Pedestrian', 'Cyclist']
DATA_CONFIG:
    DATASET: KittiDataset
    FOV_POINTS_ONLY: True
    POINT_FEATURE_ENCODING: {used_feature_list: [x, y, z, intensity]}
    POINT_CLOUD_RANGE: [0, -39.68, -3, 69.12, 39.68, 1]
    DATA_PROCESSOR:
        - NAME: transform_points_to_voxels
          VOXEL_SIZE: [0.16, 0.16, 4]
          MAX_POINTS_PER_VOXEL: 32
          MAX_NUMBER_OF_VOXELS: {train: 16000, test: 40000}
MODEL:
    VFE: {NAME: PillarVFE, WITH_DISTANCE: False}
    BACKBONE_2D: {NAME: BaseBEVBackbone, LAYER_STRIDES: [2, 2, 2], UPSAMPLE_STRIDES: [1, 2, 4]}
    DENSE_HEAD:
        NAME: AnchorHeadSingle
        DIR_OFFSET: 0.78539
        ANCHOR_GENERATOR_CONFIG:
            - class_name: Car
              anchor_sizes: [[3.9, 1.6, 1.56]]
              anchor_rotations: [0, 1.57]
              anchor_bottom_heights: [-1.78]
            - class_name: Pedestrian
              anchor_sizes: [[0.8, 0.6, 1.73]]
              anchor_rotations: [0, 1.57]
              anchor_bottom_heights: [-0.6]
            - class_name: Cyclist
              anchor_sizes: [[1.76, 0.6, 1.73]]
              anchor_rotations: [0, 1.57]
              anchor_bottom_heights: [-0.6]
    POST_PROCESSING:
        SCORE_THRESH: 0.1
        NMS_CONFIG: {NMS_THRESH: 0.01, NMS_PRE_MAXSIZE: 4096, NMS_POST_MAXSIZE: 500}
"""
PYTHON = """tasks = [
    dict(class_names=["car"]),
    dict(class_names=["truck", "construction_vehicle"]),
    dict(class_names=["bus", "trailer"]),
    dict(class_names=["barrier"]),
    dict(class_names=["motorcycle", "bicycle"]),
    dict(class_names=["pedestrian", "traffic_cone"]),
]
model = dict(
    reader=dict(type="PillarFeatureNet", num_filters=[64, 64]),
    neck=dict(layer_nums=[0, 0, 0], ds_layer_strides=[2, 2, 2], us_layer_strides=[0.5, 1, 2]),
)
test_cfg = dict(
    post_center_limit_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
    score_threshold=0.1,
    out_size_factor=4,
    nms=dict(nms_pre_max_size=1000, nms_post_max_size=83, nms_iou_threshold=0.2),
)
dataset_type = "NuScenesDataset"
nsweeps = 10
voxel_generator = dict(
    range=[-51.2, -51.2, -5.0, 51.2, 51.2, 3.0],
    voxel_size=[0.2, 0.2, 8],
    max_points_in_voxel=20,
    max_voxel_num=[30000, 60000],
)
"""


def _stored(preset: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        from kd3d.detectors.build import build
        from kd3d.detectors.checkpoint import save_model
        from kd3d.detectors.presets import preset as spec_of

        save_model(folder / "model", build(spec_of(preset)), {"parent": "x", "metrics": {"mAP": 0.5}})

    return make


def _anchor(folder: Path) -> None:
    support("tiny_anchor").write_model(folder / "model")


def _load(folder: Path) -> Any:
    from kd3d.detectors.checkpoint import load_model

    found = load_model(folder / "model")
    return [tensor for tensor in found.module.state_dict().values() if tensor.is_floating_point()]


def _weights(tensors: Any) -> str:
    return "" if all(finite(tensor) for tensor in tensors) else "weights that are not finite"


def _specification(folder: Path) -> None:
    from kd3d.detectors.presets import PRESETS, preset
    from kd3d.spec import to_json

    for name in PRESETS:
        (folder / f"{name}.json").write_text(json.dumps(to_json(preset(name))))


def _cost(folder: Path) -> Any:
    """Of whichever was damaged: the one written last. Voxels are counted on data, so theirs has no cost here."""
    from kd3d.cli.train import read_spec
    from kd3d.spec import VoxelEncoderSpec

    path = max(folder.glob("*.json"), key=lambda path: path.stat().st_mtime_ns)
    return None if isinstance(read_spec(str(path)).encoder, VoxelEncoderSpec) else command("info", path)


def _priced(found: Any) -> str:
    if found is None:
        return ""
    sane = found["macs"] >= 0 and found["params"] >= 0 and finite([found["macs"], found["params"], found["acts"]])
    return "" if sane else f"a cost of {found['macs']} MACs, {found['params']} parameters"


def _foreign(layout: str, name: str, **options: Any) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        foreign = support("foreign")
        state = foreign.centerpoint_pillar(layout, width=2, layers=(0, 0, 0))
        foreign.write(folder / name, layout, state, **options)

    return make


def _pointpillars(folder: Path) -> None:
    foreign = support("foreign")
    state = foreign.pointpillars("openpcdet", width=4, layers=(0, 0, 0))
    foreign.write(folder / "x.zip.pth", "openpcdet", state, legacy=False)
    (folder / "x.yaml").write_text(YAML)


def _with_python(folder: Path) -> None:
    _foreign("det3d", "x.zip.pth")(folder)
    (folder / "x.py").write_text(PYTHON)


def _import(name: str, like: str) -> Callable[[Path], Any]:
    return lambda folder: _imported(folder / name, like=like)


def _imported(path: Path, **options: Any) -> Any:
    from kd3d.importers.request import import_file

    found = import_file(path, **options)
    return [tensor for tensor in found.model.module.state_dict().values() if tensor.is_floating_point()]


NUSCENES = "nuscenes-centerpoint-pillar"
MODELS = (
    Target("model", _stored(TINY), ("model/*",), _load, _weights, 400),
    Target("model-voxel", _stored("world-centerpoint-voxel-tiny"), ("model/*",), _load, _weights),
    Target("model-anchor", _anchor, ("model/*",), _load, _weights, 350),
    Target("specification", _specification, ("*.json",), _cost, _priced, 400),
    Target(
        "openpcdet-zip",
        _foreign("openpcdet", "x.zip.pth", legacy=False),
        ("x*",),
        _import("x.zip.pth", NUSCENES),
        _weights,
        400,
    ),
    Target(
        "openpcdet-legacy",
        _foreign("openpcdet", "x.legacy.pth"),
        ("x*",),
        _import("x.legacy.pth", NUSCENES),
        _weights,
        400,
    ),
    Target("mmdet3d", _foreign("mmdet3d", "x.zip.pth"), ("x*",), _import("x.zip.pth", NUSCENES), _weights, 300),
    Target("det3d", _foreign("det3d", "x.zip.pth"), ("x*",), _import("x.zip.pth", f"{NUSCENES}-det3d"), _weights),
    Target(
        "config-yaml",
        _pointpillars,
        ("x.yaml",),
        lambda f: _imported(f / "x.zip.pth", config=f / "x.yaml"),
        _weights,
        300,
    ),
    Target(
        "config-python", _with_python, ("x.py",), lambda f: _imported(f / "x.zip.pth", config=f / "x.py"), _weights, 300
    ),
)
