import json
import subprocess
from pathlib import Path

from kd3d.runs import environment
from kd3d.runs.doctor import examine


def test_the_record_is_json_and_names_machine_versions_and_commit():
    found = json.loads(json.dumps(environment.record()))
    assert set(found) >= {"date", "kd3d", "commit", "python", "os", "command", "machine", "packages"}
    assert found["packages"]["numpy"].count(".") == 2
    assert found["machine"]["cpu"]


def test_the_commit_is_gits():
    root = Path(environment.__file__).resolve().parents[2]
    head = subprocess.run(
        ["git", "-C", root, "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    assert (environment.commit() or "").removesuffix("-dirty") == head


def test_doctor_names_the_line_that_adds_what_is_missing(monkeypatch):
    monkeypatch.setattr("kd3d.runs.doctor.available", lambda module: module != "onnx")
    missing = next(check for check in examine() if check.name == "onnx")
    assert (missing.ok, missing.needed, missing.remedy) == (False, True, "pip install 'kd3d[onnx]'")


def test_doctor_does_not_count_a_missing_gpu_as_a_fault(monkeypatch):
    monkeypatch.setattr(environment, "graphics_cards", list)
    gpu = next(check for check in examine() if check.name == "NVIDIA GPU")
    assert not gpu.ok
    assert not gpu.needed
