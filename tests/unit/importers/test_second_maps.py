"""Imported SECONDs (plain sparse encoder, anchor head) give the maps of their framework, whatever spconv wrote."""

import foreign
import foreign_forward as forward
import pytest
import torch
from foreign_clouds import assert_close, generated_cloud, maps_of

from kd3d.importers.request import facts_of_flags, import_file
from kd3d.runtime.decode import decode
from kd3d.runtime.heads import heads_from_arrays

LOW, HIGH, SIZE = (-6.4, -6.4, -3.0), (6.4, 6.4, 1.0), (0.1, 0.1, 0.1)
SMALL = {"widths": (8, 8, 16, 16), "last": 16, "trunk_width": 16}
FLAGS = facts_of_flags(
    range_m="-6.4,-6.4,-3,6.4,6.4,1", cell="0.1,0.1,0.1", classes=None, features=None, stride=None, boxes=None
)


@pytest.mark.parametrize(
    ("layout", "spconv"), [("openpcdet", "2"), ("openpcdet", "1"), ("openpcdet", "native"), ("mmdet3d", "2")]
)
def test_a_narrow_second_has_its_frameworks_maps(layout, spconv, tmp_path):
    state = foreign.second(layout, seed=8, spconv=spconv, **SMALL)
    made = import_file(foreign.write(tmp_path / "x.pth", layout, state), like="kitti-second", flags=FLAGS)
    cloud = generated_cloud(points=3000, reach=6, columns=4)
    padded, counts, where = forward.hard(cloud, LOW, HIGH, SIZE, 5, 40000)
    with torch.no_grad():
        mean = torch.from_numpy(padded).sum(1) / torch.from_numpy(counts)[:, None]
        names = foreign.sparse_names(layout, False)
        x = forward.dense_backbone(
            state, layout, names, mean.float(), where, (128, 128, 40), residual=False, spconv=spconv
        )
        neck = forward.trunk(state, x, layout, strides=(1, 2), ups=(1, 2), stride_one_conv=False)
        wanted = forward.anchor_head(state, neck)
    ours = maps_of(made.model, cloud)
    assert list(ours) == ["anchor_cls", "anchor_box", "anchor_dir"]
    for name, value in wanted.items():
        assert value.abs().max() > 0.1
        assert_close(ours[f"anchor_{name}"], value.numpy(), name)
    assert made.used + len(made.skipped) == len(state)
    spec = made.model.spec
    boxes = decode(heads_from_arrays(ours, spec), spec)
    assert 0 < len(boxes) <= spec.decode.nms_post
    assert (boxes.score > spec.decode.score_threshold).all()
    assert spec.head.classes[0] == ("Car" if layout == "openpcdet" else "Pedestrian")
    assert spec.head.align_center is False and spec.decode.nms == (
        "rotate" if layout == "openpcdet" else "rotate_by_class"
    )


def test_the_published_second_has_its_counts(tmp_path):
    state = foreign.second()
    made = import_file(foreign.write(tmp_path / "x.pth", "openpcdet", state), like="kitti-second")
    assert (len(state), made.used + len(made.skipped)) == (163, 163)
    assert sum(part.numel() for part in made.model.module.parameters()) == 5_325_576
    assert (made.model.spec.encoder.block, made.model.spec.encoder.block_bias) == ("plain", False)
