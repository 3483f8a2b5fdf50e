"""A voxel detector leaves as one ONNX file that reads features and neighbour tables."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from kd3d.detectors.presets import preset
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.errors import UsageError
from kd3d.export.gates import Gate
from kd3d.export.onnx import export_onnx
from kd3d.export.probes import probe_frames
from kd3d.export.spare_rows import padded_feeds
from kd3d.export.trtexec import _shapes
from kd3d.runtime.pipeline import load_pipeline
from tests.support.trained import VOXELS as TINY
from tests.support.trained import trained_like

TABLES = ["submanifold0", "strided1", "submanifold1", "strided2", "submanifold2", "strided_out"]


@pytest.fixture(scope="module")
def model(graphs):
    return graphs("voxels")[0]


@pytest.fixture(scope="module")
def exported(model, graphs, tmp_path_factory):
    folder, traced = tmp_path_factory.mktemp("voxels") / "export", graphs("voxels")[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd3d.export.onnx.write_graph", lambda *a, **_: shutil.copy(traced, a[2]))
        patch.setattr("kd3d.export.onnx.rtx_gate", lambda *_, **__: Gate("trt-rtx", "skipped", reason="slow"))
        return folder, export_onnx(model, folder)


def test_the_graph_passes_the_gates_and_holds_one_gather_per_sparse_layer(exported, model):
    folder, result = exported
    assert result.parity.passed
    assert result.parity.matched > 100
    record = json.loads((folder / "export.json").read_text())
    convolutions = sum(name.endswith("conv.weight") for name in model.module.encoder.state_dict())
    assert record["operators"]["Gather"] == record["operators"]["MatMul"] + record["operators"].get("Gemm", 0)
    assert record["operators"]["Gather"] == convolutions
    assert record["operators"]["ScatterND"] == 1


def test_fp16_passes_its_gate_with_coordinates_and_the_first_layer_in_fp32(exported, model, tmp_path, monkeypatch):
    folder, _ = exported
    monkeypatch.setattr("kd3d.export.onnx.rtx_gate", lambda *_, **__: Gate("trt-rtx", "skipped", reason="slow"))
    monkeypatch.setattr("kd3d.export.onnx.write_graph", lambda *a, **_: shutil.copy(folder / "model.onnx", a[2]))
    result = export_onnx(model, tmp_path / "half", precision="fp16")
    half = next(gate for gate in result.gates if gate.name == "fp16")
    assert half.state == "passed"
    assert half.details["emulation"]["passed"]
    assert half.details["nodes_fp16"] > 50
    kept = half.details["kept_fp32"]
    assert all(rule.startswith("absolute") for rule in kept.values())
    assert len(kept) == 4  # the padding row, the gather and the product of the first layer only
    assert result.parity.passed


def test_the_pipeline_file_names_voxels_and_tables(exported):
    folder, _ = exported
    pre, network, *_ = json.loads((folder / "pipeline.json").read_text())["steps"]
    assert pre == {
        "name": "pre", "kind": "host", "operation": "voxels", "inputs": ["points"],
        "outputs": ["features", *TABLES, "cells"],
    }  # fmt: skip
    assert network["inputs"] == pre["outputs"]


def test_any_number_of_voxels_gives_torchs_maps_and_boxes(exported, model):
    folder, _ = exported
    reference = TorchPipeline(model)
    with load_pipeline(folder) as pipeline:
        for frame in probe_frames(TINY, seed=9)[:4]:
            wanted, got = reference.network(reference.pre(frame)), pipeline.network(pipeline.pre(frame))
            for name, map_ in wanted.items():
                np.testing.assert_allclose(got[name], map_, atol=1e-4 * max(1, np.abs(map_).max()))
            np.testing.assert_allclose(pipeline(frame).array, reference(frame).array, atol=1e-3)


def test_the_pipeline_counts_what_it_drops(exported):
    folder, _ = exported
    sparse = probe_frames(TINY)[2]
    crowded = replace(sparse, points=np.tile(sparse.points, (8, 1)))  # 8 points in a voxel that keeps 5
    with load_pipeline(folder) as pipeline:
        pipeline(crowded)
        first = pipeline.dropped_points
        assert first >= 3 * len(sparse.points)
        pipeline(crowded)
        assert pipeline.total_dropped_points == 2 * first


def test_rows_that_stand_for_nothing_change_no_map(exported):
    folder, _ = exported
    with load_pipeline(folder) as pipeline:
        feeds = pipeline.pre(probe_frames(TINY)[2])
        padded = padded_feeds(feeds, TINY, rows=5)
        assert all(len(padded[name]) == len(feeds[name]) + 5 for name in feeds)
        wanted, got = pipeline.network(feeds), pipeline.network(padded)
    for name, map_ in wanted.items():
        np.testing.assert_allclose(got[name], map_, atol=1e-5)


def test_a_fixed_number_of_pillars_is_refused(model, tmp_path):
    with pytest.raises(UsageError, match="has voxels: its stages have different numbers of sites"):
        export_onnx(model, tmp_path / "out", pillars=100)


def test_trtexec_gets_a_shape_for_every_table():
    found = _shapes(TINY, 7).split(",")
    assert found == ["features:7x5", *(f"{name}:7x27" for name in TABLES[:-1]), "strided_out:7x3", "cells:7"]


@pytest.mark.slow
@pytest.mark.rtx
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_waymo_voxel_xs_builds_in_tensorrt_rtx(precision, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    result = export_onnx(trained_like(preset("waymo-centerpoint-voxel-xs")), tmp_path / "xs", precision=precision)
    gate = result.gates[-1]
    assert gate.state == "passed"
    assert {"SM80", "SM89"} <= set(gate.details["engine_bytes"])
