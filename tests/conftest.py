"""One torch thread per test process (barriers of two processes on two cores stall), and the place of the real data."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
SHARED = Path(os.environ.get("KD3D_SHARED", Path(__file__).resolve().parents[2] / "shared"))


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
