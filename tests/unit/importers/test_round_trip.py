"""A detector of kd3d, written as OpenPCDet writes it and imported again, is the same detector."""

import numpy as np
import pytest
import torch
from foreign_boxes import assert_same_boxes
from foreign_clouds import assert_close, generated_cloud, maps_of

from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.presets import preset
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.errors import SpecError
from kd3d.importers.openpcdet_file import write_openpcdet
from kd3d.importers.request import import_file
from kd3d.runtime.frames import Frame


def trained(name):
    """Random weights with norms that do something and heads that find something."""
    torch.manual_seed(5)
    module = build(preset(name)).eval()
    for part in module.modules():
        if isinstance(part, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            torch.nn.init.normal_(part.running_mean, std=0.2)
            torch.nn.init.uniform_(part.running_var, 0.5, 1.5)
    for branches in module.head.tasks:
        torch.nn.init.normal_(branches.hm.out.weight, std=0.2)
    return Model(preset(name), module, {})


@pytest.mark.parametrize(
    "name", ["world-centerpoint-pillar-tiny", "world-centerpoint-pillar-six-tasks", "world-centerpoint-voxel-tiny"]
)
def test_an_exported_and_imported_detector_gives_the_same_maps_and_boxes(name, tmp_path):
    model = trained(name)
    spec = model.spec
    checkpoint, config = write_openpcdet(tmp_path / "pcdet", model)
    made = import_file(checkpoint, config=config, like=name).model
    assert made.spec.decode == spec.decode and made.spec.head == spec.head
    assert (made.spec.encoder, made.spec.backbone, made.spec.grid) == (spec.encoder, spec.backbone, spec.grid)
    assert (made.spec.points.intensity, spec.points.intensity) == ("raw", "unit")
    assert made.spec.points.sweeps == spec.points.sweeps
    cloud = generated_cloud()
    theirs, ours = maps_of(model, cloud), maps_of(made, cloud)
    assert all(assert_close(ours[key], value, key) is None for key, value in theirs.items())
    frame = Frame("t", cloud, spec.points.features, None, spec.head.classes, np.eye(4), np.eye(4))
    native = TorchPipeline(model)(frame)
    assert len(native) > 20
    assert_same_boxes(TorchPipeline(made)(frame), (native.array, native.score, native.label), most_lost=2)


def test_a_decoding_that_openpcdet_has_is_in_its_configuration(tmp_path):
    model = trained("waymo-centerpoint-voxel-xxs")
    made = import_file(*write_openpcdet(tmp_path, model)[:1], config=tmp_path / "model.yaml").model
    assert made.spec.decode == model.spec.decode and made.spec.points == model.spec.points
    assert all(torch.equal(a, b) for a, b in zip(
        made.module.state_dict().values(), model.module.state_dict().values(), strict=True))  # fmt: skip


@pytest.mark.parametrize(
    ("name", "said"), [("kitti-pointpillars", "has an anchor head; only"), ("kitti-second", "has an anchor head")]
)
def test_what_is_not_a_centerpoint_is_not_written(name, said, tmp_path):
    with pytest.raises(SpecError, match=said):
        write_openpcdet(tmp_path / "x", Model(preset(name), build(preset(name)), {}))
    assert not (tmp_path / "x").exists()


def test_plain_sparse_blocks_are_not_written(tmp_path):
    from dataclasses import replace

    spec = preset("waymo-centerpoint-voxel-xxs")
    plain = replace(spec, encoder=replace(spec.encoder, block="plain", block_bias=False))
    with pytest.raises(SpecError, match="has plain sparse blocks"):
        write_openpcdet(tmp_path / "x", Model(plain, build(plain), {}))
