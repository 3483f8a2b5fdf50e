"""What only a CUDA device can show. Run with ``pytest -m gpu``; skipped, with the reason, where there is none."""

import pytest
import torch
from training_frames import MemoryDataset, frame_of

from kd3d.detectors.batch import prepare
from kd3d.detectors.build import build
from kd3d.detectors.decode import decode_batch
from kd3d.detectors.presets import preset
from kd3d.training.loop import train
from kd3d.training.settings import TrainSettings

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device: torch.cuda.is_available() is false"),
]
TINY = preset("world-centerpoint-pillar-tiny")


def test_head_maps_and_boxes_equal_those_of_the_processor():
    torch.manual_seed(0)
    module = build(TINY).eval()
    batch = prepare([frame_of(1), frame_of(2)], TINY)
    with torch.no_grad():
        here = module(batch).heads
        there = module.cuda()(batch.to("cuda")).heads
    for ours, theirs in zip(here, there, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert torch.allclose(a, b.cpu(), atol=5e-3), (a - b.cpu()).abs().max()
    assert [len(boxes) for boxes in decode_batch(here, TINY)] == [len(boxes) for boxes in decode_batch(there, TINY)]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_training_learns_in_every_precision(precision, tmp_path):
    torch.manual_seed(0)
    dataset = MemoryDataset([frame_of(seed) for seed in range(4)])
    settings = TrainSettings(steps=40, batch_size=4, precision=precision, workers=0, log_every=5, norm_momentum=0.1)
    result = train(build(TINY).cuda(), dataset, settings=settings, run=tmp_path)
    losses = [line["loss"] for line in result.history if "loss" in line]
    assert losses[-1] < losses[0] / 3
