"""Writes the benchmark worlds that are missing (see worlds.py), so that their time is not counted as training."""

from __future__ import annotations

from worlds import SWEEPS, TEACHER, TRAIN, VALIDATION, world

if __name__ == "__main__":
    for which in (VALIDATION, TEACHER, TRAIN):
        dataset = world(which, sweeps=SWEEPS)
        print(f"{which}: {len(dataset)} key frames")
