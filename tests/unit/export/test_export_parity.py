"""The parity comparison: what it accepts, and every way in which it must object."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from kd3d.detectors.presets import preset
from kd3d.export.parity import compare
from kd3d.export.parity_match import FP16_TOLERANCE, INT8_TOLERANCE, DenseBoxes, Tolerance, match
from kd3d.export.probes import probe_frames
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.anchors import dense_anchor_boxes
from kd3d.runtime.decode import candidates, suppress
from kd3d.runtime.heads import AnchorMaps, heads_from_arrays
from tests.support.tiny_anchor import anchor_spec

SPEC = preset("world-centerpoint-pillar-tiny")
FRAMES = probe_frames(SPEC)[:2]
SIDE = SPEC.output_grid.ny


def maps() -> dict[str, np.ndarray]:
    sizes = {"hm": 10, "center": 2, "center_z": 1, "dim": 3, "rot": 2, "vel": 2}
    arrays = {f"task0_{name}": np.zeros((1, size, SIDE, SIDE), np.float32) for name, size in sizes.items()}
    arrays["task0_hm"] -= 8
    arrays["task0_rot"][:, 1] = 1
    for label, row, column in ((0, 10, 10), (3, 30, 40), (8, 50, 20)):
        arrays["task0_hm"][0, label, row, column] = 1.0
    return arrays


@dataclass
class Fixed:
    """A pipeline that gives the same maps for every frame; ``lose`` drops boxes after suppression."""

    arrays: dict[str, np.ndarray]
    spec: Any = SPEC
    lose: int = 0

    def pre(self, frame):
        return {}

    def network(self, feeds):
        return self.arrays

    def decode(self, arrays):
        return candidates(heads_from_arrays(arrays, self.spec), self.spec)

    def nms(self, found):
        boxes = suppress(found, self.spec)
        return boxes.select(np.arange(self.lose, len(boxes)))


def changed(name: str, at, by: float) -> Fixed:
    arrays = maps()
    arrays[f"task0_{name}"][at] += by
    return Fixed(arrays)


def test_equal_pipelines_pass_with_every_box_matched():
    report = compare(Fixed(maps()), Fixed(maps()), FRAMES)
    assert report.passed
    assert (report.frames, report.boxes, report.matched, report.ties) == (2, 12, 12, 0)
    assert report.worst["map"] == 0
    assert report.to_json()["passed"] is True


@pytest.mark.parametrize(
    ("name", "at", "by", "kind"),
    [
        ("center", (0, 0, 10, 10), 0.011 / 1.6, "center_m"),
        ("center_z", (0, 0, 30, 40), -0.011, "center_m"),
        ("dim", (0, 1, 10, 10), math.log(1.011), "size_m"),
        ("rot", (0, 0, 50, 20), math.tan(math.radians(0.11)), "yaw_rad"),
        ("hm", (0, 0, 10, 10), 0.006, "score"),
        ("vel", (0, 1, 10, 10), 0.011, "velocity_m_s"),
    ],
)
def test_each_quantity_has_its_tolerance(name, at, by, kind):
    lax = Tolerance(map=1.0)
    report = compare(Fixed(maps()), changed(name, at, by), FRAMES[:1], tolerance=lax)
    assert not report.passed
    assert "without a partner; the closest is 1." in report.failures[0]
    assert report.failures[0].endswith(f"times the tolerance of {kind} away")
    assert report.matched == report.boxes - 2
    assert compare(Fixed(maps()), changed(name, at, by * 0.8), FRAMES[:1], tolerance=lax).passed


def test_raw_maps_are_compared_where_no_box_is():
    report = compare(Fixed(maps()), changed("dim", (0, 2, 5, 6), 0.01), FRAMES[:1])
    assert report.failures == (
        "generated-empty: task0_dim differs by 0.01 (tolerance 0.001) at (0, 2, 5, 6): reference 0, candidate 0.01",
    )


def test_a_map_with_nan_fails():
    report = compare(Fixed(maps()), changed("vel", (0, 0, 1, 1), np.nan), FRAMES[:1])
    assert "task0_vel differs by inf" in report.failures[0]


def test_a_swapped_peak_of_equal_height_is_a_tie():
    one, other = maps(), maps()
    for arrays, best in ((one, 0), (other, 1)):
        arrays["task0_hm"][0, 2, 20, 20:22] = 2.0
        arrays["task0_hm"][0, 2, 20, 20 + best] += 1e-6
    report = compare(Fixed(one), Fixed(other), FRAMES[:1])
    assert report.passed
    assert report.ties == 2
    assert report.matched == 6


def test_a_candidate_that_loses_boxes_cannot_call_it_a_tie():
    report = compare(Fixed(maps()), Fixed(maps(), lose=1), FRAMES[:1])
    assert "from equal maps the candidate decodes 1 box(es) less and 0 more" in report.failures[-1]


def test_a_box_on_the_threshold_is_a_tie_and_one_below_the_floor_is_not_asked_about():
    edge = math.log(SPEC.decode.score_threshold / (1 - SPEC.decode.score_threshold))
    one = maps()
    one["task0_hm"][0, 5, 5, 5] = edge + 1e-4
    other = maps()
    other["task0_hm"][0, 5, 5, 5] = edge - 1e-4
    assert compare(Fixed(one), Fixed(other), FRAMES[:1]).ties == 0
    strict = compare(Fixed(one), Fixed(other), FRAMES[:1], tolerance=Tolerance(floor=0.04))
    assert strict.passed
    assert strict.ties == 1


def headings(length: float, degrees: float) -> Fixed:
    """The three boxes, with (sin, cos) vectors of ``length`` turned by ``degrees``."""
    arrays = maps()
    turn = math.radians(degrees)
    arrays["task0_rot"][0, 0], arrays["task0_rot"][0, 1] = length * math.sin(turn), length * math.cos(turn)
    return Fixed(arrays)


@pytest.mark.parametrize(("tolerance", "degrees"), [(FP16_TOLERANCE, 0.5), (INT8_TOLERANCE, 10.0)])
def test_the_heading_of_a_short_vector_may_turn_farther_and_is_counted(tolerance, degrees):
    lax = replace(tolerance, map=10.0)
    for length in (0.6, 1.0, 2.0):
        good, bad = (headings(length, degrees * share) for share in (0.98, 1.02))
        assert compare(headings(length, 0), good, FRAMES[:1], tolerance=lax).short_headings == 0
        assert not compare(headings(length, 0), bad, FRAMES[:1], tolerance=replace(lax, share=1.0)).passed
    report = compare(headings(0.1, 0), headings(0.1, degrees * 3), FRAMES[:1], tolerance=lax)
    assert report.passed
    assert (report.ties, report.short_headings) == (6, 6)
    assert report.to_json()["short_headings"] == report.counts()["short_headings"] == 6
    assert not compare(
        headings(0.1, 0), headings(0.1, degrees * 6), FRAMES[:1], tolerance=replace(lax, share=1.0)
    ).passed


def test_angles_are_compared_modulo_a_turn_and_classes_never_mixed():
    row = np.array([[1, 2, 0, 4, 2, 1.5, math.pi - 1e-4, np.nan, np.nan]], np.float32)
    turned = row.copy()
    turned[0, 6] = -math.pi + 1e-4
    one = Boxes3D(row, np.array([1]), np.array([0.5]))
    assert len(match(one, Boxes3D(turned, np.array([1]), np.array([0.5])), Tolerance()).unmatched) == 0
    other = match(one, Boxes3D(row, np.array([2]), np.array([0.5])), Tolerance())
    assert len(other.unmatched) == 1
    assert other.nearest(0) == "the other side has no box of that class"


@pytest.fixture(scope="module")
def anchored():
    """Maps of a small PointPillars, and the boxes of one class from every anchor."""
    spec = anchor_spec()
    rng = np.random.default_rng(4)
    ny, nx = spec.output_grid.ny, spec.output_grid.nx
    maps = AnchorMaps(*(rng.normal(0, 0.3, (channels, ny, nx)).astype(np.float32) for _, channels in spec.head.maps))
    return spec, maps


def box_of(spec, maps, anchor, label=1):
    array, score = dense_anchor_boxes(maps, label, spec)
    return Boxes3D(array[anchor : anchor + 1].astype(np.float32), np.array([label]), score[anchor : anchor + 1])


def with_margin(maps, spec, anchor, margin):
    """The same maps with two heading bins of one anchor that differ by ``margin``; the first wins."""
    headings = maps.dir.copy()
    place, which = divmod(anchor, len(spec.head.anchors) * len(spec.head.rotations_rad))
    row, column = divmod(place, spec.output_grid.nx)
    headings[2 * which : 2 * which + 2, row, column] = 1.0 + margin, 1.0
    return maps._replace(dir=headings)


@pytest.mark.parametrize(("margin", "rot", "held"), [(0.001, 0.005, True), (0.02, 0.005, False), (0.001, 0.0, False)])
def test_an_anchor_whose_heading_bins_tie_may_turn_round(anchored, margin, rot, held):
    spec, maps = anchored
    anchor = 4321
    turned = box_of(spec, with_margin(maps, spec, anchor, -margin), anchor)
    dense = DenseBoxes([with_margin(maps, spec, anchor, margin)], spec)
    assert dense.holds(turned, 0, replace(Tolerance(), rot=rot)) is held


def test_a_box_is_found_at_its_place_and_nowhere_else(anchored):
    spec, maps = anchored
    dense = DenseBoxes([maps], spec)
    box = box_of(spec, maps, 77)
    assert dense.holds(box, 0, Tolerance())
    for change in ((0, 0.02), (1, -0.02), (2, 0.02), (3, 0.02), (6, 0.01)):
        moved = box.array.copy()
        moved[0, change[0]] += change[1]
        assert not dense.holds(Boxes3D(moved, box.label, box.score), 0, Tolerance())
    assert not dense.holds(Boxes3D(box.array, np.array([2]), box.score), 0, Tolerance())


@pytest.mark.parametrize(("length", "turn", "passed"), [(1e-4, 0.1, True), (1e-4, 0.3, False), (0.1, 0.01, False)])
def test_in_fp32_only_a_heading_from_next_to_nothing_may_turn(length, turn, passed):
    wanted, got = maps(), maps()
    for arrays, angle in ((wanted, 0.0), (got, turn)):
        arrays["task0_rot"][:, 0] = length * math.sin(angle)
        arrays["task0_rot"][:, 1] = length * math.cos(angle)
    report = compare(Fixed(wanted), Fixed(got), FRAMES[:1], tolerance=replace(Tolerance(), map=1.0))
    assert report.passed is passed
    assert report.short_headings == (report.boxes if passed else 0)


@pytest.mark.parametrize(
    ("length_m", "by_m", "passed"), [(29, 0.012, False), (2.6e4, 0.026, True), (2.6e4, 26.0, False)]
)
def test_the_length_of_an_absurd_box_may_differ_in_proportion(length_m, by_m, passed):
    wanted, got = maps(), maps()
    for arrays, length in ((wanted, length_m), (got, length_m + by_m)):
        arrays["task0_dim"][:, 0] = math.log(length)
    report = compare(Fixed(wanted), Fixed(got), FRAMES[:1], tolerance=Tolerance(map=1.0))
    assert report.passed is passed
