"""Devices that run the CUDA kernels on the processor, with threads in three orders."""

import importlib.util
from pathlib import Path

import pytest

SUPPORT = Path(__file__).resolve().parents[3] / "support" / "cuda_shim.py"


@pytest.fixture(scope="session")
def shim():
    """The module ``cuda_shim``."""
    spec = importlib.util.spec_from_file_location("cuda_shim", SUPPORT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shim_library(shim, tmp_path_factory):
    return shim.build_shim(tmp_path_factory.mktemp("shim"))


@pytest.fixture
def new_gpu(shim, shim_library):
    """Makes a ``Gpu`` on the processor; at the end no array was written past its ends."""
    from kd3d.runtime.cuda.gpu import Gpu

    made = []

    def make(order=0):
        made.append(Gpu(shim.ShimDevice(shim_library, order=order), image=b"shim"))
        return made[-1]

    yield make
    for gpu in made:
        gpu.close()
        assert not gpu.device.memory
