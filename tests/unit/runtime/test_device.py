"""CUDA bindings: the ctypes one really runs, on CUDA in host memory compiled from C; the others call what exists."""

import ast
import ctypes
import ctypes.util
import os
import re
import sys
import threading
import types
from pathlib import Path

import numpy as np
import pytest

import kd3d.runtime.device.bindings as bindings_module
import kd3d.runtime.device.pycuda_device as pycuda_module
from kd3d.errors import BackendError, CudaError, DeviceMemoryError, UsageError
from kd3d.runtime.device.bindings import CudaBindingsBackend
from kd3d.runtime.device.choose import BACKENDS, open_backend
from kd3d.runtime.device.cudart import CtypesBackend
from kd3d.runtime.device.protocol import DeviceBackend, HostBuffer
from kd3d.runtime.device.torch_device import TorchBackend

VALUES = np.arange(64, dtype=np.float32)


class FakeTorch:
    """torch, as far as the backend calls it: memory is the host's."""

    uint8 = "uint8"

    def __init__(self, devices=1):
        self.held = []
        stream = types.SimpleNamespace(cuda_stream=11, synchronize=lambda: None)
        self.cuda = types.SimpleNamespace(
            OutOfMemoryError=type("OutOfMemoryError", (RuntimeError,), {}),
            Event=self.make_event,
            Stream=lambda device: stream,
            device_count=lambda: devices,
            get_device_properties=lambda device: types.SimpleNamespace(
                name="Fake Orin", major=8, minor=7, total_memory=1 << 33
            ),
            is_available=lambda: devices > 0,
            mem_get_info=lambda device: (1 << 32, 1 << 33),
            set_device=lambda device: None,
            synchronize=lambda device: None,
        )

    def device(self, kind, index):
        return f"{kind}:{index}"

    def empty(self, size, dtype, device=None, pin_memory=False):
        if size > 1 << 33:
            raise self.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate a lot")
        array = np.zeros(size, np.uint8)
        return types.SimpleNamespace(data_ptr=lambda: array.ctypes.data, numpy=lambda: array)

    def make_event(self, enable_timing):
        return types.SimpleNamespace(
            record=lambda stream: None, synchronize=lambda: None, elapsed_time=lambda other: 1.5 if enable_timing else 0
        )


def fake_pycuda(library):
    """pycuda.driver's names, on the fake CUDA."""
    error = type("Error", (Exception,), {})
    memory = type("MemoryError", (error,), {})

    class Held:
        def __init__(self, size):
            place = ctypes.c_void_p()
            if library.cudaMalloc(ctypes.byref(place), ctypes.c_size_t(size)):
                raise memory("cuMemAlloc failed: out of memory")
            self.place = place

        def __int__(self):
            return self.place.value

        def free(self):
            library.cudaFree(self.place)

    class Pinned(np.ndarray):
        """pycuda's array, whose base knows its address on the device."""

    def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
        base = types.SimpleNamespace(get_device_pointer=lambda: array.ctypes.data, free=lambda: None)
        array = np.zeros(shape, dtype, order)
        wrapped = types.SimpleNamespace(
            base=base, ctypes=array.ctypes, nbytes=array.nbytes, __getitem__=array.__getitem__, view=array.view
        )
        assert mem_flags in (0, 2)
        return wrapped

    def copy(to, source, size):
        ctypes.memmove(to, source, size)

    class Event:
        def record(self, stream):
            return self

        def synchronize(self):
            return self

        def time_since(self, other):
            return 2.5

    class Context:
        """A stack per thread, as pycuda has it: a thread that ends with something on it would end the process."""

        depths = {}  # noqa: RUF012

        def push(self):
            self.depths[threading.get_ident()] = self.depths.get(threading.get_ident(), 0) + 1

        def pop(self):
            self.depths[threading.get_ident()] -= 1
            library.fake_driver(77)

    context = Context()
    device = types.SimpleNamespace(
        name=lambda: "Fake Orin",
        compute_capability=lambda: (8, 7),
        total_memory=lambda: 1 << 33,
        get_attribute=lambda number: 1,
        retain_primary_context=lambda: context,
    )
    return types.SimpleNamespace(
        Error=error,
        MemoryError=memory,
        Device=lambda index: device,
        depths=context.depths,
        Event=Event,
        Stream=lambda flags: types.SimpleNamespace(handle=13, synchronize=lambda: None),
        device_attribute=types.SimpleNamespace(INTEGRATED=18),
        host_alloc_flags=types.SimpleNamespace(DEVICEMAP=2),
        get_driver_version=lambda: 12060,
        init=lambda: None,
        mem_alloc=Held,
        mem_get_info=lambda: (1 << 32, 1 << 33),
        memcpy_dtoh_async=lambda to, source, stream: copy(to.ctypes.data, source, to.nbytes),
        memcpy_htod_async=lambda to, source, stream: copy(to, source.ctypes.data, source.nbytes),
        memset_d8_async=lambda to, byte, size, stream: ctypes.memset(to, byte, size),
        pagelocked_empty=pagelocked_empty,
    )


@pytest.fixture(params=["ctypes", "torch", "pycuda"])
def backend(request, fake_cuda, monkeypatch):
    if request.param == "pycuda":
        driver = fake_pycuda(fake_cuda)
        monkeypatch.setitem(sys.modules, "pycuda", types.SimpleNamespace(driver=driver))
        monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    return open_backend(request.param, torch=FakeTorch())


def test_a_device_describes_itself(backend):
    info = backend.info()
    assert (info.name, info.compute_capability, info.driver, info.integrated) == ("Fake Orin", (8, 7), "12.6", True)
    assert 0 < backend.free_memory() <= info.memory_bytes == 1 << 33


def test_arrays_go_to_the_device_and_back(backend):
    stream, got = backend.stream(), np.zeros_like(VALUES)
    address = backend.alloc(VALUES.nbytes)
    backend.to_device(address, VALUES, stream)
    backend.to_host(got, address, stream)
    backend.synchronize(stream)
    np.testing.assert_array_equal(got, VALUES)
    backend.fill(address, 4, byte=0, stream=stream)
    backend.fill(address + 4, 4, byte=255, stream=stream)
    backend.to_host(got, address, stream)
    assert got.view(np.uint32)[:3].tolist() == [0, 0xFFFFFFFF, np.float32(2).view(np.uint32)]
    backend.free(address)
    backend.free_stream(stream)


def test_page_locked_memory_is_an_array_and_may_be_seen_by_the_device(backend):
    plain, mapped = backend.alloc_host(16), backend.alloc_host(32, mapped=True)
    assert (plain.array.nbytes, plain.device_address) == (16, None)
    assert mapped.device_address == mapped.address == mapped.array.ctypes.data
    for buffer in (plain, mapped):
        backend.free_host(buffer)


def test_events_keep_time(backend):
    stream, first, second = backend.stream(), backend.event(), backend.event()
    backend.record(first, stream)
    backend.record(second, stream)
    assert 0 <= backend.elapsed_ms(first, second) < 1000
    for event in (first, second):
        backend.free_event(event)


def test_a_kernel_gets_its_arguments_exactly(backend, fake_cuda):
    stream = backend.stream()
    address = backend.alloc(VALUES.nbytes)
    backend.to_device(address, VALUES, stream)
    module = backend.load_module(b"CUBIN\0!")
    scale = backend.function(module, "scale")
    args = (np.uint64(address), np.int32(10), np.float32(3))
    backend.launch(scale, (2, 1, 1), (4, 1, 1), args=args, stream=stream)
    got = np.zeros_like(VALUES)
    backend.to_host(got, address, stream)
    np.testing.assert_array_equal(got, np.where(VALUES < 8, 3 * VALUES, VALUES))
    backend.launch(scale, (1, 1, 1), (1, 1, 1), args=args, stream=stream, shared_bytes=64 << 10)
    assert b"cuFuncSetAttribute" in fake_cuda.fake_calls()
    with pytest.raises(CudaError, match=r"cuModuleGetFunction failed: CUDA_ERROR_NOT_FOUND \(code 500\)"):
        backend.function(module, "missing")
    backend.unload_module(module)
    with pytest.raises(CudaError, match=r"cuModuleLoadData failed"):
        backend.load_module(b"something else")
    assert CudaError.exit_code == 1


def test_memory_that_is_not_there_is_its_own_error(backend, fake_cuda):
    fake_cuda.fake_limit(1000)
    with pytest.raises(DeviceMemoryError, match=r"not .*free memory") as caught:
        backend.alloc(1 << 40)
    assert caught.value.exit_code == 5


def test_a_graph_collects_work_and_repeats_it_on_what_is_there_then(fake_cuda):
    backend = CtypesBackend()
    stream, address = backend.stream(), backend.alloc(VALUES.nbytes)
    source, got = VALUES.copy(), np.zeros_like(VALUES)
    backend.begin_capture(stream)
    backend.to_device(address, source, stream)
    backend.to_host(got, address, stream)
    graph = backend.end_capture(stream)
    assert not got.any()
    source += 1
    backend.launch_graph(graph, stream)
    np.testing.assert_array_equal(got, VALUES + 1)
    backend.free_graph(graph)


def test_the_primary_context_is_made_current_before_anything_else(fake_cuda):
    CtypesBackend().close()
    assert fake_cuda.fake_calls().split() == [b"cudaSetDevice", b"cudaFree"]


def test_each_thread_makes_the_context_current_once(fake_cuda):
    from threading import Thread

    backend = CtypesBackend()
    backend.make_current()
    other = Thread(target=lambda: (backend.make_current(), backend.make_current()))
    other.start()
    other.join()
    assert fake_cuda.fake_calls().split() == [b"cudaSetDevice", b"cudaFree"] * 2


@pytest.fixture
def pycuda(fake_cuda, monkeypatch):
    driver = fake_pycuda(fake_cuda)
    driver.depths.clear()
    monkeypatch.setitem(sys.modules, "pycuda", types.SimpleNamespace(driver=driver))
    monkeypatch.setitem(sys.modules, "pycuda.driver", driver)
    return driver


def test_no_thread_ends_with_a_context_on_pycuda_s_stack(pycuda):
    """pycuda calls abort() where one does: the whole benchmark would be lost."""
    backend = pycuda_module.PycudaBackend()
    seen = []

    def work():
        backend.make_current()
        backend.make_current()
        seen.append(pycuda.depths[threading.get_ident()])

    for _ in range(3):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert seen == [1, 1, 1]
    assert sum(pycuda.depths.values()) == 1, "that of this thread"
    backend.close()
    assert set(pycuda.depths.values()) == {0}
    backend.close()
    assert set(pycuda.depths.values()) == {0}, "a second close takes nothing more off"


def test_a_process_that_ends_without_closing_leaves_pycuda_s_stack_empty(pycuda, monkeypatch):
    at_exit = []
    monkeypatch.setattr(pycuda_module.atexit, "register", at_exit.append)
    backend = pycuda_module.PycudaBackend()
    assert set(pycuda.depths.values()) == {1}
    at_exit[0]()
    assert set(pycuda.depths.values()) == {0}
    del backend


def test_what_was_taken_is_given_back(fake_cuda):
    before = fake_cuda.fake_used()
    backend = CtypesBackend()
    address, buffer = backend.alloc(100), backend.alloc_host(50, mapped=True)
    assert fake_cuda.fake_used() == before + 150
    backend.free(address)
    backend.free_host(buffer)
    assert fake_cuda.fake_used() == before


@pytest.mark.parametrize(("code", "index"), [(100, 0), (35, 0), (0, 3)])
def test_without_a_usable_device_the_code_is_5(fake_cuda, code, index):
    fake_cuda.fake_driver(code)
    with pytest.raises(BackendError, match=r"no usable NVIDIA driver or GPU here \(.*code \d+\)") as caught:
        CtypesBackend(index)
    assert caught.value.exit_code == 5


def test_missing_libraries_are_named(monkeypatch, fake_cuda, tmp_path):
    monkeypatch.setenv("KD3D_LIBCUDART", str(tmp_path / "none.so"))
    with pytest.raises(BackendError, match=r"no CUDA runtime library \(.*none.so\) here.*variable KD3D_LIBCUDART"):
        CtypesBackend()
    monkeypatch.setenv("KD3D_LIBCUDART", str(Path(ctypes.util.find_library("m") or "libm.so.6")))
    with pytest.raises(BackendError, match=r"has no cudaSetDevice: it is older than CUDA 11.4"):
        CtypesBackend()
    monkeypatch.setenv("KD3D_LIBCUDA", str(tmp_path / "none.so"))
    with pytest.raises(BackendError, match=r"there is no NVIDIA driver here \(no libcuda.so.1\)"):
        open_backend("ctypes")


def test_the_runtime_library_is_also_found_in_nvidias_wheels(monkeypatch, tmp_path, fake_cuda_file):
    from kd3d.runtime.device import library

    folder = tmp_path / "nvidia" / "cu13" / "lib"
    folder.mkdir(parents=True)
    (folder / "libcudart.so.13").symlink_to(fake_cuda_file)
    monkeypatch.setattr(library, "_RUNTIMES", ("libcudart.so.13",))
    monkeypatch.setattr(library, "_FOLDERS", ())
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    assert list(library._elsewhere()) == [str(folder / "libcudart.so.13")]


def test_auto_takes_the_first_that_works_and_says_why_none_did(fake_cuda, monkeypatch):
    absent = "not installed in this test"
    monkeypatch.setattr(bindings_module, "require", raising(absent))
    monkeypatch.setattr(pycuda_module, "require", raising(absent))
    assert open_backend().name == "ctypes"
    fake_cuda.fake_driver(100)
    with pytest.raises(BackendError, match=r"no NVIDIA GPU can be used here. cuda-bindings: not .*ctypes: .*pycuda: "):
        open_backend()
    fake_cuda.fake_driver(0)
    with pytest.raises(UsageError, match=r"must be auto, cuda-bindings, ctypes, pycuda, torch, not 'cupy'"):
        open_backend("cupy")
    with pytest.raises(BackendError, match=r"the torch backend needs torch, which is not imported here"):
        open_backend("torch")
    with pytest.raises(BackendError, match=r"torch sees no CUDA device 0"):
        TorchBackend(FakeTorch(devices=0))


def raising(text):
    def fail(*arguments, **options):
        raise BackendError(text)

    return fail


def test_every_binding_has_every_call_of_the_protocol(backend):
    wanted = {name for name in vars(DeviceBackend) if not name.startswith("_")}
    for kind in (type(backend), CudaBindingsBackend):
        assert {name for name in wanted if hasattr(kind, name)} == wanted
    assert backend.name in BACKENDS


def test_cuda_bindings_takes_every_call_as_it_is_made():
    """Without a driver each call ends with code 35, or says that libcuda is absent, after its arguments have passed."""
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    driver = pytest.importorskip("cuda.bindings.driver")
    if not int(runtime.cudaGetDeviceCount()[0]):
        pytest.skip("there is a GPU here: the calls would do something")
    with pytest.raises(BackendError, match=r"cudaSetDevice: no usable NVIDIA driver or GPU here \(cudaErrorInsuff"):
        CudaBindingsBackend()
    backend = object.__new__(CudaBindingsBackend)
    backend._rt, backend._cu, backend.index, backend._thread = runtime, driver, 0, threading.local()
    array, stream = np.zeros(4, np.float32), 3
    buffer = HostBuffer(array.view(np.uint8), array.ctypes.data)
    launch = {"args": (np.uint64(1), np.int32(2)), "stream": stream, "shared_bytes": 64 << 10}
    graph, module, function = runtime.cudaGraphExec_t(5), driver.CUmodule(6), driver.CUfunction(7)
    calls = {
        "make_current": (), "info": (), "free_memory": (),
        "alloc": (8,), "free": (8,), "alloc_host": (8,), "free_host": (buffer,),
        "to_device": (8, array, stream), "to_host": (array, 8, stream), "fill": (8, 4), "stream": (),
        "synchronize": (stream,), "free_stream": (stream,), "event": (), "record": (4, stream), "elapsed_ms": (4, 5),
        "free_event": (4,), "begin_capture": (stream,), "end_capture": (stream,), "launch_graph": (graph, stream),
        "free_graph": (graph,), "load_module": (b"x",), "function": (module, "f"),
        "launch": (function, (1, 1, 1), (1, 1, 1)), "unload_module": (module,),
    }  # fmt: skip
    assert set(calls) == {name for name in vars(DeviceBackend) if not name.startswith("_")} - {"name", "close"}
    for name, arguments in calls.items():
        options = {"launch": launch, "fill": {"stream": stream}}.get(name, {})
        with pytest.raises(BackendError, match=r"no usable NVIDIA driver|there is no NVIDIA driver here"):
            getattr(backend, name)(*arguments, **options)
    with pytest.raises(BackendError, match=r"no usable NVIDIA driver"):
        backend.alloc_host(8, mapped=True)
    for name in re.findall(r"\b(?:cuda[A-Z]\w+)", Path(bindings_module.__file__).read_text()):
        parts = [runtime, *(getattr(runtime, kind) for kind in ("cudaDeviceAttr", "cudaMemcpyKind"))]
        parts.append(runtime.cudaStreamCaptureMode)
        assert any(hasattr(part, name) for part in parts), name


def test_every_name_of_pycuda_is_in_its_source():
    """``KD3D_PYCUDA_SOURCE``: pycuda's unpacked source distribution; it has no wheels."""
    folder = os.environ.get("KD3D_PYCUDA_SOURCE")
    if not folder:
        pytest.skip("KD3D_PYCUDA_SOURCE is not set: no source of pycuda here")
    text = (Path(folder) / "src/wrapper/wrap_cudadrv.cpp").read_text()
    tree = ast.parse(Path(pycuda_module.__file__).read_text())
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and "_cuda" in ast.dump(node)}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "self._call"]
    used |= {node.args[0].value for node in calls if isinstance(node.args[0], ast.Constant)}
    used |= {"synchronize", "handle", "time_since", "record", "retain_primary_context", "get_device_pointer", "free"}
    used |= {"compute_capability", "total_memory", "name", "get_attribute", "push", "pop"}
    used -= {"_cuda", "_call"}
    assert {"mem_alloc", "pagelocked_empty", "memcpy_htod_async", "Stream", "MemoryError"} <= used
    assert not [name for name in sorted(used) if not re.search(rf"\b{name}\b", text)]
