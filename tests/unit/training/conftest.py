"""Lets the tests (and the script that is killed) share ``training_frames``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
