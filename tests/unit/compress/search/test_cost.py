import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.compress.search.cost import PillarStats, StatsTable, cost, measure_stats
from kd3d.compress.search.counter import count
from kd3d.datasets.sample import Sample
from kd3d.detectors.batch import PillarBatch, prepare
from kd3d.detectors.build import build
from kd3d.detectors.presets import preset
from kd3d.errors import DataError
from kd3d.geometry.grid import BevGrid
from kd3d.spec import BevBackboneSpec, CenterHeadSpec, DecodeSpec, DetectorSpec, PillarEncoderSpec, PointSpec

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


@settings(max_examples=25, deadline=None)
@given(specs())
def test_the_analytic_cost_equals_what_is_counted_on_the_built_network(spec):
    batch = batch_of(spec)
    stats = PillarStats(len(batch.counts), int(batch.counts.sum()))
    expected = count(build(spec), batch)
    found = cost(spec, stats)
    assert replace(found, stages=()) == expected
    for name in ("params", "macs", "macs_thop", "acts"):
        assert sum(getattr(stage, name) for stage in found.stages) == getattr(found, name)


def test_counting_leaves_the_network_as_it_was():
    spec = preset("world-centerpoint-pillar-tiny")
    module = build(spec).train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    count(module, batch_of(spec))
    assert module.training
    assert not any(layer._forward_hooks for layer in module.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def dense_without_norm(spec):
    """``macs_thop`` of everything after the encoder, without batch norm (2 per element), as C3 lists it."""
    found = cost(spec, EMPTY)
    ny, nx = spec.output_grid.ny, spec.output_grid.nx
    outputs = sum(channels for _, channels in spec.head.branches) * len(spec.head.tasks) + len(spec.head.classes)
    normed = found.acts - outputs * ny * nx
    return found.macs_thop - 2 * normed, 2 * normed


def test_published_waymo_pillar_macs():
    teacher = preset("waymo-centerpoint-pillar")
    dense, norm = dense_without_norm(teacher)
    assert dense / 1e9 == pytest.approx(336.553, abs=1e-3)
    assert norm / 1e9 == pytest.approx(0.565, abs=1e-3)
    assert cost(teacher, EMPTY).macs / 1e9 == pytest.approx(220.149, abs=0.1)
    up = {stage.name: stage for stage in cost(teacher, EMPTY).stages}["up2"]
    assert (up.macs_thop - 2 * up.acts) / 1e9 == pytest.approx(112.877, abs=1e-3)
    assert cost(teacher, EMPTY).acts / 1e6 == pytest.approx(284.837, abs=1e-3)
    assert cost(teacher, EMPTY).params == 5_224_043


@pytest.mark.parametrize(
    ("name", "dense", "slots", "published"),
    [
        ("waymo-centerpoint-pillar-v0.4", 212.052, 193_000, 212.9),
        ("waymo-centerpoint-pillar-v0.64", 84.280, 175_000, 85.1),
        ("waymo-centerpoint-pillar-v0.48", 152.425, None, None),
    ],
)
def test_published_waymo_student_macs(name, dense, slots, published):
    spec = preset(name)
    assert cost(spec, EMPTY).macs_thop / 1e9 == pytest.approx(dense, abs=1e-3)
    if slots:
        stats = PillarStats(slots / spec.encoder.max_points, slots)
        assert cost(spec, stats).macs_thop / 1e9 == pytest.approx(published, abs=0.1)


def test_the_published_v048_row_fits_only_the_308_grid():
    spec = preset("waymo-centerpoint-pillar-v0.48")
    half = 154 * 0.48
    grid = replace(spec.grid, x_min_m=-half, x_max_m=half, y_min_m=-half, y_max_m=half)
    assert cost(replace(spec, grid=grid), EMPTY).macs_thop / 1e9 == pytest.approx(148.542, abs=1e-3)


def test_dense_part_of_the_voxel_family_s_against_teacher():
    def dense(channels, ups, shared):
        spec = preset("waymo-centerpoint-pillar")
        return cost(
            replace(
                spec,
                grid=BevGrid(-75.2, -75.2, -2, 75.2, 75.2, 4, 0.8),
                encoder=replace(spec.encoder, filters=(256,)),
                backbone=BevBackboneSpec((1, 2), (5, 5), channels, (1.0, 2.0), ups),
                head=replace(spec.head, shared_channels=shared, branch_channels=shared),
            ),
            EMPTY,
        )

    teacher, student = dense((128, 256), (256, 256), 64), dense((64, 128), (128, 128), 32)
    assert (teacher.macs_thop - student.macs_thop) / 1e9 == pytest.approx(66.97, abs=0.1)
    assert (teacher.acts - student.acts) / 1e6 == pytest.approx(36.19, abs=0.1)


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
