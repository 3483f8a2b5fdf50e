"""The main job from a file of another framework: an OpenPCDet checkpoint becomes an exported, timed student."""

import json

import pytest

PILLARS, VOXELS = "world-centerpoint-pillar-tiny", "world-centerpoint-voxel-tiny"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Writes a tiny detector of the generated world as OpenPCDet saves it, with its configuration."""
    import torch

    from kd3d.detectors.build import build
    from kd3d.detectors.checkpoint import Model
    from kd3d.detectors.presets import preset
    from kd3d.importers.openpcdet_file import write_openpcdet

    def written(name):
        torch.manual_seed(1)
        return write_openpcdet(tmp_path_factory.mktemp("pcdet"), Model(preset(name), build(preset(name)).eval(), {}))

    return written


@pytest.mark.slow
@pytest.mark.parametrize(("name", "extra"), [(PILLARS, ()), (VOXELS, ("--widths", "0.5,1", "--depths", "1"))])
def test_one_command_makes_an_exported_and_timed_student_of_a_checkpoint(name, extra, checkpoint, kd3d, tmp_path):
    world, out = tmp_path / "world", tmp_path / "run"
    file, config = checkpoint(name)
    kd3d("data", "synth", "--out", world, "--scenes", 2, "--samples", 2, "--seed", 3, "--no-cameras")
    command = [
        "compress", "--teacher", file, "--config", config, "--like", name, "--data", world, "--out", out,
        "--budget-flops", "50%", "--steps", 2, "--batch-size", 2, "--workers", 0, "--cells", 1, "--bench", *extra,
    ]  # fmt: skip
    made = kd3d(*command)
    assert 0 < made["student"]["macs"] <= 0.5 * made["teacher"]["macs"]
    assert all(made["export"][side]["parity"]["passed"] for side in ("teacher", "student"))
    assert [timed["name"] for timed in made["bench"]["models"]] == ["teacher", "student"]
    assert all(made[side]["latency_ms_p50"] > 0 for side in ("teacher", "student"))
    assert (out / "export" / "student" / "model.onnx").is_file() and (out / "bench" / "bench.json").is_file()
    meta = json.loads((out / "teacher" / "meta.json").read_text())
    assert (meta["origin"], meta["framework"], meta["checkpoint"]) == ("import", "openpcdet", "model.pth")
    page = (out / "report.html").read_text()
    assert "bench" in page
    again = kd3d(*command, "--resume")  # what was made stays; exports and latencies are made anew
    assert again["student"]["macs"] == made["student"]["macs"] and again["bench"]["models"]
