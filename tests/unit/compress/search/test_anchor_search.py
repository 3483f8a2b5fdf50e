"""Students of detectors with anchor heads: everything narrows but the head's outputs."""

import pytest

from kd3d.compress.search.budget import Budgets
from kd3d.compress.search.cost import PillarStats, cost
from kd3d.compress.search.cost_sparse import SparseStats
from kd3d.compress.search.space import Choice, Space, scaled
from kd3d.compress.search.students import find_students
from kd3d.detectors.presets import preset
from kd3d.spec import VoxelEncoderSpec

SPACE = Space(encoder=(0.5, 1.0), backbone=(0.5, 1.0), neck=(0.5, 1.0), depth=(1.0,), cell=(1.0, 2.0))
SITES = SparseStats((1.3e4, 1.2e4, 6e3, 3e3, 2e3), (6e4, 7e4, 4e4, 2e4), (3e4, 2e4, 1e4, 3e3), 1.8e4)


def stats(spec):
    return SITES if isinstance(spec.encoder, VoxelEncoderSpec) else PillarStats(6000, 20000)


@pytest.mark.parametrize("name", ["kitti-pointpillars", "kitti-second"])
def test_students_within_a_quarter_keep_the_anchors_and_differ_in_more_than_their_names(name):
    teacher = preset(name)
    students = find_students(teacher, Budgets.parse(flops="25%"), SPACE, stats=stats)
    assert students.found
    assert len({(one.spec.grid, one.spec.encoder, one.spec.backbone) for one in students.found}) == len(students.found)
    for candidate in students.found:
        assert candidate.spec.head == teacher.head
        assert candidate.choice.head == 1
        assert candidate.cost.macs <= 0.25 * cost(teacher, stats(teacher)).macs


def test_the_head_has_no_axis_so_that_no_width_is_tried_twice():
    anchors, centres = (
        list(SPACE.choices(preset(name))) for name in ("kitti-pointpillars", "kitti-centerpoint-pillar")
    )
    assert len(centres) == len(SPACE.head) * len(anchors)


def test_a_student_on_larger_cells_has_its_anchors_on_the_coarser_map():
    spec = scaled(preset("kitti-pointpillars"), Choice(backbone=0.5, cell=2.0))
    assert (spec.output_grid.nx, spec.output_grid.ny) == (108, 124)
    assert spec.head == preset("kitti-pointpillars").head
    assert spec.name == "kitti-pointpillars-b0.5-c2"
