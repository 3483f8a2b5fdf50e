"""From a space to a student within a latency, as a user does it; the measuring device has no torch and no onnx."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kd3d.cli import main as program

TEACHER = ("--teacher", "world-centerpoint-pillar-tiny")
SPACE = ("--widths", "0.5,1", "--depths", "1", "--cells", "1")
ROOT = Path(__file__).resolve().parents[2]
BLOCKER = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "onnx", "nuscenes"):
            raise ModuleNotFoundError(f"No module named {name!r} (not installed in this test)", name=name)
sys.meta_path.insert(0, Absent())
"""


def fails(capsys, *arguments):
    code = program.run([str(argument) for argument in arguments])
    return code, capsys.readouterr().err.strip().splitlines()[-1]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latency")
    assert (
        program.run(["data", "synth", "--out", f"{folder}/world", "--scenes", "2", "--samples", "2", "--no-cameras"])
        == 0
    )
    return folder


def test_blocks_are_measured_without_torch_and_searched_with(world, kd3d, capsys):
    data = ("--data", world / "world")
    written = kd3d("search", *TEACHER, *data, *SPACE, "--write-blocks", world / "blocks.zip")
    assert written["blocks"] > 10 and written["networks"] > 3
    (world / "sitecustomize.py").write_text(BLOCKER)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "kd3d.cli",
            "bench",
            "--make-table",
            "blocks.zip",
            "--out",
            "t.json",
            "--threads",
            "1",
            "--json",
        ],
        cwd=world,
        env={"PYTHONPATH": f"{world}:{ROOT}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout.splitlines()[-1])
    assert made["blocks"] == written["blocks"] and made["runtime"] == "onnxruntime-cpu"

    table = ("--latency-table", world / "t.json")
    run = ("--out", world / "run")
    found = kd3d("search", *TEACHER, *data, *SPACE, *table, "--budget-latency", "70%", "--roofline", "1,20", *run)
    limit = found["budget"]["latency_ms"]["limit"]
    assert limit == pytest.approx(0.7 * found["teacher"]["latency_ms"])
    assert all(0 < row["latency_ms"] <= limit and row["roofline_ms"] > 0 for row in found["candidates"])
    assert found["latency"]["predicted_ms"] == pytest.approx(found["best"]["latency_ms"])
    assert found["latency"]["measured_ms"] > 0
    assert found["latency"]["error"] == pytest.approx(
        found["latency"]["predicted_ms"] / found["latency"]["measured_ms"] - 1
    )

    record = json.loads((world / "run" / "search.json").read_text())
    assert record["latency"] == found["latency"] and record["roofline_ms"] == found["roofline_ms"]
    assert record["best"] == found["best"] and record["candidates"][: len(found["candidates"])] == found["candidates"]
    assert (
        program.run([str(word) for word in ("search", *TEACHER, *data, *SPACE, *table, "--budget-latency", "70%")]) == 0
    )
    assert f"{found['best']['latency_ms']:.2f} ms" in capsys.readouterr().out

    code, said = fails(capsys, "search", *TEACHER, *data, *SPACE, *table, "--budget-latency", "1us")
    assert code == 3 and "the fastest a predicted latency of" in said
    code, said = fails(capsys, "search", *TEACHER, *data, *table, "--budget-latency", "20ms", "--runtime", "tensorrt")
    assert code == 2 and "of the runtime onnxruntime-cpu, not tensorrt" in said
    code, said = fails(capsys, "search", *TEACHER, *data, "--cells", "2", *table, "--budget-latency", "20ms")
    assert code == 7 and "has no block of the family" in said


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (
            ("search", *TEACHER, "--data", "x", "--budget-latency", "20ms"),
            2,
            "--budget-latency needs --latency-table FILE",
        ),
        (("search", *TEACHER, "--data", "x", "--budget-flops", "20%", "--runtime", "y"), 2, "--runtime needs"),
        (("search", *TEACHER, "--budget-flops", "20%"), 2, "--data is missing"),
        (("bench", "--make-table", "b.zip"), 2, "--make-table needs --out FILE.json"),
        (("bench", "m.onnx", "--make-table", "b.zip", "--out", "t"), 2, "give no models and no frames"),
        (("bench",), 2, "name at least one model to time"),
        (("bench", "--make-table", "b.zip", "--out", "t", "--runtime", "torch"), 5, "cannot be made with 'torch'"),
        (
            ("bench", "--make-table", "b.zip", "--out", "t", "--runtime", "tensorrt", "--device", "cpu"),
            2,
            "measures on a GPU only",
        ),
        (("bench", "--make-table", "b.zip", "--out", "t"), 7, "b.zip: no such file"),
    ],
)
def test_requests_that_cannot_be_met_say_why(arguments, code, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, said = fails(capsys, *arguments)
    assert found == code and text in said
    assert list(tmp_path.iterdir()) == []
