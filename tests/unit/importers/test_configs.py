"""Configurations of the frameworks say what tensors do not; Python ones are parsed, never executed."""

# ruff: noqa: E501  settings are written as the frameworks write them

import foreign
import pytest

from kd3d.errors import CheckpointError, DataError, UsageError
from kd3d.importers.embedded import facts_of_config
from kd3d.importers.python_config import UNKNOWN, parse_python, read_python
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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MODEL: {POST_PROCESSING: {NMS_CONFIG: {MULTI_CLASSES_NMS: True}}}", "NMS_CONFIG.MULTI_CLASSES_NMS: True"),
        ("MODEL: {DENSE_HEAD: {POST_PROCESSING: {NMS_CONFIG: {NMS_TYPE: circle_nms}}}}", "NMS_TYPE: circle_nms"),
        ("MODEL: {DENSE_HEAD: {POST_PROCESSING: {USE_IOU_TO_RECTIFY_SCORE: True}}}", "USE_IOU_TO_RECTIFY_SCORE"),
    ],
)
def test_ways_to_boxes_that_are_not_kd3ds_are_refused_rather_than_replaced(text, said, tmp_path):
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        import_file(tmp_path / "x.pth", config=tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model = dict(pts_bbox_head=dict(type='CenterHead', norm_bbox=False))", "norm_bbox=False"),
        ("model = dict(bbox_head=dict(type='Anchor3DHead'), test_cfg=dict(use_rotate_nms=False))", "use_rotate_nms"),
        ("model = dict(bbox_head=dict(type='PartA2RPNHead'))", "bbox_head of type PartA2RPNHead"),
        ("model = dict(pts_voxel_encoder=dict(with_distance=True), roi_head=dict())", "with_distance=True"),
        ("model = dict(test_cfg=dict(pts=dict(nms_type=['rotate', 'circle'])))", "nms_type="),
        ("assigner = 1\ntest_cfg = dict(nms=dict(use_multi_class_nms=True))", "use_multi_class_nms=True"),
        ("assigner = 1\ntest_cfg = dict(per_class_nms=True)", "per_class_nms=True"),
        ("assigner = 1\nmodel = dict(bbox_head=dict(common_heads={'iou': (1, 2)}))", "an IoU branch"),
        ("assigner = 1\nmodel = dict(reader=dict(with_distance=True))", "reader.with_distance=True"),
    ],
)
def test_python_configurations_of_other_networks_are_refused(text, said, tmp_path):
    (tmp_path / "c.py").write_text(text)
    with pytest.raises(CheckpointError, match=said):
        import_file(tmp_path / "x.pth", config=tmp_path / "c.py")


def test_a_missing_base_is_asked_for_by_name_unless_a_preset_stands_in(tmp_path):
    path = foreign.write(tmp_path / "x.pth", "openpcdet", foreign.pointpillars("openpcdet"))
    config = tmp_path / "pointpillar.yaml"
    config.write_text(YAML)
    with pytest.raises(UsageError, match=r"builds on cfgs/dataset_configs/kitti_dataset.yaml, which is not where"):
        import_file(path, config=config)
    assert import_file(path, config=config, like="kitti-pointpillars").model.spec.points.camera_view_only
    other = tmp_path / "top.py"
    other.write_text("_base_ = ['../a/models.py', './b.py', '../schedules/cyclic-20e.py', '../default_runtime.py']")
    with pytest.raises(UsageError, match=r"builds on \.\./a/models\.py, \./b\.py, which"):
        import_file(path, config=other)


def test_configurations_that_go_round_or_repeat_themselves_end_in_an_error(tmp_path):
    (tmp_path / "a.py").write_text("_base_ = 'b.py'")
    (tmp_path / "b.py").write_text("_base_ = 'a.py'")
    with pytest.raises(DataError, match="round in a circle"):
        import_file(tmp_path / "x.pth", config=tmp_path / "a.py")
    bomb = "a0 = dict(k=1)\n" + "".join(f"a{i + 1} = dict(x=a{i}, y=a{i})\n" for i in range(60))
    (tmp_path / "c.py").write_text(bomb + "model = a60\nmodel.update(a60)\n")
    with pytest.raises(DataError, match="nested entries"):
        import_file(tmp_path / "x.pth", config=tmp_path / "c.py")
    (tmp_path / "d.yaml").write_text("a0: &a0 {k: 1}\n" + "".join(
        f"a{i + 1}: &a{i + 1} {{x: *a{i}, y: *a{i}}}\n" for i in range(60)))  # fmt: skip
    with pytest.raises(DataError, match="nested entries"):
        import_file(tmp_path / "x.pth", config=tmp_path / "d.yaml")
    for name, text in {
        "e.py": "_base_ = 'g.py'\n" + "m = dict(k=1)\n" + "m = dict(k=m)\n" * 5000,
        "g.py": "m = dict(k=1)\n" + "m = dict(k=m)\n" * 5000,
    }.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match="nested too deeply"):
        import_file(tmp_path / "x.pth", config=tmp_path / "e.py")
    chain = "".join(f"- &a{i + 1} {{x: *a{i}}}\n" for i in range(5000))
    (tmp_path / "h.yaml").write_text(f"parts:\n- &a0 {{k: 1}}\n{chain}top: *a5000\n")
    with pytest.raises(DataError, match="nested too deeply"):
        import_file(tmp_path / "x.pth", config=tmp_path / "h.yaml")


def test_bases_of_the_newer_style_and_what_changes_them(tmp_path):
    (tmp_path / "_base_" / "models").mkdir(parents=True)
    (tmp_path / "nus").mkdir()
    (tmp_path / "_base_" / "models" / "net.py").write_text(
        "from mmdet3d.models import PillarFeatureNet\nsize = [0.2, 0.2, 8]\n"
        "model = dict(pts_voxel_encoder=dict(type=PillarFeatureNet), a=dict(b=1, c=2), d=dict(e=1))\n"
    )
    top = tmp_path / "nus" / "top.py"
    top.write_text(
        "from mmengine.config import read_base\nwith read_base():\n    from .._base_.models.net import *\n"
        "model.update(dict(a=dict(b=3), voxel_size=size[:2]))\nmodel.merge(dict(d=dict(f=2)))\n"
        "total: int = 3\nsize += [1]\nother = unknown.update(dict())\n"
    )
    read = read_python(top)
    assert read.missing == ()
    assert read.values["model"] == {
        "pts_voxel_encoder": {"type": "PillarFeatureNet"}, "a": {"b": 3, "c": 2}, "d": {"e": 1, "f": 2},
        "voxel_size": [0.2, 0.2],
    }  # fmt: skip
    assert (read.values["total"], read.values["size"]) == (3, UNKNOWN)
    top.write_text("with read_base():\n    from .._base_.gone import *\n    from mmdet3d.configs.x import *\n")
    assert read_python(top).missing == ("..  _base_.gone".replace(" ", ""), "mmdet3d.configs.x")


def test_variables_of_a_base_are_filled_in(tmp_path):
    (tmp_path / "base.py").write_text("edges = [1, 2]\nmodel = dict(a=dict(b=5), c=[3])")
    (tmp_path / "top.py").write_text(
        "_base_ = ['./base.py']\nx = {{_base_.edges}}\ny = '{{ _base_.model.a.b }}'\nz = _base_.model.c[0]\n"
        "w = _base_.none\nmodel = dict(c=dict(_delete_=True))\n"
    )
    found = read_python(tmp_path / "top.py").values
    assert (found["x"], found["y"], found["z"], found["w"]) == ([1, 2], 5, 3, UNKNOWN)
    assert found["model"] == {"a": {"b": 5}, "c": {}} and "_base_" not in found


def test_det3ds_waymo_configuration_names_its_classes_and_points_as_everyone_else(tmp_path):
    text = DET3D.replace("NuScenes", "Waymo").replace("nsweeps = 10", "nsweeps = 2")
    text = text.replace(
        'reader=dict(type="PillarFeatureNet"', 'reader=dict(num_input_features=6, type="PillarFeatureNet"'
    )
    (tmp_path / "c.py").write_text(text)
    facts = facts_of_config(tmp_path / "c.py")
    assert facts.features == ("x", "y", "z", "intensity", "elongation", "time_lag")
    assert (facts.intensity, facts.sweeps, facts.classes[0]) == ("tanh", 1, "Car")


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
