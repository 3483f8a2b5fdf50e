"""Lets the tests (and the script that is killed) share ``training_frames``; Ctrl-C as in a terminal."""

import signal
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture
def listens_to_ctrl_c():
    """Python's own handler: a process started in the background of a shell ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
