"""Writes a whole world: plans the scenes, makes them in parallel, and puts the tables together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kd3d.datasets.world.crew import Progress, make_scenes
from kd3d.datasets.world.names import CAMERAS, scene_plan
from kd3d.datasets.world.simulate import Job
from kd3d.datasets.world.tables import merge, write_tables
from kd3d.errors import OutputError, UsageError
from kd3d.runs.atomic import atomic_folder, output_errors


@dataclass(frozen=True)
class WorldSummary:
    """What was written."""

    root: Path
    version: str
    scenes: int
    samples: int
    boxes: int


def write_world(
    out: Path,
    *,
    scenes: int,
    seed: int,
    version: str = "v1.0-mini",
    samples_per_scene: int = 20,
    cameras: bool = True,
    workers: int = 2,
    split: str = "both",
    progress: Progress | None = None,
    force: bool = False,
    sweeps: int = 9,
) -> WorldSummary:
    """Generate a data set in the nuScenes format.

    The same arguments give the same bytes, whatever the number of workers. The folder appears only when it is whole.

    Args:
        out: folder to write; must be absent or empty unless ``force``.
        scenes: how many; with ``split="both"`` about a quarter of them are validation scenes.
        seed: of everything random. Scenes of different seeds share nothing.
        version: ``v1.0-mini`` (8 training and 2 validation names) or ``v1.0-trainval`` (700 and 150).
        samples_per_scene: key frames per scene, at 2 Hz.
        cameras: whether to render the six cameras.
        workers: processes.
        split: ``train``, ``val`` or ``both``.
        progress: called with (finished scenes, all scenes).
        force: replace what is in ``out``.
        sweeps: intermediate sweeps before each key frame, 50 ms apart, at most 9 (all of them).

    Raises:
        UsageError: a setting makes no sense, or the version has too few scene names.
        OutputError: ``out`` is not empty, or cannot be written.
    """
    out = Path(out)
    if samples_per_scene < 1 or workers < 1 or not 0 <= sweeps <= 9 or seed < 0:
        raise UsageError(
            f"samples_per_scene {samples_per_scene}, workers {workers}, sweeps {sweeps}, seed {seed}: "
            "use at least 1 sample, 1 worker, 0 to 9 sweeps and a seed of 0 or more."
        )
    plan = scene_plan(scenes, version=version, split=split)
    _refuse_non_empty(out, force)
    with atomic_folder(out) as root:
        _make_folders(root, version, cameras=cameras, sweeps=sweeps > 0)
        jobs = _jobs(plan, root, seed, samples=samples_per_scene, sweeps=sweeps, cameras=cameras)
        finished = make_scenes(jobs, min(workers, len(jobs)), progress)
        write_tables(root / version, merge([scene.tables for scene in finished]))
    return WorldSummary(out, version, len(jobs), len(jobs) * samples_per_scene, sum(s.boxes for s in finished))


def _refuse_non_empty(out: Path, force: bool) -> None:
    with output_errors(out):
        if out.is_file():
            raise OutputError(f"{out}: is a file. Choose another folder.")
        if out.is_dir() and not force and any(out.iterdir()):
            raise OutputError(f"{out}: the folder is not empty. Choose another folder, or force to replace it.")


def _make_folders(root: Path, version: str, *, cameras: bool, sweeps: bool) -> None:
    names = [version, "maps", "samples/LIDAR_TOP", "sweeps/LIDAR_TOP" if sweeps else "sweeps"]
    names += [f"samples/{channel}" for channel in CAMERAS] if cameras else []
    for name in names:
        (root / name).mkdir(parents=True)


def _jobs(plan: list[tuple[str, str]], root: Path, seed: int, *, samples: int, sweeps: int, cameras: bool) -> list[Job]:
    counts: dict[str, int] = {}
    jobs = []
    for split, name in plan:
        index = counts.get(split, 0)
        counts[split] = index + 1
        jobs.append(Job(root, name, split, index, seed, samples, sweeps, cameras))
    return jobs
