"""The torch decoder equals the runtime's."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.detectors.decode import decode_batch
from kd3d.detectors.presets import preset
from kd3d.errors import DataError
from kd3d.runtime.decode import decode
from kd3d.runtime.heads import TaskMaps

TINY = preset("world-centerpoint-pillar-tiny")
SIX = preset("world-centerpoint-pillar-six-tasks")


def random_heads(spec, frames: int, seed: int) -> tuple[TaskMaps, ...]:
    rng, grid = np.random.default_rng(seed), spec.output_grid

    def field(channels, scale, shift=0.0):
        return torch.from_numpy(rng.normal(shift, scale, (frames, channels, grid.ny, grid.nx)).astype(np.float32))

    return tuple(
        TaskMaps(
            field(len(names), 1.5, -3), field(2, 0.4, 0.5), field(1, 3), field(3, 0.5, 0.5), field(2, 1),
            field(2, 2) if spec.head.velocity else None,
        )
        for names in spec.head.tasks
    )  # fmt: skip


def one_frame(heads, index):
    return [TaskMaps(*(None if m is None else m[index].numpy() for m in task)) for task in heads]


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    kernel=st.sampled_from([1, 3]),
    rule=st.sampled_from(["class", "cell"]),
    nms=st.sampled_from(["rotate", "circle", "none"]),
    spec=st.sampled_from([TINY, SIX]),
    velocity=st.booleans(),
)
def test_torch_and_runtime_decode_the_same_boxes(seed, kernel, rule, nms, spec, velocity):
    how = replace(spec.decode, peak_kernel=kernel, top_k_rule=rule, nms=nms, top_k=60, nms_pre=60, nms_post=40)
    spec = replace(spec, decode=how, head=replace(spec.head, velocity=velocity))
    heads = random_heads(spec, 2, seed)
    for index, got in enumerate(decode_batch(heads, spec)):
        wanted = decode(one_frame(heads, index), spec)
        assert len(got) == len(wanted) > 0
        assert np.array_equal(got.label, wanted.label)
        assert np.allclose(got.score, wanted.score, atol=1e-5)
        assert np.allclose(got.array, wanted.array, atol=1e-4, equal_nan=True)


def test_a_single_peak_becomes_one_box_where_the_formula_says():
    grid = TINY.output_grid
    maps = [torch.zeros(1, c, grid.ny, grid.nx) for c in (10, 2, 1, 3, 2, 2)]
    maps[0].fill_(-9)
    maps[0][0, 7, 20, 30] = 2.0
    maps[1][0, :, 20, 30] = torch.tensor([0.25, 0.75])
    maps[2][0, 0, 20, 30] = -1.5
    maps[3][0, :, 20, 30] = torch.tensor([4.0, 2.0, 1.5]).log()
    maps[4][0, :, 20, 30] = torch.tensor([1.0, 0.0])
    maps[5][0, :, 20, 30] = torch.tensor([3.0, -4.0])
    (boxes,) = decode_batch([TaskMaps(*maps)], TINY)
    assert boxes.label.tolist() == [7]
    assert boxes.score[0] == pytest.approx(1 / (1 + np.exp(-2)), abs=1e-6)
    wanted = [30.25 * 1.6 - 51.2, 20.75 * 1.6 - 51.2, -1.5, 4, 2, 1.5, np.pi / 2, 3, -4]
    assert np.allclose(boxes.array[0], wanted, atol=1e-4)


def test_boxes_of_infinite_size_are_dropped_and_nan_heatmaps_refused():
    heads = random_heads(TINY, 1, 0)
    heads[0].dim.fill_(200.0)
    assert len(decode_batch(heads, TINY)[0]) == 0
    heads[0].hm[0, 0, 0, 0] = torch.nan
    with pytest.raises(DataError, match="the heatmap of task 0 holds NaN"):
        decode_batch(heads, TINY)
