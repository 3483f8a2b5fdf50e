"""Every TensorRT name that the code uses exists in the published bindings.

The wheels need no GPU to be read: unpack ``tensorrt-bindings`` 8.6.1, ``tensorrt-cu12-bindings`` 10.3.0 and
``tensorrt-cu13-bindings`` 10.16.1.11 and 11.4.0.106 into ``$KD3D_TRT_BINDINGS/<version>/``.
"""

import ast
import os
from pathlib import Path

import pytest

import kd3d.export.trt_build as build_module
import kd3d.export.trt_inspect as inspect_module

ABSENT = {
    "8.6.1": {"STRONGLY_TYPED", "SAME_COMPUTE_CAPABILITY"},
    "10.3.0": {"SAME_COMPUTE_CAPABILITY"},
    "10.16.1.11": set(),
    "11.4.0.106": {"FP16", "EXPLICIT_BATCH"},
}
RTX_ONLY = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
ROOTS = {"trt", "builder", "network", "config", "parser", "profile", "timing", "runtime", "loaded", "item", "kinds"}
PYTHON = {"__init__", "__version__"}


def used_names():
    found = set(build_module.HARDWARE.values())
    for module in (build_module, inspect_module):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Attribute) and root(node) in ROOTS:
                found.add(node.attr)
    return found - RTX_ONLY - PYTHON


def root(node):
    while isinstance(node, (ast.Attribute, ast.Call)):
        node = node.value if isinstance(node, ast.Attribute) else node.func
    return node.id if isinstance(node, ast.Name) else None


def test_the_names_are_found_in_the_source():
    assert {
        "build_serialized_network",
        "set_memory_pool_limit",
        "STRONGLY_TYPED",
        "get_engine_information",
    } <= used_names()


@pytest.mark.parametrize("version", sorted(ABSENT))
def test_every_name_is_in_the_bindings_of(version):
    folder = os.environ.get("KD3D_TRT_BINDINGS")
    if not folder:
        pytest.skip("KD3D_TRT_BINDINGS is not set: no unpacked TensorRT binding wheels here")
    libraries = sorted(Path(folder, version).rglob("tensorrt*.so"))
    assert libraries, f"no bindings below {folder}/{version}"
    text = libraries[0].read_bytes()
    absent = {name for name in used_names() if name.encode() + b"\0" not in text}
    assert absent == ABSENT[version]
