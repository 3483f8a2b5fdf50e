"""``kd3d export trt``, ``infer``, ``eval`` on an engine: real command lines on fake CUDA and a fake TensorRT."""

import ctypes
import json
import shutil
import sys

import numpy as np
import pytest

from kd3d.cli.main import run
from kd3d.export import trt as trt_module


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_network):
    """A cloud and an ONNX file of a tiny detector."""
    from kd3d.bench.synthetic import synthetic_frames

    folder = tmp_path_factory.mktemp("work")
    np.save(folder / "cloud.npy", synthetic_frames(tiny_network.TINY, count=1, points=2000)[0].points)
    tiny_network.write_network(folder / "model.onnx")
    return folder


@pytest.fixture
def vehicle(fake_tensorrt, fake_cuda, monkeypatch):
    """A machine with a driver, libcudart and TensorRT 10.3; returns what makes it another version."""
    kept = []

    def enqueue(stream, task):
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda data: task())
        kept.append(call)
        assert fake_cuda.cudaLaunchHostFunc(ctypes.c_void_p(stream), call, None) == 0

    def become(version="10.3.0", **knobs):
        monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.make_module(version, enqueue=enqueue, **knobs))

    monkeypatch.setattr(trt_module, "graphics_cards", lambda: ["Fake Orin, 32768 MiB, 580.65"])
    become()
    return become


@pytest.fixture
def engine(work, vehicle, tmp_path):
    folder = tmp_path / "engine"
    options = ["--cuda-backend", "ctypes", "--pillars", "1,500,4000"]
    assert run(["export", "trt", "--model", str(work / "model.onnx"), "--out", str(folder), *options]) == 0
    return folder


def answer(capsys, *arguments):
    capsys.readouterr()
    code = run([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out.splitlines()[-1]), printed.err


@pytest.mark.parametrize("options", [[], ["--cuda-graph"], ["--device", "cuda:0"]])
def test_an_engine_gives_the_boxes_of_the_onnx_it_was_built_from(work, engine, capsys, options):
    cloud = ["--points", work / "cloud.npy"]
    code, reference, _ = answer(capsys, "infer", "--model", work / "model.onnx", *cloud)
    assert code == 0
    assert len(reference["boxes"]) > 50
    for model in (engine, engine / "model.engine"):
        code, got, _ = answer(capsys, "infer", "--model", model, *cloud, "--cuda-backend", "ctypes", *options)
        assert code == 0
        assert got["boxes"] == reference["boxes"]
        assert got["dropped_pillars"] == 0
    gate = json.loads((engine / "engine.json").read_text())["gates"][0]
    assert (gate["state"], gate["parity"]["matched"]) == ("passed", gate["parity"]["boxes"])


def test_more_pillars_than_the_profile_are_said(work, vehicle, tmp_path, capsys):
    options = ["--cuda-backend", "ctypes", "--pillars", "1,10,20", "--out", tmp_path / "small"]
    assert answer(capsys, "export", "trt", "--model", work / "model.onnx", *options)[0] == 0
    cloud = ["--points", work / "cloud.npy"]
    code, got, said = answer(capsys, "infer", "--model", tmp_path / "small", *cloud, "--cuda-backend", "ctypes")
    assert code == 0
    assert got["dropped_pillars"] > 100
    assert f"warning: {got['dropped_pillars']} pillar(s) and {got['dropped_points']} point(s) did not fit" in said


def test_the_official_metrics_are_those_of_the_engine(work, engine, tiny_root, capsys):
    found = {}
    for name, model in (("onnx", work / "model.onnx"), ("engine", engine)):
        options = ["--cuda-backend", "ctypes"] if name == "engine" else []
        code, found[name], _ = answer(capsys, "eval", "--model", model, "--data", tiny_root, *options)
        assert code == 0
    assert found["engine"]["mAP"] == found["onnx"]["mAP"]
    assert found["engine"]["NDS"] == found["onnx"]["NDS"]


def test_bench_times_an_engine_beside_its_onnx(work, engine, capsys):
    options = ["--synthetic", "--iterations", "4", "--warmup", "1", "--warmup-ms", "0", "--no-power"]
    code, got, said = answer(
        capsys, "bench", engine, work / "model.onnx", *options, "--threads", "1", "--cuda-backend", "ctypes"
    )
    assert (code, got["exit_code"]) == (2, 2), said
    assert "--cuda-graph and --device-stages are for engines" in got["error"]
    code, got, said = answer(capsys, "bench", engine, *options, "--cuda-backend", "ctypes", "--cuda-graph")
    assert code == 0, said
    (model,) = got["models"]
    assert (model["runtime"], model["precision"]) == ("tensorrt-10.3.0-graph", "fp16")
    assert model["sha256"] == json.loads((engine / "engine.json").read_text())["engine"]["sha256"]
    assert model["e2e_ms"]["p50"] > 0


def test_blocks_are_measured_as_engines(vehicle, capsys, tmp_path, monkeypatch):
    from kd3d.bench import make_table as module
    from kd3d.compress.search.space import Space
    from kd3d.compress.search.stats import PillarStats
    from kd3d.compress.search.write_blocks import write_blocks
    from kd3d.detectors.presets import preset

    one = (1.0,)
    space = Space(encoder=one, backbone=one, neck=one, head=one, depth=one, cell=one)
    teacher = preset("world-centerpoint-pillar-tiny")
    write_blocks(tmp_path / "b.zip", teacher, space, stats=lambda spec: PillarStats(200.0, 600.0), networks=1)
    brief = module.Effort(rounds=1, warmup_s=0, warmups=1, sample_s=0, least=1, most=1)
    monkeypatch.setattr(module, "Effort", lambda: brief)
    table = ["bench", "--make-table", tmp_path / "b.zip", "--out", tmp_path / "t.json", "--cuda-backend", "ctypes"]
    code, got, said = answer(capsys, *table, "--runtime", "tensorrt", "--precision", "fp16")
    assert code == 0, said
    assert (got["runtime"], got["version"], got["precision"], got["networks"]) == ("tensorrt", "10.3.0", "fp16", 1)
    assert got["device"] == "Fake Orin"
    searched = ["search", "--teacher", "world-centerpoint-pillar-tiny", "--data", tmp_path, "--budget-latency", "90%"]
    code, got, _ = answer(capsys, *searched, "--latency-table", tmp_path / "t.json")
    assert (code, "of precision fp16, but students are fp32" in got["error"]) == (2, True)


def test_each_way_to_fail_has_its_own_words_and_code(work, engine, vehicle, capsys, tmp_path, fake_cuda, monkeypatch):
    def refused(code, text, *options, model=engine, backend="ctypes"):
        chosen = ["--cuda-backend", backend] if backend else []
        found, told, _ = answer(capsys, "infer", "--model", model, "--points", work / "cloud.npy", *chosen, *options)
        assert (found, told["exit_code"]) == (code, code), told
        assert text in told["error"], told["error"]

    refused(2, "an engine runs on a GPU only", "--device", "cpu")
    refused(2, "--provider is for ONNX files", "--provider", "cuda")
    refused(2, "--cuda-graph and --device-stages are for engines", "--cuda-graph", model=work / "model.onnx")
    refused(2, "are for exports and engines, not torch models", "--cuda-graph", model="world-teacher")
    refused(2, "must be auto, cuda-bindings, ctypes, pycuda, torch, not 'cupy'", backend="cupy")
    refused(5, "no CUDAExecutionProvider here", "--provider", "cuda", model=work / "model.onnx", backend=None)
    refused(5, "no TensorrtExecutionProvider here", "--provider", "tensorrt", model=work / "model.onnx", backend=None)
    refused(5, "torch sees no CUDA device 0", backend="torch")
    vehicle("10.7.0")
    refused(5, "was built by tensorrt 10.3.0, but here is 10.7.0")
    vehicle()
    cut = shutil.copytree(engine, tmp_path / "cut")
    (cut / "model.engine").write_bytes((engine / "model.engine").read_bytes()[:1000])
    refused(7, "has 1000 bytes, but", model=cut)
    (cut / "engine.json").unlink()
    refused(7, "no engine.json beside it", model=cut / "model.engine")
    fake_cuda.fake_limit(1 << 16)
    refused(5, "the device has not enough free memory")
    fake_cuda.fake_driver(100)
    refused(5, "no usable NVIDIA driver or GPU here")
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    refused(5, "tensorrt is needed here")


def test_a_foreign_onnx_says_what_it_lacks(work, tmp_path, capsys):
    import onnx

    model = onnx.load(work / "model.onnx")
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "foreign.onnx")
    code, told, _ = answer(capsys, "infer", "--model", tmp_path / "foreign.onnx", "--points", work / "cloud.npy")
    assert code == 7
    assert "no 'kd3d.spec' in its metadata and no spec.json beside it" in told["error"]
    code, told, _ = answer(capsys, "export", "trt", "--model", tmp_path / "foreign.onnx", "--out", tmp_path / "e")
    assert code == 7
    assert "does not say which detector it is" in told["error"]


def test_the_layers_of_an_engine_are_timed_by_tensorrt_s_profiler_but_not_within_a_graph(
    work, engine, capsys, tmp_path
):
    quick = ["--iterations", "3", "--warmup", "0", "--warmup-ms", "0", "--streams", "1", "--no-power", "--profile"]
    np.load(work / "cloud.npy").tofile(tmp_path / "cloud.bin")
    line = ["bench", engine, "--frames", tmp_path / "cloud.bin", "--cuda-backend", "ctypes", *quick]
    code, got, _ = answer(capsys, *line, "--out", tmp_path / "bench")
    assert code == 0
    rows = json.loads((tmp_path / "bench/profile.json").read_text())
    assert rows[0] == {"count": 3}
    assert [(row["name"], row["medianMs"], row["percentage"]) for row in rows[1:]] == [
        ("conv1", 0.75, 75.0),
        ("conv2", 0.25, 25.0),
    ]
    assert got["models"][0]["profile"]["layers"] == 2
    code, got, _ = answer(capsys, *line, "--out", tmp_path / "graph", "--cuda-graph")
    assert code == 2
    assert "Leave --cuda-graph out" in got["error"]
