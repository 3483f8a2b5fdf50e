"""Whether two pipelines say the same, box by box: the gate before any speed is reported.

Rounding moves two cells with almost equal scores past each other; then one pipeline keeps a box where the other keeps
its neighbour. Such a *tie* is accepted only where it is shown to be one: the very box stands in the other's maps within
tolerance, and the candidate's decoding of the reference's maps keeps it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from kd3d.export.parity_match import DenseBoxes, Tolerance, match
from kd3d.geometry.boxes import Boxes3D
from kd3d.runtime.frames import Frame
from kd3d.runtime.heads import heads_from_arrays, onnx_names
from kd3d.spec import DetectorSpec

Arrays = Mapping[str, NDArray[Any]]


class Stages(Protocol):
    """A pipeline in stages, as ``kd3d.runtime.pipeline.Pipeline`` and ``kd3d.detectors.torch_pipeline`` have them."""

    spec: DetectorSpec

    def pre(self, frame: Frame) -> Arrays:
        """Network inputs of a frame."""

    def network(self, feeds: Arrays) -> Arrays:
        """Head maps by name."""

    def decode(self, arrays: Arrays) -> Any:
        """Candidates."""

    def nms(self, candidates: Any) -> Boxes3D:
        """Boxes."""


@dataclass(frozen=True)
class ParityReport:
    """The outcome of a comparison.

    Args:
        frames: compared.
        boxes: with a score at or above the floor, of both sides together.
        matched: of ``boxes``, those with a partner within tolerance among the other side's boxes.
        ties: of ``boxes``, those whose partner is in the other's maps but lost a tie there.
        short_headings: of ``ties``, those that are none of scores: their heading is the angle of so short a vector that
            it may differ by more than ``Tolerance.yaw_rad``.
        worst: largest difference over matched boxes: ``center_m``, ``size_m``, ``yaw_rad``, ``score``,
            ``velocity_m_s``; and ``map``, over raw maps, relative to the map's largest value where that exceeds 1.
        failures: one line each; empty when all is well.
    """

    frames: int
    boxes: int
    matched: int
    ties: int
    worst: dict[str, float]
    failures: tuple[str, ...] = ()
    short_headings: int = 0

    @property
    def passed(self) -> bool:
        """Whether every box and every map agree."""
        return not self.failures

    def counts(self) -> dict[str, Any]:
        """The boxes, for the record of a gate."""
        return {name: getattr(self, name) for name in ("boxes", "matched", "ties", "short_headings")}

    def to_json(self) -> dict[str, Any]:
        """As written to ``export.json``."""
        return {**asdict(self), "failures": list(self.failures), "passed": self.passed}


class _Side(NamedTuple):
    name: str
    boxes: Boxes3D
    maps: Arrays
    spec: DetectorSpec


@dataclass
class _Tally:
    """Running totals."""

    frames: int = 0
    boxes: int = 0
    matched: int = 0
    ties: int = 0
    short_headings: int = 0
    worst: dict[str, float] = field(default_factory=lambda: {"map": 0.0})
    failures: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)  # boxes without a partner

    def raise_worst(self, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            self.worst[name] = max(self.worst.get(name, 0.0), value)

    def report(self, share: float) -> ParityReport:
        enough = self.matched + self.ties >= share * self.boxes
        failures = tuple(self.failures + ([] if enough else self.lost))
        return ParityReport(
            self.frames, self.boxes, self.matched, self.ties, self.worst, failures, short_headings=self.short_headings
        )


class Remembered:
    """A pipeline that is asked about the same frames again and again; it computes each once.

    Args:
        stages: to ask.
    """

    def __init__(self, stages: Stages) -> None:
        self._stages, self.spec = stages, stages.spec
        self._frames: dict[int, tuple[Frame, Arrays]] = {}
        self._maps: dict[int, tuple[Arrays, Arrays]] = {}

    def pre(self, frame: Frame) -> Arrays:
        """Network inputs of a frame."""
        if id(frame) not in self._frames:
            self._frames[id(frame)] = (frame, self._stages.pre(frame))
        return self._frames[id(frame)][1]

    def network(self, feeds: Arrays) -> Arrays:
        """Head maps by name."""
        if id(feeds) not in self._maps:
            self._maps[id(feeds)] = (feeds, self._stages.network(feeds))
        return self._maps[id(feeds)][1]

    def decode(self, arrays: Arrays) -> Any:
        """Candidates."""
        return self._stages.decode(arrays)

    def nms(self, candidates: Any) -> Any:
        """Boxes."""
        return self._stages.nms(candidates)


def compare(
    reference: Stages,
    candidate: Stages,
    frames: Iterable[Frame],
    *,
    tolerance: Tolerance | None = None,
) -> ParityReport:
    """Run both pipelines over ``frames`` and compare raw maps and boxes, both ways.

    Args:
        reference: what is right, such as the torch model.
        candidate: what will ship.
        frames: any number.
        tolerance: one centimetre, 0.1 degree and 1e-3 score unless given.
    """
    tolerance = tolerance or Tolerance()
    tally = _Tally()
    for frame in frames:
        tally.frames += 1
        wanted = reference.network(reference.pre(frame))
        got = candidate.network(candidate.pre(frame))
        compare_maps(wanted, got, reference.spec, tolerance=tolerance, where=frame.token, tally=tally)
        ours, theirs = reference.nms(reference.decode(wanted)), candidate.nms(candidate.decode(got))
        sides = (
            _Side("reference", ours, wanted, reference.spec),
            _Side("candidate", theirs, got, candidate.spec),
        )
        ties = _one_way(*sides, tolerance=tolerance, where=frame.token, tally=tally)
        if ties + _one_way(*reversed(sides), tolerance=tolerance, where=frame.token, tally=tally):
            crossed = candidate.nms(candidate.decode(wanted))
            _require_same(ours, crossed, tolerance, frame.token, tally)
    return tally.report(tolerance.share)


def compare_maps(
    wanted: Arrays, got: Arrays, spec: DetectorSpec, *, tolerance: Tolerance, where: str, tally: _Tally | None = None
) -> list[str]:
    """Compare raw maps; the differences too large are returned, one line each, and entered in ``tally``."""
    tally = tally or _Tally()
    found = []
    for name in onnx_names(spec):
        one, other = np.asarray(wanted[name], np.float64), np.asarray(got[name], np.float64)
        if one.shape != other.shape:
            found.append(f"{where}: {name} has shape {other.shape}, not {one.shape}")
            continue
        gap = np.abs(one - other) / max(1.0, float(np.abs(one).max(initial=0.0)))
        worst = float(gap.max(initial=0.0)) if np.isfinite(gap).all() else math.inf
        tally.raise_worst({"map": worst})
        if not worst <= tolerance.map:
            at = tuple(int(i) for i in np.unravel_index(int(np.nan_to_num(gap, nan=np.inf).argmax()), gap.shape))
            found.append(
                f"{where}: {name} differs by {worst:.3g} (tolerance {tolerance.map:g}) at {at}: "
                f"reference {one[at]:.6g}, candidate {other[at]:.6g}"
            )
    tally.failures += found
    return found


def _one_way(mine: _Side, other: _Side, *, tolerance: Tolerance, where: str, tally: _Tally) -> int:
    """Enter the boxes of one side; returns how many were ties."""
    result = match(mine.boxes, other.boxes, tolerance)
    tally.boxes += result.counted
    tally.matched += result.counted - len(result.unmatched)
    tally.raise_worst(result.worst)
    ties, strict = 0, replace(tolerance, rot=0.0)
    dense = DenseBoxes(heads_from_arrays(other.maps, other.spec), other.spec) if len(result.unmatched) else None
    for index in map(int, result.unmatched):
        if dense is not None and dense.holds(mine.boxes, index, tolerance):
            ties += 1
            tally.short_headings += not dense.holds(mine.boxes, index, strict)
        else:
            box = _describe(mine.boxes, index, mine.spec)
            tally.lost.append(f"{where}: {mine.name} has {box} without a partner; {result.nearest(index)}")
    tally.ties += ties
    return ties


def _require_same(ours: Boxes3D, crossed: Boxes3D, tolerance: Tolerance, token: str, tally: _Tally) -> None:
    lost = match(ours, crossed, tolerance).unmatched
    extra = match(crossed, ours, tolerance).unmatched
    if len(lost) or len(extra):
        tally.failures.append(
            f"{token}: from equal maps the candidate decodes {len(lost)} box(es) less and {len(extra)} more"
        )


def _describe(boxes: Boxes3D, index: int, spec: DetectorSpec) -> str:
    x, y, z = (float(v) for v in boxes.center_m[index])
    score = float("nan") if boxes.score is None else float(boxes.score[index])
    return f"{spec.head.classes[int(boxes.label[index])]} ({score:.4f}) at ({x:.2f}, {y:.2f}, {z:.2f}) m"
