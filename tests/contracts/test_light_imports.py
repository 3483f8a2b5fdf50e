"""What is imported when: the command line is instant, and the vehicle side runs where torch is not installed."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "torch", "onnx", "onnxruntime", "nuscenes", "matplotlib", "cv2", "numba", "safetensors", "scipy", "pandas",
    "optuna", "sqlalchemy", "pyarrow",
)  # fmt: skip
BLOCKED = ("torch", "nuscenes", "onnx", "onnxscript", "safetensors", "pyquaternion", "matplotlib")
KD3D = [sys.executable, "-m", "kd3d.cli"]

BLOCKER = f"""
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}} (not installed in this test)", name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.mark.parametrize(
    "module", ["kd3d", "kd3d.cli.main", "kd3d.runtime", "kd3d.bench", "kd3d.spec", "kd3d.geometry", "kd3d.runs"]
)
def test_importing_brings_nothing_heavy(module):
    code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    "module",
    [
        "kd3d.runtime.pipeline",
        "kd3d.runtime.runners",
        "kd3d.runtime.decode",
        "kd3d.runtime.trt_runner",
        "kd3d.runtime.device.choose",
        "kd3d.export.trt",
        "kd3d.bench",
        "kd3d.cli.main",
        "kd3d.cli.pipelines",
    ],
)
def test_the_vehicle_side_imports_without_the_training_packages(module):
    subprocess.run([sys.executable, "-c", f"{BLOCKER}\nimport {module}"], check=True)


def processor_seconds():
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def test_help_takes_half_a_second_of_processor_time_at_most():
    """Processor time, so that a busy machine does not decide."""
    times = []
    for _ in range(4):
        began = processor_seconds()
        subprocess.run([*KD3D, "--help"], capture_output=True, check=True)
        times.append(processor_seconds() - began)
    assert min(times) < 0.5


def test_bench_of_an_exported_onnx_runs_where_torch_nuscenes_and_onnx_are_not_installed(tiny_export, tmp_path):
    artefact, frames = tiny_export
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    done = subprocess.run(
        [*KD3D, "bench", str(artefact), "--frames", str(frames), "--iterations", "5", "--warmup", "1", "--json"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).resolve().parents[2]}", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["models"][0]["e2e_ms"]["p50"] > 0
    assert "torch" not in record["env"]["packages"] or record["models"][0]["runtime"] == "onnxruntime"


def test_the_blocker_really_hides_torch(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    done = subprocess.run(
        [*KD3D, "bench", "world-centerpoint-pillar-tiny", "--synthetic", "--iterations", "1"],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).resolve().parents[2]}", "PATH": "/usr/bin:/bin"},
        check=False,
    )
    assert done.returncode != 0
    assert "No module named 'torch'" in done.stderr
