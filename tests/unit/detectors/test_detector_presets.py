"""Published sizes, and the budgets of the generated world's own detectors."""

import pytest
import torch
from torch import nn

from kd3d.detectors.build import build
from kd3d.detectors.presets import PRESETS, describe, preset
from kd3d.errors import UsageError
from kd3d.spec import DetectorSpec, from_json, to_json


def parameters(module: nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters())


def gmacs(spec: DetectorSpec, *, pillars: int) -> dict[str, float]:
    """Multiply-accumulates counted on the built network by hooks, per part, in 1e9."""
    found: dict[str, float] = {}
    module = build(spec).eval().to("meta")

    def hook(name: str):
        def count(layer, inputs, output):
            area = 1
            if isinstance(layer, nn.Conv2d):
                area = output.shape[2] * output.shape[3]
            elif isinstance(layer, nn.ConvTranspose2d):
                area = inputs[0].shape[2] * inputs[0].shape[3]
            elif isinstance(layer, nn.Linear):
                area = inputs[0].shape[0]
            found[name] = found.get(name, 0.0) + layer.weight.numel() * area / 1e9

        return count

    for name, layer in module.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)):
            layer.register_forward_hook(hook(name.split(".")[0]))
    features = torch.zeros(pillars, spec.encoder.max_points, spec.point_inputs, device="meta")
    index = torch.zeros(pillars, dtype=torch.int64, device="meta")
    module.forward_tensors(features, index, index)
    return found


@pytest.mark.parametrize(
    ("suffix", "cells"), [("", 464), ("-v0.4", 368), ("-v0.48", 312), ("-v0.64", 232), ("-pcdet", 468)]
)
def test_the_waymo_family_has_the_published_parameters_and_grids(suffix, cells):
    spec = preset(f"waymo-centerpoint-pillar{suffix}")
    module = build(spec)
    assert (spec.grid.ny, spec.grid.nx) == (cells, cells)
    assert (spec.output_grid.ny, spec.output_grid.nx) == (cells, cells)
    assert parameters(module) == 5_224_043
    parts = [parameters(part) for part in (module.encoder, module.backbone, module.head)]
    assert parts == [4_640, 4_806_400, 413_003]


def test_the_nuscenes_detector_has_the_published_parameters():
    spec = preset("nuscenes-centerpoint-pillar")
    assert parameters(build(spec)) == 5_989_030
    assert (spec.output_grid.ny, spec.output_grid.nx) == (128, 128)


def test_the_waymo_teacher_has_the_published_dense_macs():
    # SparseKD's 220.149 G counts the head's 395 biases per cell as well; kd3d counts multiplications only.
    found = gmacs(preset("waymo-centerpoint-pillar"), pillars=1)
    assert found["backbone"] + found["head"] + 395 * 464 * 464 / 1e9 == pytest.approx(220.149, abs=1e-3)


def test_the_world_teacher_keeps_its_budget_and_the_student_is_a_quarter_of_it():
    teacher, student = preset("world-centerpoint-pillar"), preset("world-centerpoint-pillar-small")
    large, small = sum(gmacs(teacher, pillars=8000).values()), sum(gmacs(student, pillars=8000).values())
    assert 4 < large <= 6
    assert 0.20 <= small / large <= 0.25
    assert sum(t.numel() * t.element_size() for t in build(teacher).state_dict().values()) <= 8_000_000


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_preset_is_named_described_and_survives_json(name):
    spec = preset(name)
    assert spec.name == name
    assert describe(name)
    assert from_json(DetectorSpec, to_json(spec)) == spec


def test_an_unknown_preset_is_refused_with_the_known_names():
    with pytest.raises(UsageError, match=r"no preset 'nope'; the presets are kitti-centerpoint-pillar, "):
        preset("nope")
