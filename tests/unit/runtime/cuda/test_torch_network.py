"""torch between the CUDA kernels, as ``benchmarks/gpu_latency.py`` times it: the boxes of the torch pipeline."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kd3d.bench.synthetic import synthetic_frames
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.presets import preset
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.runtime.cuda.pipeline import CudaPipeline

ROOT = Path(__file__).resolve().parents[4]


@pytest.fixture
def network(shim, shim_library, monkeypatch):
    """The tiny detector of the generated world on the shim device, whose memory torch can read."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setattr("kd3d.runtime.cuda.pipeline._FIRST_CAPACITY", 4096)
    from torch_network import TorchNetwork

    torch.manual_seed(0)
    module = build(preset("world-centerpoint-pillar-tiny")).eval()
    for task in module.head.tasks:
        task["hm"].out.weight.data *= 20
    device = shim.ShimDevice(shim_library)
    how = {"device": "cpu", "dtype": torch.float32, "step": 512, "graphs": False}
    return module, TorchNetwork(module, device, **how)


def test_frame_after_frame_has_the_boxes_of_the_torch_pipeline(network):
    module, between = network
    reference, found = TorchPipeline(Model(module.spec, module, {})), 0
    with CudaPipeline(module.spec, between, image=b"shim") as pipeline:
        for points in (3000, 400, 2000):  # fewer pillars than before must leave nothing of them
            (frame,) = synthetic_frames(module.spec, count=1, points=points, seed=points)
            ours, theirs = pipeline(frame), reference(frame)
            np.testing.assert_array_equal(ours.label, theirs.label)
            np.testing.assert_allclose(ours.array, theirs.array, atol=1e-3)
            found += len(ours)
    assert found > 50


def test_pillars_are_rounded_up_to_the_step_and_no_further_than_the_limit(network):
    module, between = network
    features = between.inputs[0]
    limit = module.spec.pillar_encoder.max_pillars
    assert [features.round_up(0, count) for count in (1, 513, limit)] == [512, 1024, limit]
    assert between.outputs[0].shape[0] == 1
