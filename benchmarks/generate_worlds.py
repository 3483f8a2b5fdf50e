"""Writes the benchmark worlds that are missing (see worlds.py), so that their time is not counted as training.

python benchmarks/generate_worlds.py [--small]      --small leaves out those of the shipped teacher and of the fleet
"""

from __future__ import annotations

import argparse

from worlds import FLEET, SWEEPS, TEACHER, TRAIN, VALIDATION, world

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    wanted = (VALIDATION, TRAIN) if parser.parse_args().small else (VALIDATION, TEACHER, TRAIN, FLEET)
    for which in wanted:
        dataset = world(which, sweeps=SWEEPS)
        print(f"{which}: {len(dataset)} key frames")
