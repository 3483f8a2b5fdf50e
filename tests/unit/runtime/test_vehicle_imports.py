"""The vehicle side must import, and work, where the heavy packages are not installed."""

import subprocess
import sys

SCRIPT = """
import importlib, pkgutil, sys
for name in ("torch", "nuscenes", "onnx", "onnxscript", "numba", "matplotlib", "spconv", "shapely"):
    sys.modules[name] = None
before = set(sys.modules)
import kd3d
for part in ("errors", "optional", "runs", "geometry", "spec", "runtime", "bench"):
    module = importlib.import_module(f"kd3d.{part}")
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(found.name)
for heavy in ("torch", "nuscenes", "onnx", "onnxruntime", "numba", "matplotlib", "cv2", "scipy"):
    assert sys.modules.get(heavy) is None, heavy
import numpy as np
from kd3d.geometry.grid import BevGrid
from kd3d.geometry.nms import rotated_nms
from kd3d.runtime.pillars import hard_pillars
points = np.random.default_rng(0).uniform(-1, 1, (99, 4))
assert len(hard_pillars(points, BevGrid(-1, -1, -1, 1, 1, 1, 0.5), max_points=4, max_pillars=9).cells) == 9
boxes = np.array([[0, 0, 2, 2, 0], [0, 0, 2, 2, 0.1]])
assert rotated_nms(boxes, np.array([0.1, 0.9]), threshold=0.2, pre=9, post=9).tolist() == [1]
print("kept out")
"""


def test_geometry_spec_runs_runtime_and_bench_need_none_of_the_heavy_packages():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "kept out"
