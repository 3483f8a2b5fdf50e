"""Where models disagree, and where the teacher sees objects: GID's instances, and regions chosen by confidence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from kd3d.compress.distill.context import CLAMP, SignalContext
from kd3d.compress.distill.labelfree import LabelFree
from kd3d.compress.distill.proposals import LOWEST, check_localisation, teacher_boxes
from kd3d.compress.distill.reads import check_centre_heads
from kd3d.compress.distill.resample import inside, pool_and_resample, resample
from kd3d.compress.distill.signals import SOFT_FLOOR, divergence, standardised
from kd3d.compress.distill.taps import TapSignal
from kd3d.errors import UsageError
from kd3d.geometry.grid import BevGrid
from kd3d.spec import DetectorSpec
from kd3d.training.objective import Term

LONGEST_M = 30.0  # of an object: what a teacher that has not learnt says is longer


@dataclass(frozen=True)
class InstanceLogits(LabelFree):
    """GID-L: logits at the general instances of GID (Dai et al., CVPR 2021): ``sum M sum_c KL(p_t, p_s) / sum M``.

    A general instance is where both models disagree most, whoever is right: the ``count`` highest local maxima of
    ``max_c |p_t - p_s|`` in a window of ``window`` cells (in place of the paper's NMS over anchors), each with the
    square of ``window`` cells around it. SparseKD's release has no GID-L; this is our reading, and labels have no part.

    Args:
        count: instances per frame; 10 in the paper.
        window: cells, odd.
        threshold: least disagreement.
    """

    count: int = 10
    window: int = 3
    threshold: float = 0.01
    name: str = "kd.gid-logits"

    def __post_init__(self) -> None:
        if self.count < 1 or self.window < 1 or self.window % 2 == 0:
            raise UsageError(
                f"GID needs at least 1 instance (not {self.count}) in a window of an odd number of cells "
                f"(not {self.window})."
            )

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        have, want = context.student_spec.output_grid, context.teacher_spec.output_grid
        teacher = context.teacher_heatmap
        student = resample(context.student_heatmap, have, want)
        known = inside(have, want, student.device)
        mask = self.instances(student.detach(), teacher, known)
        error = (mask * divergence(teacher, student).sum(1)).sum()
        return Term(self.name, error, mask.sum(), self.weight, SOFT_FLOOR)

    def instances(self, student: Tensor, teacher: Tensor, known: Tensor) -> Tensor:
        """``[B, H, W]``: 1 in the squares of the general instances.

        Args:
            student: probabilities ``[B, C, H, W]``.
            teacher: likewise.
            known: ``[H, W]`` bool, where the student's are known.
        """
        apart = (teacher - student).abs().amax(1) * known
        highest = functional.max_pool2d(apart[:, None], self.window, 1, self.window // 2)[:, 0]
        found = (apart * (apart == highest) * (apart > self.threshold)).flatten(1)
        best = found.topk(min(self.count, found.shape[1]), 1)
        chosen = torch.zeros_like(found).scatter(1, best.indices, (best.values > 0).to(found.dtype)).view_as(apart)
        return functional.max_pool2d(chosen[:, None], self.window, 1, self.window // 2)[:, 0] * known


@dataclass(frozen=True)
class RegionFeatures(TapSignal):
    """Confidence-guided features: ``sum_x M(x) (1 + d(x)) |N(A F_s) - N(F_t)|^2 / 2C`` per frame, no label is read.

    ``M`` (sum 1 per frame) joins the turned Gaussians of the teacher's objects, each of mass ``k_n`` whatever its area,
    ``eta`` times the teacher's best class, and ``zeta`` times the 1 % of other cells where its features are strongest.
    ``d = mean_c (p_t - p_s)^2`` over its mean, at most ``pfi``: prediction-guided imitation (AAAI 2022, formula from
    memory). Our own design after the abstract of DOI 10.3969/j.issn.1000-386x.2026.02.036. A frame in which the teacher
    sees nothing does not count.

    Args:
        eta, zeta: see above.
        pfi: the most that disagreement adds; 0 leaves it out.
        localisation: exponent of the agreement of boxes in the confidence ``k``; 0 takes the score alone.
    """

    eta: float = 0.5
    zeta: float = 0.1
    pfi: float = 3.0
    localisation: float = 0.5
    label: ClassVar[str] = "region"
    label_free: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_localisation(self.localisation)

    def check(self, student: DetectorSpec, teacher: DetectorSpec) -> None:
        """See ``Signal``: the teacher's objects are read from a centre head."""
        super().check(student, teacher)
        check_centre_heads(self, teacher)

    def __call__(self, context: SignalContext) -> Term:
        """See ``Signal``."""
        ours, theirs, grid = self.aligned(context)
        error = (standardised(ours) - standardised(theirs)).square().mean(1) / 2
        mask, frames = self.region(context, theirs, grid)
        if self.pfi > 0:
            mask = mask * (1 + self._disagreement(context, grid))
        return Term(self.name, (mask * error).sum(), frames, self.weight)

    def region(self, context: SignalContext, theirs: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor]:
        """``M [B, ny, nx]`` over ``grid``, without gradient, and the number of frames in which it is not 0."""
        known = inside(context.teacher_spec.output_grid, grid, theirs.device).to(theirs.dtype)
        objects = footprints(context, grid, self.localisation) * known
        energy = theirs.square().sum(1) * (objects < 1e-3 * objects.amax((1, 2), keepdim=True).clamp(min=1e-9)) * known
        strongest = energy >= energy.flatten(1).quantile(0.99, 1)[:, None, None].clamp(min=1e-12)
        rich, sees = richness(context, grid)
        mask = objects + self.eta * unit(rich) + self.zeta * unit(strongest.to(theirs.dtype))
        return unit(mask) * sees[:, None, None], sees.sum()

    def _disagreement(self, context: SignalContext, grid: BevGrid) -> Tensor:
        ours, theirs = (
            pool_and_resample(maps.detach(), spec.output_grid, grid)
            for maps, spec in (
                (context.student_heatmap, context.student_spec),
                (context.teacher_heatmap, context.teacher_spec),
            )
        )
        apart = (theirs - ours).square().mean(1)
        return (apart / apart.mean((1, 2), keepdim=True).clamp(min=1e-12)).clamp(max=self.pfi)


def unit(maps: Tensor) -> Tensor:
    """Each frame with the sum 1, or 0 where there is nothing."""
    return maps / maps.sum((1, 2), keepdim=True).clamp(min=1e-9)


def richness(context: SignalContext, grid: BevGrid) -> tuple[Tensor, Tensor]:
    """``[B, ny, nx]`` the teacher's best class over ``grid``, and ``[B]`` 1 for frames in which it sees anything."""
    have = context.teacher_spec.output_grid
    rich = (context.teacher_heatmap.amax(1, keepdim=True) - CLAMP).clamp(min=0)
    rich = pool_and_resample(rich, have, grid, pool="max")[:, 0] * inside(have, grid, rich.device)
    return rich, (rich.sum((1, 2)) > 1e-3).to(rich.dtype)


def footprints(context: SignalContext, grid: BevGrid, localisation: float) -> Tensor:
    """``sum_n k_n G_n / sum G_n``: ``G_n`` a Gaussian of a quarter of length and width, at least half a cell, cut at
    three of these. An object outside of the grid has none.
    """
    found = context.proposals
    confidence = found.confidence(localisation)
    total = context.teacher_heatmap.new_zeros(len(context.teacher_heatmap), grid.ny, grid.nx)
    have = context.teacher_spec.output_grid
    for index, name in enumerate(context.classes):
        mine = ((found.kind == index) & (confidence >= LOWEST)).nonzero()[:, 0]
        if not len(mine):
            continue
        row, column, bell = _bells(teacher_boxes(context, name, found.cell[mine]), grid)
        frame = torch.div(found.cell[mine], have.nx * have.ny, rounding_mode="floor")
        place = (frame[:, None, None] * grid.ny + row[:, :, None]) * grid.nx + column[:, None]
        total.view(-1).index_add_(0, place.flatten(), (unit(bell) * confidence[mine][:, None, None]).flatten())
    return total


def _bells(box: Tensor, grid: BevGrid) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and columns ``[N, K]`` and Gaussians ``[N, K, K]`` around boxes ``[N, 5]``, 0 outside of the grid."""
    sigma = (box[:, 2:4] / 4).clamp(grid.cell_m / 2, LONGEST_M / 4)
    reach = int(3 * float(sigma.max()) / grid.cell_m) + 1
    around = torch.arange(-reach, reach + 1, device=box.device)
    column = ((box[:, 0] - grid.x_min_m) / grid.cell_m).floor().clamp(-1e6, 1e6).long()[:, None] + around
    row = ((box[:, 1] - grid.y_min_m) / grid.cell_m).floor().clamp(-1e6, 1e6).long()[:, None] + around
    dx = grid.x_min_m + (column + 0.5) * grid.cell_m - box[:, :1]
    dy = grid.y_min_m + (row + 0.5) * grid.cell_m - box[:, 1:2]
    cosine, sine = (part[:, None, None] for part in (box[:, 4].cos(), box[:, 4].sin()))
    along = (dx[:, None] * cosine + dy[:, :, None] * sine) / sigma[:, 0, None, None]
    across = (dy[:, :, None] * cosine - dx[:, None] * sine) / sigma[:, 1, None, None]
    square = along.square() + across.square()
    inside_rows, inside_columns = (row >= 0) & (row < grid.ny), (column >= 0) & (column < grid.nx)
    known = inside_rows[:, :, None] & inside_columns[:, None] & (square <= 9)
    return row.clamp(0, grid.ny - 1), column.clamp(0, grid.nx - 1), torch.exp(-0.5 * square) * known
