"""Blocks in float16 are the pieces of an fp16 export, and nobody takes their table for one of fp32."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest

from kd3d.bench.block_file import BlockFile, Item
from kd3d.bench.make_table import Effort, make_table
from kd3d.cli.main import run
from kd3d.compress.search.block_graphs import block_graph, block_inputs, network_graph, network_inputs
from kd3d.compress.search.blocks import blocks
from kd3d.compress.search.half_blocks import lowered
from kd3d.compress.search.latency import LatencyModel
from kd3d.compress.search.space import Space
from kd3d.compress.search.stats import PillarStats
from kd3d.compress.search.verify import check_table, verify
from kd3d.compress.search.write_blocks import write_blocks
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import UsageError
from kd3d.export.graph import write_graph
from kd3d.export.precision import to_fp16
from kd3d.runtime.runners import OrtRunner

TINY = preset("world-centerpoint-pillar-tiny")
DYNAMIC = replace(TINY, encoder=replace(TINY.encoder, filters=(16, 32), mode="dynamic"))
ANCHORS = preset("world-pointpillars-tiny")
HALF, SINGLE = onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT
SPACE = Space(encoder=(1.0,), backbone=(1.0,), neck=(1.0,), head=(1.0,), depth=(1.0,), cell=(1.0,))
BRIEF = Effort(rounds=1, warmup_s=0, warmups=1, sample_s=0, least=1, most=1)


def typed(model):
    """Operators with the type of what they put out."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.output)}
    return Counter((node.op_type, types[node.output[0]]) for node in graph.node)


def test_a_whole_network_in_float16_is_the_export_in_float16(tmp_path):
    write_graph(build(TINY).eval(), TINY, tmp_path / "x.onnx", opset=20, pillars=None, weights_sha256="")
    exported, _ = to_fp16(onnx.load(tmp_path / "x.onnx"), {})
    written = onnx.load_from_string(lowered(network_graph(TINY), "network", "fp16"))
    assert typed(written) == typed(exported)
    assert typed(written)["Gemm", SINGLE] == 1  # it sees points in metres
    assert typed(written)["Conv", HALF] > 10


@pytest.mark.parametrize("spec", [TINY, DYNAMIC, ANCHORS], ids=["hard", "dynamic", "anchors"])
def test_each_block_takes_and_gives_float16_as_its_neighbours_do(spec, tmp_path):
    for block in blocks(spec, 50):
        path = tmp_path / f"{block.key}.onnx"
        path.write_bytes(lowered(block_graph(block), block.kind, "fp16"))
        model = onnx.load(path)
        feeds, wide = (
            Item("", "block", "", "", tuple(block_inputs(block, precision)), {}).feeds()
            for precision in ("fp16", "fp32")
        )
        casts = typed(model)["Cast", HALF] + typed(model)["Cast", SINGLE]
        maps = 3 if spec is ANCHORS else 6
        assert casts == {"encoder": 1 + (spec is DYNAMIC), "level": 0, "up": 0, "head": maps}[block.kind]
        floats = {name: value.dtype for name, value in feeds.items() if value.dtype.kind == "f"}
        assert set(floats.values()) == {np.dtype("float32" if block.kind == "encoder" else "float16")}
        (tmp_path / "wide.onnx").write_bytes(block_graph(block))
        with OrtRunner(path, threads=1) as runner, OrtRunner(tmp_path / "wide.onnx", threads=1) as exact:
            got, wanted = list(runner.infer(feeds).values()), list(exact.infer(wide).values())
        assert {value.dtype for value in got} == {np.dtype("float32" if block.kind == "head" else "float16")}
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_allclose(one.astype(np.float32), other, rtol=0.02, atol=0.02)


def test_a_table_of_float16_blocks_says_so_and_predicts_and_measures_float16(tmp_path, monkeypatch):
    path = tmp_path / "blocks.zip"
    written = write_blocks(
        path, TINY, SPACE, stats=lambda spec: PillarStats(200.0, 600.0), networks=1, precision="fp16"
    )
    assert written.to_json()["precision"] == "fp16"
    with BlockFile(path) as file:
        assert file.precision == "fp16"
        graphs = [onnx.load_from_string(file.graph(item)) for item in file.items if item.role != "overhead"]
    assert all(any(kind == HALF for _, kind in typed(graph)) for graph in graphs)
    table = make_table(path, tmp_path / "t.json", effort=BRIEF)
    assert table.precision == "fp16"
    with pytest.raises(UsageError, match="of precision fp16, but students are fp32"):
        check_table(table)
    assert check_table(table, precision="fp16") is table
    timed = []

    def note(content, feeds, **options):
        timed.append(typed(onnx.load_from_string(content)))
        return [1.0]

    monkeypatch.setattr("kd3d.compress.search.verify.time_graph", note)
    found = verify(LatencyModel(table), TINY, effort=BRIEF)
    assert found.measured_ms == 1
    assert timed[0]["Conv", HALF] > 10


def test_another_precision_than_the_blocks_have_is_refused_and_leaves_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="blocks are written in fp32 or fp16, not in 'int8'"):
        write_blocks(
            tmp_path / "b.zip", TINY, SPACE, stats=lambda spec: PillarStats(200.0, 600.0), networks=1, precision="int8"
        )
    assert list(tmp_path.iterdir()) == []
    words = ["search", "--teacher", TINY.name, "--widths", "1", "--depths", "1", "--cells", "1"]
    assert run([*words, "--write-blocks", "half.zip", "--precision", "fp16"]) == 0
    assert "whole networks in fp16" in capsys.readouterr().out
    assert run([*words, "--write-blocks", "again.zip", "--latency-precision", "fp16"]) == 0
    assert (tmp_path / "half.zip").read_bytes() == (tmp_path / "again.zip").read_bytes()
    capsys.readouterr()
    assert run(["bench", "--make-table", "half.zip", "--out", "t.json", "--precision", "fp32"]) == 2
    assert "half.zip: holds fp16 graphs, which ONNX Runtime cannot measure as fp32" in capsys.readouterr().err
    assert not (tmp_path / "t.json").exists()


def test_an_input_of_a_network_is_fp32_in_every_precision():
    assert all("type" not in one for one in network_inputs(TINY, 50))
