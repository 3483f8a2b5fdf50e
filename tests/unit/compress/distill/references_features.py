"""References of the signals on feature maps, written from their equations."""

from __future__ import annotations

import math

import numpy as np
from references_heads import Both, mask
from references_maps import array, at_points, centre, codes, peaks, pooled, seen, turned


def maps_of(context, ours, theirs, adapter=None):
    """Student's maps ``[B, C, H, W]`` (adapted by a 1x1 convolution) and grid, teacher's maps and grid."""
    student = next(tap for tap in context.student.taps if tap.name == ours)
    teacher = next(tap for tap in context.teacher.taps if tap.name == theirs)
    found = array(student.tensor)
    if adapter is not None:
        weight, bias = array(adapter.weight)[:, :, 0, 0], array(adapter.bias)
        found = np.einsum("oc,bcyx->boyx", weight, found) + bias[None, :, None, None]
    return found, student.grid, array(teacher.tensor), teacher.grid


def over_the_mask(context, error_of, kind, grid):
    """``sum M error / sum M`` with a mask of the teacher's grid brought to ``grid``."""
    both, total, mass = Both(context), 0.0, 0.0
    for frame in range(both.frames):
        gaussian = both.gaussian(frame)
        m = gaussian.max(0) if kind == "label" else mask(kind, both.q[frame], gaussian)
        m = pooled(m[None], both.want, grid, np.max)[0] * seen(both.want, grid)
        total, mass = total + (m * error_of(frame)).sum(), mass + m.sum()
    return total / max(mass, 1e-6)


def fitnet(context, adapter, kind="everywhere", tap="neck"):
    ours, grid, theirs, have = maps_of(context, tap, tap, adapter)
    return over_the_mask(
        context, lambda b: ((ours[b] - pooled(theirs[b], have, grid, np.mean)) ** 2).mean(0), kind, grid
    )


def attention(context, kind="everywhere", tap="neck"):
    ours, grid, theirs, have = maps_of(context, tap, tap)

    def error(b):
        return (np.abs(ours[b]).mean(0) - pooled(np.abs(theirs[b]).mean(0)[None], have, grid, np.mean)[0]) ** 2

    return over_the_mask(context, error, kind, grid)


def normal(maps):
    """Each channel of a frame with mean 0 and variance 1."""
    found = np.zeros_like(maps)
    for k, plane in enumerate(maps):
        found[k] = (plane - plane.mean()) / math.sqrt(((plane - plane.mean()) ** 2).mean() + 1e-6)
    return found


def imitation(context, pair, adapter, kind):
    ours, grid, theirs, have = maps_of(context, *pair, adapter)
    return over_the_mask(
        context,
        lambda b: ((normal(ours[b]) - normal(pooled(theirs[b], have, grid, np.mean))) ** 2).mean(0) / 2,
        kind,
        grid,
    )


NINE = [(-0.5, -0.5), (-0.5, 0.5), (0.5, 0.5), (0.5, -0.5), (0, 0), (-0.5, 0), (0, 0.5), (0.5, 0), (0, -0.5)]
SEVEN = [((i + 0.5) / 7 - 0.5, (j + 0.5) / 7 - 0.5) for i in range(7) for j in range(7)]


def boxwise(context, points, tap, adapter=None):
    """Per frame, per label: both models' features ``[P, C]`` at points of the box."""
    ours, grid, theirs, have = maps_of(context, tap, tap, adapter)
    for frame, boxes in enumerate(context.boxes):
        yield [
            (at_points(ours[frame], grid, turned(box, points)), at_points(theirs[frame], have, turned(box, points)))
            for box in boxes.array.astype(float)
        ]


def per_box(frames, loss):
    pairs = [pair for frame in frames for pair in frame]
    return sum(loss(*pair) for pair in pairs) / max(len(pairs), 1)


def cosines(rows):
    units = [row / (math.sqrt((row**2).sum()) + 1e-4) for row in rows]
    return np.array([[a @ b for b in units] for a in units])


def mimic(context, adapter, tap="neck"):
    return per_box(boxwise(context, SEVEN, tap, adapter), lambda a, b: ((a - b) ** 2).mean())


def affinity(context, tap="neck"):
    return per_box(boxwise(context, SEVEN, tap), lambda a, b: ((cosines(a) - cosines(b)) ** 2).mean())


def nine_points(context, adapter, tap="level0"):
    return per_box(boxwise(context, NINE, tap, adapter), lambda a, b: np.abs(a - b).sum() / 9 / a.shape[1])


def relations(context, tap="neck"):
    return per_box(boxwise(context, NINE, tap), lambda a, b: np.abs(cosines(a) - cosines(b)).sum() / 81)


def gid_relation(context, tap="neck"):
    total, frames = 0.0, 0
    for pairs in boxwise(context, SEVEN, tap):
        if len(pairs) < 2:
            continue
        frames += 1
        tables = []
        for side in range(2):
            rows = [pair[side].ravel() for pair in pairs]
            table = np.array([[((a - b) ** 2).sum() for b in rows] for a in rows])
            tables.append(table / table.mean())
        error = np.abs(tables[0] - tables[1])
        total += np.where(error < 1, error**2 / 2, error - 0.5).mean()
    return total / max(frames, 1)


def region(context, adapter, tap="neck", eta=0.5, zeta=0.1, pfi=3.0):
    both, total, frames = Both(context), 0.0, 0
    ours, grid, theirs, have = maps_of(context, tap, tap, adapter)
    known = seen(both.want, grid)

    def one(maps):
        return maps / max(maps.sum(), 1e-9)

    for b in range(both.frames):
        wanted = pooled(theirs[b], have, grid, np.mean)
        error = ((normal(ours[b]) - normal(wanted)) ** 2).mean(0) / 2
        rich = pooled((both.q[b].max(0) - 1e-4)[None], both.want, grid, np.max)[0] * known
        if rich.sum() <= 1e-3:
            continue
        frames += 1
        found = np.zeros_like(rich)
        for kind, row, column in peaks(both.q[b]):
            code = codes(context.teacher, both.theirs, both.classes[kind], False)[b, :, row, column]
            x = both.want.x_min_m + (column + code[0]) * both.want.cell_m
            y = both.want.y_min_m + (row + code[1]) * both.want.cell_m
            length, width = (max(math.exp(min(code[k], 5)) / 4, grid.cell_m / 2) for k in (3, 4))
            yaw = math.atan2(code[6], code[7])
            bell = np.zeros_like(rich)
            for r, c in np.ndindex(bell.shape):
                dx, dy = (value - middle for value, middle in zip(centre(grid, r, c), (x, y), strict=True))
                along, across = dx * math.cos(yaw) + dy * math.sin(yaw), dy * math.cos(yaw) - dx * math.sin(yaw)
                square = (along / length) ** 2 + (across / width) ** 2
                bell[r, c] = math.exp(-square / 2) if square <= 9 else 0.0
            found += both.q[b, kind, row, column] * one(bell)
        found = found * known
        energy = (wanted**2).sum(0) * (found < 1e-3 * max(found.max(), 1e-9)) * known
        strongest = energy >= max(np.quantile(energy, 0.99), 1e-12)
        m = one(found + eta * one(rich) + zeta * one(strongest * 1.0))
        pairs = zip((both.p, both.q), (both.have, both.want), strict=True)
        p, q = (pooled(maps[b], where, grid, np.mean) for maps, where in pairs)
        apart = ((q - p) ** 2).mean(0)
        total += (m * (1 + np.minimum(apart / max(apart.mean(), 1e-12), pfi)) * error).sum()
    return total / max(frames, 1)
