"""What does not fit is reported all at once, with exit code 7 and nothing written; what is unknown is asked for."""

import json

import foreign
import foreign_configs
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


@pytest.mark.parametrize("layout", ["openpcdet", "mmdet3d", "det3d"])
def test_unknown_missing_and_misshapen_tensors_of_every_framework_are_reported_together(layout, tmp_path, capsys):
    state = pillar(layout)
    norms = [name for name in state if name.endswith("running_mean")]
    hidden = next(name for name in state if ".hm." in name or ".heatmap." in name)
    gone, turned = norms[1], norms[2]
    del state[gone]
    state[turned] = torch.zeros(9)
    state[f"{hidden}_extra"] = torch.zeros(1)
    path, out = saved(tmp_path, state, layout), tmp_path / "out"
    command = ["import", str(path), "--like", "nuscenes-centerpoint-pillar", "--out", str(out), "--json"]
    assert run(command) == 7
    told = json.loads(capsys.readouterr().out)["error"]
    assert "3 thing(s)" in told and "is missing" in told
    assert f"{turned} has shape [9]" in told and f"{hidden}_extra is not a tensor" in told
    assert not out.exists()


@pytest.mark.parametrize("layout", ["openpcdet", "mmdet3d", "det3d"])
@pytest.mark.parametrize("damage", ["truncated", "corrupt", "empty", "hostile", "voxel", "no head"])
def test_unusable_files_of_every_framework_end_with_7_and_write_nothing(layout, damage, tmp_path, capsys):
    small = {"widths": (4, 4, 4, 4), "last": 4, "trunk_width": 4, "shared": 4}
    state = foreign.centerpoint_voxel(layout, **small) if damage == "voxel" else pillar(layout)
    if damage == "no head":
        state = type(state)((name, tensor) for name, tensor in state.items() if "head" not in name)
    path, out = saved(tmp_path, state, layout), tmp_path / "out"
    content = path.read_bytes()
    if damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "corrupt":
        path.write_bytes(content[:200] + bytes(range(256)) + content[456:])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "hostile":
        torch.save({"state_dict": state, "extra": torch.hub.load}, path)
    config = foreign_configs.written(tmp_path, layout)
    assert run(["import", str(path), "--config", str(config), "--out", str(out), "--json"]) == 7
    told = json.loads(capsys.readouterr().out)["error"]
    assert str(path) in told
    assert not out.exists()
    if damage == "voxel":
        assert "encoder: the tensors say voxel, the configuration top" in told


def test_names_that_would_make_a_network_of_a_million_layers_are_refused(tmp_path):
    state = pillar()
    state["backbone_2d.blocks.0.3000001.weight"] = torch.zeros(4, 4, 3, 3)
    with pytest.raises(CheckpointError, match=r"backbone\.levels\.0\.1000000\.conv\.weight has an index beyond 255"):
        import_file(saved(tmp_path, state), like="nuscenes-centerpoint-pillar")


def test_sources_that_disagree_are_reported_unless_a_flag_settles_it(tmp_path):
    config = foreign_configs.written(tmp_path, "mmdet3d")
    path = saved(tmp_path, pillar("mmdet3d"), "mmdet3d")
    with pytest.raises(CheckpointError) as caught:
        import_file(path, config=config, like="nuscenes-centerpoint-pillar")
    assert "range: the configuration top.py says -12.8, -12.8, -5, 12.8, 12.8, 3; the preset" in str(caught.value)
    assert "--range settles it" in str(caught.value)
    given = flags(range_m="-12.8,-12.8,-5,12.8,12.8,3")
    made = import_file(path, config=config, like="nuscenes-centerpoint-pillar", flags=given)
    assert made.model.spec.grid.nx == 128


def test_points_with_an_elongation_are_waymos_whose_intensity_is_squashed(tmp_path):
    given = {"range_m": "-51.2,-51.2,-5,51.2,51.2,3", "cell": "0.2", "classes": "a,b,c,d,e,f,g,h,i,j", "stride": 4}
    for last, intensity in (("elongation", "tanh"), ("time_lag", "raw")):
        spec = import_file(
            saved(tmp_path, pillar()), flags=flags(features=f"x,y,z,intensity,{last}", **given)
        ).model.spec
        assert spec.points.intensity == intensity


def test_copies_of_mmcvs_running_averages_are_skipped_and_named(tmp_path):
    state = pillar("mmdet3d")
    state["ema_pts_backbone_blocks_0_0_weight"] = torch.zeros(4, 4, 3, 3)
    made = import_file(saved(tmp_path, state, "mmdet3d"), like="nuscenes-centerpoint-pillar")
    assert list(made.skipped) == ["ema_pts_backbone_blocks_0_0_weight"]


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
