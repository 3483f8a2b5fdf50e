"""Runners and the pipeline, on small ONNX graphs whose head maps are known."""

import json
from dataclasses import replace

import numpy as np
import pytest

from kd3d.errors import BackendError, DataError, DeviceMemoryError, GraphError, SpecError, UsageError
from kd3d.geometry.grid import BevGrid
from kd3d.runtime.frames import Frame
from kd3d.runtime.heads import onnx_names
from kd3d.runtime.pipeline import load_pipeline
from kd3d.runtime.runners import OrtRunner
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec, to_json

onnx = pytest.importorskip("onnx")

SPEC = DetectorSpec(
    name="tiny",
    points=PointSpec(),
    grid=BevGrid(-2, -1, -1, 2, 1, 1, 0.5),
    encoder=PillarEncoderSpec(max_points=3, max_pillars=6),
    backbone=BevBackboneSpec((1,), (1,), (8,), (1,), (8,)),
    head=CenterHeadSpec(tasks=(("car",),)),
    decode=DecodeSpec(1, 50, 0.1, (-9, -9, -9, 9, 9, 9), "rotate", (0.2,), 50, 20),
)
CHANNELS = {"hm": 1, "center": 2, "center_z": 1, "dim": 3, "rot": 2}


def graph(path, *, rows="pillars", spec_text=None, inputs=("features", "counts", "cells")):
    """A network whose heatmap is high where a pillar is, and whose other maps are constant."""
    helper, kinds, names = onnx.helper, onnx.TensorProto, onnx_names(SPEC)
    shapes = {"features": (kinds.FLOAT, [rows, 3, 10]), "counts": (kinds.INT64, [rows]), "cells": (kinds.INT64, [rows])}
    constants = {
        "canvas": np.full(33, -9.0, np.float32),
        "two": np.array([2.0], np.float32),
        "area": np.array([32]),
        "zero": np.array([0]),
        "hm_shape": np.array([1, 1, 4, 8]),
        **{
            f"value_{name}": np.full((1, CHANNELS[name[6:]], 4, 8), 0.25, np.float32)
            for name in names
            if name != "task0_hm"
        },
    }
    nodes = [
        helper.make_node("Cast", ["counts"], ["present"], to=kinds.FLOAT),
        helper.make_node("Add", ["present", "two"], ["logits"]),
        helper.make_node("ScatterElements", ["canvas", "cells", "logits"], ["filled"]),
        helper.make_node("Slice", ["filled", "zero", "area"], ["cut"]),
        helper.make_node("Reshape", ["cut", "hm_shape"], ["task0_hm"]),
        *[helper.make_node("Identity", [f"value_{name}"], [name]) for name in names if name != "task0_hm"],
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info(name, *shapes[source]) for name, source in zip(inputs, shapes, strict=True)],
            [helper.make_tensor_value_info(name, kinds.FLOAT, [1, CHANNELS[name[6:]], 4, 8]) for name in names],
            [onnx.numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    if spec_text is not None:
        helper.set_model_props(model, {"kd3d.spec": spec_text})
    onnx.save(model, path)
    return path


TEXT = json.dumps(to_json(SPEC))


def frame(points):
    points = np.asarray(points, np.float32).reshape(-1, 4)
    return Frame("t", points, ("x", "y", "z", "intensity"), None, ("car",), np.eye(4), np.eye(4))


POINTS = [[-1.9, -0.9, 0, 1], [-1.9, -0.9, 0, 2], [1.9, 0.9, 0.5, 1], [5, 5, 5, 1]]


@pytest.mark.parametrize("rows", ["pillars", 4])
def test_points_become_boxes_with_free_and_with_fixed_pillars(tmp_path, rows):
    with load_pipeline(graph(tmp_path / "m.onnx", rows=rows, spec_text=TEXT)) as pipeline:
        feeds = pipeline.pre(frame(POINTS))
        count = 2 if rows == "pillars" else 4
        assert feeds["features"].shape == (count, 3, 10)
        assert feeds["counts"].tolist() == [2, 1, 0, 0][:count]
        assert feeds["cells"].tolist() == [0, 31, 32, 32][:count]
        assert feeds["counts"].dtype == feeds["cells"].dtype == np.int64
        boxes = pipeline(frame(POINTS))
    assert pipeline.stages == ("pre", "network", "decode", "nms")
    np.testing.assert_allclose(boxes.score, 1 / (1 + np.exp([-4.0, -3.0])), atol=1e-6)
    np.testing.assert_allclose(boxes.array[:, :2], [[-2 + 0.125, -1 + 0.125], [1.5 + 0.125, 0.5 + 0.125]])
    assert boxes.array[0, 3] == pytest.approx(np.exp(0.25))


@pytest.mark.parametrize("points", [[], [[9, 9, 9, 9]]], ids=["empty", "out of range"])
def test_a_cloud_without_a_usable_point_gives_one_padding_row_and_no_boxes(tmp_path, points):
    with load_pipeline(graph(tmp_path / "m.onnx", spec_text=TEXT)) as pipeline:
        feeds = pipeline.pre(frame(points))
        assert (feeds["counts"].tolist(), feeds["cells"].tolist()) == ([0], [32])
        assert len(pipeline(frame(points))) == 0


def test_what_does_not_fit_is_counted_per_frame_and_in_all(tmp_path):
    many = [[x, 0.1, 0, 1] for x in np.arange(-2, 2, 0.5) + 0.1] + [[-1.9, 0.1, 0, 1]] * 4
    with load_pipeline(graph(tmp_path / "m.onnx", rows=4, spec_text=TEXT)) as pipeline:
        pipeline.pre(frame(many))
        assert (pipeline.dropped_pillars, pipeline.dropped_points) == (4, 4 + 2)
        pipeline.pre(frame(POINTS))
        assert (pipeline.dropped_pillars, pipeline.dropped_points) == (0, 0)
        assert (pipeline.total_dropped_pillars, pipeline.total_dropped_points) == (4, 6)


def test_points_outside_the_image_are_cropped_where_the_detector_wants_it(tmp_path):
    camera = replace(SPEC, points=PointSpec(camera_view_only=True))
    matrix = np.array([[50, -100, 0, 0], [25, 0, -10, 0], [1, 0, 0, 0.0]])
    seen = replace(frame(POINTS), lidar2image=matrix, image_size_px=(100, 50))
    with load_pipeline(graph(tmp_path / "m.onnx", spec_text=json.dumps(to_json(camera)))) as pipeline:
        assert pipeline.pre(seen)["cells"].tolist() == [31]
        assert pipeline.pre(frame(POINTS))["cells"].tolist() == [0, 31]


def test_points_that_are_not_finite_are_refused(tmp_path):
    bad = np.array(POINTS)
    bad[1, 2] = np.nan
    text = "t: 1 of 4 points have NaN or infinite values, the first in row 1"
    with load_pipeline(graph(tmp_path / "m.onnx", spec_text=TEXT)) as pipeline, pytest.raises(DataError, match=text):
        pipeline(frame(bad))


def export_folder(folder, **changes):
    folder.mkdir()
    graph(folder / "model.onnx")
    (folder / "spec.json").write_text(TEXT)
    steps = [{"name": "pre", "kind": "host"}, {"name": "network", "kind": "onnx", "file": "model.onnx"}]
    value = {"format": 1, "spec": "spec.json", "steps": steps, "state": [], **changes}
    (folder / "pipeline.json").write_text(json.dumps(value))
    return folder


def test_an_export_folder_is_loaded(tmp_path):
    with load_pipeline(export_folder(tmp_path / "e")) as pipeline:
        assert len(pipeline(frame(POINTS))) == 2
    assert pipeline.name == "tiny (onnxruntime-cpu)"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": 9}, "not a pipeline in format 1"),
        ({"state": [{}]}, "keeps state between frames"),
        ({"steps": []}, "exactly one step with a file, but has 0"),
        ({"steps": [{"kind": "tflite", "file": "m.tflite"}]}, "kind 'tflite', which this version of kd3d cannot run"),
        ({"steps": [{"kind": "engine", "file": "model.engine"}]}, "no engine.json beside it"),
        ({"spec": "none.json"}, "none.json: no such file"),
    ],
)
def test_a_folder_that_cannot_be_run_says_why(tmp_path, changes, text):
    with pytest.raises(DataError, match=text):
        load_pipeline(export_folder(tmp_path / "e", **changes))


def test_a_folder_that_is_no_export_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"pipeline.json is missing. Make one with: kd3d export onnx"):
        load_pipeline(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        load_pipeline(tmp_path / "none")


def test_a_spec_beside_a_foreign_graph_is_enough_and_none_at_all_is_explained(tmp_path):
    path = graph(tmp_path / "m.onnx")
    with pytest.raises(DataError, match=r"no 'kd3d.spec' in its metadata and no spec.json beside it. Export it with"):
        load_pipeline(path)
    (tmp_path / "spec.json").write_text(TEXT)
    assert load_pipeline(path).spec == SPEC


@pytest.mark.parametrize("text", ["{", '{"name": 1}', "[" * 5000], ids=["no JSON", "no detector", "too deep"])
def test_damaged_metadata_are_named(tmp_path, text):
    with pytest.raises(SpecError, match=r"m.onnx: "):
        load_pipeline(graph(tmp_path / "m.onnx", spec_text=text))


@pytest.mark.parametrize("content", [b"", b"junk", None], ids=["empty", "junk", "truncated"])
def test_a_corrupt_graph_is_refused_in_one_line(tmp_path, content):
    path = graph(tmp_path / "m.onnx", spec_text=TEXT)
    path.write_bytes(path.read_bytes()[:900] if content is None else content)
    with pytest.raises(GraphError, match=r"m.onnx: ONNX Runtime refuses this file: ") as caught:
        load_pipeline(path)
    assert "\n" not in str(caught.value)


def test_a_graph_with_other_inputs_is_refused(tmp_path):
    path = graph(tmp_path / "m.onnx", spec_text=TEXT)
    model = onnx.load(path)
    model.graph.input[0].name = "voxels"
    onnx.save(model, path)
    with load_pipeline(path) as pipeline, pytest.raises(DataError, match="has no input 'features'"):
        pipeline(frame(POINTS))


def test_a_graph_for_more_pillars_than_any_frame_has_is_refused_before_they_are_made(tmp_path):
    path = graph(tmp_path / "m.onnx", rows=2**31, spec_text=TEXT)
    with load_pipeline(path) as pipeline, pytest.raises(DataError, match="the network wants 2,147,483,648 pillars"):
        pipeline(frame(POINTS))


def test_a_runner_says_what_is_wrong_with_its_inputs(tmp_path):
    runner = OrtRunner(graph(tmp_path / "m.onnx"), threads=1)
    with pytest.raises(UsageError, match="with statement"):
        runner.infer({})
    with runner:
        with pytest.raises(DataError, match=r"needs the input\(s\) counts, cells, but got features"):
            runner.infer({"features": np.zeros((1, 3, 10), np.float32)})
        feeds = {"features": np.zeros((1, 3, 9), np.float32), "counts": np.ones(1, int), "cells": np.zeros(1, int)}
        with pytest.raises(DataError, match=r"m.onnx cannot run on these inputs"):
            runner.infer(feeds)


def test_a_runner_gives_equal_results_again_and_with_other_threads(tmp_path):
    path = graph(tmp_path / "m.onnx")
    feeds = {"features": np.zeros((2, 3, 10), np.float32), "counts": np.array([1, 2]), "cells": np.array([3, 4])}
    results = []
    for threads in (1, 2, None):
        with OrtRunner(path, threads=threads) as runner:
            results += [runner.infer(feeds), runner.infer(feeds)]
    assert list(results[0]) == onnx_names(SPEC)
    for other in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_array_equal(value, other[name])


def test_a_missing_provider_is_named_with_those_there_are(tmp_path):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has CUDA")
    runner = OrtRunner(graph(tmp_path / "m.onnx"), provider="cuda")
    with pytest.raises(BackendError, match=r"no CUDAExecutionProvider here; it has .*CPUExecutionProvider"), runner:
        pass


class FakeOrt:
    """onnxruntime with GPU providers, of which ``taken`` really start."""

    def __init__(self, taken):
        self.taken, self.asked, self.SessionOptions = taken, None, type("SessionOptions", (), {})

    def get_available_providers(self):
        return ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, path, options, providers):  # noqa: N802  its name there
        self.asked = providers
        return type("Session", (), {"get_providers": lambda session: [*self.taken, "CPUExecutionProvider"]})()


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_did_not_start_is_an_error_and_never_the_cpu_instead(tmp_path, monkeypatch, provider):
    ort = FakeOrt(["CUDAExecutionProvider"] if provider == "tensorrt" else [])
    monkeypatch.setattr("kd3d.runtime.runners.require", lambda name, extra: ort)
    text = r"could not start (Tensorrt|CUDA)ExecutionProvider for m.onnx; it would run on .*CPU.* instead"
    with pytest.raises(BackendError, match=text) as caught:
        OrtRunner(graph(tmp_path / "m.onnx"), provider=provider).__enter__()
    assert caught.value.exit_code == 5


def test_the_device_and_the_precision_reach_the_provider(tmp_path, monkeypatch):
    ort = FakeOrt(["TensorrtExecutionProvider", "CUDAExecutionProvider"])
    monkeypatch.setattr("kd3d.runtime.runners.require", lambda name, extra: ort)
    with OrtRunner(graph(tmp_path / "m.onnx"), provider="tensorrt", index=1, half=True) as runner:
        assert (runner.device, runner.name) == ("cuda:1", "onnxruntime-tensorrt")
    assert ort.asked == [
        ("TensorrtExecutionProvider", {"device_id": 1, "trt_fp16_enable": True}),
        ("CUDAExecutionProvider", {"device_id": 1}),
    ]


WORDS = [
    "Failed to allocate memory for requested buffer of size 6979321856",
    "CUDA failure 2: out of memory ; GPU=0",
    "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
    "std::bad_alloc",
]


@pytest.mark.parametrize("provider", ["cuda", "cpu"])
@pytest.mark.parametrize("words", WORDS)
def test_too_little_memory_is_an_error_of_its_own_when_a_graph_is_loaded_and_when_it_runs(
    tmp_path, monkeypatch, words, provider
):
    def short(*arguments):
        raise RuntimeError(words)

    kind = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}[provider]
    ort = FakeOrt([kind])
    monkeypatch.setattr("kd3d.runtime.runners.require", lambda name, extra: ort)
    runner = OrtRunner(graph(tmp_path / "m.onnx"), provider=provider)
    advice = "or use --device cpu" if provider == "cuda" else r"Free memory there\."
    with runner:
        runner._session.get_inputs = runner._session.get_outputs = list
        runner._session.run = short
        with pytest.raises(DeviceMemoryError, match=f"m.onnx: .* has too little memory: .*{advice}") as caught:
            runner.infer({})
    assert caught.value.exit_code == 5
    monkeypatch.setattr(ort, "InferenceSession", lambda *a, **_: short())
    with pytest.raises(DeviceMemoryError, match="has too little memory"):
        runner.__enter__()


def test_a_runner_describes_its_tensors(tmp_path):
    with OrtRunner(graph(tmp_path / "m.onnx")) as runner:
        described = {info.name: (info.dtype, info.shape, info.low, info.high) for info in runner.inputs}
        assert described["features"] == (np.float32, (None, 3, 10), (1, 3, 10), (None, 3, 10))
        assert described["cells"] == (np.int64, (None,), (1,), (None,))
        assert [info.name for info in runner.outputs] == onnx_names(SPEC)
        assert runner.device == "cpu"


def test_settings_that_make_no_sense_are_refused(tmp_path):
    with pytest.raises(UsageError, match="must be cpu, cuda, tensorrt, not 'tpu'"):
        OrtRunner(tmp_path / "m.onnx", provider="tpu")
    with pytest.raises(UsageError, match="threads must be at least 1"):
        OrtRunner(tmp_path / "m.onnx", threads=0)
    with pytest.raises(DataError, match="no such file"), OrtRunner(tmp_path / "m.onnx"):
        pass
