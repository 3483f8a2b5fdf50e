"""Every TensorRT name that the code uses exists in the published bindings.

The wheels need no GPU to be read: unpack ``tensorrt-bindings`` 8.6.1, ``tensorrt-cu12-bindings`` 10.3.0,
``tensorrt-cu13-bindings`` 10.16.1.11 and 11.4.0.106, and ``tensorrt-rtx-cu13-bindings`` 1.7.1.116 into
``$KD3D_TRT_BINDINGS/<version>/``.
"""

import ast
import os
from pathlib import Path

import pytest

import kd3d.export.trt_build as build_module
import kd3d.export.trt_inspect as inspect_module
import kd3d.runtime.trt_logger as logger_module
import kd3d.runtime.trt_runner as runner_module
import kd3d.runtime.trt_tensors as tensors_module

ABSENT = {
    "8.6.1": {"STRONGLY_TYPED", "SAME_COMPUTE_CAPABILITY"},
    "10.3.0": {"SAME_COMPUTE_CAPABILITY"},
    "10.16.1.11": set(),
    "11.4.0.106": {"FP16", "EXPLICIT_BATCH"},
}
RTX = "1.7.1.116"
BUILDS_WITHOUT_A_DEVICE = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"}
CAPTURES_BY_ITSELF = {
    "CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE", "cuda_graph_strategy", "create_runtime_config"
}  # fmt: skip
RTX_ONLY = BUILDS_WITHOUT_A_DEVICE | CAPTURES_BY_ITSELF
ROOTS = {
    "trt", "builder", "network", "config", "parser", "profile", "timing", "runtime", "loaded", "item", "kinds",
    "context", "self._trt", "self._runtime", "self._loaded", "prepared.context",
}  # fmt: skip
PYTHON = {"__init__", "__version__"}
MODULES = (build_module, inspect_module, logger_module, runner_module, tensors_module)


def used_names(modules=MODULES):
    """Attributes of what TensorRT's objects are called in the source."""
    found = set(build_module.HARDWARE.values()) if build_module in modules else set()
    for module in modules:
        for node in ast.walk(ast.parse(Path(module.__file__).read_text())):
            if isinstance(node, ast.Attribute) and rooted(node.value):
                found.add(node.attr)
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "hasattr" and rooted(node.args[0]):
                found.add(ast.literal_eval(node.args[1]) if isinstance(node.args[1], ast.Constant) else "NONE")
    return found - PYTHON


def rooted(node):
    while True:
        if ast.unparse(node) in ROOTS:
            return True
        if not isinstance(node, (ast.Attribute, ast.Call)):
            return False
        node = node.value if isinstance(node, ast.Attribute) else node.func


def absent(folder, names):
    """Names that neither the library nor the Python files beside it hold."""
    libraries = sorted(folder.rglob("tensorrt*.so"))
    assert libraries, f"no bindings below {folder}"
    binary = libraries[0].read_bytes()
    text = "".join(path.read_text() for path in libraries[0].parent.rglob("*.py"))
    return {name for name in names if name.encode() + b"\0" not in binary and f"def {name}(" not in text}


@pytest.fixture
def bindings():
    folder = os.environ.get("KD3D_TRT_BINDINGS")
    if not folder:
        pytest.skip("KD3D_TRT_BINDINGS is not set: no unpacked TensorRT binding wheels here")
    return Path(folder)


def test_the_names_are_found_in_the_source():
    assert {
        "build_serialized_network",
        "set_memory_pool_limit",
        "STRONGLY_TYPED",
        "get_engine_information",
        "deserialize_cuda_engine",
        "engine_host_code_allowed",
        "get_tensor_profile_shape",
        "TensorIOMode",
        "nptype",
        "set_input_shape",
        "set_tensor_address",
        "execute_async_v3",
        "INTERNAL_ERROR",
    } | RTX_ONLY <= used_names()


@pytest.mark.parametrize("version", sorted(ABSENT))
def test_every_name_is_in_the_bindings_of(bindings, version):
    assert absent(bindings / version, used_names() - RTX_ONLY) == ABSENT[version]


def test_every_name_of_the_runner_is_in_the_bindings_of_tensorrt_rtx(bindings):
    assert not absent(bindings / RTX, used_names((logger_module, runner_module)) | RTX_ONLY)
