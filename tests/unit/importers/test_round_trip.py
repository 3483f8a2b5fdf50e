"""A detector of kd3d, written as OpenPCDet writes it and imported again, is the same detector."""

import numpy as np
import pytest
import torch
from foreign_clouds import generated_cloud
from foreign_world import write_openpcdet

from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.presets import preset
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.importers.request import import_file
from kd3d.runtime.frames import Frame


@pytest.mark.parametrize("name", ["world-centerpoint-pillar-tiny", "world-centerpoint-pillar-six-tasks"])
def test_the_boxes_of_an_exported_and_imported_detector_are_the_same_bit_for_bit(name, tmp_path):
    spec = preset(name)
    torch.manual_seed(5)
    module = build(spec).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean, std=0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    for branches in module.head.tasks:
        torch.nn.init.normal_(branches.hm.out.weight, std=0.2)
    made = import_file(write_openpcdet(tmp_path / "x.pth", module), like=name).model
    assert made.spec.decode == spec.decode and made.spec.head == spec.head and made.spec.encoder == spec.encoder
    cloud = generated_cloud()
    frame = Frame("t", cloud, spec.points.features, None, spec.head.classes, np.eye(4), np.eye(4))
    ours, theirs = (TorchPipeline(model)(frame) for model in (Model(spec, module, {}), made))
    assert len(ours) > 20
    assert np.array_equal(ours.array, theirs.array, equal_nan=True)
    assert np.array_equal(ours.score, theirs.score) and np.array_equal(ours.label, theirs.label)
