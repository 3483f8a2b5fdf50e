"""A device whose memory is the host's: every call of ``DeviceBackend``, in Python."""

import threading
import time

import numpy as np

from kd3d.errors import DeviceMemoryError
from kd3d.runtime.device.protocol import DeviceInfo, HostBuffer


class HostBackend:
    """``memory`` bytes; ``log`` says what was called."""

    name = "host"

    def __init__(self, *, memory=1 << 33, integrated=False, capability=(8, 7), device="Fake Orin"):
        self.total, self.integrated, self.capability, self.device = memory, integrated, capability, device
        self.held, self.log, self.times, self.capturing, self.closed = {}, [], {}, None, False
        self.threads = set()

    def make_current(self):
        self.threads.add(threading.get_ident())

    def info(self):
        return DeviceInfo(self.device, self.capability, "12.6", self.total, self.integrated)

    def free_memory(self):
        return self.total - sum(array.nbytes for array in self.held.values())

    def alloc(self, size):
        if size > self.free_memory():
            raise DeviceMemoryError(f"cudaMalloc: the device has not enough free memory ({size} bytes).")
        array = np.zeros(size, np.uint8)
        self.held[array.ctypes.data] = array
        return array.ctypes.data

    def free(self, address):
        del self.held[address]

    def alloc_host(self, size, *, mapped=False):
        self.log.append("mapped" if mapped else "pinned")
        address = self.alloc(size)
        return HostBuffer(self.held[address], address, address if mapped else None)

    def free_host(self, buffer):
        self.free(buffer.address)

    def to_device(self, target, source, stream):
        self.log.append("to_device")
        self.enqueue(stream, lambda: self._memory(target, source.nbytes).__setitem__(slice(None), flat(source)))

    def to_host(self, target, source, stream):
        self.log.append("to_host")
        self.enqueue(stream, lambda: flat(target).__setitem__(slice(None), self._memory(source, target.nbytes)))

    def fill(self, target, size, *, byte=0, stream):
        self.enqueue(stream, lambda: self._memory(target, size).fill(byte))

    def stream(self):
        return 7

    def synchronize(self, stream):
        assert self.capturing is None, "a stream that is captured cannot be waited for"

    def free_stream(self, stream):
        self.log.append("free_stream")

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
        self.log.append("capture")
        self.capturing = []

    def end_capture(self, stream):
        graph, self.capturing = self.capturing, None
        return graph

    def launch_graph(self, graph, stream):
        self.log.append("launch_graph")
        for work in graph:
            work()

    def free_graph(self, graph):
        self.log.append("free_graph")

    def close(self):
        self.closed = True

    def enqueue(self, stream, work):
        """Now, or into the graph that is captured."""
        if self.capturing is None:
            work()
        else:
            self.capturing.append(work)

    def _memory(self, address, size):
        for start, array in self.held.items():
            if start <= address < start + array.nbytes:
                return array[address - start : address - start + size]
        raise AssertionError(f"{address} is not device memory")


def flat(array):
    assert array.flags.c_contiguous
    return array.reshape(-1).view(np.uint8)
