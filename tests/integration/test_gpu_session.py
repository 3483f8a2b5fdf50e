"""The script that uses a lent GPU: parts in order, stopped at the deadline, packed, and taken up again elsewhere."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COUNT = """
import pathlib, sys, time
run, goal = pathlib.Path(sys.argv[1]), int(sys.argv[2])
run.mkdir(parents=True, exist_ok=True)
count = int((run / "count").read_text()) if (run / "count").exists() else 0
try:
    (run / "begun").touch()
    while count < goal:
        count += 1
        time.sleep(0.02)
except KeyboardInterrupt:
    (run / "count").write_text(str(count))
    sys.exit(130)
(run / "result.json").write_text(str(count))
"""


@pytest.fixture
def module(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_session

    monkeypatch.setattr(gpu_session, "GRACE_S", 3.0)
    # as its main does: where the tests are a shell's background job, SIGINT is ignored, and so it would be by parts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield gpu_session
    signal.signal(signal.SIGINT, before)


def session(module, folder, *, seconds, name="work", jobs=2):
    until = time.monotonic() + module.GRACE_S + seconds
    return module.Session(folder / name, folder / "out", until, jobs, dict(os.environ))


def counting(module, name, goal, **more):
    return module.Part(name, ("-c", COUNT, f"runs/{name}", str(goal)), 0.0, run=name, **more)


def told(folder):
    return json.loads((folder / "out" / "session.json").read_text())


def test_a_part_that_the_deadline_stops_goes_on_in_another_place_from_where_it_was(module, tmp_path):
    parts = [counting(module, "quick", 1), counting(module, "long", 10**6)]
    first = session(module, tmp_path, seconds=60)
    first.work.mkdir()
    begun = first.work / "runs" / "long" / "begun"
    first.left = lambda: 0.0 if begun.exists() and first.done("quick") else 60.0  # the deadline, however busy we are
    module.work_through(parts, first)
    assert told(tmp_path)["done"] == ["quick"]
    assert told(tmp_path)["told"]["long"] == "stopped at the deadline; goes on next time"
    reached = int((first.work / "runs" / "long" / "count").read_text())
    assert reached > 1

    again = session(module, tmp_path, seconds=30, name="elsewhere")
    module.unpack(tmp_path / "out", again.work)
    assert not (again.work / "runs" / "quick" / "count").exists()  # of a finished run its result alone is kept
    module.work_through([parts[0], counting(module, "long", reached + 5)], again)
    assert told(tmp_path)["done"] == ["quick", "long"]
    assert told(tmp_path)["told"] == {"long": "done"}  # the other was not run again
    assert (again.work / "runs" / "long" / "result.json").read_text() == str(reached + 5)


def test_a_state_that_reaches_out_of_its_folder_is_refused(module, tmp_path):
    (tmp_path / "out").mkdir()
    with tarfile.open(tmp_path / "out" / "state.tar.000", "w") as tar:
        tar.addfile(tarfile.TarInfo("../escaped"), io.BytesIO())
    with pytest.raises(SystemExit, match=r"holds '../escaped', which no call of this script packs"):
        module.unpack(tmp_path / "out", tmp_path / "work")
    assert not (tmp_path / "escaped").exists()


def test_what_fails_is_told_with_its_last_lines_and_what_needs_it_is_not_begun(module, tmp_path):
    broken = module.Part("broken", ("-c", "print('first'); raise SystemExit('no such thing')"), 0.0)
    needing = counting(module, "needing", 1, needs=("broken",))
    absent = counting(module, "absent", 1, requires=("no_such_module", "json"))
    late = module.Part("late", ("-c", "pass"), 10**6)
    here = session(module, tmp_path, seconds=30)
    here.work.mkdir()
    module.work_through([broken, needing, absent, late], here)
    assert told(tmp_path)["done"] == []
    assert told(tmp_path)["told"] == {
        "broken": "failed with 1: first | no such thing",
        "absent": "passed over: no_such_module is not installed",
        "late": "not begun: it needs 1000000 s",
    }


def test_a_part_that_measures_runs_alone_and_nothing_overtakes_it(module, tmp_path):
    stamp = "import sys, time; print(time.monotonic()); time.sleep(0.3); print(time.monotonic())"
    parts = [module.Part(name, ("-c", stamp), 0.0, alone=name == "b") for name in "abcd"]
    here = session(module, tmp_path, seconds=60)
    here.work.mkdir()
    module.work_through(parts, here)
    times = {n: [float(t) for t in (here.work / "logs" / f"{n}.log").read_text().split()] for n in "abcd"}
    assert times["a"][1] <= times["b"][0]
    assert times["b"][1] <= min(times["c"][0], times["d"][0])


def test_what_is_not_packed_is_made_again_on_a_fresh_machine_and_too_much_is_named(module, tmp_path, monkeypatch):
    parts = [module.Part("worlds", ("-c", "pass"), 0.0, kept=False), counting(module, "small", 1)]
    here = session(module, tmp_path, seconds=30)
    (here.work / "runs" / "large").mkdir(parents=True)
    (here.work / "runs" / "large" / "last.pt").write_bytes(bytes(1 << 20))
    monkeypatch.setattr(module, "LIMIT", 1 << 20)
    monkeypatch.setattr(module, "PIECE", 4096)
    module.work_through([*parts, module.Part("large", ("-c", "pass"), 10**6, run="large")], here)
    assert told(tmp_path)["left_out"] == ["large"]
    assert len(list((tmp_path / "out").glob("state.tar.*"))) > 1
    fresh = session(module, tmp_path, seconds=30, name="fresh")
    module.unpack(tmp_path / "out", fresh.work)
    assert (fresh.done("worlds"), fresh.done("small")) == (False, True)


def test_a_folder_without_a_state_is_refused(module, tmp_path):
    with pytest.raises(SystemExit, match=r"holds no state.tar.000: it is not the --out of an earlier call"):
        module.unpack(tmp_path, tmp_path / "work")


def test_the_plan_names_scripts_and_options_that_exist(module):
    names = [part.name for part in module.plan()]
    assert names[:3] == ["worlds", "tests", "latency"]
    assert len(names) == len(set(names))
    for part in module.plan():
        assert set(part.needs) <= set(names)
        if part.command[0] != "-m":
            source = Path(part.command[0]).read_text()
            assert all(f'"{word}"' in source for word in part.command[1:] if word.startswith("--")), part


def test_the_plan_has_the_rows_and_combinations_of_the_scripts(module):
    import blend_sweep
    import gpu_plan
    import kd_table
    import search_gain

    assert sorted(gpu_plan.TABLE_ROWS) == sorted(kd_table.rows())
    assert gpu_plan.COMBINATIONS == blend_sweep.COMBINATIONS + blend_sweep.MORE
    assert gpu_plan.RANDOM == search_gain.RANDOM
    sweeps = {run.name for one in gpu_plan.COMBINATIONS for run in blend_sweep.runs(one)}
    folders = [part.run for part in module.plan() if part.command[0].endswith("blend_sweep.py")]
    assert sorted(folders) == sorted(f"{blend_sweep.KEPT.name}/{name}" for name in sweeps)


def test_no_two_parts_train_in_one_folder(module):
    folders = [part.run for part in module.plan() if part.run]
    assert len(folders) == len(set(folders))


def test_what_make_bench_runs_is_what_the_records_say(module):
    """A record whose command is no longer among them could not be made again by `make bench`."""
    import run_all

    def said(words):
        words = [word for word in words if word != "--table-only"]
        pairs = zip(["", *words[:-1]], words, strict=True)
        return " ".join(word for before, word in pairs if "--out" not in (before, word))

    suites = [said(suite) for suite in run_all.SUITES]
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        command = json.loads(path.read_text())["environment"]["command"]
        assert command[0] == "test_all" or any(suite.startswith(said(command)) for suite in suites), path.name


@pytest.mark.slow
def test_a_session_killed_in_the_middle_of_a_training_loses_no_checkpoint(module, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu_session.py"), "--smoke", "--work", tmp_path / "work"]
    command += ["--out", tmp_path / "out", "--minutes", "30"]
    process = subprocess.Popen([str(word) for word in command])
    until = time.monotonic() + 600
    while not list(tmp_path.glob("work/runs/*/*/cycle-0/checkpoints/last.pt")) and time.monotonic() < until:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(120) == 0
    assert "seeds-kd-1" not in told(tmp_path)["done"]
    elsewhere = [*command[:4], tmp_path / "elsewhere", *command[5:], "--from", tmp_path / "out"]
    subprocess.run([str(word) for word in elsewhere], check=True)
    assert told(tmp_path)["done"] == ["worlds", "seeds-kd-1"]
    (result,) = tmp_path.glob("elsewhere/runs/*/*/result.json")
    assert json.loads(result.read_text())["steps"] == 8
