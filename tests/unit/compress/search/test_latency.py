"""Predictions from a made-up device whose blocks have known times."""

import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.bench.latency_table import Entry, LatencyTable, MeasuredNetwork
from kd3d.compress.search.blocks import blocks, space_blocks
from kd3d.compress.search.budget import Budgets, parse_latency
from kd3d.compress.search.cost import PillarStats, cost
from kd3d.compress.search.grid import grid_search
from kd3d.compress.search.latency import LatencyModel
from kd3d.compress.search.roofline import Roofline, parse_roofline
from kd3d.compress.search.space import Choice, Space, scaled
from kd3d.compress.search.verify import check_table, verify
from kd3d.compress.search.write_blocks import spanning_networks
from kd3d.detectors.presets import preset
from kd3d.errors import BudgetError, DataError, UsageError
from kd3d.spec import to_json

TINY = preset("world-centerpoint-pillar-tiny")
SPACE = Space(encoder=(0.5, 1.0), backbone=(0.5, 1.0), neck=(0.5, 1.0), head=(0.5, 1.0), cell=(1.0,))
OVERHEAD = 0.05


def stats(spec):
    return PillarStats(200.0, 600.0)


def block_ms(block):
    return OVERHEAD + 0.01 + block.macs_padded * 2e-7 + block.elements * 1e-6


def true_ms(spec, factor):
    """A network as this device runs it: fusion saves a share of each block, and a call costs its overhead once."""
    return OVERHEAD + 0.3 + sum((block_ms(block) - OVERHEAD) * factor for block in blocks(spec, 200))


def table(factor=0.9, networks=8, **changes):
    found = space_blocks(TINY, SPACE, stats=stats)
    entries = {
        block.key: Entry(
            block.family, block.kind, block.macs, block.macs_padded, block.elements, block_ms(block), 1.0, 0.0, 9
        )
        for block in found.blocks
    }
    specs = spanning_networks(TINY, SPACE, stats=stats, count=networks) if networks else []
    measured = tuple(MeasuredNetwork(to_json(spec), 200, true_ms(spec, factor), 1.0, 0.0, 9) for spec in specs)
    made = LatencyTable("Somewhere", "onnxruntime-cpu", "fp32", entries, OVERHEAD, {}, "1", 1, measured, found.pillars)
    return replace(made, **changes)


@pytest.fixture(scope="module")
def model():
    return LatencyModel(table())


def test_a_student_of_the_space_is_predicted_from_measured_blocks(model):
    spec = scaled(TINY, Choice(backbone=0.5, head=0.5))
    found = model.explain(spec)
    assert found.ms == pytest.approx(true_ms(spec, 0.9), rel=0.01)
    assert found.exact == pytest.approx(1) and found.interpolated == ()
    assert model.fit_error < 0.02


def test_a_student_between_measured_widths_is_interpolated_and_says_so(model):
    spec = scaled(TINY, Choice(backbone=0.75, neck=0.75))
    found = model.explain(spec)
    assert found.ms == pytest.approx(true_ms(spec, 0.9), rel=0.03)
    assert found.exact < 1 and any(name.startswith("level") for name in found.interpolated)


def test_without_whole_networks_the_blocks_and_one_overhead_are_summed():
    model = LatencyModel(table(networks=0))
    spec = scaled(TINY, Choice(head=0.5))
    assert model.fit_error is None
    assert model.predict(spec) == pytest.approx(true_ms(spec, 1.0) - 0.3)


def test_whole_networks_correct_the_sum():
    spec = scaled(TINY, Choice(backbone=0.5))
    slow, fast = (LatencyModel(table(factor)).predict(spec) for factor in (1.2, 0.8))
    assert slow == pytest.approx(true_ms(spec, 1.2), rel=0.02)
    assert fast == pytest.approx(true_ms(spec, 0.8), rel=0.02)


@settings(max_examples=15, deadline=None)
@given(widths=st.tuples(*[st.integers(1, 12)] * 4), part=st.integers(0, 3))
def test_a_wider_part_is_never_faster(widths, part):
    """All widths off the table, so that all blocks are interpolated."""
    model = LatencyModel(table(networks=0))
    model.table = replace(model.table, entries={})
    names = ("encoder", "backbone", "neck", "head")

    def at(values):
        return model.predict(
            scaled(TINY, Choice(**{k: v / 16 for k, v in zip(names, values, strict=True)}), multiple=1)
        )

    more = tuple(value + 2 * (place == part) for place, value in enumerate(widths))
    assert at(more) >= at(widths) - 1e-9


def test_a_family_that_the_table_lacks_is_named(model):
    deeper = replace(TINY, backbone=replace(TINY.backbone, layers=(9, 1)))
    with pytest.raises(DataError, match="has no block of the family 'level 64x64 stride 1 further 9'"):
        model.predict(deeper)


def test_a_grid_that_the_table_lacks_is_named(model):
    with pytest.raises(DataError, match="knows no number of pillars for a grid of 32x32 of 3"):
        model.predict(scaled(TINY, Choice(cell=2.0)))


def test_a_network_of_another_format_is_refused():
    odd = MeasuredNetwork({"name": "x"}, 100, 5.0, 6.0, 0.0, 9)
    with pytest.raises(DataError, match="a whole network of the latency table cannot be read"):
        LatencyModel(replace(table(networks=0), networks=(odd,)))


def test_ten_thousand_students_are_predicted_in_seconds(model):
    specs = [scaled(TINY, choice) for choice in list(SPACE.choices(TINY))[:64]]
    for spec in specs:
        model.predict(spec)
    began = time.process_time()
    for _ in range(10):
        for spec in specs:
            model.predict(spec)
    assert (time.process_time() - began) / 640 < 1e-3


@pytest.mark.parametrize(
    ("text", "value", "relative"),
    [("20ms", 20, False), ("0.02s", 20, False), ("500us", 0.5, False), ("50%", 0.5, True)],
)
def test_latency_budgets_are_read(text, value, relative):
    found = parse_latency(text)
    assert found.value == pytest.approx(value) and found.relative is relative


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("20", "not understood. Write a time"),
        ("0ms", "must be above 0"),
        ("120%", "more than the teacher"),
        ("-3ms", "not"),
    ],
)
def test_latency_budgets_that_make_no_sense_are_refused(text, says):
    with pytest.raises(UsageError, match=says):
        parse_latency(text)


def test_a_search_keeps_to_latency_and_to_the_other_budgets(model):
    budgets = Budgets.parse(latency="90%", params="70%")
    found = grid_search(TINY, SPACE, budgets, stats=stats, latency=model)
    limit, params = 0.9 * model.predict(TINY), 0.7 * cost(TINY, stats(TINY)).params
    assert found and all(one.latency_ms <= limit and one.cost.params <= params for one in found)
    assert all(one.latency_ms == model.predict(one.spec) for one in found)
    loose = grid_search(TINY, SPACE, Budgets.parse(params="70%"), stats=stats, latency=model)
    assert len(loose) > len(found)
    limits = budgets.limits(cost(TINY, stats(TINY)), 10.0).to_json()
    assert limits["latency_ms"] == {"text": "90%", "limit": 9.0}


def test_an_infeasible_latency_says_what_the_fastest_takes(model):
    with pytest.raises(BudgetError) as error:
        grid_search(TINY, SPACE, Budgets.parse(latency="1us"), stats=stats, latency=model)
    fastest = min(model.predict(scaled(TINY, choice)) for choice in SPACE.choices(TINY))
    assert f"the fastest a predicted latency of {fastest:.3g} ms" in str(error.value)
    assert "1us of latency (0.001 ms)" in str(error.value)


def test_a_latency_budget_needs_a_table():
    with pytest.raises(UsageError, match="needs measured blocks"):
        grid_search(TINY, SPACE, Budgets.parse(latency="20ms"), stats=stats)
    limits = Budgets.parse(latency="20ms").limits(cost(TINY, stats(TINY)), 1.0)
    with pytest.raises(UsageError, match="no latency was predicted"):
        limits.fits(cost(TINY, stats(TINY)))


def test_a_table_of_another_runtime_device_or_precision_is_refused():
    made = table(networks=0)
    assert check_table(made, runtime="onnxruntime-cpu", device="some") is made
    with pytest.raises(UsageError, match="of the runtime onnxruntime-cpu, not tensorrt"):
        check_table(made, runtime="tensorrt")
    with pytest.raises(UsageError, match="of the device 'Somewhere', not 'orin'"):
        check_table(made, device="orin")
    with pytest.raises(UsageError, match="of precision fp16, but students are fp32"):
        check_table(replace(made, precision="fp16"))


def test_a_device_that_is_elsewhere_is_not_measured(model):
    found = verify(model, TINY)
    assert found.measured_ms is None and found.error is None
    assert "the table is of Somewhere, this machine is" in found.note


def test_a_roofline_takes_the_higher_ceiling_of_each_stage():
    price = cost(TINY, stats(TINY))
    compute = Roofline(1e-3, 1e9).estimate_ms(price)
    memory = Roofline(1e9, 1e-3).estimate_ms(price)
    assert compute == pytest.approx(2 * price.macs / 1e9 * 1e3, rel=1e-3)
    assert memory == pytest.approx(2 * (price.read_elements + price.written_elements) / 1e6 * 1e3, rel=1e-3)
    assert Roofline(1e-3, 1e-3).estimate_ms(price) >= max(compute, memory) * 0.999


def test_rooflines_are_read_or_refused():
    assert parse_roofline("85,204.8") == Roofline(85.0, 204.8, 16)
    assert parse_roofline("170,204.8,8").bits == 8
    for text in ("3", "a,b", "1,2,3,4"):
        with pytest.raises(UsageError, match="is not understood"):
            parse_roofline(text)
    with pytest.raises(UsageError, match="a roofline needs ceilings above 0"):
        parse_roofline("0,5")
