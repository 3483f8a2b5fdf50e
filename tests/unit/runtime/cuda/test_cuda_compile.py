"""The kernels compile for real devices, by NVRTC, which needs no GPU."""

import pytest

from kd3d.errors import BackendError, UsageError
from kd3d.runtime.cuda import compile as module
from kd3d.runtime.cuda.compile import compile_kernels, supported_capabilities

TARGETS = [(8, 0), (8, 7), (8, 9), (9, 0), (11, 0)]  # A100, Orin, RTX 40, H100 and H200, Thor


@pytest.fixture(scope="module")
def nvrtc():
    try:
        return supported_capabilities()
    except BackendError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("capability", TARGETS, ids=lambda pair: f"sm{pair[0]}{pair[1]}")
def test_the_kernels_compile_for_every_target(nvrtc, capability):
    if capability not in nvrtc:
        pytest.skip(f"this NVRTC knows {nvrtc}")
    image = compile_kernels(capability, "nvrtc")
    assert image[:4] == b"\x7fELF"
    assert int.from_bytes(image[18:20], "little") == 190  # EM_CUDA
    kernels = [
        line.split("(")[0].split()[1] for line in module.SOURCE.read_text().splitlines() if line[:7] == "KERNEL "
    ]
    assert len(kernels) == 19
    assert not [name for name in kernels if f".text.{name}\0".encode() not in image]


def test_a_device_that_nvrtc_does_not_know_is_named_with_those_it_knows(nvrtc):
    with pytest.raises(BackendError, match=r"cannot compile for SM 3\.5; it knows .*8\.7"):
        compile_kernels((3, 5), "nvrtc")


def test_a_mistake_in_the_source_is_shown(nvrtc, tmp_path, monkeypatch):
    broken = tmp_path / "kernels.cu"
    broken.write_text('extern "C" __global__ void f() { oops; }')
    monkeypatch.setattr(module, "SOURCE", broken)
    with pytest.raises(BackendError, match=r"do not compile for SM 8\.7: .*oops"):
        compile_kernels((8, 7), "nvrtc")


def test_without_a_compiler_the_remedy_is_named(monkeypatch):
    monkeypatch.setenv(module.NVRTC_VARIABLE, "/nowhere/libnvrtc.so")
    with pytest.raises(BackendError, match=r"NVRTC, CUDA's run-time compiler, is not here \(/nowhere/libnvrtc.so\)"):
        compile_kernels((8, 7), "nvrtc")
    with pytest.raises(UsageError, match="the kernels' compiler must be auto, nvrtc or pycuda, not 'gcc'"):
        compile_kernels((8, 7), "gcc")


def test_pycuda_is_asked_to_run_nvcc_with_the_same_options(monkeypatch):
    asked = {}

    class Compiler:
        @staticmethod
        def compile(source, **options):
            asked.update(options, source=source)
            return b"cubin"

    monkeypatch.setattr(module, "require", lambda name, extra: Compiler)
    monkeypatch.setenv(module.NVRTC_VARIABLE, "/nowhere/libnvrtc.so")
    assert compile_kernels((8, 7)) == b"cubin"
    assert (asked["arch"], asked["no_extern_c"], asked["options"]) == ("sm_87", True, ["--fmad=false", "--std=c++17"])
    monkeypatch.setattr(Compiler, "compile", staticmethod(lambda *_, **__: 1 / 0))
    with pytest.raises(BackendError, match=r"cannot be compiled here.*nvrtc: .*pycuda: nvcc, .*division by zero"):
        compile_kernels((8, 7))
