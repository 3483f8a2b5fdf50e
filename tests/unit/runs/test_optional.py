import sys

import pytest

from kd3d import optional
from kd3d.optional import with_numba


def test_without_numba_nothing_is_made(monkeypatch):
    monkeypatch.setattr(optional, "available", lambda module: False)
    assert with_numba(lambda compile_: "made") is None


def test_a_numba_that_cannot_be_imported_counts_as_missing(monkeypatch):
    monkeypatch.setattr(optional, "available", lambda module: True)
    monkeypatch.setitem(sys.modules, "numba", None)
    assert with_numba(lambda compile_: "made") is None


def test_without_a_folder_for_compiled_code_it_is_compiled_in_memory(monkeypatch):
    numba = pytest.importorskip("numba")
    asked = []

    def njit(**options):
        asked.append(options)
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: ("compiled", function)

    monkeypatch.setattr(numba, "njit", njit)
    assert with_numba(lambda compile_: compile_(len)) == ("compiled", len)
    assert asked == [{"cache": True, "nogil": True}, {"nogil": True}]
