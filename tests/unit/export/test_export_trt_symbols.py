"""Every TensorRT name that the code uses exists in the published bindings of each version that it is for.

What the bindings have is recorded in ``tests/support/tensorrt_names.json``; ``tests/support/trt_names.py`` says how it
was looked up. A name that two enumerations share (``INT8``, a type in 11 and once a flag) cannot be told apart. Where
``KD3D_TRT_BINDINGS`` names the unpacked wheels, the record is compared with them.
"""

import ast
import json
import os
from pathlib import Path

import pytest

from tests.support import trt_names
from tests.support.trt_names import CHOSEN_RTX, RECORD, RTX, VERSIONS, Follower, every_name, used_names

KNOWN = json.loads(RECORD.read_text())
ABSENT = {
    "8.6.1": {"STRONGLY_TYPED", "SAME_COMPUTE_CAPABILITY"},
    "10.3.0": {"SAME_COMPUTE_CAPABILITY"},
    "10.16.1.11": set(),
    "11.4.0.106": {"FP16", "EXPLICIT_BATCH"},
}
"""What each lacks; the code asks ``hasattr`` first, or uses the name only where another one is."""
BUILDS_WITHOUT_A_DEVICE = {"ComputeCapability", "num_compute_capabilities", "set_compute_capability"} | CHOSEN_RTX
CAPTURES_BY_ITSELF = {
    "CudaGraphStrategy", "WHOLE_GRAPH_CAPTURE", "cuda_graph_strategy", "create_runtime_config"
}  # fmt: skip
RTX_ONLY = BUILDS_WITHOUT_A_DEVICE | CAPTURES_BY_ITSELF
FLAGS = {"FP16", "EXPLICIT_BATCH"}  # where there are precision flags; TensorRT-RTX has none


def test_each_file_that_touches_tensorrt_is_read_and_its_names_are_found():
    found = used_names()
    assert set(found) >= {"trt_build.py", "trt_inspect.py", "trt_logger.py", "trt_runner.py", "block_timers.py"}
    assert {"build_serialized_network", "set_memory_pool_limit", "STRONGLY_TYPED", "INT8", "ignore_mismatch"} <= found[
        "trt_build.py"
    ]
    assert {"get_engine_information", "deserialize_cuda_engine", "JSON"} <= found["trt_inspect.py"]
    assert {"log", "INTERNAL_ERROR"} <= found["trt_logger.py"]
    assert {"engine_host_code_allowed", "set_tensor_address", "execute_async_v3"} <= found["trt_runner.py"]
    assert {"get_tensor_profile_shape", "nptype"} <= set().union(*found.values())
    assert every_name() >= RTX_ONLY


def test_objects_are_followed_through_parameters_fields_loops_and_return_values():
    text = """
class Held:
    context: Any
def make(trt) -> Any:
    return trt.first()
def use(config: Any, held: Held, path: Path):
    config.second = make(0).third
    for part in config.fourth:
        part.fifth(sixth=path.seventh)
    a, b = held.context.eighth, path.ninth
    a.tenth(path.eleventh)
    getattr(getattr(config, "twelfth"), "thirteenth").fourteenth()
"""
    numbers = "first second third fourth fifth sixth eighth tenth twelfth thirteenth fourteenth".split()  # noqa: SIM905
    assert Follower(ast.parse(text)).names == set(numbers)


def test_every_name_was_looked_up():
    new = every_name() - set(KNOWN)
    assert not new, f"look {sorted(new)} up: python -m tests.support.trt_names FOLDER (its docstring says of what)"
    assert not set(KNOWN) - every_name(), "names that are no longer used are in the record: write it anew"


@pytest.mark.parametrize("version", VERSIONS)
def test_every_name_is_in_the_bindings_of(version):
    assert {name for name in every_name() - RTX_ONLY if version not in KNOWN[name]} == ABSENT[version]


def test_every_name_is_in_the_bindings_of_tensorrt_rtx():
    assert {name for name in every_name() if RTX not in KNOWN[name]} == FLAGS


def test_the_record_says_what_the_wheels_hold():
    folder = os.environ.get("KD3D_TRT_BINDINGS")
    if not folder:
        pytest.skip("KD3D_TRT_BINDINGS is not set: no unpacked TensorRT binding wheels here")
    assert trt_names.looked_up(Path(folder)) == KNOWN
