"""Lets the tests share their toy models, and frames in memory."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "training"))


@pytest.fixture(scope="module")
def frames():
    from training_frames import memory_dataset

    return memory_dataset(5)
