"""Measuring blocks: every graph is timed, a kill loses nothing, a damaged file is refused."""

import json
import zipfile

import pytest

from kd3d.bench import make_table as module
from kd3d.bench.block_file import BlockFile
from kd3d.bench.latency_table import read_table
from kd3d.bench.make_table import Effort, make_table, provider_of, sample, summarise
from kd3d.compress.search.space import Space
from kd3d.compress.search.stats import PillarStats
from kd3d.compress.search.write_blocks import write_blocks
from kd3d.detectors.presets import preset
from kd3d.errors import BackendError, DataError, UsageError

BRIEF = Effort(rounds=2, warmup_s=0, warmups=1, sample_s=0, least=1, most=1)
SPACE = Space(encoder=(1.0,), backbone=(0.5, 1.0), neck=(1.0,), head=(1.0,), depth=(1.0,), cell=(1.0,))


@pytest.fixture(scope="module")
def blocks(tmp_path_factory):
    path = tmp_path_factory.mktemp("blocks") / "blocks.zip"
    teacher = preset("world-centerpoint-pillar-tiny")
    write_blocks(path, teacher, SPACE, stats=lambda spec: PillarStats(200.0, 600.0), networks=3)
    return path


def rewritten(blocks, tmp_path, change):
    """The file with its entries changed by ``change(name, content)``; ``None`` leaves one out."""
    path = tmp_path / "changed.zip"
    with zipfile.ZipFile(blocks) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            content = change(name, old.read(name))
            if content is not None:
                new.writestr(name, content)
    return path


def test_every_block_and_network_is_measured(blocks, tmp_path):
    seen = []
    made = make_table(
        blocks, tmp_path / "t.json", threads=1, effort=BRIEF, progress=lambda done, total: seen.append((done, total))
    )
    with BlockFile(blocks) as file:
        assert set(made.entries) == {item.key for item in file.items if item.role == "block"}
        assert seen[-1] == (2 * len(file.items), 2 * len(file.items))
    assert len(made.networks) == 2  # the teacher and the one student of this space
    assert all(entry.samples == 2 for entry in made.entries.values())
    assert 0 < made.overhead_ms < min(network.p50_ms for network in made.networks)
    assert made.threads == 1 and made.runtime == "onnxruntime-cpu" and made.precision == "fp32"
    assert read_table(tmp_path / "t.json") == made
    assert not (tmp_path / "t.json.partial").exists()


def test_a_killed_run_continues_and_measures_nothing_twice(blocks, tmp_path, monkeypatch):
    timed, real = [], module.time_graph

    def killed(content, feeds, **how):
        if len(timed) == 5:
            raise KeyboardInterrupt
        timed.append(content)
        return real(content, feeds, **how)

    monkeypatch.setattr(module, "time_graph", killed)
    with pytest.raises(KeyboardInterrupt):
        make_table(blocks, tmp_path / "t.json", threads=1, effort=BRIEF)
    partial = tmp_path / "t.json.partial"
    with partial.open("a") as file:
        file.write('{"key": "torn')  # the write that the kill cut short
    assert not (tmp_path / "t.json").exists()
    rest = []
    monkeypatch.setattr(module, "time_graph", lambda *a, **k: rest.append(a) or real(*a, **k))
    made = make_table(blocks, tmp_path / "t.json", threads=1, effort=BRIEF)
    with BlockFile(blocks) as file:
        assert len(rest) == 2 * len(file.items) - 5
    assert all(entry.samples == 2 for entry in made.entries.values())


def test_measurements_of_another_request_are_kept_and_named(blocks, tmp_path, monkeypatch):
    real, calls = module.time_graph, []

    def once(*arguments, **how):
        if calls:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*arguments, **how)

    monkeypatch.setattr(module, "time_graph", once)
    with pytest.raises(KeyboardInterrupt):
        make_table(blocks, tmp_path / "t.json", threads=1, effort=BRIEF)
    with pytest.raises(UsageError, match="holds measurements with another threads"):
        make_table(blocks, tmp_path / "t.json", threads=2, effort=BRIEF)
    assert len((tmp_path / "t.json.partial").read_text().splitlines()) == 2


def test_a_run_that_measured_nothing_leaves_nothing(blocks, tmp_path):
    with pytest.raises(BackendError, match="no CUDAExecutionProvider"):
        make_table(blocks, tmp_path / "t.json", provider="cuda", effort=BRIEF)
    assert list(tmp_path.iterdir()) == []


def damaged_graph(name, content):
    return content[:-1] + b"x" if name.startswith("blocks/") else content


def without_index(name, content):
    return None if name == "index.json" else content


def without_graphs(name, content):
    return None if name.startswith("blocks/") else content


def other_schema(name, content):
    return json.dumps({**json.loads(content), "schema": "kd3d.blocks/9"}) if name == "index.json" else content


def odd_index(name, content):
    return b'{"schema": "kd3d.blocks/1", "items": 3}' if name == "index.json" else content


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (damaged_graph, "is damaged \\(its hash differs\\)"),
        (without_index, "has no index.json, so it holds no blocks"),
        (without_graphs, "lacks [0-9]+ graph"),
        (other_schema, "its index is 'kd3d.blocks/9', not 'kd3d.blocks/1'"),
        (odd_index, "its index.json is damaged"),
    ],
)
def test_a_damaged_file_is_refused(blocks, tmp_path, change, text):
    with pytest.raises(DataError, match=text):
        make_table(rewritten(blocks, tmp_path, change), tmp_path / "t.json", threads=1, effort=BRIEF)


def test_what_is_no_zip_is_refused(tmp_path):
    (tmp_path / "b.zip").write_bytes(b"PK no")
    with pytest.raises(DataError, match="not a whole zip file"):
        make_table(tmp_path / "b.zip", tmp_path / "t.json")
    with pytest.raises(DataError, match="no such file"):
        make_table(tmp_path / "none.zip", tmp_path / "t.json")


def test_a_truncated_file_is_refused(blocks, tmp_path):
    (tmp_path / "b.zip").write_bytes(blocks.read_bytes()[:-100])
    with pytest.raises(DataError, match="not a whole zip file"):
        make_table(tmp_path / "b.zip", tmp_path / "t.json")


def test_a_zip_of_a_version_that_python_does_not_know_is_refused(blocks, tmp_path):
    content = bytearray(blocks.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 6] = 255  # version needed to extract
    (tmp_path / "b.zip").write_bytes(content)
    with pytest.raises(DataError, match=r"not a whole zip file \(zip file version 25\.5\)"):
        make_table(tmp_path / "b.zip", tmp_path / "t.json")


def test_names_in_the_zip_never_become_paths(blocks, tmp_path):
    def renamed(name, content):
        if name != "index.json":
            return content
        return content.replace(b"overhead.onnx", b"../../evil.onnx")

    changed = rewritten(blocks, tmp_path, renamed)
    with zipfile.ZipFile(changed, "a") as archive, zipfile.ZipFile(blocks) as old:
        archive.writestr("../../evil.onnx", old.read("overhead.onnx"))
    make_table(changed, tmp_path / "in" / "t.json", threads=1, effort=BRIEF)
    assert not list(tmp_path.parent.rglob("evil.onnx"))


@pytest.mark.parametrize(
    ("runtime", "device", "provider"),
    [("onnxruntime", "cpu", "cpu"), ("onnxruntime", "cuda:0", "cuda"), ("onnxruntime-cuda", "cpu", "cuda")],
)
def test_runtime_and_device_name_a_provider(runtime, device, provider):
    assert provider_of(runtime, device) == provider


def test_runtimes_that_cannot_be_measured_are_refused():
    with pytest.raises(BackendError, match="cannot be made with 'torch'"):
        provider_of("torch", "cuda")
    with pytest.raises(UsageError, match="--device tpu does not go with --runtime onnxruntime"):
        provider_of("onnxruntime", "tpu")


def test_an_effort_without_runs_is_refused():
    with pytest.raises(UsageError, match="rounds and timed runs must be at least 1"):
        Effort(rounds=0)


def test_sampling_warms_up_and_stops_at_the_time_or_the_number():
    clock, runs = [0], []

    def run():
        runs.append(1)
        clock[0] += 10_000_000  # 10 ms

    effort = Effort(warmup_s=0.03, warmups=2, sample_s=0.1, least=3, most=50)
    assert sample(run, effort, clock_ns=lambda: clock[0]) == [10.0] * 10
    assert len(runs) == 3 + 10
    assert len(sample(run, Effort(sample_s=0, least=4), clock_ns=lambda: clock[0])) == 4


def test_a_disturbed_round_leaves_no_trace_in_the_median():
    found = summarise([[1.0, 1.0, 1.0], [9.0, 9.0, 9.0], [1.1, 1.1, 1.1]])
    assert found["p50_ms"] == 1.1
    assert found["spread"] == pytest.approx(8.0 / 1.1)
    assert found["samples"] == 9
