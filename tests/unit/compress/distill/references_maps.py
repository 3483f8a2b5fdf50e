"""Slow numpy, cell by cell, for the references of the signals: positions, samples, labels. No code of the package."""

from __future__ import annotations

import math

import numpy as np


def array(tensor):
    return tensor.detach().double().numpy()


def probabilities(output, spec, classes):
    """``[B, C, H, W]`` by class name, clamped once."""
    rows = []
    for name in classes:
        task = next(i for i, names in enumerate(spec.head.tasks) if name in names)
        rows.append(array(output.heads[task].hm)[:, spec.head.tasks[task].index(name)])
    return np.clip(1 / (1 + np.exp(-np.stack(rows, 1))), 1e-4, 1 - 1e-4)


def codes(output, spec, name, velocity):
    """``[B, 8 or 10, H, W]`` of the task that has class ``name``."""
    maps = output.heads[next(i for i, names in enumerate(spec.head.tasks) if name in names)]
    parts = [maps.center, maps.center_z, maps.dim, maps.rot, *([maps.vel] if velocity else [])]
    return np.concatenate([array(part) for part in parts], 1)


def centre(grid, row, column):
    """Metres."""
    return grid.x_min_m + (column + 0.5) * grid.cell_m, grid.y_min_m + (row + 0.5) * grid.cell_m


def sampled(plane, low, cell, point, *, beyond):
    """Bilinear sample of ``plane [H, W]`` at ``point`` (metres); beyond the edge: ``border`` or ``zero``."""
    x, y = ((value - start) / cell - 0.5 for value, start in zip(point, low, strict=True))
    rows, columns = plane.shape
    if beyond == "border":
        x, y = min(max(x, 0.0), columns - 1.0), min(max(y, 0.0), rows - 1.0)
    total = 0.0
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            share = (1 - abs(y - row)) * (1 - abs(x - column))
            if 0 <= row < rows and 0 <= column < columns and share > 0:
                total += share * plane[row, column]
    return total


def at_points(maps, grid, points):
    """``maps [C, H, W]`` at metric points: ``[P, C]``, zero outside."""
    low = grid.x_min_m, grid.y_min_m
    return np.array([[sampled(plane, low, grid.cell_m, point, beyond="zero") for plane in maps] for point in points])


def moved(maps, have, want):
    """``[C, have.ny, have.nx]`` at the cell centres of ``want``; the border goes on outside."""
    if same(have, want):
        return maps
    low = have.x_min_m, have.y_min_m
    found = np.zeros((len(maps), want.ny, want.nx))
    for row in range(want.ny):
        for column in range(want.nx):
            point = centre(want, row, column)
            for k, plane in enumerate(maps):
                found[k, row, column] = sampled(plane, low, have.cell_m, point, beyond="border")
    return found


class Coarse:
    """A grid of pooled cells."""

    def __init__(self, grid, factor, shape):
        self.x_min_m, self.y_min_m, self.cell_m = grid.x_min_m, grid.y_min_m, grid.cell_m * factor
        self.ny, self.nx = shape
        self.x_max_m, self.y_max_m = self.x_min_m + self.nx * self.cell_m, self.y_min_m + self.ny * self.cell_m


def pooled(maps, have, want, how):
    """To coarser cells: pooled by the nearest whole factor (``np.mean`` or ``np.max``), then moved."""
    factor = math.floor(want.cell_m / have.cell_m + 0.5)
    if factor >= 2:
        rows, columns = have.ny // factor, have.nx // factor
        found = np.zeros((len(maps), rows, columns))
        for k, plane in enumerate(maps):
            for row in range(rows):
                for column in range(columns):
                    window = plane[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
                    found[k, row, column] = how(window)
        maps, have = found, Coarse(have, factor, (rows, columns))
    return moved(maps, have, want)


def same(have, want):
    edges = ("x_min_m", "y_min_m", "x_max_m", "y_max_m", "cell_m")
    return all(abs(getattr(have, edge) - getattr(want, edge)) < 1e-6 for edge in edges)


def seen(have, want):
    """``[want.ny, want.nx]``: 1 where the centre of a cell of ``want`` is in the range of ``have``."""
    found = np.zeros((want.ny, want.nx))
    for row in range(want.ny):
        for column in range(want.nx):
            x, y = centre(want, row, column)
            inside_x = have.x_min_m - 1e-9 <= x <= have.x_max_m + 1e-9
            found[row, column] = inside_x and have.y_min_m - 1e-9 <= y <= have.y_max_m + 1e-9
    return found


def objects(frame, names, classes, grid):
    """The labels on a grid: ``(class, row, column, length, width)`` in cells, of the classes and range there are."""
    found = []
    for box, label in zip(frame.array.astype(float), frame.label, strict=True):
        x, y = (box[0] - grid.x_min_m) / grid.cell_m, (box[1] - grid.y_min_m) / grid.cell_m
        if names[label] in classes and 0 <= x < grid.nx and 0 <= y < grid.ny:
            kind = classes.index(names[label])
            found.append((kind, math.floor(y), math.floor(x), box[3] / grid.cell_m, box[4] / grid.cell_m))
    return found


def radius(length, width, overlap):
    """CornerNet's, as CenterPoint uses it: the least root of its three cases, each over 2."""
    total, area = length + width, length * width
    first = (total + math.sqrt(total**2 - 4 * area * (1 - overlap) / (1 + overlap))) / 2
    second = (2 * total + math.sqrt(4 * total**2 - 16 * (1 - overlap) * area)) / 2
    b = -2 * overlap * total
    third = (b + math.sqrt(b**2 - 16 * overlap * (overlap - 1) * area)) / 2
    return min(first, second, third)


def gaussians(frame, names, classes, grid, *, overlap=0.1, least=2):
    """``[C, H, W]``: each object a bell of sigma (2 r + 1) / 6 within a square of r cells; the highest counts."""
    found = np.zeros((len(classes), grid.ny, grid.nx))
    for kind, row, column, length, width in objects(frame, names, classes, grid):
        r = max(int(radius(length, width, overlap)), least)
        sigma = (2 * r + 1) / 6
        for y in range(max(0, row - r), min(grid.ny, row + r + 1)):
            for x in range(max(0, column - r), min(grid.nx, column + r + 1)):
                height = math.exp(-((y - row) ** 2 + (x - column) ** 2) / (2 * sigma**2))
                found[kind, y, x] = max(found[kind, y, x], height)
    return found


def turned(box, points):
    """Points in shares of length and width from the centre of a box, as metres."""
    x, y, length, width, yaw = box[0], box[1], box[3], box[4], box[6]
    found = []
    for along, across in points:
        u, v = along * length, across * width
        found.append((x + u * math.cos(yaw) - v * math.sin(yaw), y + u * math.sin(yaw) + v * math.cos(yaw)))
    return found


def divergence(wanted, predicted):
    """Binary KL."""
    return wanted * math.log(wanted / predicted) + (1 - wanted) * math.log((1 - wanted) / (1 - predicted))


def peaks(heatmap, least=0.1):
    """``(class, row, column)`` of one frame ``[C, H, W]``: not below any of the eight cells around, and no noise."""
    found = []
    classes, rows, columns = heatmap.shape
    for kind in range(classes):
        for row in range(rows):
            for column in range(columns):
                near = heatmap[kind, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
                if heatmap[kind, row, column] >= least and heatmap[kind, row, column] == near.max():
                    found.append((kind, row, column))
    return found
