"""Training, distilling and scoring where the network is on another device than the data (see tests/support).

A CPU plays that device, so this finds tensors that were left behind, not what a real GPU computes.
"""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_frames import MemoryDataset, frame_of

from kd3d.compress import distilling
from kd3d.compress.data import CompressData, predictor
from kd3d.compress.distill.blending import BlendSettings
from kd3d.compress.distill.cache import CacheSettings
from kd3d.compress.distill.registry import CROSS_SCALE, KINDS
from kd3d.compress.distilling import DistillSettings, distill
from kd3d.compress.recipe import Recipe
from kd3d.compress.recipe_file import load_recipe, recipe_names
from kd3d.compress.search.space import Choice, scaled
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.presets import preset
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.training.loop import train
from kd3d.training.settings import TrainSettings

SUPPORT = Path(__file__).resolve().parents[2] / "support" / "virtual_cuda.py"
TINY = preset("world-centerpoint-pillar-tiny")
DATA = MemoryDataset([frame_of(seed) for seed in range(2)])
ONE = TrainSettings(steps=1, batch_size=1, precision="fp32", workers=0, log_every=1)
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument")


@pytest.fixture
def marks(monkeypatch):
    spec = importlib.util.spec_from_file_location("virtual_cuda", SUPPORT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.VirtualCuda(monkeypatch) as found:
        yield found


@pytest.fixture(scope="module")
def teacher():
    torch.manual_seed(5)
    module = build(TINY).eval()
    for task in module.head.tasks:
        task["hm"].out.weight.data *= 20
    return Model(TINY, module, {})


def losses(result):
    return [line["loss"] for line in result.history if "loss" in line]


def test_the_device_refuses_what_a_gpu_refuses(marks):
    there = torch.ones(3).to("cuda")
    assert (there.device, (there * 2).device, there[0].is_cuda) == (torch.device("cuda", 0), there.device, True)
    assert (there.cpu().device, torch.zeros(2, device="cuda").is_cuda) == (torch.device("cpu"), True)
    for wrong in (
        lambda: there + torch.ones(3),
        lambda: torch.cat([there, torch.ones(1)]),
        lambda: torch.ones(3)[there.long()],
    ):
        with pytest.raises(RuntimeError, match="tensors on cuda:0 and cpu"):
            wrong()
    with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor"):
        there.numpy()
    assert (there + torch.tensor(1.0)).is_cuda


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("world-centerpoint-pillar-tiny", "bf16"),
        ("world-centerpoint-voxel-tiny", "fp32"),
        ("world-pointpillars-tiny", "fp32"),
        pytest.param("world-centerpoint-pillar-tiny", "fp32", marks=pytest.mark.slow),
        pytest.param("world-centerpoint-voxel-tiny", "bf16", marks=pytest.mark.slow),
        pytest.param("world-pointpillars-tiny", "bf16", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_detector_trains_and_resumes(marks, name, precision, tmp_path):
    module = build(preset(name)).to("cuda")
    settings = replace(ONE, steps=2, precision=precision, accumulate=2, checkpoint_every=1)
    train(module, DATA, settings=settings, run=tmp_path, stop_at=1)
    result = train(build(preset(name)).to("cuda"), DATA, settings=settings, run=tmp_path)
    assert len(losses(result)) == 2
    assert all(parameter.is_cuda for parameter in result.module.parameters())


@pytest.mark.slow  # the recipes have most of them
@pytest.mark.parametrize("kind", [*KINDS, CROSS_SCALE])
def test_every_signal_teaches(marks, kind, teacher, tmp_path):
    if kind.startswith("anchor"):
        spec = preset("world-pointpillars-tiny")
        teacher = Model(spec, build(spec).eval(), {})
    student = scaled(teacher.spec, Choice(backbone=0.5, cell=2.0 if kind in ("logits", "fitnet") else 1.0))
    recipe = Recipe(logits=0, boxes=0, label_threshold=0.3, more=({"signal": kind},))
    taught(teacher, student, recipe, tmp_path)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_teaches(marks, name, teacher, tmp_path):
    taught(teacher, scaled(TINY, Choice(backbone=0.5)), load_recipe(name), tmp_path)


@pytest.mark.parametrize("mode", ["params", "cut", "interval"])
def test_blended_gradients_stay_on_the_device(marks, mode, teacher, tmp_path):
    recipe = Recipe(features=0.0 if mode == "cut" else 1.0, label_threshold=None, blend=BlendSettings(mode))
    taught(teacher, scaled(TINY, Choice(backbone=0.5)), recipe, tmp_path)


def taught(teacher, student, recipe, run):
    objective = recipe.objective(teacher.module, student)
    module = build(student).to("cuda")
    result = train(module, DATA, settings=replace(ONE, steps=2), run=run, objective=objective)
    assert len(losses(result)) == 2 and all(np.isfinite(losses(result)))


def test_the_whole_of_distill_with_inheritance_control_cache_and_scores(marks, teacher, tmp_path, monkeypatch):
    seen = []

    def score(module, dataset, out, progress=None, *, max_range_m=None):
        seen.append((next(module.parameters()).is_cuda, len(predictor(module)(dataset[0]))))
        return {"mAP": 0.5, "NDS": 0.5}

    monkeypatch.setattr(distilling, "score", score)
    settings = DistillSettings(replace(ONE, steps=2), Recipe(), control=True, cache=CacheSettings(None, 2))
    student = scaled(TINY, Choice(backbone=0.5))
    result = distill(teacher, student, CompressData(DATA, DATA), settings=settings, run=tmp_path, device="cuda")
    assert [on for on, _ in seen] == [True, True]
    assert result.inheritance is not None and result.cache["made"] > 0
    assert not next(result.student.module.parameters()).is_cuda  # as it is read back


@pytest.mark.parametrize("name", ["world-centerpoint-pillar-tiny", "world-centerpoint-voxel-tiny"])
def test_a_torch_pipeline_gives_the_boxes_of_the_processor(marks, name, monkeypatch):
    torch.manual_seed(0)
    module = build(preset(name)).eval()
    for task in module.head.tasks:
        task["hm"].out.weight.data *= 20
    frame = DATA[0]
    here = TorchPipeline(Model(module.spec, module, {}))(frame)
    there = TorchPipeline(Model(module.spec, module, {}), device="cuda")(frame)
    np.testing.assert_allclose(there.array, here.array, atol=1e-5)
