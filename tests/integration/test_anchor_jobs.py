"""Detectors with anchor heads on real KITTI frames: the main job from a foreign file, and a network that learns."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kd3d.datasets.kitti import KittiDataset
from kd3d.detectors.batch import prepare
from kd3d.detectors.build import build
from kd3d.detectors.decode import decode_batch
from kd3d.detectors.presets import preset
from kd3d.geometry.iou import bev_iou
from kd3d.spec import BevBackboneSpec, PillarEncoderSpec
from kd3d.training.labels import map_labels
from kd3d.training.loop import train
from kd3d.training.settings import TrainSettings

SUPPORT = Path(__file__).resolve().parents[1] / "support"
STEPS = ("--steps", 1, "--batch-size", 1, "--workers", 0)


@pytest.fixture(scope="module")
def kitti(shared_data):
    folder = shared_data / "kitti"
    if not (folder / "training" / "velodyne").is_dir():
        pytest.skip(f"the KITTI frames are not at {folder}; set KD3D_SHARED")
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A narrow, shallow PointPillars for KITTI with random weights, as OpenPCDet would have saved it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(SUPPORT), *sys.path])
        spec = importlib.util.spec_from_file_location("foreign", SUPPORT / "foreign.py")
        foreign = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(foreign)
    state = foreign.pointpillars("openpcdet", width=16, layers=(1, 1, 1))
    # Boxes near their anchors, and few: parity of exports is judged by boxes.
    for name, factor in (("cls", 0.1), ("box", 0.02)):
        state[f"dense_head.conv_{name}.weight"] *= factor
    state["dense_head.conv_cls.bias"] -= 2.5
    return foreign.write(tmp_path_factory.mktemp("pcdet") / "teacher.pth", "openpcdet", state)


@pytest.mark.slow
def test_pointpillars_of_openpcdet_becomes_an_exported_and_timed_student(checkpoint, kitti, kd3d, tmp_path):
    out, export = tmp_path / "run", tmp_path / "onnx"
    made = kd3d(
        "compress", "--teacher", checkpoint, "--like", "kitti-pointpillars", "--data", kitti, "--out", out,
        "--budget-flops", "25%", *STEPS,
    )  # fmt: skip
    assert 0 < made["student"]["macs"] <= 0.25 * made["teacher"]["macs"]
    meta = json.loads((out / "teacher" / "meta.json").read_text())
    assert (meta["origin"], meta["framework"]) == ("import", "openpcdet")
    terms = json.loads((out / "distill" / "distil" / "metrics.jsonl").read_text().splitlines()[0])["terms"]
    assert {"anchor.cls", "anchor.box", "anchor.dir", "kd.anchor-logits"} <= set(terms)
    inherited = json.loads((out / "distill" / "inherit.json").read_text())
    assert inherited["fresh"] == {}
    student = json.loads((out / "student" / "spec.json").read_text())
    assert student["head"]["kind"] == "anchor"
    exported = kd3d("export", "onnx", "--model", out, "--out", export)
    assert exported["parity"]["passed"]
    frames = tmp_path / "frames"
    kd3d("data", "frames", "--data", kitti, "--out", frames, "-n", 2)
    timed = kd3d(
        "bench", export, "--frames", frames, "--iterations", 2, "--warmup", 1, "--warmup-ms", 0, "--threads", 1
    )
    assert timed["models"][0]["e2e_ms"]["p50"] > 0


class FirstFrames:
    """The first frames of a data set."""

    def __init__(self, dataset, count):
        self.dataset, self.count, self.tokens = dataset, count, dataset.tokens[:count]
        self.kind, self.split, self.classes = dataset.kind, dataset.split, dataset.classes

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return self.dataset[index]


def narrow():
    """KITTI's range and anchors on cells of 0.32 m, and a trunk that trains on a processor."""
    base = preset("kitti-pointpillars")
    return replace(
        base,
        name="kitti-pointpillars-narrow",
        grid=replace(base.grid, cell_m=0.32),
        encoder=PillarEncoderSpec(filters=(32,), max_points=32, max_pillars=12000),
        backbone=BevBackboneSpec((1, 2, 2), (1, 2, 2), (24, 32, 48), (0.5, 1.0, 2.0), (32, 32, 32)),
    )


@pytest.mark.slow
def test_a_narrow_pointpillars_learns_four_real_frames_by_heart(kitti, tmp_path):
    frames, spec = FirstFrames(KittiDataset(kitti, split="train"), 4), narrow()
    torch.manual_seed(0)
    settings = TrainSettings(
        steps=150, batch_size=2, lr=8e-3, workers=0, ema_decay=0.95, norm_momentum=0.1, log_every=1,
        checkpoint_every=1000,
    )  # fmt: skip
    result = train(build(spec), frames, settings=settings, run=tmp_path)
    losses = [line["loss"] for line in result.history]
    assert np.mean(losses[-10:]) < np.mean(losses[:5]) / 8
    cars = hits = false = 0
    for index in range(len(frames)):
        sample = frames[index]
        truth = map_labels(sample.boxes, sample.classes, spec.head.classes)
        with torch.no_grad():
            boxes = decode_batch(result.module(prepare([sample], spec)).heads, spec)[0]
        boxes, truth = (one.select(one.label == 0) for one in (boxes.select(boxes.score > 0.3), truth))
        overlap = bev_iou(truth.bev, boxes.bev)
        cars, hits = cars + len(truth), hits + int((overlap > 0.5).any(axis=1).sum())
        false += int((~(overlap > 0.1).any(axis=0)).sum())
    print(f"loss {losses[0]:.2f} to {np.mean(losses[-10:]):.3f}; {hits} of {cars} cars found, {false} false")
    assert cars >= 5
    assert hits >= 0.8 * cars
    assert false <= 1
