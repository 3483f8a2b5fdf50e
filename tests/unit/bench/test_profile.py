"""Times of layers: ONNX Runtime's for real, TensorRT's on a stand-in, in trtexec's format."""

import json

import pytest

from kd3d.bench.profile import profile, profile_json
from kd3d.bench.synthetic import synthetic_frames
from kd3d.cli.main import run
from kd3d.detectors.presets import preset
from kd3d.errors import UsageError
from kd3d.runtime.autoware import load_autoware
from kd3d.runtime.layer_times import layer_times, read_ort_profile
from kd3d.runtime.pipeline import load_pipeline
from kd3d.runtime.runners import OrtRunner
from tests.support.autoware_detector import ALL, small
from tests.support.constant_network import write_autoware, write_export

SPEC = preset("world-centerpoint-pillar-tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_export(SPEC, tmp_path_factory.mktemp("profile") / "export")


@pytest.fixture(scope="module")
def frames():
    return synthetic_frames(SPEC, count=2, points=500)


def test_every_node_that_onnx_runtime_runs_is_timed_once_per_frame(folder, frames):
    with load_pipeline(folder) as pipeline:
        found = profile(pipeline, frames, count=5)
    assert any("ReduceSum" in layer for layer in found)
    assert len(found) >= 8  # three sums, their products, six maps
    assert {len(taken) for taken in found.values()} == {5}
    assert all(value >= 0 for taken in found.values() for value in taken)


def test_the_two_networks_of_autoware_are_told_apart(tmp_path):
    folder = write_autoware(small(points=ALL), tmp_path / "export")
    spec = small(points=ALL)
    with load_autoware(folder) as node:
        found = profile(node, synthetic_frames(spec, count=1, points=300), count=2)
    assert {layer.partition(":")[0] for layer in found} == {"encoder", "head"}


def test_the_format_is_trtexec_s():
    rows = profile_json({"a": [1.0, 2.0, 6.0], "b": [1.0, 1.0, 1.0]})
    assert rows == [
        {"count": 3},
        {"name": "a", "timeMs": 9.0, "averageMs": 3.0, "medianMs": 2.0, "percentage": 75.0},
        {"name": "b", "timeMs": 3.0, "averageMs": 1.0, "medianMs": 1.0, "percentage": 25.0},
    ]
    assert profile_json({}) == [{"count": 0}]


def test_events_that_are_no_kernels_do_not_count():
    events = [
        {"cat": "Session", "name": "model_run", "dur": 900},
        {"cat": "Node", "name": "conv_fence_before", "dur": 3, "args": {"op_name": "Conv"}},
        {"cat": "Node", "name": "conv_kernel_time", "dur": 250, "args": {"op_name": "Conv"}},
        {"cat": "Node", "name": "_kernel_time", "dur": 500, "args": {"op_name": "Add", "node_index": "7"}},
        {"cat": "Node", "name": "conv_kernel_time", "dur": 150, "args": {"op_name": "Conv"}},
    ]
    assert read_ort_profile(events) == {"conv (Conv)": [0.25, 0.15], "node 7 (Add)": [0.5]}


def test_what_cannot_tell_says_so(folder):
    with pytest.raises(UsageError, match="a torch model has no layers of a runtime"):
        profile(object(), [1], count=1)
    with pytest.raises(UsageError, match=r"onnxruntime-cuda does not tell .* with --device cpu, or an engine"):
        layer_times(OrtRunner(folder / "model.onnx", provider="cuda"), [])


def test_the_command_writes_the_file_and_names_the_slowest(folder, frames, tmp_path, capsys):
    frames[0].points.tofile(tmp_path / "cloud.bin")
    quick = ["--iterations", "4", "--warmup", "0", "--warmup-ms", "0", "--streams", "1", "--no-power", "--profile"]
    line = ["bench", str(folder), str(folder), "--frames", str(tmp_path / "cloud.bin"), *quick, "--json"]
    assert run(line) == 2
    assert "--profile writes a file with the time of every layer; give --out too" in capsys.readouterr().err
    assert run([*line, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "slowest layers" in said
    models = json.loads(said.splitlines()[-1])["models"]
    assert [model["profile"]["file"] for model in models] == ["profile.json", "profile-2.json"]
    rows = json.loads((tmp_path / "out/profile.json").read_text())
    assert rows[0] == {"count": 4}
    assert sum(row["percentage"] for row in rows[1:]) == pytest.approx(100)
    slowest = models[0]["profile"]["slowest"]
    assert len(slowest) == min(10, len(rows) - 1)
    assert slowest[0]["timeMs"] == max(row["timeMs"] for row in rows[1:])
    assert "profile" in json.loads((tmp_path / "out/bench.json").read_text())["models"][0]
