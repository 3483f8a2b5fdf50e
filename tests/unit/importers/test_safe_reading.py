"""Foreign files are read without running them, and damaged ones are refused in one sentence."""

import argparse
import datetime
import io
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict, deque
from pathlib import Path

import foreign
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd3d.errors import CheckpointError
from kd3d.importers.container import read_checkpoint
from kd3d.importers.pickles import read_pickle
from kd3d.importers.torch_file import read_torch_file


def small_state():
    return foreign.centerpoint_pillar("openpcdet", width=2, tasks=[1], layers=(0, 0, 0))


@pytest.fixture(scope="module", params=["legacy", "zip"])
def whole(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "x.pth"
    foreign.write(path, "openpcdet", small_state(), legacy=request.param == "legacy")
    return path.read_bytes()


class Runs:
    """Would run a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16", "int64", "bool", "uint8"])
def test_tensors_of_both_containers_come_back_exactly(legacy, kind, tmp_path):
    base = (torch.randn(4, 6) * 3).to(getattr(torch, kind))
    state = OrderedDict(a=base, b=base.t(), c=base[1:3, 2], d=torch.zeros(0, 3), e=torch.nn.Parameter(torch.ones(2)))
    torch.save({"state_dict": state}, tmp_path / "x.pth", _use_new_zipfile_serialization=not legacy)
    found = read_torch_file(tmp_path / "x.pth")["state_dict"]
    assert all(torch.equal(found[name].tensor(), tensor) for name, tensor in state.items())


def test_mmengines_history_and_numpy_scalars_are_read_without_mmengine(tmp_path):
    path = foreign.write(
        tmp_path / "x.pth", "mmdet3d", foreign.centerpoint_pillar("mmdet3d", width=2, layers=(0, 0, 0))
    )
    code = f"""
import sys
from kd3d.importers.container import read_checkpoint
found = read_checkpoint({str(path)!r})
assert not any(name.startswith("mmengine") for name in sys.modules)
print(found.framework, found.version, found.versions)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "mmdet3d 1.1 {'': 1}\n"


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    ("call", "named"),
    [
        ((os.system, "touch HACKED"), f"{os.system.__module__}.system"),
        ((eval, "open('HACKED', 'w')"), "builtins.eval"),
        ((subprocess.call, ["touch", "HACKED"]), "subprocess.call"),
        ((getattr, "text", "upper"), "getattr"),
        ((torch.load, "other.pth"), "torch.serialization.load"),
        ((torch.hub.load, "a", "b"), "torch.hub.load"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_pickle_that_would_run_code_is_refused_and_named(call, named, legacy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"model_state": small_state(), "extra": Runs(*call)}
    torch.save(content, "x.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(Path("x.pth"))
    assert named in str(caught.value) and "run code" in str(caught.value)
    assert not Path("HACKED").exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("legacy", [True, False])
def test_what_people_put_beside_the_weights_is_read_and_left_alone(protocol, legacy, tmp_path):
    net = torch.nn.Linear(2, 2)
    optimiser = torch.optim.Adam(net.parameters())
    net(torch.ones(2)).sum().backward()
    optimiser.step()
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=1.0, total_steps=9)
    beside = {
        "numbers": [np.int64(3), np.float32(1), np.bool_(True), np.str_("x"), 2**80, None, 1j],
        "arrays": [np.arange(3.0), np.array(["a"]), np.array([1, "a", None], object)],
        "settings": argparse.Namespace(out=Path("x"), parts=[np.int64(1)], kind=torch.float16),
        "sets": [{1}, frozenset([1]), range(3), slice(1, 2), bytearray(b"1"), b"1"],
        "types": [int, torch.device("cpu"), torch.Size([1]), torch.__version__],
        "collections": [defaultdict(list, {1: [2]}), Counter("ab"), deque([1])],
        "times": [datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(1)],
        "chance": [torch.get_rng_state(), np.random.RandomState(0).get_state(), np.random.default_rng(0)],
        "training": [optimiser.state_dict(), schedule.state_dict(), torch.amp.GradScaler("cpu").state_dict()],
    }
    state = small_state()
    content = {**beside, "model_state": state}
    torch.save(content, tmp_path / "x.pth", pickle_protocol=protocol, _use_new_zipfile_serialization=not legacy)
    found = read_checkpoint(tmp_path / "x.pth").tensors
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items()) and len(found) == len(state)


def test_tensors_with_attributes_and_views_of_one_storage_come_back(tmp_path):
    state = small_state()
    flat, place, kept = torch.cat([tensor.flatten().float() for tensor in state.values()]), 0, OrderedDict()
    for name, tensor in state.items():
        kept[name] = flat[place : place + tensor.numel()].view(tensor.shape)
        place += tensor.numel()
        if name.endswith("bias"):
            kept[name] = torch.nn.Parameter(kept[name].clone())
            kept[name].kept_in = "fp32"
        elif name.endswith("running_mean"):
            kept[name] = kept[name].clone()
            kept[name].note = {"a": 1}
    torch.save({"model_state": kept}, tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth").tensors
    assert all(torch.equal(found[name], tensor.float()) for name, tensor in state.items())


def test_a_tensor_rebuilt_by_something_else_is_refused():
    class Odd:
        def __reduce__(self):
            return torch._tensor._rebuild_from_type_v2, (dict, torch.Tensor, (), {})

    with pytest.raises(CheckpointError, match="rebuilds a tensor in a way that torch does not"):
        read_pickle(pickle.dumps(Odd(), protocol=2), "x.pth")


def test_names_on_the_stack_are_refused_too():
    content = pickle.dumps(Runs(os.system, "true"), protocol=4)
    with pytest.raises(CheckpointError, match=r"names \w+\.system, which could run code"):
        read_pickle(content, "x.pth")


@pytest.mark.parametrize("operation", [b"(ios\nsystem\n.", b"\x82\x01.", b"Pabc\n."])
def test_operations_that_torch_never_writes_are_refused(operation):
    with pytest.raises(CheckpointError, match=r"uses the operation|damaged"):
        read_pickle(b"\x80\x02" + operation, "x.pth")


def test_a_memo_index_that_would_fill_the_memory_is_refused():
    with pytest.raises(CheckpointError, match="memo entry 4294967280"):
        read_pickle(b"\x80\x02]r" + struct.pack("<I", 0xFFFFFFF0) + b".", "x.pth")


def test_a_tensor_that_reaches_outside_of_its_storage_is_named(tmp_path):
    path = tmp_path / "x.pth"
    foreign.write(path, "openpcdet", small_state(), legacy=False)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    assert parts[name].count(b"K\x01K\x0b\x86") == 1  # the shape of the first layer's weight, and of nothing else
    parts[name] = parts[name].replace(b"K\x01K\x0b\x86", b"K\x01K\x63\x86")  # [1, 11] claims 99 columns
    with zipfile.ZipFile(path, "w") as archive:
        for part, content in parts.items():
            archive.writestr(part, content)
    with pytest.raises(CheckpointError, match=r"vfe\.pfn_layers\.0\.linear\.weight.*reaches outside of its storage"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"<html>404</html>", "no pickle where one should be"),
        (pickle.dumps({"a": 1}, protocol=2), "not one that torch.save wrote"),
        (b"PK\x03\x04rest", "damaged"),
    ],
)
def test_files_that_are_no_checkpoints_say_so(content, said, tmp_path):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(tmp_path / "x.pth")


def test_a_compressed_zip_and_torchscript_are_refused(tmp_path):
    path = tmp_path / "x.pth"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}." + b" " * 1000)
    with pytest.raises(CheckpointError, match="compressed zip file"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/constants.pkl", b"\x80\x02}.")
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"weights": 1}, "neither model_state"),
        ([1, 2], "holds a list"),
        ({"state_dict": OrderedDict(conv=torch.ones(1))}, "names of none of openpcdet, mmdet3d, det3d"),
        ({"model_state": OrderedDict(a="text")}, "'a' is not a tensor"),
    ],
)
def test_checkpoints_of_something_else_say_so(content, said, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=said):
        read_checkpoint(tmp_path / "x.pth")


def test_ddp_prefixes_and_bare_dictionaries_are_read(tmp_path):
    state = foreign.centerpoint_pillar("det3d", width=2, layers=(0, 0, 0))
    torch.save(OrderedDict((f"module.{name}", tensor) for name, tensor in state.items()), tmp_path / "x.pth")
    found = read_checkpoint(tmp_path / "x.pth")
    assert found.framework == "det3d" and list(found.tensors) == list(state)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_mutated_file_is_read_or_refused_and_nothing_else(whole, data, tmp_path):
    content = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, min(len(content) - 1, 6000)))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, 3))
    content = content[: data.draw(st.integers(0, len(content)))] if cut == 0 else content
    (tmp_path / "x.pth").write_bytes(bytes(content))
    try:
        read_checkpoint(tmp_path / "x.pth")
    except CheckpointError as error:
        assert str(tmp_path / "x.pth") in str(error)


def test_every_truncation_of_a_file_is_refused(whole, tmp_path):
    for size in range(0, len(whole) - 1, max(1, len(whole) // 40)):
        (tmp_path / "x.pth").write_bytes(whole[:size])
        with pytest.raises(CheckpointError):
            read_checkpoint(tmp_path / "x.pth")
    assert io.BytesIO(whole).read(1)
