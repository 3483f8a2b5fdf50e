"""Exports of a voxel detector through the command line: run, timed, scored, and in 8 bits for either device."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from kd3d.cli import main as program
from kd3d.detectors.checkpoint import save_model

QUICK = ("--iterations", 4, "--warmup", 1, "--warmup-ms", 0, "--threads", 1, "--streams", 1, "--no-power")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A generated world, and portable frames of it."""
    folder = tmp_path_factory.mktemp("world")
    world = [
        "data",
        "synth",
        "--out",
        f"{folder}/data",
        "--scenes",
        "2",
        "--samples",
        "2",
        "--seed",
        "3",
        "--no-cameras",
    ]
    assert program.run(world) == 0
    assert program.run(["data", "frames", "--data", f"{folder}/data", "--out", f"{folder}/frames", "-n", "2"]) == 0
    return folder


@pytest.fixture(scope="module")
def model(voxels, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "voxels"
    made = voxels.voxel_model()
    save_model(folder, made.module, made.meta)
    return folder


@pytest.fixture(scope="module")
def exported(model, world, tmp_path_factory):
    out = tmp_path_factory.mktemp("exported") / "onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd3d.export.rtx.available", lambda name: False)  # a build takes most of a minute
        assert (
            program.run(["export", "onnx", "--model", str(model), "--out", str(out), "--frames", f"{world}/frames"])
            == 0
        )
    return out


def gates(folder):
    return {gate["name"]: gate for gate in json.loads((folder / "export.json").read_text())["gates"]}


def test_infer_and_eval_say_the_same_of_the_model_and_of_its_export(model, exported, world, kd3d, tmp_path):
    cloud = next((world / "data" / "samples" / "LIDAR_TOP").glob("*.bin"))
    found = {}
    for name, argument in (("torch", model), ("onnx", exported)):
        raw = tmp_path / f"{name}.npz"
        boxes = kd3d("infer", "--model", argument, "--points", cloud, "--raw", raw)["boxes"]
        scores = kd3d("eval", "--model", argument, "--data", world / "data")
        found[name] = boxes, dict(np.load(raw)), (scores["mAP"], scores["NDS"])
    (ours, our_maps, our_scores), (theirs, their_maps, their_scores) = found.values()
    assert set(our_maps) == set(their_maps)
    for name, map_ in our_maps.items():
        np.testing.assert_allclose(their_maps[name], map_, atol=1e-4 * max(1, np.abs(map_).max()))
    assert len(ours) == len(theirs) > 20
    for one, other in zip(ours, theirs, strict=True):
        assert one["class"] == other["class"]
        np.testing.assert_allclose(one["center_m"], other["center_m"], atol=1e-3)
    assert their_scores == pytest.approx(our_scores, abs=1e-6)


def test_bench_times_voxels_and_tables_before_the_network(exported, world, kd3d, tmp_path):
    (row,) = kd3d("bench", exported, "--frames", world / "frames", *QUICK, "--out", tmp_path / "out")["models"]
    assert set(row["stages"]) >= {"pre", "network", "decode", "nms"}
    assert row["e2e_ms"]["p50"] > row["stages"]["network"]["p50"] > 0
    assert (tmp_path / "out" / "frames.jsonl").stat().st_size > 0


@pytest.mark.parametrize("device", ["cpu", "tensorrt"])
def test_int8_holds_its_gate_and_has_sparse_convolutions_for_a_cpu_only(
    device, model, exported, world, kd3d, tmp_path, monkeypatch
):
    monkeypatch.setattr("kd3d.export.onnx.write_graph", lambda *a, **_: shutil.copy(exported / "model.onnx", a[2]))
    out = tmp_path / "int8"
    words = ("--precision", "int8", "--int8-for", device, "--frames", world / "frames", "--parity-frames", 1)
    kd3d("export", "onnx", "--model", model, "--out", out, *words)
    details = gates(out)["int8"]
    products = [name for name in details["errors"] if name.startswith("mm")]
    assert len(products) == (9 if device == "cpu" else 0)
    assert sum(rule.startswith("points") for rule in details["kept"].values()) == (1 if device == "cpu" else 10)
    assert details["layers"] >= 5
    (row,) = kd3d("bench", out, "--frames", world / "frames", *QUICK)["models"]
    assert row["precision"] == "int8"
