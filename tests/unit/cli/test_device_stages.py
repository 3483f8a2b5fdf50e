"""``--device-stages``: the CUDA kernels around an engine, on a device that runs them on the processor."""

import json
import sys

import numpy as np
import pytest

from kd3d.cli import pipelines
from kd3d.cli.main import run
from kd3d.errors import BackendError
from kd3d.export import trt as trt_module
from kd3d.runtime.cuda import cache


@pytest.fixture(scope="module")
def device(shim, shim_library):
    """Opens the device that runs kernels; the newest is ``made[-1]``."""

    def open_it():
        open_it.made.append(shim.ShimDevice(shim_library))
        return open_it.made[-1]

    open_it.made = []
    return open_it


@pytest.fixture(scope="module")
def work(tmp_path_factory, tiny_network, fake_tensorrt, device):
    """A cloud, and engines of a tiny detector: one with room, and one that drops pillars."""
    from kd3d.bench.synthetic import synthetic_frames

    folder = tmp_path_factory.mktemp("work")
    np.save(folder / "cloud.npy", synthetic_frames(tiny_network.TINY, count=1, points=2000)[0].points)
    tiny_network.write_network(folder / "model.onnx")
    with pytest.MonkeyPatch.context() as patch:
        _become(patch, fake_tensorrt, device)
        for name, pillars in (("engine", "1,500,4000"), ("small", "1,10,20")):
            options = ["--model", str(folder / "model.onnx"), "--out", str(folder / name), "--pillars", pillars]
            assert run(["export", "trt", *options]) == 0
    return folder


@pytest.fixture
def vehicle(fake_tensorrt, device, monkeypatch, tmp_path):
    """A machine with TensorRT 10.3, a device, and NVRTC 13.0 that counts what it compiles."""
    _become(monkeypatch, fake_tensorrt, device)
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "kernels"))
    monkeypatch.setattr("kd3d.runtime.cuda.pipeline._FIRST_CAPACITY", 4096)  # launches are sized by it
    compiled = []
    monkeypatch.setattr(cache.compiling, "nvrtc_version", lambda: "13.0")
    monkeypatch.setattr(cache.compiling, "compile_kernels", lambda capability: compiled.append(capability) or b"cubin")
    return compiled


def _become(patch, fake_tensorrt, device):
    patch.setitem(sys.modules, "tensorrt", fake_tensorrt.make_module("10.3.0"))
    patch.setattr(trt_module, "graphics_cards", lambda: ["Fake Orin, 32768 MiB, 580.65"])
    patch.setattr(pipelines, "device_backend", lambda name, index: device)


def answer(capsys, *arguments):
    capsys.readouterr()
    code = run([*map(str, arguments), "--json"])
    printed = capsys.readouterr()
    return code, json.loads(printed.out.splitlines()[-1]), printed.err


@pytest.mark.parametrize("engine", ["engine", "small"])
def test_boxes_maps_and_drops_are_those_of_the_host(work, vehicle, device, capsys, tmp_path, engine):
    found, maps = {}, {}
    for stages in ("host", "cuda"):
        options = ["--points", work / "cloud.npy", "--device-stages", stages, "--raw", tmp_path / "maps.npz"]
        code, found[stages], said = answer(capsys, "infer", "--model", work / engine, *options)
        assert code == 0, said
        assert ("did not fit the network" in said) == (engine == "small")
        with np.load(tmp_path / "maps.npz") as held:
            maps[stages] = {name: held[name] for name in held.files}
        assert bool(device.made[-1].launches) == (stages == "cuda")
    assert len(found["host"]["boxes"]) > 50
    assert [box["class"] for box in found["cuda"]["boxes"]] == [box["class"] for box in found["host"]["boxes"]]
    for ours, theirs in zip(found["cuda"]["boxes"], found["host"]["boxes"], strict=True):
        for key in ("score", "center_m", "size_m", "yaw_rad", "velocity_m_s"):
            np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-5, atol=1e-5)
    assert maps["cuda"].keys() == maps["host"].keys()
    for name, value in maps["host"].items():
        np.testing.assert_array_equal(maps["cuda"][name], value)
    for key in ("dropped_points", "dropped_pillars"):
        assert found["cuda"][key] == found["host"][key]
    assert vehicle == [(8, 7)]


def test_auto_takes_the_kernels_where_they_can_be_compiled_and_says_where_it_could_not(
    work, vehicle, capsys, monkeypatch
):
    command = ["infer", "--model", work / "engine", "--points", work / "cloud.npy", "--device-stages"]
    code, _, said = answer(capsys, *command, "auto")
    assert (code, "before and after the network of engine: cuda" in said) == (0, True)

    def refuse(*_):
        raise BackendError("no compiler, says the test.")

    monkeypatch.setattr(cache.compiling, "nvrtc_version", refuse)
    monkeypatch.setattr(cache.compiling, "compile_kernels", refuse)
    code, got, said = answer(capsys, *command, "auto")
    assert (code, len(got["boxes"]) > 50) == (0, True)
    assert "before and after the network of engine: host: no compiler, says the test." in " ".join(said.split())
    code, got, _ = answer(capsys, *command, "cuda")
    assert (code, got["error"]) == (5, "no compiler, says the test.")
    monkeypatch.setitem(sys.modules, "tensorrt", None)  # the engine itself cannot run: that is no matter of stages
    code, got, _ = answer(capsys, *command, "auto")
    assert (code, "tensorrt is needed here" in got["error"]) == (5, True)


def test_the_official_metrics_are_those_of_the_host(work, vehicle, tiny_root, capsys):
    found = {}
    for stages in ("host", "cuda"):
        command = ["eval", "--model", work / "engine", "--data", tiny_root, "--device-stages", stages]
        code, found[stages], said = answer(capsys, *command)
        assert code == 0, said
    assert found["cuda"]["mAP"] == pytest.approx(found["host"]["mAP"], abs=1e-6)
    assert found["cuda"]["NDS"] == pytest.approx(found["host"]["NDS"], abs=1e-6)


def test_bench_has_device_times_streams_frames_in_flight_and_warns_of_dropped_pillars(work, vehicle, capsys):
    quick = ["--synthetic", "--iterations", "4", "--warmup", "1", "--warmup-ms", "0", "--no-power"]
    command = ["bench", work / "small", *quick, "--device-stages", "cuda", "--cuda-graph", "--no-include-transfers"]
    code, got, said = answer(capsys, *command)
    assert code == 0, said
    (model,) = got["models"]
    assert model["device_stages"] == "cuda"
    assert all(model["stages"][name]["gpu_ms"]["p50"] > 0 for name in ("pre", "network", "decode", "nms"))
    assert model["network_resident_ms"]["p50"] > 0
    assert model["streaming"]["differing_frames"] == 0
    assert model["dropped"]["dropped_pillars"] > 0
    assert any("4 timed frames" in text and "did not fit the network" in text for text in got["warnings"])


def test_wrong_words_and_wrong_models_are_refused(work, vehicle, capsys):
    cloud = ["--points", work / "cloud.npy"]
    code, got, _ = answer(capsys, "infer", "--model", work / "engine", *cloud, "--device-stages", "gpu")
    assert (code, got["error"]) == (2, "--device-stages must be host, cuda or auto, not 'gpu'.")
    code, got, _ = answer(capsys, "infer", "--model", work / "model.onnx", *cloud, "--device-stages", "cuda")
    assert (code, "--device-stages are for engines" in got["error"]) == (2, True)
