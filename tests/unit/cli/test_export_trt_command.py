"""``kd3d export trt`` on a machine without TensorRT, torch or onnx: the vehicle's side."""

import json
import subprocess
import sys

import pytest
from onnx import TensorProto, helper

from kd3d.cli.main import run
from kd3d.detectors.presets import preset
from kd3d.spec import to_json

BLOCK = "import sys; sys.modules.update(dict.fromkeys(['torch', 'onnx', 'nuscenes', 'tensorrt', 'onnxruntime'])); "


@pytest.fixture
def graph(tmp_path):
    spec = preset("world-centerpoint-pillar-tiny")
    x = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["pillars", 20, 11])
    model = helper.make_model(helper.make_graph([helper.make_node("Relu", ["features"], ["y"])], "g", [x], []))
    helper.set_model_props(model, {"kd3d.spec": json.dumps(to_json(spec)), "kd3d.precision": "fp16"})
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    return tmp_path / "model.onnx"


def vehicle(*arguments):
    code = f"{BLOCK}from kd3d.cli.main import run; raise SystemExit(run({[str(item) for item in arguments]!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_without_tensorrt_it_ends_with_5_and_leaves_nothing(graph, tmp_path):
    done = vehicle("export", "trt", "--model", graph, "--out", tmp_path / "out", "--json")
    assert done.returncode == 5, done.stderr
    assert "tensorrt is needed here" in json.loads(done.stdout.splitlines()[-1])["error"]
    assert not (tmp_path / "out").exists()


def test_the_trtexec_line_needs_no_tensorrt(graph, tmp_path):
    done = vehicle("export", "trt", "--model", graph, "--out", tmp_path / "e", "--print-trtexec", "10.3", "--json")
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout.splitlines()[-1])["trtexec"]
    assert line.startswith(f"trtexec --onnx={graph} --saveEngine={tmp_path / 'e/model.engine'}")
    assert "--stronglyTyped" in line


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--capability", "SM89"], "--capability needs --rtx"),
        (["--pillars", "1,2"], "--pillars takes three numbers such as 1,10000,30000, not '1,2'"),
        (["--precision", "int4"], "--precision must be fp32, fp16, int8 or auto, not int4"),
    ],
)
def test_senseless_options_are_refused(graph, tmp_path, capsys, options, text):
    assert run(["export", "trt", "--model", str(graph), "--out", str(tmp_path / "o"), *options]) == 2
    assert text in capsys.readouterr().err
