"""Teacher and student become files for the vehicle, and their latencies stand beside each other."""

import json

import numpy as np
import pytest
import torch

from kd3d.compress.deliver import DeliverSettings, export_and_bench, latencies
from kd3d.datasets.sample import Sample
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.presets import preset
from kd3d.geometry.boxes import Boxes3D
from kd3d.runs.progress import Silent

SPEC = preset("world-centerpoint-pillar-tiny")


class Clouds:
    """Three frames of points without objects."""

    classes, kind, split, tokens = SPEC.head.classes, "nuscenes", "val", ("a", "b", "c")

    def __len__(self):
        return 3

    def __getitem__(self, index):
        points = np.random.default_rng(index).uniform(-20, 20, (500, 5)).astype(np.float32)
        boxes = Boxes3D(np.zeros((0, 9)), np.zeros(0, np.int64))
        return Sample(self.tokens[index], points, SPEC.points.features, boxes, self.classes)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory):
    torch.manual_seed(3)
    run = tmp_path_factory.mktemp("run")
    models = {name: Model(SPEC, build(SPEC).eval(), {}) for name in ("teacher", "student")}
    settings = DeliverSettings(frames=9, iterations=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kd3d.export.rtx.available", lambda name: False)  # four engines per export take seconds
        return run, export_and_bench(models, Clouds(), run, settings=settings, progress=Silent())


def test_both_sides_are_exported_with_parity_and_their_frames_kept(delivered):
    run, made = delivered
    for name in ("teacher", "student"):
        assert made["export"][name]["parity"]["passed"]
        assert (run / "export" / name / "model.onnx").is_file()
    assert json.loads((run / "frames" / "frames.json").read_text())


def test_both_are_timed_in_one_report_on_those_frames(delivered):
    run, made = delivered
    stored = json.loads((run / "bench" / "bench.json").read_text())
    assert [timed["name"] for timed in stored["models"]] == ["teacher", "student"]
    found = latencies(made)
    assert found["student"]["latency_ms_p50"] == made["bench"]["models"][1]["e2e_ms"]["p50"] > 0
    assert found["teacher"]["fps"] > 0
