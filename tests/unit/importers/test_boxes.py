"""Boxes of imported detectors, from the cloud to after suppression, are those of the framework's own decoding."""

import foreign
import foreign_boxes
import foreign_configs
import foreign_forward as forward
import numpy as np
import pytest
import torch
from foreign_clouds import generated_cloud

from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.importers.request import import_file
from kd3d.runtime.frames import Frame

LOW, HIGH, SIZE = (-12.8, -12.8, -5.0), (12.8, 12.8, 3.0), (0.2, 0.2, 8.0)
PREFIX = {"openpcdet": "vfe.", "mmdet3d": "pts_voxel_encoder.", "det3d": "reader."}


def their_maps(layout, state, cloud):
    """Maps of every task in the framework's own convention."""
    shape = forward.cells(cloud, LOW, HIGH, SIZE)[1]
    with torch.no_grad():
        if layout == "openpcdet":
            x, where = forward.dynamic_encoder(state, PREFIX[layout], cloud, LOW, SIZE, shape)
        else:
            padded, counts, where = forward.hard(cloud, LOW, HIGH, SIZE, 20, 60000)
            decorated = forward.decorate(padded, counts, where, LOW, SIZE, layout=layout)
            x = forward.hard_encoder(state, PREFIX[layout], decorated)
        canvas = forward.scatter(x, where, shape[0], shape[1])
        one = layout != "openpcdet"
        neck = forward.trunk(state, canvas, layout, strides=(2, 2, 2), ups=(0.5, 1, 2), stride_one_conv=one)
        return [{k: v.numpy() for k, v in maps.items()} for maps in forward.center_head(state, neck, layout)]


@pytest.mark.parametrize(
    ("layout", "nms"),
    [("openpcdet", "rotate"), ("mmdet3d", "rotate"), ("mmdet3d", "circle"), ("det3d", "rotate"), ("det3d", "circle")],
)
def test_boxes_after_suppression_are_the_frameworks(layout, nms, tmp_path):
    state = foreign.centerpoint_pillar(layout, seed=11, width=16, layers=(1, 1, 1))
    config = foreign_configs.written(tmp_path, layout, nms=nms)
    made = import_file(foreign.write(tmp_path / "x.pth", layout, state), config=config).model
    cloud = generated_cloud(points=3000, reach=14)
    keep = foreign_boxes.rotated(0.2, 1000, 83) if nms == "rotate" else foreign_boxes.circle(foreign_configs.RADII, 83)
    theirs = foreign_boxes.center_boxes(
        their_maps(layout, state, cloud), layout, low=LOW, size=0.8, limit=foreign_configs.LIMIT, keep=keep
    )
    frame = Frame("t", cloud, made.spec.points.features, None, made.spec.head.classes, np.eye(4), np.eye(4))
    ours = TorchPipeline(made)(frame)
    assert made.spec.decode.nms == nms and made.spec.head.classes == foreign_configs.CLASSES
    assert len(ours) > 40 and len(set(ours.label)) > 4
    foreign_boxes.assert_same_boxes(ours, theirs)


def test_the_reference_itself_tells_conventions_apart(tmp_path):
    """Read as another framework's, the same maps give other boxes: a mistaken convention could not pass above."""
    state = foreign.centerpoint_pillar("det3d", seed=11, width=16, layers=(1, 1, 1))
    maps = their_maps("det3d", state, generated_cloud(points=3000, reach=14))
    renamed = [{("heatmap" if name == "hm" else name): value for name, value in task.items()} for task in maps]
    keep = foreign_boxes.circle(foreign_configs.RADII, 83)
    right, wrong = (
        foreign_boxes.center_boxes(found, layout, low=LOW, size=0.8, limit=foreign_configs.LIMIT, keep=keep)
        for found, layout in ((maps, "det3d"), (renamed, "mmdet3d"))
    )
    assert not np.allclose(right[0][:5, 3:7], wrong[0][:5, 3:7], atol=1e-2)
