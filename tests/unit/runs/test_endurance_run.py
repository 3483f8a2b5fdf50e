"""``make test-all``: nothing that is finished is run again, what failed is, and a stopped run loses one item."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPTS = ROOT / "benchmarks" / "test_all"


@pytest.fixture
def scripts(monkeypatch):
    """The scripts' folder in the path; their modules are forgotten afterwards."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield
    for name in set(sys.modules) - before:
        if str(SCRIPTS) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def entry(item, outcome="passed"):
    from ledger import Entry

    return Entry("kills", item, outcome, 1.0, "2026-01-01T00:00:00Z", "abc", "python x", {"way": "kill"})


def test_a_ledger_survives_a_cut_line_and_failures_count_as_unfinished(scripts, tmp_path):
    from ledger import Ledger

    ledger = Ledger(tmp_path, {"seed": 5})
    for item, outcome in (("a", "passed"), ("b", "failed"), ("c", "refused")):
        ledger.write(entry(item, outcome))
    path = tmp_path / "items.jsonl"
    path.write_bytes(path.read_bytes() + b'{"part": "kills", "item": "d", "outco')
    again = Ledger(tmp_path, {"seed": 5})
    assert [again.finished("kills", item) for item in "abcd"] == [True, False, True, False]
    again.write(entry("d"))
    again.write(entry("b"))
    last = Ledger(tmp_path, {"seed": 5})
    assert all(last.finished("kills", item) for item in "abcd")
    assert len(last.of("kills")) == 4
    with pytest.raises(SystemExit, match=r"was begun with .*Name another"):
        Ledger(tmp_path, {"seed": 6})


def test_two_runs_cannot_share_a_ledger(scripts, tmp_path):
    from ledger import alone

    with alone(tmp_path), pytest.raises(SystemExit, match="is in use by another run"), alone(tmp_path):
        pass


@pytest.mark.parametrize(
    ("code", "outcome", "problem"),
    [
        ("print('{\"n\": 3}')", "passed", ""),
        ('print(\'{"outcome": "refused", "reason": "r"}\')', "refused", ""),
        ('print(\'{"outcome": "failed", "problem": "p"}\'); raise SystemExit(1)', "failed", "p"),
        ("raise SystemExit(3)", "failed", "ended with code 3"),
        ("print('{}'); import os; os.kill(os.getpid(), 9)", "failed", "ended with code -9"),
        ("import time; time.sleep(60)", "failed", "took longer than 3 s"),
    ],
)
def test_an_item_ends_in_one_of_three_ways(scripts, code, outcome, problem):
    from items import Item

    found = Item("x", "y", ("-c", code), timeout_s=3 if "sleep" in code else 60).run("abc")
    assert found.outcome == outcome
    assert found.problem.startswith(problem)


def test_the_plan_has_as_many_of_each_as_was_promised(scripts, tmp_path):
    from kill_commands import COMMANDS
    from parts import kills, mutations, presets, students
    from targets import TARGETS

    from kd3d.detectors.presets import PRESETS

    assert len(list(kills(tmp_path, 5))) == sum(command.kills for command in COMMANDS) == 100
    assert sum(target.count for target in TARGETS.values()) == 10_000
    assert sum(int(item.arguments[-1]) for item in mutations(tmp_path, 5)) == 10_000
    assert len(list(students(tmp_path, 5))) == 50
    names = {item.name for item in presets(tmp_path, 5)}
    assert names >= {f"{name} {precision}" for name in PRESETS for precision in ("fp32", "fp16")}


FILES = {
    "a.json": json.dumps({"a": [1, 2.5, {"b": "c"}], "d": None}).encode() + b" " * 20,
    "a.txt": b"Car 0.00 0 1.55\nVan 1 2 3\n",
    "a.bin": np.arange(40, dtype=np.float32).tobytes(),
}


@pytest.mark.parametrize("name", sorted(FILES))
def test_an_input_is_always_changed_and_the_same_seed_changes_it_in_the_same_way(scripts, name):
    from mutate_bytes import mutated

    for seed in range(200):
        one, other = (mutated(name, FILES[name], np.random.default_rng(seed)) for _ in range(2))
        assert one == other
        assert one[0] != FILES[name]


def test_archives_and_arrays_are_damaged_inside(scripts, tmp_path):
    from mutate_bytes import mutated

    np.savez(tmp_path / "a.npz", points=np.arange(30.0))
    whole = (tmp_path / "a.npz").read_bytes()
    inside = 0
    for seed in range(60):
        content, what = mutated("a.npz", whole, np.random.default_rng(seed))
        inside += what.startswith("points.npy: array")
        assert content != whole
    assert inside > 5
    assert zipfile.is_zipfile(tmp_path / "a.npz")


def test_a_reader_that_raises_something_else_fails_and_a_sane_or_refused_input_passes(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(SCRIPTS)!r})
import targets
targets.TARGETS = {{}}
from pathlib import Path
from kd3d.errors import DataError
from mutations import read_all

def make(folder):
    (folder / "a.json").write_text('{{"n": 1, "m": [2, 3], "long enough for bytes": 12345678}}')

def read(folder):
    text = (folder / "a.json").read_text(errors="replace")
    if "1" not in text:
        raise KeyError("one")
    if "2" not in text:
        raise DataError("there is no two in the file. Restore it.")
    return text

found = read_all(targets.Target("probe", make, ("*",), read), 5, range(150))
assert found["inputs"] == 150, found
assert found["outcome"] == "failed" and "KeyError: 'one'" in found["problem"], found
assert set(found["codes"]) == {{"0", "1", "7"}}, found["codes"]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    "listing",
    [
        "tests/a/test_one.py: 3\ntests/test_two.py: 1\n",
        "tests/a/test_one.py::x\ntests/a/test_one.py::y\ntests/test_two.py::z\n",
    ],
)
def test_the_slow_part_is_one_item_per_file_however_quiet_pytest_is(scripts, tmp_path, monkeypatch, listing):
    import parts

    told = subprocess.CompletedProcess([], 0, stdout=listing + "\n4/5000 tests collected\n", stderr="")
    monkeypatch.setattr(parts.subprocess, "run", lambda *given, **named: told)
    assert [item.name for item in parts.slow(tmp_path, 5)] == ["tests/a/test_one.py", "tests/test_two.py"]


def test_a_slow_part_without_tests_is_an_error(scripts, tmp_path, monkeypatch):
    import parts

    told = subprocess.CompletedProcess([], 4, stdout="", stderr="no such option")
    monkeypatch.setattr(parts.subprocess, "run", lambda *given, **named: told)
    with pytest.raises(SystemExit, match="pytest lists no slow tests: no such option"):
        list(parts.slow(tmp_path, 5))
