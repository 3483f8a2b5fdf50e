"""The doctor names what is missing for a target and the line that adds it, and imports nothing to find out."""

import ctypes
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kd3d.cli.main import run
from kd3d.errors import UsageError
from kd3d.runs import doctor, environment
from kd3d.runs import doctor_probes as probes

RELEASE = probes.l4t


@pytest.fixture
def bare(monkeypatch):
    """A machine with Python alone."""
    monkeypatch.setattr(doctor, "available", lambda module: False)
    monkeypatch.setattr(environment, "graphics_cards", list)
    for name in ("cuda_runtime", "driver", "tegrastats", "l4t", "nvrtc"):
        monkeypatch.setattr(probes, name, lambda: None)


def missing(target):
    return {check.name: check.remedy for check in doctor.examine(target) if check.needed and not check.ok}


def test_each_target_needs_what_it_needs(bare):
    assert missing("cpu") == {"onnxruntime": "pip install onnxruntime"}
    assert missing(None)["onnxruntime"] == "pip install 'kd3d[onnx]'"
    assert set(missing("a100")) == {"tensorrt", "device memory", "NVIDIA driver", "NVIDIA GPU"}
    assert set(missing("orin")) == {"tensorrt", "device memory", "NVIDIA GPU"}
    assert missing("orin")["tensorrt"].startswith("sudo apt install python3-libnvinfer")
    assert missing("rtx")["tensorrt"] == "pip install 'tensorrt>=10.3' --extra-index-url https://pypi.nvidia.com"
    assert {"torch", "onnx", "nuscenes-devkit"} <= set(missing(None))


def test_a_target_is_not_bothered_with_what_it_has_no_use_for(bare):
    cpu = {check.name for check in doctor.examine("cpu")}
    assert cpu == {"Python", "onnxruntime", "numba", "processor", "free disk here"}
    orin = {check.name for check in doctor.examine("orin")}
    assert {"tegrastats", "libcudart", "pycuda", "cuda-bindings"} <= orin
    assert not {"torch", "nuscenes-devkit", "matplotlib", "tensorrt_rtx"} & orin
    everything = {check.name for check in doctor.examine()}
    assert {"matplotlib", "optuna", "numba", "tensorrt", "tensorrt_rtx", "cuda-bindings", "pycuda"} <= everything


def test_every_extra_has_its_line(bare):
    """Those of pyproject.toml, but for groups of several."""
    text = (Path(__file__).resolve().parents[3] / "pyproject.toml").read_text()
    section = text.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    extras = set(re.findall(r"^([\w-]+) = \[", section, re.MULTILINE)) - {"all", "dev", "gpu"}
    assert {"torch", "waymo", "postgres", "cuda"} <= extras
    lines = " ".join(check.remedy for check in doctor.examine())
    by_name = {"cuda": "pip install cuda-bindings", "pycuda": "pip install 'pycuda>=2024.1'"}
    assert [name for name in sorted(extras) if by_name.get(name, f"kd3d[{name}]") not in lines] == []
    assert "pip install nvidia-ml-py" in lines
    assert "pip install nvidia-cuda-nvrtc" in lines
    assert {check.name: check.remedy for check in doctor.examine("orin")}["NVRTC"] == "sudo apt install nvidia-jetpack"


def test_nvrtc_is_found_as_a_library_too(monkeypatch):
    def library(name):
        if name != "libnvrtc.so.12":
            raise OSError(name)

        def told(major, minor):
            major._obj.value, minor._obj.value = 12, 6
            return 0

        return SimpleNamespace(nvrtcVersion=told)

    monkeypatch.setattr(probes, "version", lambda names: None)
    assert probes.nvrtc(library) == "12.6"

    def none(name):
        raise OSError(name)

    assert probes.nvrtc(none) is None


def test_one_way_to_device_memory_is_enough(bare, monkeypatch):
    monkeypatch.setattr(probes, "cuda_runtime", lambda: "12.6")
    memory = next(check for check in doctor.examine("orin") if check.name == "device memory")
    assert (memory.ok, memory.found) == (True, "through libcudart")


def test_an_orin_is_recognised_by_its_release(bare, monkeypatch, tmp_path):
    release = tmp_path / "nv_tegra_release"
    release.write_text("# R36 (release), REVISION: 4.0, GCID: 1, BOARD: generic, EABI: aarch64\n")
    assert RELEASE(release) == "36.4"
    assert RELEASE(tmp_path / "none") is None
    monkeypatch.setattr(probes, "l4t", lambda: "36.4")
    checks = {check.name: check for check in doctor.examine("orin")}
    assert checks["Jetson"].found == "L4T 36.4 (JetPack 6)"
    assert checks["NVIDIA GPU"].ok


def test_builds_are_told_apart_by_their_files(tmp_path):
    (tmp_path / "capi").mkdir()
    assert probes.ort_providers(tmp_path) == []
    (tmp_path / "capi" / "libonnxruntime_providers_shared.so").touch()
    assert probes.ort_providers(tmp_path) == []
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    (tmp_path / "capi" / "libonnxruntime_providers_tensorrt.so").touch()
    assert probes.ort_providers(tmp_path) == ["cuda", "tensorrt"]
    assert probes.torch_cuda(tmp_path) is None
    (tmp_path / "version.py").write_text("__version__ = '2.6.0+cu126'\ncuda: Optional[str] = '12.6'\nhip = None\n")
    assert probes.torch_cuda(tmp_path) == "12.6"
    (tmp_path / "version.py").write_text("cuda: Optional[str] = None\n")
    assert probes.torch_cuda(tmp_path) is None


class FakeRuntime:
    def cudaRuntimeGetVersion(self, place):  # noqa: N802 - NVIDIA's name
        place._obj.value = 12060
        return 0


class FakeDriver:
    shut = 0

    def nvmlInit_v2(self):  # noqa: N802
        return 0

    def nvmlSystemGetDriverVersion(self, text, length):  # noqa: N802
        text.value = b"570.86"
        return 0

    def nvmlShutdown(self):  # noqa: N802
        FakeDriver.shut += 1


def absent(name):
    raise OSError(f"{name}: cannot open shared object file")


def test_the_two_libraries_are_asked_for_their_versions():
    assert probes.cuda_runtime(lambda name: FakeRuntime()) == "12.6"
    assert probes.cuda_runtime(absent) is None
    assert probes.cuda_runtime(lambda name: ctypes.c_int()) is None  # a library of another kind
    assert probes.driver(lambda name: FakeDriver()) == "570.86"
    assert FakeDriver.shut == 1
    assert probes.driver(absent) is None


def test_an_unknown_target_is_named():
    with pytest.raises(UsageError, match="--target must be cpu, orin, rtx, a100, not xavier"):
        doctor.examine("xavier")


def test_the_command_ends_with_5_only_when_it_is_strict(bare, capsys):
    assert run(["doctor", "--target", "a100", "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (said["ok"], said["target"]) == (False, "a100")
    assert run(["doctor", "--target", "a100", "--strict"]) == 5
    assert run(["doctor", "--target", "xavier"]) == 2


def test_the_doctor_imports_nothing_heavy():
    heavy = ("torch", "onnx", "onnxruntime", "tensorrt_rtx", "nuscenes", "cv2", "numba", "matplotlib", "optuna")
    code = f"from kd3d.runs.doctor import examine; examine(); import sys; print(set({heavy!r}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
