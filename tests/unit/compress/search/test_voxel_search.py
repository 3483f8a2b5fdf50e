"""The search space of voxel detectors: width per part, depth per sparse stage, cell."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from kd3d.compress.search.budget import Budgets
from kd3d.compress.search.cost import StatsTable, cost
from kd3d.compress.search.cost_sparse import SparseStats
from kd3d.compress.search.grid import grid_search
from kd3d.compress.search.latency import LatencyModel
from kd3d.compress.search.space import Choice, Space, scaled
from kd3d.datasets.sample import Sample
from kd3d.detectors.presets import preset
from kd3d.errors import SpecError, UsageError

TEACHER = preset("world-centerpoint-voxel-small")
SPACE = Space(
    encoder=(0.5, 1.0), backbone=(0.5, 1.0), neck=(1.0,), head=(1.0,), depth=(0.5, 1.0), cell=(1.0, 1.25, 2.0)
)


class _Frames:
    kind, split, tokens = "test", "train", ("a", "b")

    def __len__(self):
        return 2

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        points = rng.uniform((-40, -40, -3, 0, 0), (40, 40, 1, 1, 0.1), (3000, 5)).astype(np.float32)
        return Sample(str(index), points, TEACHER.points.features, None, ())


def test_a_student_is_narrower_in_every_sparse_layer_and_keeps_what_is_not_a_width():
    student = scaled(TEACHER, Choice(encoder=0.5, blocks=(1, 1, 1)))
    assert student.encoder == replace(
        TEACHER.encoder, channels=(8, 16, 24), input_channels=8, out_channels=24, blocks=(1, 1, 1)
    )
    assert student.backbone == replace(TEACHER.backbone)
    assert student.name == "world-centerpoint-voxel-small-e0.5-s1.1.1"


def test_a_coarser_cell_keeps_whole_cells_on_the_coarsest_map():
    for choice in SPACE.choices(TEACHER):
        grid = scaled(TEACHER, choice).grid
        assert grid.nx % 8 == grid.ny % 8 == 0
        assert grid.z_min_m == TEACHER.grid.z_min_m
    assert scaled(TEACHER, Choice(cell=2.0)).grid.nx == 256


def test_depth_is_tried_for_the_sparse_stages_and_leaves_a_block_where_there_was_one():
    found = {choice.blocks for choice in SPACE.choices(TEACHER)}
    assert found == {(), (1, 1, 1)}
    assert {choice.blocks for choice in SPACE.choices(preset("world-centerpoint-pillar-small"))} == {()}


def test_a_search_costs_each_grid_by_its_own_sites():
    table = StatsTable(_Frames())
    found = grid_search(TEACHER, SPACE, Budgets.parse(flops="60%"), stats=table)
    assert found
    limit = 0.6 * cost(TEACHER, table(TEACHER)).macs
    for candidate in found:
        assert isinstance(table(candidate.spec), SparseStats)
        assert candidate.cost == cost(candidate.spec, table(candidate.spec))
        assert candidate.cost.macs <= limit
    assert {candidate.choice.blocks for candidate in found} == {(), (1, 1, 1)}
    fine, coarse = (table(scaled(TEACHER, Choice(cell=cell))).sites[0] for cell in (1.0, 2.0))
    assert coarse < fine


def test_a_cell_that_does_not_tile_names_the_stride_of_the_whole_network():
    with pytest.raises(UsageError, match=r"cells of 7.3 x 0.2 m cannot tile .* stride 8"):
        scaled(TEACHER, Choice(cell=7.3))


def test_latency_tables_are_of_pillars_and_say_so():
    with pytest.raises(SpecError, match="has a voxel encoder, but this works with pillars only"):
        LatencyModel.pillars(SimpleNamespace(_stats=StatsTable(_Frames())), TEACHER)
