"""Engines against a faithful fake of TensorRT's bindings, one per generation; the real ones need a GPU."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from onnx import TensorProto, helper

from kd3d.detectors.presets import preset
from kd3d.errors import BackendError, DataError, DeviceMemoryError, GraphError, OutputError, PrecisionError, UsageError
from kd3d.export import trt as trt_module
from kd3d.export.onnx_file import metadata
from kd3d.export.rtx import rtx_gate
from kd3d.export.trt import export_trt, read_source
from kd3d.export.trt_build import BuildSettings, build
from kd3d.export.trt_inspect import check_precision, tensor_type
from kd3d.export.trtexec import trtexec_command
from kd3d.spec import to_json

TINY = preset("world-centerpoint-pillar-tiny")


def write_onnx(path: Path, precision="fp16", **more) -> Path:
    x = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["pillars", 20, 11])
    graph = helper.make_graph([helper.make_node("Relu", ["features"], ["y"])], "g", [x], [])
    model = helper.make_model(graph)
    helper.set_model_props(model, {"kd3d.spec": json.dumps(to_json(TINY)), "kd3d.precision": precision, **more})
    path.write_bytes(model.SerializeToString())
    return path


class Members:
    """An enumeration with just the given members, as hasattr sees the bindings."""

    def __init__(self, *names):
        for value, name in enumerate(names):
            setattr(self, name, value)


def fake(version, *, layer="FP16", parses=True, strong_builds=True, loads=True, new_json=False):
    """A module with what that TensorRT has; it records every call in ``log``."""
    major = int(version.split(".")[0])
    log: dict = {"flags": [], "cleared": [], "shapes": {}, "networks": []}

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = 1, 0, 2

    class Network:
        num_inputs = 2

        def __init__(self, flags):
            self.flags = flags

        def get_input(self, index):
            return SimpleNamespace(name=("features", "cells")[index], shape=((-1, 20, 11), (-1,))[index])

    class Config:
        def __init__(self):
            self.profiling_verbosity = None

        def set_compute_capability(self, capability, index):
            log["capability"] = capability

        def set_memory_pool_limit(self, pool, size):
            log["workspace"] = size

        def set_flag(self, flag):
            log["flags"].append(flag)

        def clear_flag(self, flag):
            log["cleared"].append(flag)

        def add_optimization_profile(self, profile):
            return 0

        def create_timing_cache(self, data):
            log["cache_in"] = data
            return SimpleNamespace()

        def set_timing_cache(self, cache, ignore_mismatch):
            return True

        def get_timing_cache(self):
            return SimpleNamespace(serialize=lambda: b"timings")

    class Builder:
        def __init__(self, logger):
            self.logger = logger

        def create_network(self, flags=0):
            log["networks"].append(flags)
            return Network(flags)

        def create_builder_config(self):
            log["config"] = Config()
            return log["config"]

        def create_optimization_profile(self):
            return SimpleNamespace(set_shape=lambda name, *shapes: log["shapes"].update({name: shapes}))

        def build_serialized_network(self, network, config):
            if not strong_builds and network.flags == 2:
                self.logger.log(1, "no implementation for node Conv_3")
                return None
            return b"engine"

    class OnnxParser:
        num_errors = 1

        def __init__(self, network, logger):
            pass

        def parse(self, data):
            return parses

        def get_error(self, index):
            return SimpleNamespace(desc=lambda: "Unsupported operator Foo")

    kind = (
        {"Datatype": {"FP16": "Half", "FP32": "Float", "INT8": "Int8"}[layer]}
        if new_json
        else {"Format/Datatype": f"Row {layer}"}
    )
    text = json.dumps({"Layers": [{"Name": "c", "LayerType": "Convolution", "Inputs": [kind], "Outputs": [kind]}]})
    inspector = SimpleNamespace(get_engine_information=lambda form: text)
    engine = SimpleNamespace(create_engine_inspector=lambda: inspector) if loads else None
    flags = ["TF32", "VERSION_COMPATIBLE"] + (["FP16", "INT8"] if major < 11 else [])
    levels = ["NONE", "AMPERE_PLUS"] + (["SAME_COMPUTE_CAPABILITY"] if major >= 11 else [])
    module = SimpleNamespace(
        __version__=version,
        ILogger=ILogger,
        Builder=Builder,
        OnnxParser=OnnxParser,
        BuilderFlag=Members(*flags),
        NetworkDefinitionCreationFlag=Members("EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if major >= 10 else [])),
        HardwareCompatibilityLevel=Members(*levels),
        MemoryPoolType=Members("WORKSPACE"),
        ProfilingVerbosity=Members("DETAILED"),
        LayerInformationFormat=Members("JSON"),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda data: engine),
    )
    return module, log


@pytest.fixture
def onnx(tmp_path):
    return write_onnx(tmp_path / "model.onnx")


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(trt_module, "graphics_cards", lambda: ["NVIDIA A100, 40960 MiB, 580.65"])


@pytest.fixture
def use(monkeypatch, device):
    def install(module):
        monkeypatch.setattr(trt_module, "require", lambda name, extra: module)

    return install


@pytest.mark.parametrize(
    ("version", "typing", "network", "flagged"),
    [
        ("8.6.1", "flags", 1, True),
        ("10.3.0", "strong", 2, False),
        ("10.16.1", "strong", 2, False),
        ("11.4.0", "strong", 0, False),
    ],
)
def test_each_generation_gets_its_precision_its_own_way(onnx, version, typing, network, flagged):
    module, log = fake(version)
    built = build(module, onnx, BuildSettings(pillars=(1, 2000, 4000), workspace_mib=64))
    assert (built.typing, built.fallback) == (typing, None)
    assert log["networks"] == [network]
    assert (getattr(module.BuilderFlag, "FP16", -1) in log["flags"]) == flagged
    assert log["shapes"] == {
        "features": ((1, 20, 11), (2000, 20, 11), (4000, 20, 11)),
        "cells": ((1,), (2000,), (4000,)),
    }
    assert log["workspace"] == 64 << 20
    assert log["cleared"] == [module.BuilderFlag.TF32]


def test_a_10_x_that_cannot_build_strongly_typed_falls_back_to_flags_and_says_why(onnx):
    module, log = fake("10.3.0", strong_builds=False)
    built = build(module, onnx, BuildSettings())
    assert built.typing == "flags"
    assert "no implementation for node Conv_3" in built.fallback
    assert log["networks"] == [2, 1]
    with pytest.raises(GraphError, match=r"TensorRT 10.3.0 cannot build model.onnx: no implementation"):
        build(module, onnx, BuildSettings(typing="strong"))


def test_a_graph_of_another_precision_is_refused_where_there_are_no_flags(onnx):
    with pytest.raises(
        PrecisionError, match=r"the graph is fp32, not fp16. Export it with: kd3d export onnx --precision"
    ):
        build(fake("11.4.0")[0], onnx, BuildSettings(precision="fp16", graph="fp32"))
    with pytest.raises(PrecisionError, match="an fp16 graph cannot become an fp32 engine"):
        build(fake("8.6.1")[0], onnx, BuildSettings(precision="fp32", graph="fp16"))
    assert build(fake("10.3.0")[0], onnx, BuildSettings(precision="fp16", graph="fp32")).typing == "flags"


def test_what_a_version_lacks_is_a_usage_error(onnx):
    with pytest.raises(UsageError, match=r"TensorRT 8.6.1 has no strong typing"):
        build(fake("8.6.1")[0], onnx, BuildSettings(typing="strong"))
    with pytest.raises(UsageError, match=r"TensorRT 11.4.0 has no precision flags"):
        build(fake("11.4.0")[0], onnx, BuildSettings(typing="flags"))
    with pytest.raises(UsageError, match=r"TensorRT 8.6.1 has no hardware compatibility 'same-capability'"):
        build(fake("8.6.1")[0], onnx, BuildSettings(hardware="same-capability"))
    with pytest.raises(BackendError, match=r"TensorRT 10.3.0 does not build for SM89 without that device"):
        build(fake("10.3.0")[0], onnx, BuildSettings(capabilities=("SM89",)))


def test_a_topk_beyond_the_limit_ends_with_code_8_and_tensorrts_words(onnx, monkeypatch):
    module, _ = fake("11.4.0")

    def refuse(self, network, config):
        self.logger.log(1, "ITopKLayer::setK: K exceeds the maximum value allowed (3840).")

    monkeypatch.setattr(module.Builder, "build_serialized_network", refuse)
    with pytest.raises(
        GraphError, match=r"cannot build model.onnx: ITopKLayer.*maximum value allowed \(3840\)"
    ) as caught:
        build(module, onnx, BuildSettings())
    assert caught.value.exit_code == 8


@pytest.mark.parametrize(
    "words",
    [
        "[optimizer.cpp] Cuda Runtime (out of memory)",
        "OutOfMemory (no further information)",
        "Requested amount of GPU memory (3221225472 bytes) could not be allocated.",
    ],
)
def test_a_device_too_small_to_build_on_is_told_from_a_graph_that_is_refused(onnx, tmp_path, use, monkeypatch, words):
    module, log = fake("10.3.0")

    def short(self, network, config):
        self.logger.log(1, words)

    monkeypatch.setattr(module.Builder, "build_serialized_network", short)
    use(module)
    with pytest.raises(DeviceMemoryError, match=r"cannot build model.onnx: .*smaller --workspace") as caught:
        export_trt(read_source(onnx), tmp_path / "out", BuildSettings())
    assert caught.value.exit_code == 5
    assert log["networks"] == [2]  # no other way is tried: it would take as much
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"pillars": (5, 2, 9)}, r"ascending and at least 1 .* got \(5, 2, 9\)"),
        ({"hardware": "turing"}, "hardware compatibility must be none, ampere.*, not 'turing'"),
        ({"typing": "weak"}, "typing must be auto, strong or flags, not 'weak'"),
        ({"workspace_mib": 0}, "the workspace must be at least 1 MiB, not 0"),
    ],
)
def test_senseless_settings_are_refused(change, text):
    with pytest.raises(UsageError, match=text):
        BuildSettings(**change)


def test_compatibility_reaches_the_builder(onnx):
    module, log = fake("11.4.0")
    build(module, onnx, BuildSettings(version_compatible=True, hardware="ampere+"))
    assert module.BuilderFlag.VERSION_COMPATIBLE in log["flags"]
    assert log["config"].hardware_compatibility_level == module.HardwareCompatibilityLevel.AMPERE_PLUS


def test_the_parsers_message_reaches_the_user(onnx):
    with pytest.raises(GraphError, match=r"TensorRT 11.4.0 cannot parse model.onnx: Unsupported operator Foo"):
        build(fake("11.4.0", parses=False)[0], onnx, BuildSettings())


def test_an_engine_comes_with_everything_that_explains_it(onnx, tmp_path, use):
    module, log = fake("11.4.0", new_json=True)
    use(module)
    made = export_trt(read_source(onnx), tmp_path / "out", BuildSettings(), timing_cache=tmp_path / "cache")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "engine.json", "layers.json", "model.engine", "pipeline.json", "spec.json",
    ]  # fmt: skip
    record = json.loads((tmp_path / "out/engine.json").read_text())
    assert made.to_json()["artifact"] == str(tmp_path / "out/model.engine")
    assert (record["precision"], record["typing"], record["version"]) == ("fp16", "strong", "11.4.0")
    assert record["read_back"] == {"layers": {"fp16": 1}, "convolutions": {"fp16": 1}}
    assert record["device"] == {"name": "NVIDIA A100", "driver": "580.65"}
    assert record["detector"]["classes"] == list(TINY.head.classes)
    assert record["detector"]["range_m"] == [-51.2, -51.2, -5.0, 51.2, 51.2, 3.0]
    assert record["detector"]["decode"]["top_k"] == TINY.decode.top_k
    assert len(record["onnx"]["sha256"]) == len(record["engine"]["sha256"]) == 64
    cache = tmp_path / "cache/tensorrt-11.4.0-NVIDIA-A100-580.65.cache"
    assert cache.read_bytes() == b"timings"
    export_trt(read_source(onnx), tmp_path / "out", BuildSettings(), timing_cache=tmp_path / "cache")
    assert log["cache_in"] == b"timings"
    steps = json.loads((tmp_path / "out/pipeline.json").read_text())["steps"]
    assert [step["file"] for step in steps if "file" in step] == ["model.engine"]


def test_an_engine_that_came_out_fp32_is_refused_with_code_6_and_not_written(onnx, tmp_path, use):
    use(fake("10.3.0", layer="FP32")[0])
    with pytest.raises(PrecisionError, match="was to be fp16, but its convolutions are: 1 in fp32") as caught:
        export_trt(read_source(onnx), tmp_path / "out", BuildSettings())
    assert caught.value.exit_code == 6
    assert not (tmp_path / "out").exists()
    use(fake("10.3.0", loads=False)[0])
    with pytest.raises(PrecisionError, match="cannot be loaded again here, so its precision cannot be read back"):
        export_trt(read_source(onnx), tmp_path / "out", BuildSettings())


def test_an_int8_graph_gets_flags_where_there_are_flags_and_is_read_back(tmp_path, use):
    about = json.dumps({"device": "tensorrt", "layers": 18, "weighted": 28})
    onnx = write_onnx(tmp_path / "int8.onnx", "int8", **{"kd3d.int8": about})
    source = read_source(onnx)
    assert (source.precision, source.int8) == ("int8", 18 / 28)
    settings = BuildSettings("int8", "int8")
    for version, typing, flagged in (
        ("8.6.1", "flags", True),
        ("10.3.0", "strong", False),
        ("11.4.0", "strong", False),
    ):
        module, log = fake(version, layer="INT8")
        use(module)
        made = export_trt(source, tmp_path / "out", settings)
        assert (made.record["typing"], made.record["precision"]) == (typing, "int8")
        assert made.record["read_back"]["convolutions"] == {"int8": 1}
        names = {name: getattr(module.BuilderFlag, name, -1) for name in ("FP16", "INT8")}
        assert set(names.values()) <= set(log["flags"]) if flagged else not log["flags"]
    use(fake("10.3.0", layer="FP16")[0])
    with pytest.raises(PrecisionError, match="was to be int8 in 64% of its convolutions, but they are: 1 in fp16"):
        export_trt(source, tmp_path / "wrong", settings)
    for precision, graph in (("fp16", "int8"), ("int8", "fp16")):
        with pytest.raises(PrecisionError, match=f"an {graph} graph cannot become an {precision} engine"):
            build(fake("10.3.0")[0], onnx, BuildSettings(precision, graph))


def test_an_int8_graph_for_a_cpu_or_with_damaged_notes_is_refused(tmp_path):
    about = json.dumps({"device": "cpu", "layers": 18, "weighted": 28})
    with pytest.raises(GraphError, match=r"TensorRT has no unsigned 8-bit activations. Export it with") as caught:
        read_source(write_onnx(tmp_path / "cpu.onnx", "int8", **{"kd3d.int8": about}))
    assert caught.value.exit_code == 8
    for text in ("{", "[]", '{"device": "tensorrt", "layers": 1, "weighted": 0}'):
        with pytest.raises(DataError, match="what it says of its int8 layers cannot be read"):
            read_source(write_onnx(tmp_path / "bad.onnx", "int8", **{"kd3d.int8": text}))


def test_without_tensorrt_or_a_gpu_the_code_is_5(onnx, tmp_path, monkeypatch):
    def missing(name, extra):
        raise BackendError(f"{name} is needed here. Install it with: pip install 'kd3d[{extra}]'")

    monkeypatch.setattr(trt_module, "require", missing)
    with pytest.raises(BackendError, match=r"tensorrt is needed here.*kd3d\[gpu\]") as caught:
        export_trt(read_source(onnx), tmp_path / "out", BuildSettings())
    assert caught.value.exit_code == 5
    monkeypatch.setattr(trt_module, "require", lambda name, extra: fake("11.4.0")[0])
    monkeypatch.setattr(trt_module, "graphics_cards", lambda: [])
    with pytest.raises(BackendError, match="needs an NVIDIA GPU to build an engine, and none is visible here"):
        export_trt(read_source(onnx), tmp_path / "out", BuildSettings())


def test_a_folder_with_other_things_is_not_replaced(onnx, tmp_path):
    with pytest.raises(OutputError, match="holds something else than an engine"):
        export_trt(read_source(onnx), tmp_path, BuildSettings())


def test_damaged_and_foreign_files_are_refused(onnx, tmp_path):
    whole = onnx.read_bytes()
    cut = tmp_path / "cut.onnx"
    for size in (0, 1, 30, len(whole) - 5):
        cut.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"cut.onnx: (no such file, or an empty one|not a whole ONNX|not an ONNX)"):
            read_source(cut)
    graph = helper.make_graph([], "g", [], [])
    cut.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(DataError, match="does not say which detector it is"):
        read_source(cut)
    (tmp_path / "export.json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(DataError, match=r"is not the file that export.json beside it describes"):
        read_source(onnx)


def test_metadata_are_those_that_onnx_reads(onnx):
    import onnx as package

    assert metadata(onnx) == {item.key: item.value for item in package.load(onnx).metadata_props}


@pytest.mark.parametrize(
    ("entry", "kind"),
    [
        ({"Format/Datatype": "Channel major FP16 format where channel % 8 == 0"}, "fp16"),
        ({"Format/Datatype": "Row major linear FP32"}, "fp32"),
        ({"Format/Datatype": "Row major Int8 format"}, "int8"),
        ({"Format": "Row major", "Datatype": "Half"}, "fp16"),
        ({"Format": "Row major", "Datatype": "Float"}, "fp32"),
        ({"Format": "Row major", "Datatype": "BFloat16"}, "bf16"),
        ({"Format": "Row major", "Datatype": "Int64"}, "other"),
    ],
)
def test_types_are_read_in_both_dialects(entry, kind):
    assert tensor_type(entry) == kind


def test_an_fp32_engine_with_half_layers_is_refused():
    half = [{"LayerType": "Convolution", "Inputs": [{"Datatype": "Half"}], "Outputs": [{"Datatype": "Half"}]}]
    with pytest.raises(PrecisionError, match="was to be fp32, but has layers"):
        check_precision(half, "fp32")


def command(version, **change):
    settings = replace(BuildSettings(pillars=(1, 2, 3)), **change)
    line = trtexec_command(Path("m.onnx"), Path("e/m.engine"), settings, spec=TINY, version=version, fixed=None)
    return shlex.split(line)


def test_trtexec_has_the_flags_of_its_version():
    slots, width = TINY.pillar_encoder.max_points, TINY.point_inputs
    old = command("8.6", workspace_mib=64, hardware="ampere+", version_compatible=True)
    assert f"--maxShapes=features:3x{slots}x{width},counts:3,cells:3" in old
    assert {
        "--fp16",
        "--memPoolSize=workspace:64",
        "--hardwareCompatibilityLevel=ampere+",
        "--versionCompatible",
    } <= set(old)
    assert "--stronglyTyped" in command("10.3")
    assert "--fp16" not in command("10.3")
    assert "--fp16" in command("10.3", graph="fp32")
    assert not {"--fp16", "--stronglyTyped"} & set(command("11.4"))
    assert {"--fp16", "--int8"} <= set(command("8.6", precision="int8", graph="int8"))
    assert "--int8" not in command("10.3", precision="int8", graph="int8")
    with pytest.raises(UsageError, match="TensorRT 8 takes the precision from the graph, which is fp16"):
        command("8.6", precision="int8")
    with pytest.raises(UsageError, match="TensorRT 11 takes the precision from the graph, which is fp32"):
        command("11.4", graph="fp32")
    with pytest.raises(UsageError, match=r"a TensorRT version looks like 8.6 or 10.3, not 'new'"):
        command("new")


def test_the_rtx_gate_is_skipped_with_a_reason_where_it_is_not_installed(onnx, monkeypatch):
    monkeypatch.setattr("kd3d.export.rtx.available", lambda name: False)
    gate = rtx_gate(onnx, TINY)
    assert (gate.state, gate.name) == ("skipped", "trt-rtx")
    assert "pip install 'kd3d[trt-rtx]'" in gate.reason


def test_the_rtx_gate_names_the_capability_that_is_refused(onnx, monkeypatch):
    module, _ = fake("11.4.0", parses=False)
    module.ComputeCapability = Members("SM80", "SM89")
    monkeypatch.setattr("kd3d.export.rtx.available", lambda name: True)
    monkeypatch.setattr("kd3d.export.rtx.require", lambda name, extra: module)
    with pytest.raises(GraphError, match=r"gate trt-rtx: for SM80: TensorRT .* Unsupported operator Foo"):
        rtx_gate(onnx, TINY, capabilities=("SM80",))
