"""What runs leave on the disk and find again: recipes, studies, caches, checkpoints, logs, pages. Damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from targets import Target, command, finite

TINY = "world-centerpoint-pillar-tiny"


def _recipes(folder: Path) -> None:
    from kd3d.compress.recipe_file import FOLDER

    for path in sorted(FOLDER.glob("*.json")):
        shutil.copy(path, folder / f"my-{path.name}")


def _read_recipes(folder: Path) -> Any:
    """And what is made of them: signals, blend and taps."""
    from kd3d.compress.recipe_file import load_recipe

    return [load_recipe(str(path)) for path in sorted(folder.glob("*.json"))]


def _board(folder: Path, name: str) -> Any:
    from kd3d.compress.search.storage import StudyStorage
    from kd3d.compress.search.study import Board

    storage = StudyStorage(str(folder / name), patience_s=0.1)
    return Board(storage, "kd3d", directions=["maximize"], request={"rungs": [10, 20], "seed": 1})


def _study(name: str) -> Any:
    def make(folder: Path) -> None:
        from kd3d.compress.search.owner import Owner

        board = _board(folder, name)
        with Owner() as owner:
            for index in range(3):
                job = board.claim(owner, f"s{index}", 0, params={"width": index}, attrs={"note": "x"})
                board.finish(job, [0.1 * index], {"seconds": 1.0})
            board.claim(owner, "s3", 0, params={"width": 3}, attrs={})

    return make


def _go_on(name: str) -> Any:
    def read(folder: Path) -> Any:
        from kd3d.compress.search.owner import Owner

        board = _board(folder, name)
        found = board.jobs()
        with Owner() as owner:
            job = board.claim(owner, "s9", 0, params={"width": 9}, attrs={})
            if job is not None:
                board.finish(job, [0.5], {})
        return [*found, *board.jobs()]

    return read


def _jobs(jobs: Any) -> str:
    return "" if all(finite(job.values) for job in jobs if job.values) else "scores that are not finite"


def _layout() -> Any:
    from kd3d.compress.distill.record import Layout
    from kd3d.compress.distill.signals import PivotalLogits
    from kd3d.detectors.presets import preset

    return Layout(preset(TINY), PivotalLogits().reads)


def _answers(folder: Path) -> None:
    from kd3d.compress.distill.cache import SHARD
    from kd3d.compress.distill.record import Record
    from kd3d.compress.distill.shards import write_shard

    cache, layout = _cache(folder), _layout()
    random, channels = np.random.default_rng(0), layout.channels("cells")
    for draw, shard in list(cache.missing()):
        records = []
        for _ in range(min(SHARD, 40 - shard * SHARD)):
            cells = np.sort(random.choice(200, 20, replace=False)).astype(np.int32)
            values = random.normal(size=(20, channels)).astype(np.float16)
            boxes = random.uniform(1, 5, (4, 11)).astype(np.float32)
            records.append(Record.of_arrays(boxes, cells, values, np.zeros((0, 0), np.float16)))
        write_shard(cache.path(draw, shard), records)


def _cache(folder: Path) -> Any:
    from kd3d.compress.distill.cache import TeacherCache

    cache = TeacherCache(folder / "cache", _layout(), frames=40, draws=1)
    cache.open({"teacher": "abc", "frames": 40, "signals": ["logits"]})
    return cache


def _read_answers(folder: Path) -> Any:
    """A file that is not whole counts as missing."""
    cache = _cache(folder)
    missing = list(cache.missing())
    batch = cache.load([(0, 0), (39, 0)])
    return missing, batch


def _answered(found: Any) -> str:
    missing, batch = found
    return "" if batch is not None or missing else "no answers, though no file is missing"


def _training(folder: Path) -> None:
    from kd3d.training.state import save_state

    save_state(folder / "last.pt", _state(), {"settings": {"lr": 0.1}, "seed": 1})


def _state() -> Any:
    import torch

    from kd3d.detectors.build import build
    from kd3d.detectors.presets import preset
    from kd3d.training.ema import Ema
    from kd3d.training.state import TrainState

    torch.manual_seed(0)
    module = build(preset(TINY))
    optimiser = torch.optim.AdamW(module.parameters(), lr=0.1)
    sum(parameter.sum() for parameter in module.parameters()).backward()
    optimiser.step()
    return TrainState(module, Ema(module, 0.9), optimiser, torch.amp.GradScaler("cpu", enabled=False), None, 3)


def _resume(folder: Path) -> Any:
    from kd3d.training.state import load_state

    state = _state()
    load_state(folder / "last.pt", state, {"settings": {"lr": 0.1}, "seed": 1})
    return state


def _resumed(state: Any) -> str:
    weights = [tensor for tensor in state.module.state_dict().values() if tensor.is_floating_point()]
    if not all(finite(tensor) for tensor in weights):
        return "weights that are not finite"
    return "" if 0 <= state.step < 10**9 else f"step {state.step}"


def _log(folder: Path) -> None:
    lines = [{"step": step, "loss": 9.0 / step, "val": {"mAP": 0.1}} for step in range(1, 30)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "settings.json").write_text(json.dumps({"command": "train", "lr": 0.1, "preset": TINY}))


def _cut_log(folder: Path) -> Any:
    from kd3d.runs.folder import start_run
    from kd3d.training.log import MetricsLog, read_metrics

    start_run(folder, {"command": "train", "lr": 0.1, "preset": TINY}, resume=True)
    with MetricsLog(folder / "metrics.jsonl", keep=20) as log:
        log.write({"step": 21, "loss": 0.1})
    return read_metrics(folder / "metrics.jsonl")


def _cut(lines: Any) -> str:
    return "" if lines and lines[-1] == {"step": 21, "loss": 0.1} else "the new line is not the last"


def _run(folder: Path) -> None:
    """The companions of a compress run, without its pictures."""
    row = {
        "name": "a",
        "spec": "candidates/a.json",
        "choice": {"cell": 2.0},
        "params": 5,
        "macs": 20,
        "macs_thop": 24,
        "acts": 9,
    }
    rows = [
        {**row, "latency_ms": None, "prior": 0.5, "score": None, "steps": None, "state": "untrained", "pareto": True},
        {**row, "name": "b", "latency_ms": 3.5, "prior": 0.4, "score": 0.4, "steps": 100, "state": "complete"},
    ]
    teacher = {"name": "t", "params": 50, "macs": 100, "macs_thop": 120, "acts": 30, "mAP": 0.6}
    budget = {"flops": {"text": "25%", "limit": 25.0}, "convention": "physical"}
    about = {"strategy": "tpe", "seed": 7, "chosen": "b", "convention": "physical"}
    search = {
        "teacher": teacher,
        "budget": budget,
        **about,
        "candidates": rows,
        "pareto": rows,
        "best": rows[1],
        "count": 2,
    }
    (folder / "search.json").write_text(json.dumps(search))
    metrics = {"teacher": {"mAP": 0.5, "NDS": 0.4}, "student": {"name": "b", "mAP": 0.4, "NDS": 0.3}}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "settings.json").write_text(json.dumps({"command": "compress", "data": "nowhere", "teacher": "t"}))
    machine = {"machine": {"cpu": "a processor"}, "command": ["kd3d", "compress", "a b"], "packages": {"numpy": "2.0"}}
    (folder / "environment.json").write_text(json.dumps(machine))
    (folder / "distill" / "distil").mkdir(parents=True)
    lines = [{"step": step, "loss": 9 / step, "terms": {"logits": 1 / step}} for step in range(1, 9)]
    (folder / "distill" / "distil" / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _timed(folder / "bench")


def _timed(folder: Path) -> None:
    from kd3d.bench.run import bench

    class Steps:
        name, stages = "steps", ("pre", "network", "decode", "nms")

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *error: object) -> None: ...

        def pre(self, frame: Any) -> Any:
            return frame

        network = decode = pre

        def nms(self, frame: Any) -> list[Any]:
            return []

    class Held:
        token, points = "t", np.zeros((3, 4))

    bench({"student": Steps()}, [Held()], warmup=0, iterations=5).write(folder)


def _page(folder: Path) -> Any:
    return Path(command("report", ".")["report"]).read_text()


def _safe(page: str) -> str:
    return "" if page.startswith("<!doctype html>") and page.rstrip().endswith("</html>") else "half a page"


RUNS = (
    Target("recipes", _recipes, ("*.json",), _read_recipes, count=300),
    Target("journal", _study("a.log"), ("a.log",), _go_on("a.log"), _jobs, 400),
    Target("sqlite", _study("a.db"), ("a.db",), _go_on("a.db"), _jobs, 100),
    Target("teacher-cache", _answers, ("cache/*",), _read_answers, _answered, 300),
    Target("checkpoint", _training, ("last.pt",), _resume, _resumed, 300),
    Target("log", _log, ("*.json*",), _cut_log, _cut, 250),
    Target("page", _run, ("**/*.json*",), _page, _safe, 300),
)
