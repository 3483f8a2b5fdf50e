"""The runtime's own writing of Autoware's node: from the folder alone, boxes as an independent one publishes them."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from kd3d.cli.main import run
from kd3d.errors import DataError, UsageError
from kd3d.export import autoware
from kd3d.export.autoware import AutowareSettings, export_autoware
from kd3d.export.gates import Gate
from kd3d.runtime.autoware import AutowareNode, load_autoware
from kd3d.runtime.autoware_rules import NodeRules, node_decode
from kd3d.runtime.frames import write_frames
from kd3d.runtime.pipeline import load_pipeline
from tests.support.autoware_detector import ALL, THRESHOLD, cloud, file_node, frame_of, small, trained_like

RULES = NodeRules(("x", "y", "z"), ("CAR", "BICYCLE", "PEDESTRIAN"), circle_m=0.1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    spec = small(points=ALL, intensity="unit", mode="dynamic")
    model = trained_like(spec)
    model.module.head.tasks[0]["dim"].out.bias.data += 1.3  # large enough to overlap
    out = tmp_path_factory.mktemp("node") / "out"
    chosen = AutowareSettings(name="m", score_threshold=THRESHOLD, yaw_norm=0.4, circle_m=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(autoware, "rtx_gate", lambda *_: Gate("trt-rtx", "skipped", reason="not asked here"))
        export_autoware(model, out, chosen)
    return out


def objects_of(boxes):
    return np.concatenate([boxes.array, boxes.label[:, None], boxes.score[:, None]], axis=1).astype(np.float64)


def require_same(boxes, objects):
    """The same boxes in the same order; yaw up to whole turns."""
    mine = objects_of(boxes)
    assert len(mine) == len(objects)
    order = np.lexsort((objects[:, 0], -objects[:, 10]))
    mine, theirs = mine[np.lexsort((mine[:, 0], -mine[:, 10]))], objects[order]
    turn = (mine[:, 6] - theirs[:, 6] + math.pi) % (2 * math.pi) - math.pi
    assert np.abs(turn).max(initial=0) < 1e-3
    others = [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]
    np.testing.assert_allclose(mine[:, others], theirs[:, others], rtol=1e-4, atol=1e-3)


def test_an_export_gives_the_objects_that_an_independent_node_publishes(folder):
    independent = file_node(folder, "m")
    dropped = 0
    with load_autoware(folder) as node:
        for seed in range(4):
            points = cloud(node.spec, seed)
            published = independent(points, seed=seed, iou=True)
            require_same(node(frame_of(points, node.spec)), published)
            dropped += len(independent(points, seed=seed)) - len(published)
    assert dropped > 3  # suppression by IoU had something to do


def test_every_cell_is_a_candidate_and_no_number_of_boxes_is_too_many(folder):
    with load_autoware(folder) as node:
        cells = node.spec.output_grid.nx * node.spec.output_grid.ny
        assert node.spec.decode.top_k == node.spec.decode.nms_pre == node.spec.decode.nms_post == cells
        assert node.rules == replace(
            node.rules, score_threshold=THRESHOLD, yaw_norm=0.4, circle_m=0.3, iou_reach_m=10.0, iou=0.1
        )
        assert NodeRules.from_json(json.loads(json.dumps(node.rules.to_json()))) == node.rules


class Still:
    """A runner that is never asked."""

    name = device = "none"
    metadata = inputs = outputs = ()


def node_of(rules=RULES):
    spec = node_decode(small(), rules)
    return AutowareNode(spec, rules, runners=(Still(), Still()))


def maps(hm, rot=None):
    shape = hm.shape[1:]
    names = ("hm", "center", "center_z", "dim", "rot", "vel")
    sizes = (None, 2, 1, 3, 2, 2)
    arrays = [hm if size is None else np.zeros((size, *shape), np.float32) for size in sizes]
    arrays[4] = rot if rot is not None else np.stack([np.zeros(shape), np.ones(shape)]).astype(np.float32)
    return {f"task0_{name}": array[None] for name, array in zip(names, arrays, strict=True)}


def test_short_rotation_vectors_give_no_box_only_where_the_node_asks_for_longer_ones():
    hm = np.full((3, 6, 8), -9, np.float32)
    hm[0, 2, 3] = hm[1, 4, 5] = 3
    rot = np.zeros((2, 6, 8), np.float32)
    rot[:, 2, 3], rot[:, 4, 5] = (0.3, 0.4), (0.1, 0.2)
    assert len(node_of().decode(maps(hm, rot))) == 2
    kept = node_of(replace(RULES, yaw_norm=0.3)).decode(maps(hm, rot))
    assert kept.label.tolist() == [0]


def boxes_at(rows):
    from kd3d.geometry.boxes import Boxes3D

    array = np.array([[x, y, 0, length, 2, 1, yaw, 0, 0] for x, y, length, yaw, *_ in rows], np.float32)
    return Boxes3D(array, np.array([row[4] for row in rows]), np.array([row[5] for row in rows], np.float32))


def test_a_box_that_is_suppressed_still_suppresses_and_pedestrians_spare_the_others():
    chain = boxes_at([(0, 0, 4, 0, 0, 0.9), (3, 0, 4, 0, 0, 0.8), (6, 0, 4, 0, 0, 0.7)])
    assert node_of().nms(chain).array[:, 0].tolist() == [0]  # the third goes by the second, which went by the first
    mixed = boxes_at([(0, 0, 4, 0, 0, 0.9), (1, 0, 4, 0, 2, 0.8), (1.5, 0, 4, 0, 2, 0.7), (2, 0, 4, 0, 1, 0.6)])
    assert node_of().nms(mixed).label.tolist() == [0, 2]
    turned = boxes_at([(0, 0, 4, 0, 0, 0.9), (2.5, 0, 4, math.pi / 2, 0, 0.8)])
    assert len(node_of().nms(turned)) == 2  # 0.5 x 2 of 15 square metres
    near = replace(RULES, iou_reach_m=1.0)
    assert len(node_of(near).nms(chain)) == 3


def test_the_indexes_of_damaged_and_older_exports_are_refused(folder, tmp_path):
    import shutil

    def damaged(change):
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        value = json.loads((copy / "pipeline.json").read_text())
        change(value, copy)
        (copy / "pipeline.json").write_text(json.dumps(value))
        return copy

    for match, change in {
        r"does not say what the node does \(key 'node'\).*Export the detector again": lambda v, c: v.pop("node"),
        r"must have two steps with a file, but has 1": lambda v, c: v["steps"].pop(1),
        r"not a pipeline of Autoware's layout in format 2": lambda v, c: v.update(format=3),
        r"columns and class_names must be lists of words": lambda v, c: v["node"].update(columns=[1]),
        r"thresholds must be numbers": lambda v, c: v["node"].update(iou="much"),
        r"names 2 classes of 3": lambda v, c: v["node"]["class_names"].pop(),
        r"no such file, though pipeline\.json names it": lambda v, c: next(c.glob("pts_voxel*")).unlink(),
    }.items():
        with pytest.raises(DataError, match=match):
            load_autoware(damaged(change))
    with pytest.raises(DataError, match="load_autoware runs them"):
        load_pipeline(folder)


def test_a_runner_that_cannot_leave_its_inputs_on_the_device_says_so():
    with pytest.raises(UsageError, match="cannot be timed without the copies"):
        node_of().bound({})


def test_engines_are_left_to_the_node(folder):
    from kd3d.export.trt import read_source

    with pytest.raises(DataError, match=r"its node builds by itself .*kd3d bench --provider tensorrt"):
        read_source(folder)


def test_infer_and_bench_take_the_export_with_the_node_s_stages(folder, tmp_path, capsys):
    spec = load_autoware(folder).spec
    frames = [replace(frame_of(cloud(spec, seed), spec), token=f"t{seed}") for seed in range(3)]
    write_frames(frames, tmp_path / "frames")
    np.save(tmp_path / "one.npy", cloud(spec, 0))
    assert run(["infer", "--model", str(folder), "--points", str(tmp_path / "one.npy"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert len(said["boxes"]) > 2
    assert min(box["score"] for box in said["boxes"]) > THRESHOLD
    quick = ["--iterations", "4", "--warmup", "0", "--warmup-ms", "0", "--no-power", "--no-include-transfers"]
    line = ["bench", str(folder), "--frames", str(tmp_path / "frames"), *quick, "--out", str(tmp_path / "b"), "--json"]
    assert run(line) == 0
    model = json.loads(capsys.readouterr().out.splitlines()[-1])["models"][0]
    assert list(model["stages"]) == ["pre", "encoder", "scatter", "head", "decode", "nms"]
    assert model["layout"] == "autoware"
    assert set(model["files"]) == {"pts_voxel_encoder_m.onnx", "pts_backbone_neck_head_m.onnx"}
    assert model["precision"] == "fp32"
    assert model["pillars_mean"] > 10
    assert model["streaming"]["fps"] > 0
    assert model["network_resident_ms"]["p50"] > 0
    assert run(["infer", "--model", str(folder), "--points", str(tmp_path / "one.npy"), "--cuda-graph"]) == 2
    assert run(["infer", "--model", str(folder), "--points", str(tmp_path / "one.npy"), "--device-stages", "cuda"]) == 2
    assert "Autoware's node has kernels of its own" in capsys.readouterr().err
