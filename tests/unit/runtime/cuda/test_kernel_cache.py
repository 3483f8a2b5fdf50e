"""Compiled kernels on disk."""

import pytest

from kd3d.errors import BackendError
from kd3d.runtime.cuda import cache
from kd3d.runtime.cuda.cache import cache_file, cache_folder, cached_kernels


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """What was compiled; every result differs from the one before."""
    calls = []
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "kernels"))
    monkeypatch.setattr(cache.compiling, "nvrtc_version", lambda: "13.0")
    monkeypatch.setattr(
        cache.compiling, "compile_kernels", lambda capability: calls.append(capability) or b"cubin %d" % len(calls)
    )
    return calls


def test_the_second_start_compiles_nothing(compiled):
    assert [cached_kernels((8, 7)) for _ in range(2)] == [b"cubin 1", b"cubin 1"]
    assert compiled == [(8, 7)]


def test_another_device_version_or_source_is_compiled_by_itself(compiled, monkeypatch, tmp_path):
    assert cached_kernels((8, 7)) == b"cubin 1"
    assert cached_kernels((9, 0)) == b"cubin 2"
    monkeypatch.setattr(cache.compiling, "nvrtc_version", lambda: "13.1")
    assert cached_kernels((8, 7)) == b"cubin 3"
    source = tmp_path / "kernels.cu"
    source.write_bytes(cache.compiling.SOURCE.read_bytes() + b"\n")
    monkeypatch.setattr(cache.compiling, "SOURCE", source)
    assert cached_kernels((8, 7)) == b"cubin 4"
    assert len(list(cache_folder().iterdir())) == 4


@pytest.mark.parametrize("damage", [lambda data: data[:-1], lambda data: b"", lambda data: data[:-1] + b"!"])
def test_a_damaged_file_is_compiled_again_and_replaced(compiled, damage):
    cached_kernels((8, 7))
    file = cache_file((8, 7), "13.0")
    file.write_bytes(damage(file.read_bytes()))
    assert [cached_kernels((8, 7)) for _ in range(2)] == [b"cubin 2", b"cubin 2"]


def test_a_folder_that_cannot_be_written_is_done_without(compiled, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(cache.CACHE_VARIABLE, str(tmp_path / "file" / "kernels"))
    assert [cached_kernels((8, 7)) for _ in range(2)] == [b"cubin 1", b"cubin 2"]


def test_without_nvrtc_the_other_compiler_is_asked_each_time(compiled, monkeypatch):
    def missing():
        raise BackendError("none")

    monkeypatch.setattr(cache.compiling, "nvrtc_version", missing)
    assert [cached_kernels((8, 7)) for _ in range(2)] == [b"cubin 1", b"cubin 2"]
    assert not cache_folder().exists()


def test_the_folder_is_the_user_s_cache_unless_it_is_named(monkeypatch, tmp_path):
    monkeypatch.delenv(cache.CACHE_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "kd3d" / "kernels"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder() == tmp_path / "home" / ".cache" / "kd3d" / "kernels"


def test_the_version_is_that_of_the_library_found_here():
    try:
        version = cache.compiling.nvrtc_version()
    except BackendError as error:
        pytest.skip(str(error))
    major, minor = map(int, version.split("."))
    assert major >= 11
    assert minor >= 0
