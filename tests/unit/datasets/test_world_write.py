"""Writing a world: what it refuses, and what it leaves behind when it fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd3d.datasets.world import crew, write_world
from kd3d.datasets.world.names import scene_plan
from kd3d.datasets.world.simulate import Job, SceneTables
from kd3d.errors import OutputError, UsageError


def _tiny(out: Path, **more: object) -> None:
    settings = {
        "scenes": 1,
        "seed": 1,
        "samples_per_scene": 1,
        "cameras": False,
        "workers": 1,
        "split": "train",
        "sweeps": 0,
    }
    write_world(out, **{**settings, **more})  # type: ignore[arg-type]


def test_a_non_empty_folder_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        _tiny(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious.txt"]


def test_force_replaces_a_folder(tmp_path: Path) -> None:
    out = tmp_path / "world"
    out.mkdir()
    (out / "old.txt").write_text("old")
    _tiny(out, force=True)
    assert not (out / "old.txt").exists()
    assert (out / "v1.0-mini" / "scene.json").exists()


def test_a_failing_scene_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(job: Job) -> SceneTables:
        (job.root / "samples" / "half").write_text("half")
        raise OutputError(f"{job.name}: broken")

    monkeypatch.setattr(crew, "make_scene", fail)
    with pytest.raises(OutputError, match="broken"):
        _tiny(tmp_path / "world")
    assert list(tmp_path.iterdir()) == []


def test_a_failing_worker_process_names_the_scene(tmp_path: Path) -> None:
    job = Job(tmp_path / "absent", "scene-0061", "train", 0, 1, 1, 0, False)
    with pytest.raises(OSError, match="No such file"):
        crew.make_scenes([job, job], 2, None)
    broken = Job(tmp_path, "scene-0061", "train", 0, -1, 1, 0, False)
    with pytest.raises(crew.WorkerError, match="scene-0061"):
        crew.make_scenes([broken, broken], 2, None)


def test_an_interrupt_stops_the_workers_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    start = crew._start

    def remember() -> object:
        started.append(start())
        return started[-1]

    monkeypatch.setattr(crew, "_start", remember)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _tiny(tmp_path / "world", scenes=4, workers=2, progress=interrupt)
    assert len(started) == 2
    assert all(process.poll() is not None for process in started)
    assert list(tmp_path.iterdir()) == []


def test_progress_counts_every_scene(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    _tiny(tmp_path / "world", scenes=3, workers=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_mini_has_too_few_names_for_many_scenes() -> None:
    with pytest.raises(UsageError, match=r"v1\.0-trainval"):
        scene_plan(20, version="v1.0-mini", split="both")


def test_both_splits_share_the_scenes_three_to_one() -> None:
    plan = scene_plan(8, version="v1.0-mini", split="both")
    assert [split for split, _ in plan].count("train") == 6
    assert [name for split, name in plan if split == "val"] == ["scene-0103", "scene-0916"]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"sweeps": 12}, "0 to 9 sweeps"),
        ({"split": "test"}, "unknown"),
        ({"version": "v2"}, "unknown"),
        ({"scenes": 0}, "too few"),
        ({"seed": -1}, "seed"),
    ],
)
def test_nonsense_is_refused(tmp_path: Path, settings: dict[str, object], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        _tiny(tmp_path / "world", **settings)
