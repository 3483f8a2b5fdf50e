"""``make bench``: every script that records a result, one after another; each writes ``results/NAME.json``.

    python benchmarks/run_all.py                  all of them: hours, most of them the nine trainings of kd_three_seeds
    python benchmarks/run_all.py pillars world    those whose name contains one of the words

The order is that of dependence: the gate of the world and the speed of the student use the trainings. Finished
trainings are not repeated, and a stopped one resumes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
SEEDS = (1, 2, 3)
ARMS = ("control", "inherit", "kd")
SUITES: tuple[tuple[str, ...], ...] = (
    ("pillars.py",),
    ("sparse_conv.py",),
    ("voxel_speed.py", "--repeats", "15"),
    ("world_stats.py",),
    ("world_speed.py",),
    *(("kd_three_seeds.py", "run", "--arm", arm, "--seed", str(seed)) for seed in SEEDS for arm in ARMS),
    ("kd_three_seeds.py", "table"),
    ("search_gain.py", "teacher"),
    *(
        ("search_gain.py", "run", "--arm", a, "--seed", str(s))
        for s in SEEDS
        for a in ("searched", "uniform", "random")
    ),
    *(("search_gain.py", "short", "--seed", str(seed)) for seed in SEEDS),
    ("search_gain.py", "table"),
    ("six_tasks.py",),
    *(
        ("search_gain.py", "--six-tasks", "run", "--arm", a, "--seed", str(s))
        for s in SEEDS
        for a in ("uniform", "searched")
    ),
    ("search_gain.py", "--six-tasks", "table"),
    *(("kd_gain.py", "run", "--seed", str(seed)) for seed in SEEDS),
    ("kd_gain.py", "table"),
    *(("kd_gain.py", "--long", "run", "--seed", str(seed)) for seed in SEEDS),
    ("kd_gain.py", "--long", "table"),
    ("blend_sweep.py", "run"),
    ("blend_sweep.py", "table"),
    ("kd_table.py", "--student", "near:width", "--steps", "800"),
    ("labelfree_gain.py", "--near", "--steps", "4800", "--teacher-steps", "4800"),
    ("study_width_depth_resolution.py", "run", "--near", "--steps", "400"),
    ("study_width_depth_resolution.py", "table", "--near", "--steps", "400"),
    ("study_width_depth_resolution.py", "plot"),
    ("kd_step.py",),
    ("world_gate.py",),
    ("decode_comparison.py",),
    ("cost_speed.py",),
    ("latency_prediction.py", "--seed", "11", "--cpu-clock", "--threads", "1", "--teacher", "world-centerpoint-pillar"),
    ("student_speed.py",),
    ("imported_teacher.py",),
    ("runtime_overhead.py",),
    ("int8.py",),
    ("precision.py",),
    ("kitti_overfit.py", "--out", "runs/kitti-overfit"),
    ("kitti_labelfree.py", "--out", "runs/kitti-labelfree", "--teacher", "runs/kitti-overfit/teacher/model"),
    ("nuscenes_keyframe.py", "--out", "runs/nuscenes-keyframe"),
)


def main() -> None:
    """Run the suites whose name contains one of the given words, or all of them; ends with 1 if any failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--list", action="store_true", help="only print what would run")
    options = parser.parse_args()
    wanted = [suite for suite in SUITES if not options.names or any(name in suite[0] for name in options.names)]
    if not wanted:
        raise SystemExit(f"no suite is called {' or '.join(options.names)}.")
    failed = [] if options.list else [suite for suite in wanted if not succeeds(suite)]
    if options.list:
        print("\n".join(" ".join(suite) for suite in wanted))
    if failed:
        raise SystemExit(f"{len(failed)} suite(s) failed: {'; '.join(' '.join(suite) for suite in failed)}")


def succeeds(suite: tuple[str, ...]) -> bool:
    """Run one suite and say how long it took."""
    label, began = " ".join(suite), time.monotonic()
    print(f"== {label}", flush=True)
    code = subprocess.run([sys.executable, HERE / suite[0], *suite[1:]], cwd=HERE.parent, check=False).returncode
    print(
        f"== {label}: {'done' if code == 0 else f'failed with code {code}'}, {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return code == 0


if __name__ == "__main__":
    main()
