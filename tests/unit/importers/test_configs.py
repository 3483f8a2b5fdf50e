"""Configurations of the frameworks say what tensors do not; Python ones are parsed, never executed."""

# ruff: noqa: E501  settings are written as the frameworks write them

import foreign
import pytest

from kd3d.errors import CheckpointError, UsageError
from kd3d.importers.python_config import UNKNOWN, parse_python
from kd3d.importers.request import import_file

YAML = """
CLASS_NAMES: ['Car', 'Pedestrian', 'Cyclist']
DATA_CONFIG:
    _BASE_CONFIG_: cfgs/dataset_configs/kitti_dataset.yaml
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
            - {class_name: Car, anchor_sizes: [[3.9, 1.6, 1.56]], anchor_rotations: [0, 1.57], anchor_bottom_heights: [-1.78]}
            - {class_name: Pedestrian, anchor_sizes: [[0.8, 0.6, 1.73]], anchor_rotations: [0, 1.57], anchor_bottom_heights: [-0.6]}
            - {class_name: Cyclist, anchor_sizes: [[1.76, 0.6, 1.73]], anchor_rotations: [0, 1.57], anchor_bottom_heights: [-0.6]}
    POST_PROCESSING:
        SCORE_THRESH: 0.1
        NMS_CONFIG: {NMS_THRESH: 0.01, NMS_PRE_MAXSIZE: 4096, NMS_POST_MAXSIZE: 500}
"""
BASE = (
    "DATASET: KittiDataset\nFOV_POINTS_ONLY: True\nPOINT_FEATURE_ENCODING: {used_feature_list: [x, y, z, intensity]}\n"
)
DET3D = """
import os
os.system("touch HACKED")
tasks = [dict(num_class=len(n), class_names=n) for n in ()]
tasks = [
    dict(class_names=["car"]), dict(class_names=["truck", "construction_vehicle"]), dict(class_names=["bus", "trailer"]),
    dict(class_names=["barrier"]), dict(class_names=["motorcycle", "bicycle"]),
    dict(class_names=["pedestrian", "traffic_cone"]),
]
model = dict(
    reader=dict(type="PillarFeatureNet", num_filters=[64, 64]),
    neck=dict(layer_nums=[3, 5, 5], ds_layer_strides=[2, 2, 2], us_layer_strides=[0.5, 1, 2]),
)
test_cfg = dict(
    post_center_limit_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0], score_threshold=0.1, out_size_factor=4,
    nms=dict(nms_pre_max_size=1000, nms_post_max_size=83, nms_iou_threshold=0.2),
)
dataset_type = "NuScenesDataset"
nsweeps = 10
voxel_generator = dict(
    range=[-51.2, -51.2, -5.0, 51.2, 51.2, 3.0], voxel_size=[0.2, 0.2, 8], max_points_in_voxel=20,
    max_voxel_num=[30000, 60000],
)
"""


def test_openpcdets_yaml_with_its_base_is_the_preset(tmp_path):
    from dataclasses import replace

    from kd3d.detectors.presets import preset

    base = tmp_path / "cfgs" / "dataset_configs" / "kitti_dataset.yaml"
    base.parent.mkdir(parents=True)
    base.write_text(BASE)
    config = tmp_path / "cfgs" / "pointpillar.yaml"
    config.write_text(YAML)
    path = foreign.write(tmp_path / "x.pth", "openpcdet", foreign.pointpillars("openpcdet"))
    spec = import_file(path, config=config).model.spec
    wanted = preset("kitti-pointpillars")
    limit = spec.decode.center_limit_m
    assert spec == replace(wanted, decode=replace(wanted.decode, center_limit_m=limit))


def test_matching_overlaps_are_taken_over_where_they_are_not_the_published_ones(tmp_path):
    config = tmp_path / "pointpillar.yaml"
    car, walker = (
        "[-1.78]",
        "anchor_sizes: [[0.8, 0.6, 1.73]], anchor_rotations: [0, 1.57], anchor_bottom_heights: [-0.6]",
    )
    text = YAML.replace(car, f"{car}, matched_threshold: 0.6, unmatched_threshold: 0.45").replace(
        walker, f"{walker}, matched_threshold: 0.4, unmatched_threshold: 0.3"
    )
    text = text.replace(
        "    _BASE_CONFIG_: cfgs/dataset_configs/kitti_dataset.yaml\n",
        BASE.replace("DATASET", "    DATASET", 1).replace("\nFOV", "\n    FOV").replace("\nPOINT_F", "\n    POINT_F"),
    )
    config.write_text(text)
    path = foreign.write(tmp_path / "x.pth", "openpcdet", foreign.pointpillars("openpcdet"))
    anchors = import_file(path, config=config).model.spec.anchor_head.anchors
    assert [anchor.matching for anchor in anchors] == [None, (0.3, 0.4), None]
    assert [anchor.thresholds for anchor in anchors] == [(0.45, 0.6), (0.3, 0.4), (0.35, 0.5)]


def test_det3ds_configuration_is_read_and_not_run(tmp_path, monkeypatch):
    from kd3d.detectors.presets import preset

    monkeypatch.chdir(tmp_path)
    (tmp_path / "pp.py").write_text(DET3D)
    path = foreign.write(tmp_path / "x.pth", "det3d", foreign.centerpoint_pillar("det3d"))
    assert import_file(path, config=tmp_path / "pp.py").model.spec == preset("nuscenes-centerpoint-pillar-det3d")
    assert not (tmp_path / "HACKED").exists()


def test_a_configuration_of_another_network_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text(
        "MODEL: {VFE: {NAME: PillarVFE, WITH_DISTANCE: True}, ROI_HEAD: {NAME: PVRCNNHead}}"
    )
    with pytest.raises(CheckpointError, match=r"does not have: VFE.WITH_DISTANCE: True; a ROI_HEAD"):
        import_file(tmp_path / "x.pth", config=tmp_path / "c.yaml")
    with pytest.raises(UsageError, match="there is no such file"):
        import_file(tmp_path / "x.pth", config=tmp_path / "none.yaml")


def test_what_would_have_to_be_run_is_unknown_and_bombs_stay_small():
    text = (
        "a = [1]\n"
        + "a = a + a\n" * 60
        + "b = open('x')\nc = 10\n"
        + "c = c * c\n" * 60
        + "d = dict(e=-1, f=(2, 3.5))\n"
    )
    found = parse_python(text, "x")
    assert (found["a"], found["b"], found["c"]) == (UNKNOWN, UNKNOWN, UNKNOWN)
    assert found["d"] == {"e": -1, "f": (2, 3.5)}


def test_the_configuration_inside_a_file_of_mmengine_is_enough(tmp_path):
    from kd3d.detectors.presets import preset

    cfg = """
class_names = ['Pedestrian', 'Cyclist', 'Car']
dataset_type = 'KittiDataset'
default_scope = 'mmdet3d'
model = dict(
    data_preprocessor=dict(voxel_layer=dict(
        max_num_points=32, max_voxels=(16000, 40000), point_cloud_range=[0, -39.68, -3, 69.12, 39.68, 1],
        voxel_size=[0.16, 0.16, 4])),
    voxel_encoder=dict(type='PillarFeatureNet', feat_channels=[64]),
    backbone=dict(layer_nums=[3, 5, 5], layer_strides=[2, 2, 2], out_channels=[64, 128, 256]),
    neck=dict(upsample_strides=[1, 2, 4]),
    bbox_head=dict(type='Anchor3DHead', anchor_generator=dict(
        type='AlignedAnchor3DRangeGenerator', rotations=[0, 1.57],
        ranges=[[0, -39.68, -0.6, 69.12, 39.68, -0.6], [0, -39.68, -0.6, 69.12, 39.68, -0.6], [0, -39.68, -1.78, 69.12, 39.68, -1.78]],
        sizes=[[0.8, 0.6, 1.73], [1.76, 0.6, 1.73], [3.9, 1.6, 1.56]])),
    test_cfg=dict(use_rotate_nms=True, nms_thr=0.01, score_thr=0.1, nms_pre=100, max_num=50))
"""
    meta = foreign.mmengine_meta(cfg, ["Pedestrian", "Cyclist", "Car"])
    path = foreign.write(tmp_path / "x.pth", "mmdet3d", foreign.pointpillars("mmdet3d"), meta=meta)
    spec, wanted = import_file(path).model.spec, preset("kitti-pointpillars-mmdet3d")
    assert (spec.head, spec.grid, spec.encoder, spec.backbone) == (
        wanted.head,
        wanted.grid,
        wanted.encoder,
        wanted.backbone,
    )
    assert (spec.decode.nms, spec.decode.nms_post, spec.decode.top_k) == ("rotate_by_class", 50, 100)
