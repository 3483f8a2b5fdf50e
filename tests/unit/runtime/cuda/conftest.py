"""The kernels loaded on a device on the processor."""

import pytest


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
