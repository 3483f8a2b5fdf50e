"""CP-Voxel-XS on the real nuScenes key frame: ONNX Runtime gives torch's maps. Skipped where the data is absent."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.detectors.voxel_batch import VoxelBatch
from kd3d.export.graph import write_graph
from kd3d.runtime.frames import Frame
from kd3d.runtime.pipeline import load_pipeline
from kd3d.runtime.points import NUSCENES_COLUMNS, read_points
from kd3d.spec import PointSpec


@pytest.mark.slow
def test_onnx_runtime_gives_torchs_maps_on_the_key_frame(shared_data, tmp_path):
    files = sorted((shared_data / "nuscenes_keyframe").glob("*.pcd.bin"))
    if not files:
        pytest.skip(f"the nuScenes key frame is not in {shared_data / 'nuscenes_keyframe'}; set KD3D_SHARED")
    spec = replace(
        preset("waymo-centerpoint-voxel-xs"),
        points=PointSpec(features=("x", "y", "z", "intensity", "time_lag"), intensity="unit"),
    )
    torch.manual_seed(0)
    module = build(spec).eval()
    path = tmp_path / "model.onnx"
    write_graph(module, spec, path, opset=20, pillars=None, weights_sha256="")
    points = read_points(files[0], NUSCENES_COLUMNS)
    frame = Frame("key", points, NUSCENES_COLUMNS, None, (), np.eye(4), np.eye(4), None, None)
    with load_pipeline(path) as pipeline:
        feeds = pipeline.pre(frame)
        got = pipeline.network(feeds)
    assert len(feeds["features"]) > 10_000
    batch = VoxelBatch.from_feeds(feeds, spec.encoder)
    with torch.inference_mode():
        wanted = module.forward_tensors(batch.features, *batch.tables, batch.cells)
    for map_, one in zip(got.values(), wanted, strict=True):
        np.testing.assert_allclose(map_, one.numpy(), rtol=0, atol=1e-4 * max(1.0, float(one.abs().max())))
