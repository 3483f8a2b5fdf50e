"""One torch thread per test process (barriers of two processes on two cores stall), and data: real, and tiny."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
SHARED = Path(os.environ.get("KD3D_SHARED", Path(__file__).resolve().parents[2] / "shared"))
SUPPORT = Path(__file__).resolve().parent / "support"


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def no_rtx_builds(request, monkeypatch):
    """Each export would build four engines, which takes seconds: only tests marked ``rtx`` do."""
    if request.node.get_closest_marker("rtx") is None:
        monkeypatch.setattr("kd3d.export.rtx.available", lambda name: False)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real KITTI and nuScenes frames."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip(f"real sensor data is not at {data}; set KD3D_SHARED")
    return data


def load_support(name):
    spec = importlib.util.spec_from_file_location(name, SUPPORT / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def fake_tensorrt():
    """The module that makes fakes of TensorRT's bindings, which run an engine's ONNX in host memory."""
    return load_support("fake_tensorrt")


@pytest.fixture(scope="session")
def host_device():
    """The module with a device in host memory."""
    return load_support("host_device")


@pytest.fixture(scope="session")
def tiny_network():
    """The module that writes an ONNX network of the tiny preset without torch."""
    return load_support("tiny_network")


@pytest.fixture(scope="session")
def voxels():
    """The module that makes a tiny voxel detector with random weights."""
    return load_support("tiny_voxel")


@pytest.fixture(scope="session")
def shim():
    """The module with a device that runs the CUDA kernels on the processor, with threads in three orders."""
    return load_support("cuda_shim")


@pytest.fixture(scope="session")
def shim_library(shim, tmp_path_factory):
    """The kernels as a library of this machine."""
    return shim.build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def fake_cuda_file(tmp_path_factory) -> Path:
    """CUDA's runtime and driver in host memory, as a shared library compiled now."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here to build the fake CUDA library with")
    path = tmp_path_factory.mktemp("cuda") / "libfakecuda.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", path, SUPPORT / "fake_cuda.c"], check=True)
    return path


@pytest.fixture
def fake_cuda(fake_cuda_file, monkeypatch):
    """The fake library, found where CUDA's would be; its state is as new."""
    library = ctypes.CDLL(str(fake_cuda_file))
    library.fake_calls.restype, library.fake_used.restype = ctypes.c_char_p, ctypes.c_size_t
    library.fake_limit.argtypes = [ctypes.c_size_t]
    library.fake_reset()
    monkeypatch.setenv("KD3D_LIBCUDA", str(fake_cuda_file))
    monkeypatch.setenv("KD3D_LIBCUDART", str(fake_cuda_file))
    return library


@pytest.fixture(scope="session")
def tiny():
    """The module that writes a tiny nuScenes database."""
    return load_support("tiny_nuscenes")


@pytest.fixture(scope="session")
def tiny_root(tiny, tmp_path_factory) -> Path:
    """A whole database of two scenes; not to be changed."""
    return tiny.write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def broken_root(tiny_root, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_root, tmp_path / "broken"))


@pytest.fixture(scope="session")
def waymo():
    """The module that writes a small Waymo data set."""
    pytest.importorskip("pyarrow", reason="pyarrow is not installed: pip install 'kd3d[waymo]'")
    return load_support("waymo_writer")


@pytest.fixture(scope="session")
def waymo_world(waymo, tmp_path_factory):
    """The folder of a small data set, and its frames by segment; not to be changed."""
    root = tmp_path_factory.mktemp("waymo")
    return root, waymo.write_dataset(root)


@pytest.fixture
def broken_waymo(waymo_world, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(waymo_world[0], tmp_path / "broken"))
