"""Blocks add up to the network, are named by what they compute, and their graphs are those of the export."""

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest

from kd3d.bench.block_file import BlockFile, Item
from kd3d.compress.search.block_graphs import block_graph, block_inputs, network_graph, network_inputs
from kd3d.compress.search.blocks import blocks, rows, space_blocks, thinned
from kd3d.compress.search.cost import PillarStats, cost
from kd3d.compress.search.space import Choice, Space, scaled
from kd3d.compress.search.write_blocks import network_key, spanning_networks, write_blocks
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import SpecError
from kd3d.export.graph import write_graph
from kd3d.runtime.runners import OrtRunner

TINY = preset("world-centerpoint-pillar-tiny")
STATS = PillarStats(203.4, 600.0)
DYNAMIC = replace(TINY, encoder=replace(TINY.encoder, filters=(16, 32), mode="dynamic"))
STRIDED = replace(
    TINY, backbone=replace(TINY.backbone, strides=(1, 2), layers=(1, 0), up_strides=(0.5, 1.0), up_channels=(8, 24))
)
ANCHORS = preset("world-pointpillars-tiny")


def nodes(model):
    """Operators with the shape of their weights and the attributes that decide their cost."""
    shapes = {one.name: tuple(one.dims) for one in model.graph.initializer}
    kept = ("kernel_shape", "strides", "pads", "perm", "axis", "keepdims", "transB")
    found = Counter()
    for node in model.graph.node:
        given = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        weights = shapes.get(node.input[1]) if node.op_type in ("Conv", "ConvTranspose", "Gemm") else None
        found[node.op_type, weights, str([(name, given[name]) for name in kept if name in given])] += 1
    return found


@pytest.mark.parametrize("spec", [TINY, DYNAMIC, STRIDED, ANCHORS], ids=["hard", "dynamic", "strided", "anchors"])
def test_the_written_network_has_the_nodes_of_the_export(spec, tmp_path):
    write_graph(build(spec).eval(), spec, tmp_path / "x.onnx", opset=20, pillars=None, weights_sha256="")
    assert nodes(onnx.load_from_string(network_graph(spec))) == nodes(onnx.load(tmp_path / "x.onnx"))


@pytest.mark.parametrize(
    "spec",
    [
        TINY,
        STRIDED,
        preset("kitti-centerpoint-pillar"),
        preset("world-centerpoint-pillar-six-tasks"),
        ANCHORS,
        preset("kitti-pointpillars"),
    ],
)
def test_blocks_have_the_macs_of_the_network(spec):
    stats = PillarStats(3000.0, 9000.0)
    assert sum(block.macs for block in blocks(spec, 3000)) == cost(spec, stats).macs
    assert all(block.macs_padded >= block.macs for block in blocks(spec, 3000))


@pytest.mark.parametrize("spec", [TINY, DYNAMIC, STRIDED, ANCHORS], ids=["hard", "dynamic", "strided", "anchors"])
def test_every_block_runs_and_hands_over_what_the_next_one_reads(spec, tmp_path):
    outputs = {}
    for block in blocks(spec, 50):
        path = tmp_path / f"{block.key}.onnx"
        path.write_bytes(block_graph(block))
        feeds = Item("", "block", "", "", tuple(block_inputs(block)), {}).feeds()
        with OrtRunner(path, threads=1) as runner:
            outputs[block.key] = list(runner.infer(feeds).values())
            runner.bound(feeds)()
    shapes = [[value.shape for value in outputs[block.key]] for block in blocks(spec, 50)]
    assert shapes[0] == [(1, spec.encoder.filters[-1], spec.grid.ny, spec.grid.nx)]
    grid = spec.output_grid
    anchors = [channels for _, channels in spec.head.maps] if spec is ANCHORS else None
    assert [shape[1] for shape in shapes[-1]] == (anchors or [2, 1, 3, 2, 2, 10])
    assert {shape[2:] for shape in shapes[-1]} == {(grid.ny, grid.nx)}
    assert all(np.isfinite(value).all() for values in outputs.values() for value in values)


def test_the_written_network_runs_on_its_inputs(tmp_path):
    (tmp_path / "x.onnx").write_bytes(network_graph(TINY))
    feeds = Item("", "network", "", "", tuple(network_inputs(TINY, 60)), {}).feeds()
    assert sorted(set(feeds["cells"].tolist())) == sorted(feeds["cells"].tolist())
    with OrtRunner(tmp_path / "x.onnx", threads=1) as runner:
        assert len(runner.infer(feeds)) == 6


def test_more_pillars_than_cells_make_no_inputs():
    with pytest.raises(SpecError, match="5000 pillars do not fit a grid of 4096 cells"):
        network_inputs(TINY, 5000)


def test_a_name_follows_what_is_computed_and_nothing_else():
    renamed = replace(TINY, name="other")
    wider = scaled(TINY, Choice(neck=0.5))
    assert [block.key for block in blocks(TINY, 50)] == [block.key for block in blocks(renamed, 50)]
    same = {block.key for block in blocks(TINY, 50)} & {block.key for block in blocks(wider, 50)}
    assert len(same) == 3  # encoder and levels; the up branches and the head differ
    encoder, more = blocks(TINY, 50)[0], blocks(TINY, 60)[0]
    assert encoder.key != more.key and encoder.graph_key == more.graph_key
    assert network_key(TINY) == network_key(renamed) != network_key(wider)


def test_pillars_keep_two_digits():
    assert [rows(PillarStats(count, 0.0)) for count in (0.0, 7.4, 99.6, 203.4, 15999.0)] == [1, 7, 100, 200, 16000]


def test_a_space_keeps_each_block_once_and_the_ends_of_a_thinned_family():
    space = Space()
    found = space_blocks(TINY, space, stats=lambda spec: STATS).blocks
    assert len({block.key for block in found}) == len(found)
    held = {block.key for choice in space.choices(TINY) for block in blocks(scaled(TINY, choice), 200)}
    assert held <= {block.key for block in found}
    few = thinned(list(found), 60)
    assert len(few) < len(found)
    for family in {block.family for block in found}:
        of_all = sorted(block.macs for block in found if block.family == family)
        of_few = sorted(block.macs for block in few if block.family == family)
        assert (of_few[0], of_few[-1]) == (of_all[0], of_all[-1])


def test_networks_span_the_space_and_begin_with_the_teacher():
    specs = spanning_networks(TINY, Space(), stats=lambda spec: STATS, count=6)
    assert specs[0] == TINY and len({network_key(spec) for spec in specs}) == 6
    assert len({spec.grid.nx for spec in specs}) > 1
    assert specs == spanning_networks(TINY, Space(), stats=lambda spec: STATS, count=6)


def test_the_same_space_gives_the_same_file(tmp_path):
    space = Space(backbone=(0.5, 1.0), neck=(1.0,), head=(1.0,), cell=(1.0,))
    made = [
        write_blocks(tmp_path / f"{index}.zip", TINY, space, stats=lambda spec: STATS, networks=3) for index in (0, 1)
    ]
    assert (tmp_path / "0.zip").read_bytes() == (tmp_path / "1.zip").read_bytes()
    assert made[0].bytes < 200_000
    with BlockFile(tmp_path / "0.zip") as file:
        keys = [item.key for item in file.items]
        assert len(set(keys)) == len(keys) == 1 + made[0].blocks + made[0].networks
        assert all(file.graph(item) for item in file.items)
        assert file.pillars == {"64x64 of 1.6 m, 3000 pillars at most": 200}


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "b.zip"
    path.write_bytes(b"old")

    def broken(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_blocks(path, TINY, Space(), stats=lambda spec: STATS, networks=1, progress=broken)
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
