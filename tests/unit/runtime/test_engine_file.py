"""Whether an engine belongs on this machine is decided from its record, before TensorRT sees a byte."""

import hashlib
import json
import platform

import pytest

from kd3d.errors import DataError, EngineError
from kd3d.runtime import engine_file
from kd3d.runtime.device.protocol import DeviceInfo
from kd3d.runtime.engine_file import EngineFile, is_engine, read_engine_file

ORIN = DeviceInfo("Orin", (8, 7), "12.6", 1 << 35, True)
A100 = DeviceInfo("NVIDIA A100-SXM4-80GB", (8, 0), "12.6", 1 << 36, False)
ENGINE = b"an engine"


def record(**changes):
    return {
        "format": 1,
        "runtime": "tensorrt",
        "version": "10.3.0",
        "device": {"name": "Orin", "driver": "R36", "compute_capability": [8, 7]},
        "machine": {"architecture": platform.machine()},
        "settings": {"version_compatible": False, "hardware": "none", "capabilities": []},
        "engine": {"file": "model.engine", "bytes": len(ENGINE), "sha256": hashlib.sha256(ENGINE).hexdigest()},
        **changes,
    }


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model.engine").write_bytes(ENGINE)
    (tmp_path / "engine.json").write_text(json.dumps(record()))
    return tmp_path


def test_a_whole_engine_is_read(folder):
    found = read_engine_file(folder)
    assert (found.read(), found.module) == (ENGINE, "tensorrt")
    found.check_version("10.3.0")
    found.check_device(ORIN)
    assert is_engine(folder)
    assert is_engine(folder / "model.engine")
    assert not is_engine(folder / "engine.json")


def test_a_lone_engine_has_its_record_beside_it(folder):
    assert read_engine_file(folder / "model.engine").read() == ENGINE
    renamed = (folder / "model.engine").rename(folder / "orin.plan")
    (folder / "engine.json").rename(folder / "orin.json")
    assert read_engine_file(renamed).read() == ENGINE


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (ENGINE[:-3], r"has 6 bytes, but 9 were built. Copy the whole folder"),
        (b"", "has 0 bytes, but 9 were built"),
        (b"An engine", "is damaged: it is not the engine that engine.json describes"),
    ],
)
def test_a_damaged_engine_is_found_by_its_hash(folder, content, text):
    (folder / "model.engine").write_bytes(content)
    with pytest.raises(DataError, match=text) as caught:
        read_engine_file(folder).read()
    assert caught.value.exit_code == 7


def test_missing_and_foreign_files_are_named(folder):
    (folder / "model.engine").unlink()
    with pytest.raises(DataError, match=r"model.engine: no such file. Copy the whole folder"):
        read_engine_file(folder).read()
    (folder / "engine.json").write_text("{}")
    with pytest.raises(DataError, match=r"not the record of an engine. Build the engine again"):
        read_engine_file(folder)
    foreign = folder / "sub" / "foreign.engine"
    foreign.parent.mkdir()
    foreign.write_bytes(ENGINE)
    with pytest.raises(DataError, match=r"no engine.json beside it.*Only engines of kd3d export trt are run"):
        read_engine_file(foreign)


def test_another_tensorrt_is_refused_with_both_versions(folder):
    with pytest.raises(
        EngineError, match=r"was built by tensorrt 10.3.0, but here is 10.7.0. Build it on this"
    ) as found:
        read_engine_file(folder).check_version("10.7.0")
    assert found.value.exit_code == 5


@pytest.mark.parametrize(
    ("here", "good"), [("10.3.0", True), ("10.16.1.11", True), ("10.2.0", False), ("11.0.0", False)]
)
def test_a_version_compatible_engine_runs_on_newer_ones_of_its_major_version(here, good):
    settings = {"version_compatible": True}
    found = EngineFile(engine_file.Path("m.engine"), record(settings=settings))
    if good:
        found.check_version(here)
    else:
        with pytest.raises(EngineError, match=r"10.3.0, but here is"):
            found.check_version(here)


def test_another_device_is_refused_with_both_names(folder):
    text = (
        r"built for Orin \(compute capability 8.7\), but the device here is NVIDIA A100-SXM4-80GB \(.* 8.0\). Build it"
    )
    with pytest.raises(EngineError, match=text):
        read_engine_file(folder).check_device(A100)


def test_a_device_of_the_same_capability_will_do_and_ampere_plus_widens_it():
    path = engine_file.Path("m.engine")
    other = DeviceInfo("NVIDIA A100-PCIE-40GB", (8, 0), "12.6", 1 << 35, False)
    a100 = {"name": A100.name, "compute_capability": [8, 0]}
    EngineFile(path, record(device=a100)).check_device(other)
    wide = EngineFile(path, record(device=a100, settings={"hardware": "ampere+"}))
    wide.check_device(ORIN)
    with pytest.raises(EngineError, match=r"the device here is Tesla T4 \(compute capability 7.5\)"):
        wide.check_device(DeviceInfo("Tesla T4", (7, 5), "12.6", 1 << 34, False))


def test_without_a_recorded_capability_names_decide(monkeypatch):
    found = EngineFile(engine_file.Path("m.engine"), record(device={"name": "NVIDIA Jetson AGX Orin"}))
    with pytest.raises(EngineError, match=r"was built for NVIDIA Jetson AGX Orin, but the device here is Orin"):
        found.check_device(ORIN)
    monkeypatch.setattr(engine_file, "board_name", lambda: "NVIDIA Jetson AGX Orin")
    found.check_device(ORIN)


def test_an_engine_made_ahead_of_time_says_for_which_devices():
    found = EngineFile(engine_file.Path("m.engine"), record(settings={"capabilities": ["SM80", "SM89"]}))
    found.check_device(A100)
    with pytest.raises(EngineError, match=r"was built for SM80, SM89, but the device here is Orin \(SM87\)"):
        found.check_device(ORIN)


def test_an_engine_of_another_kind_of_processor_is_refused():
    found = EngineFile(engine_file.Path("m.engine"), record(machine={"architecture": "sparc"}))
    with pytest.raises(EngineError, match=r"was built on sparc, but this is"):
        found.check_device(ORIN)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"device": [[]]}, "device"),
        ({"machine": "x"}, "machine"),
        ({"settings": 3}, "settings"),
        ({"device": {"name": "Orin", "compute_capability": [8]}}, "compute_capability"),
        ({"device": {"name": "Orin", "compute_capability": "8.7"}}, "compute_capability"),
    ],
)
def test_a_record_with_damaged_parts_is_refused(folder, change, what):
    (folder / "engine.json").write_text(json.dumps(record(**change)))
    with pytest.raises(DataError, match=rf"engine\.json: its {what} is damaged. Copy the folder again"):
        read_engine_file(folder)
