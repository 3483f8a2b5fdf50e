"""A device on the host: memory with guards, a stream that can be captured, and the CUDA kernels compiled as C++."""

import ctypes
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from kd3d.runtime.cuda.compile import SOURCE
from kd3d.runtime.device.protocol import DeviceInfo, HostBuffer

FORWARD, BACKWARD, SHUFFLED = 0, 1, 2
GUARD = 64
FAULTS = {1: "no such kernel", 2: "another number of parameters", 3: "a parameter of another size", 4: "a bad launch"}


def build_shim(folder: Path) -> ctypes.CDLL:
    """The kernels as a library of this machine."""
    compiler = shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler here, which runs the CUDA kernels on the processor")
    out = folder / "shim.so"
    command = [compiler, "-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-std=c++17"]
    text = Path(__file__).with_suffix(".cpp")
    done = subprocess.run(
        [*command, f'-DKERNELS="{SOURCE}"', str(text), "-o", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return ctypes.CDLL(str(out))


class ShimDevice:
    """A ``DeviceBackend``. Fresh memory holds noise; writing past an array's end is found by ``check_guards``."""

    name = "shim"

    def __init__(self, library, *, order=FORWARD):
        self._library, self.order = library, order
        self.memory, self.launches, self._graph, self.times = {}, [], None, {}

    def make_current(self):
        pass

    def info(self):
        return DeviceInfo("shim", (8, 7), "13.0", 1 << 34, integrated=False)

    def free_memory(self):
        return 1 << 34

    def alloc(self, size):
        block = np.full(size + 2 * GUARD + 256, 0x7B, np.uint8)  # noise: neither zero nor an index that is in range
        start = GUARD + -(block.ctypes.data + GUARD) % 256
        block[:start], block[start + size :] = 0xA5, 0xA5
        self.memory[block.ctypes.data + start] = (block, start, size)
        return block.ctypes.data + start

    def free(self, address):
        self.check_guards(address)
        del self.memory[address]

    def alloc_host(self, size, *, mapped=False):
        address = self.alloc(size)
        block, start, _ = self.memory[address]
        return HostBuffer(block[start : start + size], address, address if mapped else None)

    def free_host(self, buffer):
        self.free(buffer.address)

    def to_device(self, target, source, stream):
        assert source.flags.c_contiguous
        self._inside(target, source.nbytes)
        self._do(lambda: ctypes.memmove(target, source.ctypes.data, source.nbytes))

    def to_host(self, target, source, stream):
        assert target.flags.c_contiguous
        self._inside(source, target.nbytes)
        self._do(lambda: ctypes.memmove(target.ctypes.data, source, target.nbytes))

    def fill(self, target, size, *, byte=0, stream):
        self._inside(target, size)
        self._do(lambda: ctypes.memset(target, byte, size))

    def stream(self):
        return 1

    def synchronize(self, stream):
        assert self._graph is None, "a stream that is captured cannot be waited for"

    def free_stream(self, stream):
        pass

    def event(self):
        self.times[len(self.times) + 1] = 0.0
        return len(self.times)

    def record(self, event, stream):
        self.times[event] = time.perf_counter()

    def elapsed_ms(self, start, end):
        return (self.times[end] - self.times[start]) * 1e3

    def free_event(self, event):
        del self.times[event]

    def begin_capture(self, stream):
        self._graph = []

    def end_capture(self, stream):
        graph, self._graph = self._graph, None
        return graph

    def launch_graph(self, graph, stream):
        for work in graph:
            work()

    def free_graph(self, graph):
        pass

    def load_module(self, image):
        return image

    def unload_module(self, module):
        pass

    def function(self, module, name):
        return name

    def launch(self, function, grid, block, *, args, stream, shared_bytes=0):
        assert all(isinstance(arg, np.generic) for arg in args)
        values = [np.array(arg) for arg in args]
        places = (ctypes.c_void_p * len(values))(*[value.ctypes.data for value in values])
        sizes = (ctypes.c_int * len(values))(*[value.nbytes for value in values])
        sides = [(ctypes.c_int * 3)(*side) for side in (grid, block)]

        def work():
            code = self._library.shim_launch(
                function.encode(), *sides, places, sizes, len(values), shared_bytes, self.order
            )
            assert code == 0, f"{function}: {FAULTS[code]} (grid {grid}, block {block}, {len(values)} parameters)"
            assert values is not None  # held as long as their addresses are

        self.launches.append(function)
        self._do(work)

    def close(self):
        pass

    def check_guards(self, address=None):
        for place in [address] if address is not None else list(self.memory):
            block, start, size = self.memory[place]
            assert (block[:start] == 0xA5).all(), f"written before an array of {size} bytes"
            assert (block[start + size :] == 0xA5).all(), f"written past an array of {size} bytes"

    def _do(self, work):
        if self._graph is None:
            work()
        else:
            self._graph.append(work)

    def _inside(self, address, size):
        for place, (_, _, room) in self.memory.items():
            if place <= address and address + size <= place + room:
                return
        raise AssertionError(f"{size} bytes at {address} are not device memory")
