"""Imported CenterPoint-Pillars give the maps of an independent forward pass of the framework they come from."""

import foreign
import foreign_forward as forward
import numpy as np
import pytest
import torch
from foreign_clouds import assert_close, generated_cloud, maps_of, nuscenes_cloud

from kd3d.importers.request import import_file

LOW, HIGH, SIZE = (-51.2, -51.2, -5.0), (51.2, 51.2, 3.0), (0.2, 0.2, 8.0)
WAYMO_LOW, WAYMO_HIGH, WAYMO_SIZE = (-74.88, -74.88, -2.0), (74.88, 74.88, 4.0), (0.32, 0.32, 6.0)


def reference(
    layout, state, cloud, *, dynamic=False, low=LOW, high=HIGH, size=SIZE, strides=(2, 2, 2), ups=(0.5, 1, 2)
):
    """Physical maps of every task."""
    prefix = {"openpcdet": "vfe.", "mmdet3d": "pts_voxel_encoder.", "det3d": "reader."}[layout]
    _, shape, _ = forward.cells(cloud, low, high, size)
    with torch.no_grad():
        if dynamic:
            x, where = forward.dynamic_encoder(state, prefix, cloud, low, size, shape)
        else:
            padded, counts, where = forward.hard(cloud, low, high, size, 20, 60000)
            x = forward.hard_encoder(state, prefix, forward.decorate(padded, counts, where, low, size, layout=layout))
        canvas = forward.scatter(x, where, shape[0], shape[1])
        neck = forward.trunk(state, canvas, layout, strides=strides, ups=ups, stride_one_conv=layout != "openpcdet")
        return [forward.physical(maps, layout) for maps in forward.center_head(state, neck, layout)]


def assert_same_maps(model, state, cloud, layout, **options):
    ours = maps_of(model, cloud)
    for task, maps in enumerate(reference(layout, state, cloud, **options)):
        for name, value in maps.items():
            if value is not None:
                assert_close(ours[f"task{task}_{name}"], value.numpy(), f"task{task}_{name}")
    assert len(ours) == sum(value is not None for maps in [maps] for value in maps.values()) * (task + 1)


@pytest.mark.parametrize("layout", ["openpcdet", "mmdet3d", "det3d"])
@pytest.mark.parametrize("source", ["generated", "nuscenes"])
def test_a_narrow_nuscenes_net_has_its_frameworks_maps(layout, source, tmp_path, request):
    state = foreign.centerpoint_pillar(layout, seed=3, width=16, layers=(1, 2, 1))
    path = foreign.write(tmp_path / "x.pth", layout, state)
    made = import_file(path, like="nuscenes-centerpoint-pillar")
    cloud = generated_cloud() if source == "generated" else nuscenes_cloud(request.getfixturevalue("shared_data"))
    assert made.framework == layout
    assert_same_maps(made.model, state, cloud, layout, dynamic=layout == "openpcdet")


def test_waymos_edition_without_velocity_has_openpcdets_maps(tmp_path):
    shape = {"tasks": [3], "velocity": False, "width": 16, "ups": (1, 2, 4), "layers": (1, 1, 1)}
    state = foreign.centerpoint_pillar("openpcdet", **shape)
    path = foreign.write(tmp_path / "x.pth", "openpcdet", state)
    made = import_file(path, like="waymo-centerpoint-pillar-pcdet")
    cloud = generated_cloud(points=9000, reach=80)
    seen = cloud.copy()
    seen[:, 3] = np.tanh(cloud[:, 3])
    wanted = reference(
        "openpcdet", state, seen, low=WAYMO_LOW, high=WAYMO_HIGH, size=WAYMO_SIZE, strides=(1, 2, 2), ups=(1, 2, 4)
    )
    ours = maps_of(made.model, cloud)
    for name, value in wanted[0].items():
        if value is not None:
            assert_close(ours[f"task0_{name}"], value.numpy(), name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "entries", "params"), [("openpcdet", 458, 5989030), ("mmdet3d", 414, 5982854), ("det3d", 457, 5988998)]
)
def test_the_published_net_has_its_counts_and_maps(layout, entries, params, tmp_path, shared_data):
    state = foreign.centerpoint_pillar(layout, seed=5)
    learned = [v for k, v in state.items() if k.endswith(("weight", "bias"))]
    assert (len(state), sum(v.numel() for v in learned)) == (entries, params)
    made = import_file(foreign.write(tmp_path / "x.pth", layout, state), like="nuscenes-centerpoint-pillar")
    assert made.used + len(made.skipped) == entries
    assert_same_maps(made.model, state, nuscenes_cloud(shared_data), layout, dynamic=layout == "openpcdet")
