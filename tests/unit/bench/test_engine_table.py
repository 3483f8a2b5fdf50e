"""Latency tables of TensorRT engines, on a fake TensorRT and a device in host memory."""

import sys

import pytest

from kd3d.bench.block_file import BlockFile
from kd3d.bench.block_timers import EngineTimer
from kd3d.bench.latency_table import read_table
from kd3d.bench.make_table import Effort, make_table
from kd3d.compress.search.latency import LatencyModel
from kd3d.compress.search.space import Space
from kd3d.compress.search.stats import PillarStats
from kd3d.compress.search.verify import check_table, verify
from kd3d.compress.search.write_blocks import write_blocks
from kd3d.detectors.presets import preset
from kd3d.errors import BackendError, PrecisionError, UsageError

BRIEF = Effort(rounds=2, warmup_s=0, warmups=1, sample_s=0, least=1, most=1)
TEACHER = preset("world-centerpoint-pillar-tiny")
SPACE = Space(encoder=(1.0,), backbone=(1.0,), neck=(1.0,), head=(1.0,), depth=(1.0,), cell=(1.0,))


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "blocks.zip"
    write_blocks(path, TEACHER, SPACE, stats=lambda spec: PillarStats(200.0, 600.0), networks=1)
    return path


@pytest.fixture
def timer(fake_tensorrt, host_device, monkeypatch):
    """Makes a timer on a fake TensorRT, and counts builds."""
    backend = host_device.HostBackend()

    def make(version="10.3.0", **options):
        module = fake_tensorrt.make_module(version, enqueue=backend.enqueue)
        make.built, real = [], module.Builder.build_serialized_network

        def counted(self, network, config):
            make.built.append((network.flags, config.half, config.profile))
            return real(self, network, config)

        module.Builder.build_serialized_network = counted
        monkeypatch.setitem(sys.modules, "tensorrt", module)
        make.module = module
        return EngineTimer(lambda: backend, **options)

    make.backend = backend
    yield make
    assert not backend.held


def test_every_graph_is_built_once_and_timed_in_every_round(blocks, timer, tmp_path):
    with timer() as engines:
        made = make_table(blocks, tmp_path / "t.json", engines=engines, effort=BRIEF)
    with BlockFile(blocks) as file:
        assert set(made.entries) == {item.key for item in file.items if item.role == "block"}
        rows = {item.feeds()["features"].shape[0] for item in file.items if "features" in item.feeds()}
        assert len(timer.built) == len({item.sha256 + str(item.inputs) for item in file.items})
        assert timer.module.log["runs"] >= 2 * 2 * len(file.items)
    assert {shape[0][0] for _, _, profile in timer.built for shape in profile.values()} == rows
    assert (made.device, made.runtime, made.version) == ("Fake Orin", "tensorrt", "10.3.0")
    assert (made.precision, made.threads) == ("fp32", None)
    assert not any(half for _, half, _ in timer.built)
    assert all(entry.samples == 2 for entry in made.entries.values())
    assert made.networks[0].p50_ms > made.overhead_ms > 0
    assert read_table(tmp_path / "t.json") == made
    found = verify(LatencyModel(made), TEACHER)
    assert found.predicted_ms > 0
    assert found.note == "not measured: students are measured with ONNX Runtime only, and the table is of tensorrt"


@pytest.mark.parametrize("version", ["8.6.1"])
def test_half_precision_is_a_flag_and_stands_in_the_table_that_a_search_for_fp32_refuses(
    blocks, timer, tmp_path, version
):
    with timer(version, precision="fp16") as engines:
        made = make_table(blocks, tmp_path / "t.json", engines=engines, effort=BRIEF)
    assert all(half for _, half, _ in timer.built)
    assert (made.precision, made.version) == ("fp16", version)
    with pytest.raises(UsageError, match=r"of precision fp16, but students are fp32.*--latency-precision fp16\."):
        check_table(made)
    with pytest.raises(UsageError, match="of the runtime tensorrt, not onnxruntime-cpu"):
        check_table(made, runtime="onnxruntime-cpu", precision="fp16")
    assert check_table(made, runtime="tensorrt", precision="fp16") is made


@pytest.mark.parametrize(("version", "network"), [("10.3.0", 2), ("11.4.0", 0)])
def test_float16_graphs_become_engines_by_strong_typing_where_there_are_no_flags(timer, tmp_path, version, network):
    path = tmp_path / "half.zip"
    write_blocks(path, TEACHER, SPACE, stats=lambda spec: PillarStats(200.0, 600.0), networks=1, precision="fp16")
    with timer(version, precision="fp16", graphs="fp16") as engines:
        made = make_table(path, tmp_path / "t.json", engines=engines, effort=BRIEF)
    assert {(flags, half) for flags, half, _ in timer.built} == {(network, False)}
    assert check_table(made, precision="fp16", runtime="tensorrt") is made
    with (
        timer(version, precision="fp16") as engines,
        pytest.raises(UsageError, match="holds fp16 graphs, and engines of fp32 ones"),
    ):
        make_table(path, tmp_path / "u.json", engines=engines, effort=BRIEF)
    with (
        timer(version, precision="fp32", graphs="fp16") as engines,
        pytest.raises(PrecisionError, match=r"the graph is fp16, not fp32|an fp16 graph cannot become an fp32 engine"),
    ):
        make_table(path, tmp_path / "u.json", engines=engines, effort=BRIEF)
    assert not (tmp_path / "u.json").exists()


def test_what_cannot_be_measured_is_said_and_leaves_nothing(blocks, timer, tmp_path, monkeypatch):
    with (
        timer("11.4.0", precision="fp16") as engines,
        pytest.raises(PrecisionError, match="the graph is fp32, not fp16"),
    ):
        make_table(blocks, tmp_path / "t.json", engines=engines, effort=BRIEF)
    with pytest.raises(UsageError, match="engines of blocks are fp32 or fp16, not 'int8'"):
        timer(precision="int8")
    missing = timer()
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(BackendError, match="tensorrt is needed here"):
        missing.__enter__()
    assert list(tmp_path.iterdir()) == []


def test_a_table_that_was_begun_in_another_precision_is_not_continued(blocks, timer, tmp_path, monkeypatch):
    with timer() as engines:
        real, done = EngineTimer.opened, []

        def twice(self, *arguments):
            if len(done) == 2:
                raise KeyboardInterrupt
            done.append(1)
            return real(self, *arguments)

        monkeypatch.setattr(EngineTimer, "opened", twice)
        with pytest.raises(KeyboardInterrupt):
            make_table(blocks, tmp_path / "t.json", engines=engines, effort=BRIEF)
    with timer(precision="fp16") as engines, pytest.raises(UsageError, match="measurements with another precision"):
        make_table(blocks, tmp_path / "t.json", engines=engines, effort=BRIEF)
