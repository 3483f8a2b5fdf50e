"""References of the signals on head maps, written from their equations: sums over frames, cells and classes."""

from __future__ import annotations

import math

import numpy as np
from references_maps import codes, divergence, gaussians, moved, objects, peaks, pooled, probabilities, same, seen


class Both:
    """What the references look at, as arrays."""

    def __init__(self, context):
        self.context = context
        self.ours, self.theirs = context.student_spec, context.teacher_spec
        known = self.theirs.head.classes
        self.classes = [name for name in self.ours.head.classes if name in known]
        self.p = probabilities(context.student, self.ours, self.classes)
        self.q = probabilities(context.teacher, self.theirs, self.classes)
        self.have, self.want = self.ours.output_grid, self.theirs.output_grid
        self.velocity = self.ours.head.velocity and self.theirs.head.velocity
        self.frames = len(self.p)

    def gaussian(self, frame, **rule):
        return gaussians(self.context.boxes[frame], self.ours.head.classes, self.classes, self.want, **rule)

    def on_the_teachers(self, frame):
        """The student's probabilities on the teacher's cells, and where the student sees."""
        return moved(self.p[frame], self.have, self.want), seen(self.have, self.want)

    def apart(self, name, frame):
        """``[H, W]``: L1 distance of the box codes."""
        ours = codes(self.context.student, self.ours, name, self.velocity)[frame]
        return np.abs(ours - codes(self.context.teacher, self.theirs, name, self.velocity)[frame]).sum(0)


def mask(kind, teacher, gaussian):
    """``[H, W]`` of one frame's ``[C, H, W]``."""
    best, label = teacher.max(0), gaussian.max(0)
    if kind == "rank":
        found = np.zeros_like(best)
        order = sorted((-teacher[index], index[1:]) for index in np.ndindex(teacher.shape))
        for _, place in order[:500]:
            found[place] = 1
        return found
    return {
        "everywhere": np.ones_like(best),
        "confidence": (best > 0.1) * 1.0,
        "foreground": (label > 0) * 1.0,
        "gaussian": best * label,
        "richness": best,
        "confident-foreground": (label > 0) * (best > 0.3) * 1.0,
    }[kind]


def logits(context, kind):
    both, total, mass = Both(context), 0.0, 0.0
    for frame in range(both.frames):
        student, known = both.on_the_teachers(frame)
        m = mask(kind, both.q[frame], both.gaussian(frame)) * known
        for row, column in np.ndindex(m.shape):
            for c in range(len(both.classes)):
                total += m[row, column] * (student[c, row, column] - both.q[frame, c, row, column]) ** 2
        mass += m.sum()
    return total / max(mass, 1e-6)


def center_boxes(context):
    both, total, count = Both(context), 0.0, 0
    for frame in range(both.frames):
        for kind, row, column, _, _ in objects(context.boxes[frame], both.ours.head.classes, both.classes, both.want):
            total += both.apart(both.classes[kind], frame)[row, column]
            count += 1
    return total / max(count, 1)


def pivotal_boxes(context, kind):
    both, total, mass = Both(context), 0.0, 0.0
    for frame in range(both.frames):
        gaussian = both.gaussian(frame)
        for c, name in enumerate(both.classes):
            m = mask(kind, both.q[frame, c : c + 1], gaussian[c : c + 1])
            total, mass = total + (m * both.apart(name, frame)).sum(), mass + m.sum()
    return total / max(mass, 1e-6)


def gid_logits(context):
    """At the squares around the ten places of most disagreement."""
    both, total, mass = Both(context), 0.0, 0
    for frame in range(both.frames):
        student, known = both.on_the_teachers(frame)
        apart = np.abs(both.q[frame] - student).max(0) * known
        tops = sorted(((-apart[row, column], row, column) for _, row, column in peaks(apart[None], 0.01)))
        square = {(row + i, column + j) for _, row, column in tops[:10] for i in (-1, 0, 1) for j in (-1, 0, 1)}
        for row, column in square:
            if 0 <= row < known.shape[0] and 0 <= column < known.shape[1] and known[row, column]:
                mass += 1
                pairs = zip(both.q[frame, :, row, column], student[:, row, column], strict=True)
                total += sum(divergence(wanted, predicted) for wanted, predicted in pairs)
    return total / max(mass, 1e-6)


def responses(context, temperature=1.0):
    both, total, mass = Both(context), 0.0, 0.0
    q = both.q
    if temperature != 1:
        z = np.log(q / (1 - q)) / temperature
        q = np.clip(1 / (1 + np.exp(-z)), 1e-4, 1 - 1e-4)
    for frame in range(both.frames):
        student, known = both.on_the_teachers(frame)
        m = both.gaussian(frame, overlap=0.7, least=0).max(0) * known
        error = np.abs(student.max(0) - q[frame].max(0))
        if same(both.have, both.want):
            count = 10 if both.velocity else 8
            error = error + sum(both.apart(name, frame) for name in both.classes) / (count * len(both.classes))
        total, mass = total + (m * error).sum(), mass + m.sum()
    return total / max(mass, 1e-4)


def pillars(context):
    both, total, mass = Both(context), 0.0, 0.0
    for frame in range(both.frames):
        student, known = both.on_the_teachers(frame)
        for row, column in np.ndindex(known.shape):
            wanted = both.q[frame, :, row, column]
            error = sum(divergence(w, s) for w, s in zip(wanted, student[:, row, column], strict=True))
            if same(both.have, both.want):
                error += sum(both.apart(name, frame)[row, column] for name in both.classes) / len(both.classes)
            total += known[row, column] * wanted.max() * error
            mass += known[row, column] * wanted.max()
    return total / max(mass, 1e-6)


def soft_heatmap(context, weighting, background):
    both, total, mass = Both(context), 0.0, 0.0
    known = seen(both.want, both.have)
    for frame in range(both.frames):
        wanted = pooled(both.q[frame], both.want, both.have, np.max)
        mass += sum(both.q[frame][place] for place in peaks(both.q[frame]))
        for c, row, column in np.ndindex(wanted.shape):
            y, p = wanted[c, row, column], both.p[frame, c, row, column]
            kl = divergence(y, p)
            entropy = -y * math.log(y) - (1 - y) * math.log(1 - y)
            weight = {
                "dense": 1.0,
                "confidence": wanted[:, row, column].max(),
                "adaptive": (1 - math.exp(-(kl + 1.5 * entropy))) ** 2 * max(y, p),
            }[weighting]
            weight = weight if weighting == "dense" else background + (1 - background) * weight
            total += known[row, column] * weight * kl
    return total / max(mass, 1.0)


def soft_boxes(context, threshold=0.3):
    both, total, mass = Both(context), 0.0, 0.0
    for frame in range(both.frames):
        best: dict[tuple[int, int, int], tuple[float, np.ndarray]] = {}
        for kind, row, column in peaks(both.q[frame]):
            sure = both.q[frame, kind, row, column]
            code = codes(context.teacher, both.theirs, both.classes[kind], both.velocity)[frame, :, row, column].copy()
            if sure < threshold:
                continue
            place = kind, row, column
            if not same(both.have, both.want):  # offsets count cells, so the box goes through metres
                x = both.want.x_min_m + (column + code[0]) * both.want.cell_m
                y = both.want.y_min_m + (row + code[1]) * both.want.cell_m
                u, v = (x - both.have.x_min_m) / both.have.cell_m, (y - both.have.y_min_m) / both.have.cell_m
                if not (0 <= u < both.have.nx and 0 <= v < both.have.ny):
                    continue
                place, code[0], code[1] = (kind, math.floor(v), math.floor(u)), u - math.floor(u), v - math.floor(v)
            if place not in best or sure > best[place][0]:
                best[place] = sure, code
        for (kind, row, column), (sure, code) in best.items():
            ours = codes(context.student, both.ours, both.classes[kind], both.velocity)[frame, :, row, column]
            total, mass = total + sure * np.abs(ours - code).sum(), mass + sure
    return total / max(mass, 1e-6)


def ranking(context, tau=2.0):
    both, total, frames = Both(context), 0.0, 0
    for frame in range(both.frames):
        theirs = peaks(both.q[frame])
        near = {(k, row + i, column + j) for k, row, column in theirs for i in (-1, 0, 1) for j in (-1, 0, 1)}
        ours = [place for place in peaks(both.p[frame]) if place not in near]
        ours = sorted(ours, key=lambda place: -both.p[frame][place])[:64]
        if len(theirs) + len(ours) < 2:
            continue
        listed, frames = [*theirs, *ours], frames + 1
        s, t = (
            [math.log(maps[place] / (1 - maps[place])) / tau for place in listed]
            for maps in (both.p[frame], both.q[frame])
        )
        p, q = ([math.exp(v) / sum(math.exp(w) for w in values) for v in values] for values in (s, t))
        total += tau**2 * sum(b * math.log(b / a) for a, b in zip(p, q, strict=True))
    return total / max(frames, 1)
