from dataclasses import replace

import pytest

from kd3d.compress.search.budget import Budgets, parse_budget
from kd3d.compress.search.cost import PillarStats, cost
from kd3d.compress.search.grid import grid_search, pareto, prior, shortlist
from kd3d.compress.search.space import Choice, Space, scaled
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import BudgetError, UsageError

TEACHER = preset("world-centerpoint-pillar")


SPACE = Space(encoder=(1.0,), backbone=(0.25, 0.5, 1.0), neck=(0.25, 0.5, 1.0), head=(0.25, 0.5, 1.0))


def stats(spec):
    return PillarStats(4000 / (spec.grid.cell_m / 0.4), 20000)


@pytest.mark.parametrize(
    ("text", "value", "relative"),
    [("25%", 0.25, True), ("85G", 85e9, False), ("2M", 2e6, False), ("1.5e9", 1.5e9, False), (" 3.5k ", 3500, False),
     ("100 %", 1.0, True), ("2t", 2e12, False), (".5G", 5e8, False), ("12", 12, False)],
)  # fmt: skip
def test_budgets_as_they_are_written(text, value, relative):
    budget = parse_budget(text)
    assert (budget.value, budget.relative) == (pytest.approx(value), relative)
    assert budget.limit(1000) == pytest.approx(value * 1000 if relative else value)


@pytest.mark.parametrize("text", ["", "G", "25 percent", "-3M", "1e", "85GB", "nan", "inf", "1,5G", "%"])
def test_nonsense_is_not_a_budget(text):
    with pytest.raises(UsageError, match=r"is not understood. Write a share"):
        parse_budget(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [("0%", "must be above 0"), ("0", "must be above 0"), ("101%", "more than the teacher"), ("1e999", "above 0")],
)
def test_impossible_budgets(text, why):
    with pytest.raises(UsageError, match=why):
        parse_budget(text)


def test_a_budget_is_needed_and_its_convention_known():
    with pytest.raises(UsageError, match="Give --budget-flops, --budget-params, --budget-latency or several"):
        Budgets.parse()
    with pytest.raises(UsageError, match="must be physical or thop, not 'fvcore'"):
        Budgets.parse(flops="25%", convention="fvcore")


def test_all_students_fit_every_budget_and_none_is_listed_twice():
    budgets = Budgets.parse(flops="25%", params="0.4M")
    found = grid_search(TEACHER, SPACE, budgets, stats=stats)
    whole = cost(TEACHER, stats(TEACHER))
    assert len(found) > 100
    for candidate in found:
        assert candidate.cost == cost(candidate.spec, stats(candidate.spec))
        assert candidate.cost.macs <= 0.25 * whole.macs
        assert candidate.cost.params <= 400_000
    assert len({candidate.spec.name for candidate in found}) == len(found)
    assert len({(c.spec.grid, c.spec.encoder, c.spec.backbone, c.spec.head) for c in found}) == len(found)


def test_the_order_is_deterministic_best_prior_first_and_the_best_uses_the_budget():
    budgets = Budgets.parse(flops="25%")
    first = grid_search(TEACHER, SPACE, budgets, stats=stats)
    assert first == grid_search(TEACHER, SPACE, budgets, stats=stats)
    priors = [candidate.prior for candidate in first]
    assert priors == sorted(priors, reverse=True)
    assert first[0].cost.macs > 0.2 * cost(TEACHER, stats(TEACHER)).macs
    build(first[0].spec)


def test_the_prior_narrows_a_head_of_six_tasks_by_the_root_of_six_and_leaves_one_task_even():
    even = Choice(0.5, 0.5, 0.5, 0.5)
    for tasks, factor in ((1, 1.0), (6, 6**-0.5)):
        classes = TEACHER.head.tasks[0]
        head = replace(TEACHER.head, tasks=tuple(classes[task::tasks] for task in range(tasks)))
        teacher = replace(TEACHER, head=head, decode=replace(TEACHER.decode, nms_threshold=(0.2,) * tasks))
        price, limits = cost(teacher, stats(teacher)), Budgets.parse(flops="25%")
        limits = limits.limits(price, None)
        by_width = {
            head: prior(teacher, replace(even, head=head), price, limits=limits)
            for head in (0.5 * factor * by for by in (0.7, 0.9, 1.0, 1.1, 1.4))
        }
        assert max(by_width, key=by_width.__getitem__) == pytest.approx(0.5 * factor)


def test_the_convention_decides_what_is_bound():
    for convention in ("physical", "thop"):
        budgets = Budgets.parse(flops="30%", convention=convention)
        limit = 0.3 * budgets.flops_of(cost(TEACHER, stats(TEACHER)))
        found = grid_search(TEACHER, SPACE, budgets, stats=stats)
        assert max(budgets.flops_of(candidate.cost) for candidate in found) <= limit
        assert budgets.limits(cost(TEACHER, stats(TEACHER))).to_json()["convention"] == convention


def test_a_budget_that_no_student_meets_says_what_the_smallest_costs():
    budgets = Budgets.parse(flops="1M", convention="thop")
    with pytest.raises(
        BudgetError, match=r"1M of MACs \(0.001 G, thop\): the cheapest has 0\.\d+ GMAC \(thop\) with .* M parameters"
    ) as error:
        grid_search(TEACHER, SPACE, budgets, stats=stats)
    assert "Raise the budget" in str(error.value)
    assert error.value.exit_code == 3
    with pytest.raises(BudgetError, match=r"100 of parameters .* the smallest 0\.\d+ M parameters"):
        grid_search(TEACHER, SPACE, Budgets.parse(params="100"), stats=stats)


def test_a_space_whose_cells_do_not_tile_the_range_is_empty():
    small = preset("world-centerpoint-pillar-tiny")
    text = r"the search space is empty: cells of 7, 3.3 times 1.6 m do not tile the range .* Add 1 to the cell sizes."
    with pytest.raises(UsageError, match=text):
        grid_search(small, Space(cell=(7.0, 3.3)), Budgets.parse(flops="50%"), stats=stats)


def test_the_shortlist_gives_every_cell_size_a_turn():
    found = grid_search(TEACHER, SPACE, Budgets.parse(flops="25%"), stats=stats)
    cells = {candidate.choice.cell for candidate in found}
    assert len(cells) > 1
    tried = shortlist(found, len(cells) + 1)
    assert {candidate.choice.cell for candidate in tried[: len(cells)]} == cells
    assert tried[0] == found[0]
    assert shortlist(found, 10**6)[len(found) - 1] in found


def test_the_pareto_front_rises_with_cost():
    found = grid_search(TEACHER, SPACE, Budgets.parse(flops="25%"), stats=stats)
    front = pareto(found, lambda candidate: candidate.prior)
    assert found[0] in front
    assert [c.cost.macs for c in front] == sorted({c.cost.macs for c in front})
    assert [c.prior for c in front] == sorted({c.prior for c in front})


def test_the_teacher_itself_is_the_choice_of_ones():
    assert replace(scaled(TEACHER, Choice()), name=TEACHER.name) == TEACHER


def test_widths_round_to_multiples_and_never_exceed_the_teacher():
    narrow = scaled(TEACHER, Choice(0.5, 0.375, 0.5, 0.25))
    assert narrow.encoder.filters == (24,)
    assert narrow.backbone.channels == (24, 40, 64) or narrow.backbone.channels == (16, 40, 64)
    assert all(width % 8 == 0 for width in (*narrow.backbone.channels, *narrow.backbone.up_channels))
    assert narrow.head.branch_channels == 8
    odd = replace(TEACHER, head=replace(TEACHER.head, shared_channels=5))
    assert scaled(odd, Choice(head=0.5)).head.shared_channels == 5
    assert scaled(TEACHER, Choice(backbone=0.375), multiple=1).backbone.channels == (18, 36, 60)


@pytest.mark.parametrize(("factor", "points", "cells"), [(1.25, 28, 372), (1.5, 36, 308), (2.0, 50, 232)])
def test_larger_cells_keep_the_range_and_get_more_points_as_in_sparsekd(factor, points, cells):
    waymo = preset("waymo-centerpoint-pillar")
    student = scaled(waymo, Choice(cell=factor))
    assert (student.grid.nx, student.grid.ny) == (cells, cells)
    assert student.grid.x_max_m == pytest.approx(74.24, rel=0.02)
    assert student.grid.x_min_m == -student.grid.x_max_m
    assert student.encoder.max_points == points
    assert student.grid.cell_m == pytest.approx(0.32 * factor)


def test_a_range_ahead_of_the_car_keeps_its_start():
    kitti = preset("kitti-centerpoint-pillar")
    student = scaled(kitti, Choice(cell=1.25))
    assert student.grid.x_min_m == kitti.grid.x_min_m == 0
    assert student.grid.y_min_m == -student.grid.y_max_m


def test_a_cell_that_does_not_tile_the_range_is_left_out_or_refused():
    small = preset("world-centerpoint-pillar-tiny")
    factors = {choice.cell for choice in Space(cell=(1.0, 2.0, 3.3)).choices(small)}
    assert factors == {1.0, 2.0}
    with pytest.raises(UsageError, match=r"cells of 3.3 x 1.6 m cannot tile the range"):
        scaled(small, Choice(cell=3.3))


def test_depths_that_round_alike_occur_once():
    choices = list(
        Space(encoder=(1.0,), backbone=(1.0,), neck=(1.0,), head=(1.0,), cell=(1.0,), depth=(0.9, 1.0)).choices(TEACHER)
    )
    assert [choice.layers for choice in choices] == [TEACHER.backbone.layers]


@pytest.mark.parametrize(
    ("values", "text"),
    [({"neck": ()}, "no values for neck"), ({"head": (1.5,)}, "head multipliers .* 0..1"),
     ({"cell": (0.5,)}, "cell multipliers .* 1..8"),
     ({"encoder": (0.0,)}, "encoder multipliers"), ({"multiple": 0}, "multiples of at least 1")],
)  # fmt: skip
def test_spaces_that_make_no_sense(values, text):
    with pytest.raises(UsageError, match=text):
        Space(**values)
