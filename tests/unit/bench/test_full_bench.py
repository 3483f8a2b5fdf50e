"""The whole protocol on a clock that moves only when a stage, or a wait, says so."""

import json

import pytest

from kd3d.bench import BenchSettings, full_bench
from kd3d.bench.energy import Reading
from kd3d.bench.report import frames_digest
from kd3d.bench.resident import resident_ms
from kd3d.errors import BackendError, UsageError


class Source:
    """Twelve watts whenever it is asked."""

    name, scope, closed = "test", "everything", False

    def read(self):
        return Reading(12.0, memory_mb=77.0)

    def close(self):
        self.closed = True


def run(fake, models, **settings):
    clock = next(iter(models.values())).clock
    held = fake.frames(4, points=60)
    return full_bench(models, held, settings=BenchSettings(**{"iterations": 20, **settings}), clock=clock)


def test_every_phase_that_was_asked_for_is_in_the_entry_of_its_model_and_no_other(fake):
    clock = fake.Clock()
    plain = run(fake, {"a": fake.Model(clock)}).record["models"][0]
    assert not {"streaming", "periodic", "points_sweep", "power", "network_resident_ms"} & set(plain)
    clock = fake.Clock()
    models = {"a": fake.Model(clock), "b": fake.Model(clock, network_ms=47)}
    report = run(fake, models, in_flight=2, rate_hz=20, points_sweep=(20, 40))
    first, second = report.record["models"]
    for model in (first, second):
        assert model["streaming"]["frames"] == 20
        assert [row["points"] for row in model["points_sweep"]] == [20, 40]
    assert first["periodic"]["miss_rate"] == 0.0
    assert second["periodic"]["miss_rate"] == 0.0, "50 ms is just in time at 20 Hz"
    assert report.record["settings"]["in_flight"] == 2
    assert report.record["frames"]["digest"] == frames_digest(fake.frames(4, points=60))


def test_streaming_that_finds_other_boxes_is_not_a_throughput(fake):
    class Torn(fake.Model):
        def nms(self, candidates):
            super().nms(candidates)
            return [0] * (3 if len(self.seen) <= 30 else 4)

    clock = fake.Clock()
    report = run(fake, {"a": Torn(clock)}, warmup=0, in_flight=2)
    found = report.record["models"][0]["streaming"]
    assert found["differing_frames"] == 10
    assert found["fps"] is None
    assert any("10 of 20 frames had another number of boxes" in text for text in report.record["warnings"])


def test_raw_arrivals_are_written_beside_the_frames(fake, tmp_path):
    clock = fake.Clock()
    run(fake, {"a": fake.Model(clock)}, rate_hz=10).write(tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "periodic.jsonl").read_text().splitlines()]
    assert len(rows) == 20
    assert set(rows[0]) == {"model", "frame", "response_ms", "e2e_ms"}
    record = json.loads((tmp_path / "bench.json").read_text())
    assert (record["frames_file"], record["periodic_file"]) == ("frames.jsonl", "periodic.jsonl")
    assert len((tmp_path / "frames.jsonl").read_text().splitlines()) == 20


def test_power_is_read_while_a_model_runs_alone_and_its_source_is_closed(fake):
    class Watched(fake.Model):  # each frame has its reading, so that no thread must be waited for
        sampler = None

        def nms(self, candidates):
            if self.sampler is not None:
                self.sampler.take()
            return super().nms(candidates)

    from kd3d.bench import run as running

    clock, source = fake.Clock(), Source()
    model = Watched(clock)
    kept = running.Sampler

    class Taking(kept):
        def __enter__(self):
            model.sampler = self
            self.take()
            return self

        def __exit__(self, *details):
            self.take()
            self.source.close()

    running.Sampler = Taking
    try:
        report = full_bench(
            {"a": model},
            fake.frames(2),
            settings=BenchSettings(0, iterations=30, rate_hz=50),
            power=source,
            clock=clock,
        )
    finally:
        running.Sampler = kept
    found = report.record["models"][0]["power"]
    assert found["isolated"]["mean_w"] == pytest.approx(12.0)
    assert found["isolated"]["j_per_frame"] == pytest.approx(0.12, rel=0.05), "12 W for 10 ms"
    assert found["periodic"]["j_per_frame"] == pytest.approx(0.24, rel=0.1), "12 W for the 20 ms of a period"
    assert report.record["memory"]["device_peak_mb"] == 77.0
    assert report.record["settings"]["power_source"] == "test"
    assert source.closed


def test_several_models_in_turns_get_no_power_of_the_isolated_phase(fake):
    clock = fake.Clock()
    models = {"a": fake.Model(clock), "b": fake.Model(clock)}
    report = full_bench(models, fake.frames(2), settings=BenchSettings(0, iterations=5), power=Source(), clock=clock)
    assert not any("power" in model for model in report.record["models"])


def test_the_record_tells_the_machines_clocks_before_and_after_and_its_memory(fake):
    record = run(fake, {"a": fake.Model(fake.Clock())}).record
    assert set(record["clocks"]) == {"before", "after"}
    assert {"governor", "mhz", "load_1min"} <= set(record["clocks"]["before"]["cpu"])
    assert record["memory"]["process_peak_rss_mb"] > 10
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_accuracy_and_a_baseline_are_added_to_a_finished_report(fake):
    report = run(fake, {"a": fake.Model(fake.Clock())})
    scored = report.with_accuracy({"a": {"mAP": 0.5}}).with_baseline({"ok": True})
    assert scored.record["models"][0]["accuracy"] == {"mAP": 0.5}
    assert scored.record["baseline"] == {"ok": True}
    assert "accuracy" not in report.record["models"][0]


def test_a_network_without_its_copies_is_timed_where_the_runner_can_bind(fake):
    clock = fake.Clock()

    class Runner:
        def bound(self, feeds):
            def call():
                clock.now += 4_000_000

            return call

    model = fake.Model(clock)
    model.runner = Runner()
    assert resident_ms(model, fake.frames(2), count=3, clock_ns=clock) == [4.0] * 3
    found = run(fake, {"a": model}, include_transfers=False).record["models"][0]
    assert found["network_resident_ms"]["p50"] == 4.0


def test_a_runtime_that_cannot_bind_says_so(fake):
    with pytest.raises(BackendError, match="cannot time its network without the copies"):
        resident_ms(fake.Model(fake.Clock()), fake.frames(1), count=1, clock_ns=fake.Clock())


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"iterations": 0}, r"iterations \(0\)"),
        ({"warmup": -1}, r"warmup \(-1\) 0 or more"),
        ({"warmup_ms": -1}, "warmup_ms must be 0 or more, not -1"),
        ({"duration_s": float("inf")}, "duration_s must be 0 or more, not inf"),
        ({"in_flight": 0}, "in_flight must be at least 1, not 0"),
        ({"rate_hz": 0}, "rate_hz must be above 0, not 0"),
        ({"rate_hz": 10, "deadline_ms": -5}, "deadline_ms must be above 0, not -5"),
        ({"deadline_ms": 5}, "give --rate too"),
        ({"points_sweep": (100, 0)}, "counts of at least 1, not 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(changes, match):
    with pytest.raises(UsageError, match=match):
        BenchSettings(**changes)


def test_the_deadline_is_the_period_unless_given():
    assert BenchSettings(rate_hz=20).deadline == 50.0
    assert BenchSettings(rate_hz=20, deadline_ms=30).deadline == 30
    with pytest.raises(UsageError, match="no deadline without --rate"):
        BenchSettings().deadline  # noqa: B018
