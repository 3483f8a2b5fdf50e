"""What does not fit is reported all at once, with exit code 7 and nothing written; what is unknown is asked for."""

import json

import foreign
import pytest
import torch

from kd3d.cli.main import run
from kd3d.errors import CheckpointError, UsageError
from kd3d.importers.request import facts_of_flags, import_file


def pillar(layout="openpcdet", **options):
    return foreign.centerpoint_pillar(layout, width=4, **{"layers": (1, 1, 1), **options})


def saved(tmp_path, state, layout="openpcdet", **options):
    return foreign.write(tmp_path / "x.pth", layout, state, **options)


def test_every_mismatch_is_in_one_report_and_nothing_is_written(tmp_path, capsys):
    state = pillar()
    del state["vfe.pfn_layers.1.norm.bias"]
    state["dense_head.heads_list.2.hm.1.weight"] = torch.zeros(2, 5, 3, 3)
    state["backbone_2d.blocks.1.4.weight"][0, 0] = float("nan")
    path = saved(tmp_path, state)
    arguments = ["import", str(path), "--like", "nuscenes-centerpoint-pillar", "--out", str(tmp_path / "out"), "--json"]
    assert run(arguments) == 7
    told = json.loads(capsys.readouterr().out)["error"]
    for part in (
        "3 thing(s)",
        "encoder.layers.1.norm.bias (kd3d's name) is missing",
        "dense_head.heads_list.2.hm.1.weight has shape [2, 5, 3, 3], which must be [2, 4, 3, 3]",
        "backbone_2d.blocks.1.4.weight holds NaN",
        "Nothing was written",
    ):
        assert part in told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("like", "parts"),
    [
        ("waymo-centerpoint-voxel", ["encoder: the tensors say pillar", "classes per task"]),
        ("kitti-pointpillars", ["head: the tensors say center", "point features: the first layer reads 11"]),
        ("kitti-centerpoint-pillar", ["point features: the first layer reads 11", "classes per task"]),
    ],
)
def test_a_preset_of_another_detector_is_refused_with_every_difference(like, parts, tmp_path):
    with pytest.raises(CheckpointError) as caught:
        import_file(saved(tmp_path, pillar()), like=like)
    assert all(part in str(caught.value) for part in parts)


def test_unknown_tensors_are_reported_by_name(tmp_path):
    state = pillar()
    state["dense_head.heads_list.0.iou.1.bias"] = torch.zeros(1)
    state["roi_head.fc.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"2 thing\(s\).*iou.*roi_head"):
        import_file(saved(tmp_path, state), like="nuscenes-centerpoint-pillar")


def test_the_wrong_format_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="have the names of openpcdet, not of det3d"):
        import_file(saved(tmp_path, pillar()), form="det3d", like="nuscenes-centerpoint-pillar")
    with pytest.raises(UsageError, match="--format must be auto, openpcdet"):
        import_file(saved(tmp_path, pillar()), form="caffe")


def test_what_nobody_says_is_asked_for_by_name(tmp_path):
    with pytest.raises(UsageError) as caught:
        import_file(saved(tmp_path, pillar()))
    assert "does not say its range, cell, classes, features, stride" in str(caught.value)
    assert "--range" in str(caught.value) and "--stride" in str(caught.value)


def flags(**given):
    names = ("range_m", "cell", "classes", "features", "stride", "boxes")
    return facts_of_flags(**{name: given.get(name) for name in names})


def test_flags_alone_are_enough(tmp_path):
    given = flags(
        range_m="-51.2,-51.2,-5,51.2,51.2,3",
        cell="0.2",
        classes="a,b,c,d,e,f,g,h,i,j",
        features="x,y,z,intensity,time_lag",
        stride=4,
    )
    spec = import_file(saved(tmp_path, pillar()), flags=given).model.spec
    assert spec.head.tasks == (("a",), ("b", "c"), ("d", "e"), ("f",), ("g", "h"), ("i", "j"))
    assert spec.backbone.strides == (2, 2, 2) and spec.output_grid.nx == 128


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"range_m": "1,2"}, r"--range 1,2: must be 6 number\(s\), but is 2"),
        ({"cell": "wide"}, "--cell wide: must be numbers"),
        ({"cell": "0.1,0.2,4"}, "cells are square"),
        ({"boxes": "round"}, "--boxes must be old or new"),
    ],
)
def test_flags_that_cannot_be_read_say_how_they_are_written(given, said):
    with pytest.raises(UsageError, match=said):
        flags(**given)


def test_a_foreign_class_order_is_refused_unless_a_flag_settles_it(tmp_path):
    order = ["truck", "car", "construction_vehicle", "bus", "trailer"]
    order += ["barrier", "motorcycle", "bicycle", "pedestrian", "traffic_cone"]
    path = saved(tmp_path, pillar("mmdet3d"), "mmdet3d", meta=foreign.mmengine_meta(classes=order))
    with pytest.raises(CheckpointError, match="the checkpoint's meta says truck, car"):
        import_file(path, like="nuscenes-centerpoint-pillar")
    made = import_file(path, like="nuscenes-centerpoint-pillar", flags=flags(classes=",".join(order)))
    assert made.model.spec.head.classes == tuple(order)


def test_mmdetection3d_without_a_version_asks_for_the_boxes(tmp_path):
    torch.save({"meta": {}, "state_dict": pillar("mmdet3d")}, tmp_path / "x.pth")
    with pytest.raises(UsageError, match="--boxes new"):
        import_file(tmp_path / "x.pth", like="nuscenes-centerpoint-pillar")
    rows = {}
    for boxes in ("new", "old"):
        made = import_file(tmp_path / "x.pth", like="nuscenes-centerpoint-pillar", flags=flags(boxes=boxes))
        rows[boxes] = made.model.module.state_dict()["head.tasks.0.rot.out.weight"]
    assert torch.equal(rows["old"], -rows["new"].flip(0))


def test_a_model_argument_takes_a_foreign_file(tmp_path, capsys):
    path = saved(tmp_path, pillar())
    assert run(["info", str(path), "--like", "nuscenes-centerpoint-pillar", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["name"] == "nuscenes-centerpoint-pillar"
