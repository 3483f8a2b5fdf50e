"""The whole main job in small: world, compression, exports, latency, accuracy, table and picture."""

import json

import torch

from kd3d.cli.main import run
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import save_model
from kd3d.detectors.presets import preset


def test_the_demo_ends_in_figures_of_both_models_and_a_picture(tmp_path, capfd):
    torch.manual_seed(0)
    save_model(tmp_path / "teacher", build(preset("world-centerpoint-pillar-tiny")), {})
    small = [
        "--scenes",
        "2",
        "--samples",
        "2",
        "--steps",
        "2",
        "--batch-size",
        "2",
        "--iterations",
        "4",
        "--workers",
        "1",
    ]
    out = tmp_path / "demo"
    code = run(["demo", "--out", str(out), "--teacher", str(tmp_path / "teacher"), *small, "--json"])
    printed = capfd.readouterr()
    assert code == 0, printed.err
    result = json.loads(printed.out.splitlines()[-1])
    for name in ("teacher", "student"):
        assert {"mAP", "NDS", "macs", "params", "latency_ms_p50", "latency_ms_p99", "fps", "size_mb"} <= set(
            result[name]
        )
    assert result["student"]["macs"] <= 0.25 * result["teacher"]["macs"]
    assert (out / "boxes.png").stat().st_size > 10_000
    assert (out / "student-onnx" / "model.onnx").is_file()
    assert "mAP" in (out / "table.md").read_text()
