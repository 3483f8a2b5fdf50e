"""Traced networks, shared by the export tests: tracing is the slow part of an export."""

import shutil
from functools import cache

import pytest

from kd3d.export import onnx as onnx_module
from kd3d.export.graph import write_graph
from tests.support.trained import FIVE, trained_like


@pytest.fixture(scope="session")
def graphs(tmp_path_factory):
    """A function from a name of ``FIVE`` to the network and its fp32 graph, which all precisions start from."""

    @cache
    def trace(name):
        model = trained_like(FIVE[name])
        path = tmp_path_factory.mktemp("traced") / "model.onnx"
        write_graph(model.module, model.spec, path, opset=20, pillars=None, weights_sha256="0" * 64)
        return model, path

    return trace


@pytest.fixture
def traced(graphs, monkeypatch):
    """A function from a name to a network that exports from its traced graph."""

    def use(name):
        model, path = graphs(name)
        monkeypatch.setattr(onnx_module, "write_graph", lambda module, spec, to, **_: shutil.copy(path, to))
        return model

    return use
