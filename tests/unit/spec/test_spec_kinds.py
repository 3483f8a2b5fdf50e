"""Kinds of encoders and heads: their JSON, their errors, and what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kd3d.compress.inherit.layers import layers
from kd3d.detectors.build import build
from kd3d.detectors.presets import PRESETS, preset
from kd3d.errors import SpecError
from kd3d.spec import AnchorHeadSpec, AnchorSpec, DetectorSpec, VoxelEncoderSpec, from_json, to_json

VOXELS, ANCHORS = "waymo-centerpoint-voxel", "kitti-second"
TAGGED = [VOXELS, *(name for name in PRESETS if isinstance(preset(name).head, AnchorHeadSpec))]


def test_pillars_and_centre_heads_are_written_as_before():
    value = to_json(preset("world-centerpoint-pillar-tiny"))
    assert value["format"] == 1
    assert set(value["encoder"]) == {"filters", "max_points", "max_pillars", "mode"}
    assert set(value["head"]) == {"tasks", "shared_channels", "branch_channels", "velocity"}


@pytest.mark.parametrize("name", TAGGED)
def test_other_kinds_are_tagged_and_survive_json(name):
    spec = preset(name)
    value = json.loads(json.dumps(to_json(spec)))
    assert value["format"] == 1
    assert value["encoder"].get("kind") == ("voxel" if isinstance(spec.encoder, VoxelEncoderSpec) else None)
    assert value["head"].get("kind") == ("anchor" if isinstance(spec.head, AnchorHeadSpec) else None)
    assert from_json(DetectorSpec, value) == spec


@pytest.mark.parametrize(
    ("part", "change", "text"),
    [
        ("encoder", {"kind": "cylinder"}, "encoder.kind must be 'voxel' or be left out, but is 'cylinder'"),
        ("encoder", {"kind": ["voxel"]}, "encoder.kind must be 'voxel' or be left out"),
        ("head", {"kind": "voxel"}, "head.kind must be 'anchor' or be left out, but is 'voxel'"),
        ("encoder", {"extra": 1}, r"encoder has unknown field\(s\) extra"),
        ("head", {"extra": 1}, r"head has unknown field\(s\) extra"),
    ],
)
def test_unknown_kinds_and_fields_are_refused(part, change, text):
    value = to_json(preset(ANCHORS))
    value[part].update(change)
    with pytest.raises(SpecError, match=text):
        from_json(DetectorSpec, value)


def test_without_a_tag_the_fields_are_those_of_the_first_kind():
    value = to_json(preset(VOXELS))
    del value["encoder"]["kind"]
    with pytest.raises(SpecError, match=r"encoder has unknown field\(s\) block, .*the known ones are filters"):
        from_json(DetectorSpec, value)
    with pytest.raises(SpecError, match="encoder must be an object, but is 3"):
        from_json(DetectorSpec, {**value, "encoder": 3})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"height_m": 0.0}, "height_m must be positive, not 0"),
        ({"blocks": (2, 2)}, "they have 4, 2 and 3 entries"),
        ({"z_paddings": (1, 1)}, "they have 4, 4 and 2 entries"),
        ({"channels": (16, 0, 64, 128)}, "channels of a voxel encoder must be at least 1"),
        ({"blocks": (2, -1, 2, 2)}, "blocks at least 0"),
        ({"input_channels": 8}, "keeps its width: input_channels is 8, channels.0. 16"),
        ({"blocks": (0, 1, 1, 1), "input_channels": 8, "block": "plain"}, "without blocks the first stage has"),
        ({"z_paddings": (1, 1, 2)}, "z_paddings must be 0 or 1"),
        ({"max_voxels": 0}, "max_points and max_voxels must be at least 1"),
    ],
)
def test_a_voxel_encoder_that_contradicts_itself_is_refused(change, text):
    with pytest.raises(SpecError, match=text):
        replace(preset(VOXELS).encoder, **change)


def test_voxels_must_tile_the_height_and_suffice_for_the_stages():
    spec = preset(VOXELS)
    with pytest.raises(SpecError, match=r"the z range of 6 m is 8\.571 voxels of 0\.7 m"):
        replace(spec, encoder=replace(spec.encoder, height_m=0.7))
    with pytest.raises(SpecError, match="3 voxels of height are too few for 4 stages"):
        replace(spec, encoder=replace(spec.encoder, height_m=2.0))


def test_the_grid_must_be_a_multiple_of_both_strides():
    spec = preset(VOXELS)
    grid = replace(spec.grid, x_max_m=74.4)  # 1496 cells: 8 divides it, 16 does not
    with pytest.raises(SpecError, match="1504 x 1496 cells is not a multiple of the backbone's stride 16"):
        replace(spec, grid=grid)


def test_an_anchor_head_that_contradicts_itself_is_refused():
    anchor = AnchorSpec("Car", (3.9, 1.6, 1.56), -1.78)
    with pytest.raises(SpecError, match="at least one anchor and one rotation"):
        AnchorHeadSpec(())
    with pytest.raises(SpecError, match="a class occurs twice in the anchors"):
        AnchorHeadSpec((anchor, anchor))
    with pytest.raises(SpecError, match="direction_bins must be at least 1"):
        AnchorHeadSpec((anchor,), direction_bins=0)
    with pytest.raises(SpecError, match="positive sizes; got 'Car'"):
        replace(anchor, size_m=(0, 1, 1))
    with pytest.raises(SpecError, match=r"matching overlaps of Car must rise within 0..1; got \(0.6, 0.45\)"):
        replace(anchor, matching=(0.6, 0.45))


def test_anchors_are_matched_as_published_unless_they_say_otherwise():
    assert AnchorSpec("Car", (3.9, 1.6, 1.56), -1.78).thresholds == (0.45, 0.6)
    assert AnchorSpec("Pedestrian", (0.8, 0.6, 1.73), -0.6).thresholds == (0.35, 0.5)
    assert AnchorSpec("pedestrian", (0.8, 0.6, 1.73), -0.6).thresholds == (0.4, 0.6)  # that of nuScenes
    assert AnchorSpec("ship", (30, 8, 9), 0).thresholds == (0.45, 0.6)
    assert AnchorSpec("dog", (0.9, 0.3, 0.5), -1).thresholds == (0.35, 0.5)
    assert AnchorSpec("Car", (3.9, 1.6, 1.56), -1.78, (0.3, 0.5)).thresholds == (0.3, 0.5)


def test_a_specification_from_before_matching_existed_is_read():
    value = to_json(preset("kitti-second"))
    for anchor in value["head"]["anchors"]:
        del anchor["matching"]
    assert from_json(DetectorSpec, value) == preset("kitti-second")


def test_anchor_maps_and_layers():
    spec = preset("kitti-pointpillars")
    assert spec.head.maps == (("cls", 18), ("box", 42), ("dir", 12))
    assert spec.head.tasks == (("Car", "Pedestrian", "Cyclist"),)
    assert not spec.head.velocity
    last = layers(spec)[-3:]
    assert [(layer.module, layer.out, layer.kernel, layer.bias, layer.norm) for layer in last] == [
        ("head.cls", 18, 1, True, None), ("head.box", 42, 1, True, None), ("head.dir", 12, 1, True, None),
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["kitti-pointpillars", "kitti-pointpillars-mmdet3d"])
def test_pointpillars_is_built_with_its_published_parameters(name):
    assert sum(part.numel() for part in build(preset(name)).parameters()) == 4834888


def test_code_for_one_kind_says_so_when_given_another():
    with pytest.raises(SpecError, match="kitti-second has a voxel encoder, but this works with pillars only"):
        _ = preset(ANCHORS).pillar_encoder
    with pytest.raises(SpecError, match="kitti-second has an anchor head, but this works with centre heads only"):
        _ = preset(ANCHORS).center_head


def test_stored_specifications_of_earlier_versions_still_read():
    from kd3d.detectors.assets import SHIPPED_TEACHER

    value = json.loads((Path(SHIPPED_TEACHER) / "spec.json").read_text())
    assert to_json(from_json(DetectorSpec, value)) == value
