"""Imported CenterPoint-Voxels give the maps of their framework, whatever version of spconv wrote the kernels."""

import foreign
import foreign_forward as forward
import pytest
import torch
from foreign_clouds import assert_close, generated_cloud, maps_of

from kd3d.errors import CheckpointError
from kd3d.importers.request import facts_of_flags, import_file

LOW, HIGH, SIZE = (-6.4, -6.4, -5.0), (6.4, 6.4, 3.0), (0.1, 0.1, 0.2)
SMALL = {"widths": (16, 16, 16, 16), "last": 16, "trunk_width": 16, "shared": 16}
FLAGS = facts_of_flags(
    range_m="-6.4,-6.4,-5,6.4,6.4,3", cell="0.1,0.1,0.2", classes=None, features=None, stride=None, boxes=None
)


@pytest.mark.parametrize(
    ("layout", "spconv", "residual"),
    [("openpcdet", "2", True), ("mmdet3d", "1", True), ("det3d", "native", True), ("openpcdet", "1", False)],
)
def test_a_narrow_voxel_net_has_its_frameworks_maps(layout, spconv, residual, tmp_path):
    state = foreign.centerpoint_voxel(layout, seed=6, residual=residual, spconv=spconv, **SMALL)
    path = foreign.write(tmp_path / "x.pth", layout, state)
    made = import_file(path, like="nuscenes-centerpoint-voxel01", flags=FLAGS)
    cloud = generated_cloud(points=3000, reach=6)
    padded, counts, where = forward.hard(cloud, LOW, HIGH, SIZE, 10, 60000)
    with torch.no_grad():
        mean = torch.from_numpy(padded).sum(1) / torch.from_numpy(counts)[:, None]
        names = foreign.sparse_names(layout, residual)
        x = forward.dense_backbone(
            state, layout, names, mean.float(), where, (128, 128, 40), residual=residual, spconv=spconv
        )
        neck = forward.trunk(state, x, layout, strides=(1, 2), ups=(1, 2), stride_one_conv=layout != "openpcdet")
        tasks = [forward.physical(maps, layout) for maps in forward.center_head(state, neck, layout)]
    ours = maps_of(made.model, cloud)
    for task, maps in enumerate(tasks):
        for name, value in maps.items():
            assert_close(ours[f"task{task}_{name}"], value.numpy(), f"task{task}_{name}")
    assert made.used + len(made.skipped) == len(state)


@pytest.mark.parametrize(
    ("layout", "entries", "params"), [("openpcdet", 558, None), ("mmdet3d", 504, 8938262), ("det3d", 557, 8941590)]
)
def test_the_published_net_has_its_counts(layout, entries, params, tmp_path):
    state = foreign.centerpoint_voxel(layout)
    learned = sum(v.numel() for k, v in state.items() if k.endswith(("weight", "bias")))
    assert (len(state), learned) == (entries, params or learned)
    made = import_file(foreign.write(tmp_path / "x.pth", layout, state), like="nuscenes-centerpoint-voxel01")
    assert made.used + len(made.skipped) == entries
    assert made.model.spec.encoder.block_bias is (layout != "mmdet3d")


def test_voxel_weights_with_a_pillar_preset_are_refused(tmp_path):
    path = foreign.write(tmp_path / "x.pth", "openpcdet", foreign.centerpoint_voxel("openpcdet", **SMALL))
    with pytest.raises(CheckpointError, match="encoder: the tensors say voxel, the preset nuscenes-centerpoint-pillar"):
        import_file(path, like="nuscenes-centerpoint-pillar")
