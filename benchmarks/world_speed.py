"""How long 20 generated key frames with all their sweeps take, without and with the six cameras.

    python benchmarks/world_speed.py

Two scenes of ten frames, written by two workers. Writes results/world_speed.json.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

from kd3d.datasets.world import write_world
from kd3d.runs import environment
from kd3d.runs.atomic import write_json

RESULTS = Path(__file__).resolve().parent / "results"
SEED, SCENES, SAMPLES, WORKERS = 5000, 2, 10, 2


def main() -> None:
    """Write both worlds, time them, record."""
    seconds = {}
    for name, cameras in (("lidar_only", False), ("lidar_and_cameras", True)):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            write_world(
                Path(folder) / "world",
                scenes=SCENES,
                seed=SEED,
                samples_per_scene=SAMPLES,
                cameras=cameras,
                workers=WORKERS,
            )
            seconds[name] = time.perf_counter() - began
    record = {
        "benchmark": "world_speed",
        "key_frames": SCENES * SAMPLES,
        "workers": WORKERS,
        "seed": SEED,
        "seconds": seconds,
        "environment": environment.record(),
    }
    write_json(RESULTS / "world_speed.json", record)
    print(seconds)


if __name__ == "__main__":
    main()
