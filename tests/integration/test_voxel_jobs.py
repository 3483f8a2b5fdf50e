"""A voxel detector on a tiny generated world: trained, searched, distilled to a voxel and to a pillar student."""

from __future__ import annotations

import json
import math

import pytest

from kd3d.cli import main as program

TINY = "world-centerpoint-voxel-tiny"
STEPS = ("--steps", "2", "--batch-size", "2", "--workers", "0")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    out = tmp_path_factory.mktemp("world") / "data"
    assert program.run(["data", "synth", "--out", str(out), "--scenes", "2", "--samples", "2", "--seed", "3",
                        "--no-cameras"]) == 0  # fmt: skip
    return out


@pytest.fixture(scope="module")
def teacher(world, tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "run"
    assert program.run(["train", "--preset", TINY, "--data", str(world), "--out", str(out), *STEPS]) == 0
    return out


def test_train_leaves_a_model_that_says_what_it_is(teacher):
    spec = json.loads((teacher / "model" / "spec.json").read_text())
    assert spec["encoder"]["kind"] == "voxel"
    assert json.loads((teacher / "metrics.json").read_text())["step"] == 2


def test_info_measures_the_sites_of_the_data(world, kd3d):
    found = kd3d("info", TINY, "--data", world)
    assert found["statistics"] == f"measured on {world}"
    assert {"voxel_input", "voxel0", "voxel1", "voxel2", "voxel_out"} <= {stage["name"] for stage in found["stages"]}


@pytest.mark.parametrize(("student", "recipe"), [(TINY, "sparsekd"), ("world-centerpoint-pillar-tiny", "unidistill")])
def test_a_voxel_teacher_teaches_voxels_and_pillars(world, teacher, kd3d, tmp_path, student, recipe):
    out = tmp_path / "student"
    kd3d(
        "distill", "--teacher", teacher, "--student", student, "--recipe", recipe, "--data", world, "--out", out, *STEPS
    )
    (log,) = out.rglob("metrics.jsonl")
    losses = [value for line in log.read_text().splitlines() if (value := json.loads(line).get("loss")) is not None]
    assert losses
    assert all(math.isfinite(loss) for loss in losses)


def test_compress_makes_a_narrower_voxel_student(world, teacher, kd3d, tmp_path):
    out = tmp_path / "small"
    kd3d(
        "compress", "--teacher", teacher, "--data", world, "--budget-flops", "50%", "--widths", "0.5,1", "--cells", "1",
        "--depths", "1", "--out", out, *STEPS,
    )  # fmt: skip
    meta = json.loads((out / "student" / "meta.json").read_text())
    assert len(meta["sparse_stats"]["sites"]) == 4
    assert kd3d("info", out)["statistics"] == "stored with the model"
