"""Imported PointPillars give the maps and the boxes of their framework."""

import re
from collections import OrderedDict
from dataclasses import replace

import foreign
import foreign_boxes
import foreign_forward as forward
import numpy as np
import pytest
import torch
from foreign_clouds import assert_close, generated_cloud, kitti_cloud, maps_of

from kd3d.detectors.checkpoint import Model
from kd3d.errors import CheckpointError
from kd3d.importers.request import import_file
from kd3d.runtime.decode import candidates, decode
from kd3d.runtime.heads import heads_from_arrays

WAYMO = """
dataset_type = 'WaymoDataset'
class_names = ['Car', 'Pedestrian', 'Cyclist']
voxel_size = [0.32, 0.32, 6]
edges = [-12.8, -12.8, -2, 12.8, 12.8, 4]
model = dict(
    data_preprocessor=dict(voxel_layer=dict(
        max_num_points=20, point_cloud_range=edges, voxel_size=voxel_size, max_voxels=(32000, 32000))),
    pts_voxel_encoder=dict(type='HardVFE', in_channels=5, feat_channels=[64]),
    pts_backbone=dict(layer_strides=[1, 2, 2]),
    pts_neck=dict(upsample_strides=[1, 2, 4]),
    pts_bbox_head=dict(
        type='Anchor3DHead', dir_offset=-0.7854,
        anchor_generator=dict(
            type='AlignedAnchor3DRangeGenerator', rotations=[0, 1.57],
            ranges=[edges, edges, edges],
            sizes=[[4.73, 2.08, 1.77], [0.91, 0.84, 1.74], [1.81, 0.84, 1.77]])),
    test_cfg=dict(pts=dict(use_rotate_nms=True, nms_pre=4096, nms_thr=0.25, score_thr=0.1, max_num=500)))
"""
LOW, HIGH, SIZE = (0.0, -39.68, -3.0), (69.12, 39.68, 1.0), (0.16, 0.16, 4.0)


def reference(layout, state, cloud):
    padded, counts, where = forward.hard(cloud, LOW, HIGH, SIZE, 32, 40000)
    legacy = layout == "mmdet3d"
    with torch.no_grad():
        points = forward.decorate(padded, counts, where, LOW, SIZE, layout=layout, legacy=legacy)
        x = forward.hard_encoder(state, "vfe." if layout == "openpcdet" else "voxel_encoder.", points)
        canvas = forward.scatter(x, where, 432, 496)
        if layout == "mmdet3d":  # the prefix of CenterPoint's parts is missing here
            state = {re.sub("^(backbone|neck)", r"pts_\1", name): tensor for name, tensor in state.items()}
        neck = forward.trunk(state, canvas, layout, strides=(2, 2, 2), ups=(1, 2, 4), stride_one_conv=False)
        return {name: value.numpy() for name, value in forward.anchor_head(state, neck).items()}


@pytest.mark.parametrize("layout", ["openpcdet", "mmdet3d"])
@pytest.mark.parametrize("source", ["generated", "kitti"])
def test_a_narrow_pointpillars_has_its_frameworks_maps_and_boxes(layout, source, tmp_path, request):
    state = foreign.pointpillars(layout, seed=4, width=8, layers=(1, 1, 1))
    made = import_file(foreign.write(tmp_path / "x.pth", layout, state), like="kitti-pointpillars")
    cloud = (
        generated_cloud(columns=4, reach=45)
        if source == "generated"
        else kitti_cloud(request.getfixturevalue("shared_data"))
    )
    wanted, ours = reference(layout, state, cloud), maps_of(made.model, cloud)
    assert list(ours) == ["anchor_cls", "anchor_box", "anchor_dir"]
    for name, value in wanted.items():
        assert_close(ours[f"anchor_{name}"], value, name)
    spec = made.model.spec
    boxes, scores = forward.anchor_boxes({name[7:]: value for name, value in ours.items()}, layout)
    found = candidates(heads_from_arrays(ours, spec), spec)
    best = scores.max(1)
    order = np.argsort(-best, kind="stable")[: spec.decode.top_k]
    order = order[best[order] > 0.1]
    if layout == "openpcdet":  # an anchor gives its best class
        assert np.allclose(np.sort(found.score), np.sort(best[order]), atol=1e-5)
        assert spec.head.classes == ("Car", "Pedestrian", "Cyclist")
    else:  # every class above the threshold
        assert len(found) == (scores[order] > 0.1).sum()
        assert spec.head.classes == ("Pedestrian", "Cyclist", "Car")
    assert len(found) > 20
    for row, score, label in zip(found.array[:50], found.score[:50], found.label[:50], strict=True):
        near = np.abs(boxes[:, :3] - row[:3]).max(1) + np.abs(scores[:, label] - score)
        match = boxes[near.argmin()]
        assert near.min() < 1e-3 and np.allclose(match[3:6], row[3:6], rtol=1e-4, atol=1e-4)
        turn = np.abs(match[6] - row[6]) % (2 * np.pi)
        assert min(turn, 2 * np.pi - turn) < 1e-3
    kept = decode(heads_from_arrays(ours, spec), spec)
    assert len(kept) <= spec.decode.nms_post and len(kept) < len(found)
    if layout == "mmdet3d" or source == "generated":  # thousands of boxes in plain Python take seconds
        theirs = foreign_boxes.anchor_result(*forward.anchor_boxes(wanted, layout), layout)
        foreign_boxes.assert_same_boxes(kept, theirs)


@pytest.mark.parametrize(("layout", "entries"), [("openpcdet", 127), ("mmdet3d", 126)])
def test_the_published_pointpillars_has_its_counts(layout, entries, tmp_path):
    state = foreign.pointpillars(layout)
    made = import_file(foreign.write(tmp_path / "x.pth", layout, state), like="kitti-pointpillars")
    assert (len(state), made.used + len(made.skipped)) == (entries, entries)
    assert sum(part.numel() for part in made.model.module.parameters()) == 4834888


def test_an_anchor_head_from_before_the_boxes_changed_is_refused(tmp_path):
    state = foreign.pointpillars("mmdet3d", width=4, layers=(0, 0, 0))
    torch.save({"meta": {"mmdet3d_version": "0.17.1"}, "state_dict": state}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="anchor head of mmdetection3d before 1"):
        import_file(tmp_path / "x.pth", like="kitti-pointpillars")


def test_waymos_pointpillars_of_mmdetection3d_have_other_names_and_no_legacy_decoration(tmp_path):
    state = foreign.pointpillars("mmdet3d", seed=4, width=8, layers=(1, 1, 1), features=5)
    renamed = {f"pts_{name.replace('pfn_layers', 'vfe_layers')}": tensor for name, tensor in state.items()}
    path = foreign.write(tmp_path / "x.pth", "mmdet3d", OrderedDict(renamed))
    (tmp_path / "waymo.py").write_text(WAYMO)
    made = import_file(path, config=tmp_path / "waymo.py")
    spec, cloud = made.model.spec, generated_cloud(points=2000, reach=12)
    low, size = (-12.8, -12.8, -2.0), (0.32, 0.32, 6.0)
    padded, counts, where = forward.hard(cloud, low, (12.8, 12.8, 4.0), size, 20, 32000)
    with torch.no_grad():
        points = forward.decorate(padded, counts, where, low, size, layout="mmdet3d")
        x = forward.hard_encoder(state, "voxel_encoder.", points)
        canvas = forward.scatter(x, where, 80, 80)
        plain = {re.sub("^(backbone|neck)", r"pts_\1", name): tensor for name, tensor in state.items()}
        neck = forward.trunk(plain, canvas, "mmdet3d", strides=(1, 2, 2), ups=(1, 2, 4), stride_one_conv=False)
        wanted = forward.anchor_head(state, neck)
    ours = maps_of(Model(replace(spec, points=replace(spec.points, intensity="raw")), made.model.module, {}), cloud)
    for name, value in wanted.items():
        assert_close(ours[f"anchor_{name}"], value.numpy(), name)
    assert spec.head.classes == ("Car", "Pedestrian", "Cyclist") and spec.head.direction_offset_rad == -0.7854
    assert (spec.points.features[-1], spec.points.intensity) == ("elongation", "tanh")
    assert (spec.decode.nms, spec.decode.nms_threshold, spec.decode.top_k) == ("rotate_by_class", (0.25,), 4096)
    (tmp_path / "waymo.py").write_text(WAYMO.replace("ranges=[edges,", "ranges=[[-9, -9, -2, 9, 9, 4],"))
    with pytest.raises(CheckpointError, match="the anchors of Car are over another range"):
        import_file(path, config=tmp_path / "waymo.py")
