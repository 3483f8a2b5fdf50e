"""One torch thread per test process (barriers of two processes on two cores stall), and data: real, and tiny."""

import importlib.util
import os
import shutil
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
SHARED = Path(os.environ.get("KD3D_SHARED", Path(__file__).resolve().parents[2] / "shared"))
TINY_NUSCENES = Path(__file__).resolve().parent / "support" / "tiny_nuscenes.py"


@pytest.fixture(scope="session", autouse=True)
def one_torch_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder with the real KITTI and nuScenes frames."""
    data = SHARED / "data"
    if not data.is_dir():
        pytest.skip(f"real sensor data is not at {data}; set KD3D_SHARED")
    return data


@pytest.fixture(scope="session")
def tiny():
    """The module that writes a tiny nuScenes database."""
    spec = importlib.util.spec_from_file_location("tiny_nuscenes", TINY_NUSCENES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_root(tiny, tmp_path_factory) -> Path:
    """A whole database of two scenes; not to be changed."""
    return tiny.write_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def broken_root(tiny_root, tmp_path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(tiny_root, tmp_path / "broken"))
