"""A study in a real PostgreSQL server: two processes work on it, one is killed, every trial ends up done once."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

PROGRAMS = [Path(found).parent for found in [shutil.which("initdb")] if found]
PROGRAMS += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)


def as_user(command):
    """The server refuses to run as root; the system user that its package brings may."""
    if os.geteuid() != 0:
        return [str(word) for word in command]
    return ["su", "postgres", "-s", "/bin/sh", "-c", " ".join(map(str, command))]


@pytest.fixture
def server(tmp_path):
    """URL of a server with an empty database."""
    programs = next((path for path in PROGRAMS if (path / "initdb").exists() and (path / "postgres").exists()), None)
    if programs is None:
        pytest.skip("PostgreSQL is not installed (initdb and postgres not found); apt-get install postgresql")
    pytest.importorskip("psycopg", reason="psycopg is not installed; pip install 'kd3d[postgres]'")
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("running as root, and there is no user postgres to run the server as")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path("/tmp") / f"kd3d-pg-{os.getpid()}"
    folder.mkdir()
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    try:
        data = folder / "data"
        init = as_user([programs / "initdb", "-D", data, "-A", "trust", "-U", "kd3d", "-N"])
        subprocess.run(init, check=True, capture_output=True, timeout=120)
        options = f"'-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off'"
        begin = [programs / "pg_ctl", "-D", data, "-l", folder / "log", "-w", "-o", options, "start"]
        subprocess.run(as_user(begin) if os.geteuid() == 0 else ["sh", "-c", " ".join(map(str, begin))],
                       check=True, timeout=120, stdout=subprocess.DEVNULL)  # fmt: skip
        yield f"postgresql://kd3d@127.0.0.1:{port}/postgres"
        subprocess.run(as_user([programs / "pg_ctl", "-D", data, "-m", "immediate", "stop"]), check=False, timeout=60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def job(tmp_path):
    """The arguments of a search on a tiny world."""
    program = [sys.executable, "-m", "kd3d.cli"]
    world, teacher = tmp_path / "world", tmp_path / "teacher"
    make = ["data", "synth", "--out", world, "--scenes", 5, "--samples", 2, "--no-cameras", "--workers", 1]
    train = ["train", "--preset", "world-centerpoint-pillar-tiny", "--data", world, "--out", teacher, "--steps", 1]
    for command in (make, [*train, "--batch-size", 1, "--workers", 0]):
        subprocess.run([*program, *map(str, command)], check=True, capture_output=True, timeout=300)
    search = ["search", "--teacher", teacher, "--data", world, "--budget-flops", "50%", "--out", tmp_path / "run"]
    short = ["--strategy", "random", "--trials", 6, "--rungs", "1,2", "--batch-size", 1, "--data-workers", 0]
    return [*program, *map(str, [*search, *short, "--cells", "1"])]


def finished(url):
    import psycopg

    try:
        with psycopg.connect(url) as connection:
            rows = connection.execute("SELECT count(*) FROM trials WHERE state = 'COMPLETE'").fetchone()
            return int(rows[0])
    except psycopg.Error:
        return 0


def running(url):
    import psycopg

    with psycopg.connect(url) as connection:
        sql = "SELECT value_json FROM trial_user_attributes JOIN trials USING (trial_id) WHERE state = 'RUNNING'"
        rows = connection.execute(f"{sql} AND key = 'owner'").fetchall()
        return {json.loads(row[0])["pid"] for row in rows}


@pytest.mark.slow
def test_two_workers_share_a_study_in_postgresql_and_survive_the_death_of_one(server, job, tmp_path):
    first = subprocess.Popen([*job, "--storage", server])
    while not (tmp_path / "run" / "settings.json").exists():
        assert first.poll() is None
        time.sleep(0.1)
    second = subprocess.Popen([*job, "--storage", server, "--resume"])
    while finished(server) < 2 or not {first.pid, second.pid} <= running(server):
        assert first.poll() is None or second.poll() is None, "the search ended before both were at work"
        time.sleep(0.02)
    victim, other = second, first
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    assert other.wait(300) == 0
    trials = [json.loads(line) for line in (tmp_path / "run" / "trials.jsonl").read_text().splitlines()]
    assert len(trials) == 6 == len({trial["name"] for trial in trials})
    assert Counter(trial["state"] for trial in trials) == {"pruned": 3, "complete": 3}
    assert [len(trial["scores"]) for trial in trials].count(2) == 3
    assert finished(server) == 9  # six to the first rung, three to the second, each once
    record = json.loads((tmp_path / "run" / "search.json").read_text())
    assert record["steps_spent"] == 6 * 1 + 3 * 1
    again = subprocess.run(
        [*job, "--storage", server, "--resume", "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(again.stdout.splitlines()[-1])["best"]["name"] == record["best"]["name"]
    assert finished(server) == 9  # nothing is trained again
