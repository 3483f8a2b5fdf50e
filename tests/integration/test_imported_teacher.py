"""The main job from a file of another framework: an OpenPCDet checkpoint becomes an exported, timed student."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

SUPPORT = Path(__file__).resolve().parents[1] / "support"
TINY = "world-centerpoint-pillar-tiny"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A tiny CenterPoint-Pillar of the generated world, as OpenPCDet would have saved it."""
    import torch

    from kd3d.detectors.build import build
    from kd3d.detectors.presets import preset

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(SUPPORT), *sys.path])
        spec = importlib.util.spec_from_file_location("foreign_world", SUPPORT / "foreign_world.py")
        writer = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(writer)
    torch.manual_seed(1)
    return writer.write_openpcdet(tmp_path_factory.mktemp("pcdet") / "teacher.pth", build(preset(TINY)))


@pytest.mark.slow
def test_a_checkpoint_of_openpcdet_becomes_an_exported_and_timed_student(checkpoint, kd3d, tmp_path):
    world, out, export = tmp_path / "world", tmp_path / "run", tmp_path / "onnx"
    kd3d("data", "synth", "--out", world, "--scenes", 2, "--samples", 2, "--seed", 3, "--no-cameras")
    made = kd3d(
        "compress", "--teacher", checkpoint, "--like", TINY, "--data", world, "--out", out, "--budget-flops", "50%",
        "--steps", 2, "--batch-size", 2, "--workers", 0, "--cells", 1,
    )  # fmt: skip
    assert 0 < made["student"]["macs"] <= 0.5 * made["teacher"]["macs"]
    meta = json.loads((out / "teacher" / "meta.json").read_text())
    assert (meta["origin"], meta["framework"], meta["checkpoint"]) == ("import", "openpcdet", "teacher.pth")
    exported = kd3d("export", "onnx", "--model", out, "--out", export)
    assert exported["parity"]["passed"]
    timed = kd3d(
        "bench", export, "--synthetic", "--iterations", 5, "--warmup", 1, "--warmup-ms", 0, "--threads", 1
    )  # fmt: skip
    assert timed["models"][0]["e2e_ms"]["p50"] > 0
