"""``kd3d info`` on networks, specifications and presets that are only costed."""

import json
from dataclasses import replace

import pytest

from kd3d.cli.main import run
from kd3d.detectors.presets import PRESETS, preset
from kd3d.runs.atomic import write_json
from kd3d.spec import to_json

STABLE = {"params", "macs", "macs_thop", "acts", "stages"}
TINY = "world-centerpoint-pillar-tiny"


@pytest.fixture
def info(capsys):
    """Run ``kd3d info`` and give its printed lines and its JSON."""

    def call(*arguments, code=0):
        capsys.readouterr()
        assert run(["info", *map(str, arguments), "--json"]) == code
        captured = capsys.readouterr()
        lines = captured.out.splitlines()
        return lines[:-1] + captured.err.splitlines(), json.loads(lines[-1])

    return call


NEEDS_DATA = {name for name in PRESETS if name.startswith("nuscenes-centerpoint-voxel")}  # no published site counts


@pytest.mark.parametrize("name", sorted(NEEDS_DATA))
def test_without_data_or_published_counts_a_sparse_network_is_not_costed(capsys, name):
    assert run(["info", name]) == 2
    assert "sparse convolutions count occupied voxels. Give --data." in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(PRESETS.keys() - NEEDS_DATA))
def test_every_preset_is_costed_with_stages_that_sum_up(info, name):
    _, record = info(name)
    assert set(record) >= STABLE
    for key in ("params", "macs", "macs_thop", "acts", "weight_elements", "read_elements", "written_elements"):
        assert record[key] == sum(stage[key] for stage in record["stages"]) > 0
    assert record["macs"] <= record["macs_thop"]
    assert record["peak_activation_bytes"] > 0


def test_both_conventions_are_shown_with_who_uses_them(info):
    lines, record = info("waymo-centerpoint-voxel")
    assert any("107.634 G  physical; kd3d's budgets, and RDD's KITTI PointPillars row" in line for line in lines)
    assert any("114.800 G  thop; SparseKD's tables" in line for line in lines)
    assert set(record["conventions"]) == {"macs", "macs_thop"}
    assert "derived" in record["statistics"]
    assert not any("cost only" in line for line in lines)
    assert record["buildable"] is True


@pytest.mark.parametrize("name", ["kitti-second", TINY])
def test_every_network_can_be_built(info, name):
    lines, record = info(name)
    assert record["buildable"] is True
    assert not any("cost only" in line for line in lines)


def test_memory_is_in_the_bits_asked_for(info):
    _, sixteen = info(TINY)
    lines, eight = info(TINY, "--bits", "8")
    assert sixteen["weight_bytes"] == 2 * eight["weight_bytes"] == 2 * eight["weight_elements"]
    assert sixteen["peak_activation_bytes"] == 2 * eight["peak_activation_bytes"]
    assert any(line.startswith("memory at 8 bits: weights ") for line in lines)
    info(TINY, "--bits", "0", code=2)


def test_a_specification_file_is_costed_on_full_pillars(info, tmp_path):
    spec = replace(preset("waymo-centerpoint-pillar"), name="mine")
    write_json(tmp_path / "mine.json", to_json(spec))
    _, record = info(tmp_path / "mine.json")
    assert record["name"] == "mine"
    assert record["statistics"].startswith("every pillar slot counted as full")


def test_a_voxel_specification_without_data_says_what_is_missing(info, tmp_path):
    write_json(tmp_path / "mine.json", to_json(preset("kitti-second")))
    lines, record = info(tmp_path / "mine.json", code=2)
    assert record["error"].startswith("the cost of kitti-second depends on the data: sparse convolutions count")
    assert record["error"].endswith("Give --data.")
    assert any("Give --data." in line for line in lines)


def test_a_missing_specification_file_is_named(info):
    assert "no-such.json" in info("no-such.json", code=7)[1]["error"]


@pytest.mark.slow
def test_voxels_are_measured_on_the_data_given(info, shared_data):
    _, record = info("kitti-second", "--data", shared_data / "kitti")
    assert record["statistics"].startswith("measured on ")
    assert record["macs_thop"] / 1e9 == pytest.approx(80.5, rel=0.01)
