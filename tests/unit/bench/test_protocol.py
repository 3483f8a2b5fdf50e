from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest

from kd3d.bench import bench
from kd3d.bench.protocol import STAGES, measure
from kd3d.errors import UsageError


class Clock:
    """A clock that moves only when a stage says so."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now


class Model:
    """A pipeline whose stages take given milliseconds on the given clock."""

    def __init__(self, clock, name="m", log=None, **ms):
        self.clock, self.name, self.log, self.ms = clock, name, [] if log is None else log, ms

    def _spend(self, stage):
        self.clock.now += int(self.ms.get(stage, 1) * 1e6)

    def pre(self, frame):
        self.log.append((self.name, frame.token))
        self._spend("pre")
        return frame

    def network(self, feeds):
        self._spend("network")
        return feeds

    def decode(self, outputs):
        self._spend("decode")
        return outputs

    def nms(self, candidates):
        self._spend("nms")
        return [1, 2, 3]


def frames(count):
    return [SimpleNamespace(token=index, points=np.zeros((100 + index, 4))) for index in range(count)]


def test_stages_and_end_to_end_are_what_the_clock_said():
    clock = Clock()
    (found,) = measure(
        {"a": Model(clock, pre=2, network=10, decode=3, nms=5)}, frames(2), warmup=1, iterations=4, clock_ns=clock
    )
    assert [found.stage_ms(stage) for stage in STAGES] == [[2.0] * 4, [10.0] * 4, [3.0] * 4, [5.0] * 4]
    assert found.e2e_ms == [20.0] * 4
    assert found.fps == pytest.approx(50.0)
    assert [times.points for times in found.frames] == [100, 101, 100, 101]
    assert [times.boxes for times in found.frames] == [3] * 4


def test_models_take_turns_in_blocks_over_the_same_frames_and_the_order_alternates():
    clock, log = Clock(), []
    models = {name: Model(clock, name, log) for name in "ab"}
    measure(models, frames(3), warmup=0, iterations=5, block=2, clock_ns=clock)
    assert "".join(name for name, _ in log) == "aabb" + "bbaa" + "ab"
    assert (
        [token for name, token in log if name == "a"]
        == [token for name, token in log if name == "b"]
        == [0, 1, 2, 0, 1]
    )


def test_warm_up_is_not_timed():
    clock, log = Clock(), []
    (found,) = measure({"a": Model(clock, "a", log)}, frames(1), warmup=3, iterations=2, clock_ns=clock)
    assert len(log) == 5
    assert len(found.frames) == 2


def test_throughput_counts_the_time_between_stages_too():
    ticks = iter(range(0, 10**12, 10**6))  # every look at the clock costs a millisecond
    (found,) = measure({"a": Model(Clock())}, frames(1), warmup=0, iterations=1, clock_ns=lambda: next(ticks))
    assert found.e2e_ms == [4.0]
    assert found.fps == pytest.approx(1000 / 6), "two more looks: before and after the block"


def test_a_duration_goes_on_past_the_iterations_and_a_warm_up_past_its_frames():
    clock, log = Clock(), []
    (found,) = measure(
        {"a": Model(clock, "a", log, network=7)},
        frames(1),
        warmup=1,
        iterations=5,
        warmup_ns=45_000_000,
        duration_ns=200_000_000,
        clock_ns=clock,
    )
    assert len(log) - len(found.frames) == 5, "frames of 10 ms: five to pass 45 ms"
    assert len(found.frames) == 25, "5, then whole blocks of 10 until 200 ms have passed"
    assert found.wall_ns >= 200_000_000


def test_other_stages_inputs_and_device_times_are_recorded_under_their_names():
    class Camera:
        stages = ("resize", "network")
        dropped_points, dropped_pillars = 4, 1

        def resize(self, frame):
            return {"counts": np.array([3, 0, 1])}

        def network(self, feeds):
            self.device_ms = {"network": 0.25}
            return [1]

    (found,) = measure({"a": Camera()}, frames(1), warmup=0, iterations=2, clock_ns=Clock())
    assert found.stages == ("resize", "network")
    assert found.device_ms("network") == [0.25, 0.25]
    assert found.device_ms("resize") == []
    assert {(one.pillars, one.dropped_points, one.dropped_pillars) for one in found.frames} == {(2, 4, 1)}


def test_progress_counts_blocks():
    seen = []
    measure(
        {"a": Model(Clock())},
        frames(1),
        warmup=0,
        iterations=25,
        block=10,
        clock_ns=Clock(),
        progress=lambda *at: seen.append(at),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("models", "count", "options", "match"),
    [
        ({}, 1, {}, r"0 model\(s\), 1 frame\(s\)"),
        ({"a": None}, 0, {}, r"1 model\(s\), 0 frame\(s\)"),
        ({"a": None}, 1, {"iterations": 0}, r"iterations \(0\)"),
        ({"a": None}, 1, {"warmup": -1}, r"warmup \(-1\)"),
    ],
)
def test_nothing_to_time_is_an_error(models, count, options, match):
    with pytest.raises(UsageError, match=match):
        measure(models, frames(count), **options)


def report(models, **options):
    clock = next(iter(models.values())).clock
    return bench(models, frames(4), warmup=0, clock_ns=clock, **options)


def test_the_record_has_the_stable_keys_and_the_speedup():
    clock = Clock()
    found = report({"slow": Model(clock, network=37), "fast": Model(clock, network=7)}, iterations=200).to_json()
    assert found["schema"] == "kd3d.bench/1"
    slow, fast = found["models"]
    assert set(slow) >= {"name", "stages", "e2e_ms", "fps", "device"}
    assert set(slow["stages"]) == set(STAGES)
    assert slow["e2e_ms"]["p50"] == 40.0
    assert fast["fps"] == pytest.approx(100.0)
    assert found["comparison"] == [
        {"baseline": "slow", "model": "fast", "ratio": 4.0, "paired": 4.0, "paired_ci95": [4.0, 4.0]}
    ]
    assert [text for text in found["warnings"] if "CPU governor" not in text] == []
    assert found["env"]["machine"]["cores"] >= 1


def test_few_frames_and_drift_are_warned_about():
    clock = Clock()

    class Slowing(Model):
        def network(self, feeds):
            self.ms["network"] = self.ms.get("network", 10) * 1.01
            return super().network(feeds)

    warnings = report({"a": Slowing(clock)}, iterations=100).record["warnings"]
    assert any("drifted by +" in text for text in warnings)
    assert any("100 timed frames are few for a p99" in text for text in warnings)


def test_device_times_dropped_pillars_and_their_warning_are_in_the_record():
    clock = Clock()

    class Full(Model):
        dropped_points, dropped_pillars = 7, 2
        device_ms = MappingProxyType({"network": 0.5})

    record = report({"a": Full(clock)}, iterations=200).record
    (model,) = record["models"]
    assert model["stages"]["network"]["gpu_ms"]["p50"] == 0.5
    assert "gpu_ms" not in model["stages"]["pre"]
    assert model["dropped"] == {"dropped_points": 1400, "dropped_pillars": 400}
    told = "a: in 200 timed frames 400 pillar(s) and 1400 point(s) did not fit the network"
    assert any(told in text for text in record["warnings"])


def test_of_a_voxel_network_voxels_are_counted_and_named():
    from kd3d.detectors.presets import preset

    class Voxels(Model):
        spec = preset("world-centerpoint-voxel-tiny")
        dropped_points, dropped_pillars = 7, 2

        def pre(self, frame):
            super().pre(frame)
            return {"features": np.zeros((5, 4), np.float32), "cells": np.zeros(5, np.int64)}

    record = report({"a": Voxels(Clock())}, iterations=200).record
    assert record["models"][0]["unit"] == "voxel"
    assert record["models"][0]["pillars_mean"] == 5
    assert any("400 voxel(s) and 1400 point(s)" in text and "max_voxels" in text for text in record["warnings"])
    assert not any("pillar" in text for text in record["warnings"])


def test_synthetic_frames_put_a_banner_first():
    found = report({"a": Model(Clock())}, iterations=200, source={"source": "synthetic", "synthetic": True})
    assert found.record["warnings"][0].startswith("The frames are synthetic random points")


def test_raw_samples_and_record_are_written(tmp_path):
    import json

    found = report({"a": Model(Clock())}, iterations=7)
    found.write(tmp_path / "new" / "bench")
    lines = [json.loads(line) for line in (tmp_path / "new/bench/frames.jsonl").read_text().splitlines()]
    assert len(lines) == 7
    assert set(lines[0]) == {
        "model",
        "frame",
        "pre_ms",
        "network_ms",
        "decode_ms",
        "nms_ms",
        "e2e_ms",
        "points",
        "boxes",
        "start_ms",
    }
    assert json.loads((tmp_path / "new/bench/bench.json").read_text())["frames_file"] == "frames.jsonl"
