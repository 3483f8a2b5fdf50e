"""A damaged specification is refused before anything of its size is built."""

from dataclasses import replace

import pytest

from kd3d.detectors.presets import PRESETS, preset
from kd3d.errors import SpecError
from kd3d.geometry.grid import BevGrid
from kd3d.spec import DetectorSpec, from_json, to_json

TINY = "world-centerpoint-pillar-tiny"
VOXEL = "world-centerpoint-voxel-tiny"


def changed(name, path, value):
    """The JSON of a preset with one value replaced."""
    content = to_json(preset(name))
    owner = content
    *way, last = path
    for key in way:
        owner = owner[key]
    owner[last] = value
    return content


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_within_the_limits(name):
    assert from_json(DetectorSpec, to_json(preset(name))) == preset(name)


@pytest.mark.parametrize(
    ("name", "path", "value", "text"),
    [
        (TINY, ("grid", "x_max_m"), float("inf"), r"grid.x_max_m must be a number of ordinary size, but is inf"),
        (TINY, ("grid", "x_max_m"), float("nan"), r"number of ordinary size, but is nan"),
        (TINY, ("head", "branch_channels"), 10**30, r"head.branch_channels must be a number of ordinary size"),
        (TINY, ("head", "branch_channels"), 10**6, r"branch_channels must be at most 16,384, but is 1000000"),
        (TINY, ("backbone", "channels", 0), 10**6, r"channels must be at most 16,384"),
        (TINY, ("backbone", "layers", 0), 10**6, r"layers must be at most 256"),
        (TINY, ("backbone", "up_strides", 0), 0, r"up_strides must be whole numbers, or one over such"),
        (TINY, ("backbone", "up_strides", 0), 0.7, r"up_strides must be whole numbers, or one over such"),
        (TINY, ("encoder", "filters", 0), 10**6, r"filters must be at most 16,384"),
        (TINY, ("encoder", "max_points"), 10**6, r"max_points must be at most 4,096"),
        (TINY, ("encoder", "max_pillars"), 10**9, r"max_pillars must be at most 16,777,216"),
        (TINY, ("decode", "top_k"), 10**9, r"top_k must be at most 16,777,216"),
        (TINY, ("points", "sweeps"), 10**6, r"sweeps must be 0 to 256, not 1000000"),
        (TINY, ("grid", "cell_m"), 1e-6, r"the x range of 102.4 m has more than 8,192 cells of 1e-06 m"),
        (VOXEL, ("encoder", "height_m"), 1e-9, r"voxels of height are more than 4096; use higher voxels"),
        (VOXEL, ("encoder", "channels", 1), 10**6, r"channels must be at most 16,384"),
        ("kitti-pointpillars", ("head", "direction_bins"), 10**9, r"direction_bins must be at most 256"),
    ],
)
def test_a_size_that_no_detector_has_is_named(name, path, value, text):
    with pytest.raises(SpecError, match=text):
        from_json(DetectorSpec, changed(name, path, value))


def test_a_range_whose_cells_cannot_be_counted_is_refused():
    with pytest.raises(SpecError, match="more than 8,192 cells"):
        BevGrid(-1e308, -1.0, -1.0, 1e308, 1.0, 1.0, 0.5)


def test_a_specification_wider_than_its_weights_is_refused_before_it_takes_memory(tmp_path, monkeypatch):
    from kd3d.detectors import checkpoint
    from kd3d.errors import CheckpointError
    from kd3d.runs.atomic import write_json

    spec = preset(TINY)
    checkpoint.save_model(tmp_path / "m", checkpoint.build(spec), {})
    channels = tuple(16384 for _ in spec.backbone.channels)  # tens of GB
    write_json(tmp_path / "m" / "spec.json", to_json(replace(spec, backbone=replace(spec.backbone, channels=channels))))
    with pytest.raises(CheckpointError, match=r"weights.safetensors: \d+ tensor\(s\) do not fit .*16384"):
        checkpoint.load_model(tmp_path / "m")
