import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kd3d.compress.search.cost import PillarStats, StatsTable, cost, measure_stats
from kd3d.compress.search.counter import count
from kd3d.datasets.sample import Sample
from kd3d.detectors.batch import PillarBatch, prepare
from kd3d.detectors.build import build
from kd3d.detectors.fold import folded
from kd3d.detectors.presets import preset
from kd3d.errors import DataError, UsageError
from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec

SUMS = ("params", "macs", "macs_thop", "acts", "weight_elements", "read_elements", "written_elements")
EMPTY = PillarStats(0, 0)
width = st.integers(1, 9)


@st.composite
def specs(draw):
    strides, ups = draw(
        st.sampled_from([((1, 2, 2), (1.0, 2.0, 4.0)), ((2, 2, 1), (0.5, 1.0, 1.0)), ((2, 2, 2), (0.5, 1.0, 2.0))])
    )
    tasks = draw(st.sampled_from([(("a",),), (("a", "b"), ("c",))]))
    cells = draw(st.sampled_from([(16, 16), (16, 24)]))
    return DetectorSpec(
        name="random",
        points=PointSpec(),
        grid=BevGrid(0, 0, -1, cells[0], cells[1], 1, 1.0),
        encoder=PillarEncoderSpec(
            draw(st.sampled_from([(5,), (6, 7), (4, 2, 3)])), draw(st.integers(1, 6)), 40,
            draw(st.sampled_from(["hard", "dynamic"])),
        ),
        backbone=BevBackboneSpec(
            strides, draw(st.tuples(*[st.integers(0, 2)] * 3)), draw(st.tuples(width, width, width)), ups,
            draw(st.tuples(width, width, width)),
        ),
        head=CenterHeadSpec(tasks, draw(width), draw(width), draw(st.booleans())),
        decode=DecodeSpec(1, 50, 0.1, (-9, -9, -9, 9, 9, 9), "none", (0.2,) * len(tasks), 50, 50),
    )  # fmt: skip


def batch_of(spec, pillars=23):
    generator = torch.Generator().manual_seed(pillars)
    counts = torch.randint(1, spec.encoder.max_points + 1, (pillars,), generator=generator)
    cells = torch.randperm(spec.grid.nx * spec.grid.ny, generator=generator)[:pillars]
    if spec.encoder.mode == "hard":
        return PillarBatch(torch.randn(pillars, spec.encoder.max_points, spec.point_inputs), counts, cells, 1)
    points = int(counts.sum())
    return PillarBatch(torch.randn(points, spec.point_inputs), counts, cells, 1, torch.repeat_interleave(counts))


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(specs())
def test_the_analytic_cost_equals_what_is_counted_on_the_built_network(spec):
    batch = batch_of(spec)
    stats = PillarStats(len(batch.counts), int(batch.counts.sum()))
    expected = count(build(spec), batch)
    found = cost(spec, stats)
    canvas = spec.encoder.filters[-1] * spec.grid.nx * spec.grid.ny  # scattered, not written by a layer
    seen = replace(
        found, stages=(), weight_elements=0, peak_elements=0,
        read_elements=found.read_elements - found.weight_elements, written_elements=found.written_elements - canvas,
    )  # fmt: skip
    assert seen == expected
    for name in SUMS:
        assert sum(getattr(stage, name) for stage in found.stages) == getattr(found, name)


@settings(max_examples=10, deadline=None)
@given(specs())
def test_the_weights_are_those_of_the_network_with_its_norms_folded(spec):
    stored = sum(parameter.numel() for parameter in folded(build(spec)).parameters())
    assert cost(spec, EMPTY).weight_elements == stored


def test_counting_leaves_the_network_as_it_was():
    spec = preset("world-centerpoint-pillar-tiny")
    module = build(spec).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    count(module, batch_of(spec))
    assert module.training
    assert not any(layer._forward_hooks for layer in module.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def plain(**changes):
    """One level without further convolutions on 4 x 4 cells, one class, and 10 points in 3 pillars."""
    spec = DetectorSpec(
        name="plain",
        points=PointSpec(),
        grid=BevGrid(0, 0, -1, 4, 4, 1, 1.0),
        encoder=PillarEncoderSpec((2,), 5, 40, "dynamic"),
        backbone=BevBackboneSpec((2,), (0,), (3,), (1.0,), (8,)),
        head=CenterHeadSpec((("a",),), 5, 6),
        decode=DecodeSpec(1, 50, 0.1, (-9, -9, -9, 9, 9, 9), "none", (0.2,), 50, 50),
    )
    return cost(replace(spec, **changes), PillarStats(3, 10))


def test_memory_traffic_and_weights_by_hand():
    stages = {stage.name: stage for stage in plain().stages}
    encoder, level, up = stages["encoder"], stages["level0"], stages["up0"]
    assert (encoder.weight_elements, encoder.read_elements, encoder.written_elements) == (22, 100 + 22, 20 + 2 * 16)
    assert (level.weight_elements, level.read_elements, level.written_elements) == (57, 2 * 16 + 57, 3 * 4)
    assert (up.weight_elements, up.read_elements, up.written_elements) == (32, 3 * 4 + 32, 8 * 4)


def test_the_peak_is_the_largest_sum_of_tensors_that_are_still_needed():
    # After the scatter: 20 point features and a map of 32, read by the level that writes 12.
    # In the head: the shared map of 20, the outputs of 2 + 1 + 3 + 2 channels on 4 cells, and a hidden map of 24.
    assert plain().peak_elements == 20 + 8 * 4 + 24
    wide = plain(encoder=PillarEncoderSpec((20,), 5, 40, "dynamic"))
    assert wide.peak_elements == 10 * 20 + 16 * 20 + 12


def test_memory_in_bytes_is_rounded_up():
    found = plain()
    assert found.weight_bytes() == 2 * found.weight_elements
    assert found.weight_bytes(8) == found.weight_elements
    assert found.peak_activation_bytes(32) == 4 * found.peak_elements
    assert replace(found, weight_elements=3).weight_bytes(4) == 2
    with pytest.raises(UsageError, match="bits per number must be at least 1, not 0"):
        found.weight_bytes(0)


def test_an_encoder_slot_of_the_waymo_nets_is_4640_operations_and_96_activations():
    spec = preset("waymo-centerpoint-pillar")
    encoder = cost(spec, PillarStats(1 / spec.encoder.max_points, 1)).stages[0]
    assert (encoder.name, encoder.macs_thop, encoder.acts, encoder.params) == ("encoder", 4640, 96, 4640)


class Frames:
    """A data set in memory that counts how often it is read."""

    classes = ("car",)

    def __init__(self, sizes):
        self.sizes, self.reads = sizes, 0

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        self.reads += 1
        generator = torch.Generator().manual_seed(index)
        points = torch.rand(self.sizes[index], 5, generator=generator).numpy() * 100 - 50
        points[:, 2] /= 50
        return Sample(f"t{index}", points, ("x", "y", "z", "intensity", "time_lag"), None, ("car",))


def test_statistics_are_means_over_frames_through_the_detectors_own_pillars():
    spec = preset("world-centerpoint-pillar-tiny")
    frames = Frames([100, 300, 0])
    batches = [prepare([frames[index]], spec) for index in (0, 1)]
    stats = measure_stats(frames, spec, n=3)
    assert stats.pillars == pytest.approx(sum(len(batch.counts) for batch in batches) / 3)
    assert stats.points == pytest.approx(sum(int(batch.counts.sum()) for batch in batches) / 3)


def test_statistics_are_measured_once_per_grid():
    spec = preset("world-centerpoint-pillar-tiny")
    frames = Frames([50] * 40)
    table = StatsTable(frames, n=4)
    first = table(spec)
    assert table(replace(spec, head=replace(spec.head, shared_channels=8))) == first
    assert table(replace(spec, grid=replace(spec.grid, cell_m=3.2))).pillars < first.pillars
    assert frames.reads == 4


def test_a_full_export_counts_every_slot():
    spec = preset("world-centerpoint-pillar-tiny")
    assert PillarStats.full(spec) == PillarStats(3000, 30000)


def test_an_empty_data_set_cannot_be_measured():
    with pytest.raises(DataError, match="no frames, so pillars per frame cannot be measured"):
        measure_stats(Frames([]), preset("world-centerpoint-pillar-tiny"))


def test_the_analytic_cost_needs_no_torch():
    code = "import sys; import kd3d.compress.search.grid, kd3d.compress.search.space; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
