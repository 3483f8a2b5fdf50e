"""From head maps to boxes as the three frameworks do it, written from their published behaviour; no kd3d code.

Maps are in the framework's own convention, as ``foreign_forward`` gives them. Boxes come back as rows x, y, z of the
centre, length, width, height, yaw, vx, vy (NaN without velocity), with scores and labels from 0.
"""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def corners(box):
    """Of ``x, y, length, width, yaw``, counter-clockwise."""
    x, y, length, width, yaw = box
    c, s = np.cos(yaw), np.sin(yaw)
    half = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [length / 2, width / 2]
    return half @ np.array([[c, s], [-s, c]]) + [x, y]


def clipped(polygon, start, end):
    """The part of ``polygon`` to the left of the line (Sutherland and Hodgman)."""
    kept = []
    side = [(end[0] - start[0]) * (p[1] - start[1]) - (end[1] - start[1]) * (p[0] - start[0]) for p in polygon]
    for index, here in enumerate(polygon):
        before = index - 1
        if (side[index] >= 0) != (side[before] >= 0):
            part = side[before] / (side[before] - side[index])
            kept.append(polygon[before] + part * (here - polygon[before]))
        if side[index] >= 0:
            kept.append(here)
    return kept


def area(polygon):
    if len(polygon) < 3:
        return 0.0
    x, y = np.array(polygon).T
    return 0.5 * abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))


def overlap(first, second):
    """Intersection over union of two rotated rectangles."""
    polygon, other = list(corners(first)), corners(second)
    for index in range(4):
        polygon = clipped(polygon, other[index], other[(index + 1) % 4]) if polygon else []
    common = area(polygon)
    return common / max(first[2] * first[3] + second[2] * second[3] - common, 1e-9)


def rotated_keep(bev, scores, threshold, pre, post):
    bev, kept = np.asarray(bev, np.float64), []
    reach = np.hypot(bev[:, 2], bev[:, 3]) / 2
    for box in np.argsort(-np.asarray(scores), kind="stable")[:pre]:
        if len(kept) == post:
            break
        apart = np.hypot(*(bev[kept, :2] - bev[box, :2]).T)
        touching = np.flatnonzero(apart <= reach[kept] + reach[box])
        near = touching[np.argsort(apart[touching])]  # the nearest is the likeliest, which saves time
        if not any(overlap(bev[kept[place]], bev[box]) > threshold for place in near):
            kept.append(box)
    return kept


def circle_keep(centres, scores, limit, post):
    kept = []
    for box in np.argsort(-np.asarray(scores), kind="stable"):
        if len(kept) < post and not (((centres[kept] - centres[box]) ** 2).sum(1) <= limit).any():
            kept.append(box)
    return kept


def cells(maps, low, size):
    """Places of all cells in metres, ``[H, W]`` each; ``size`` is of a cell of the map."""
    offset = np.asarray(maps.get("center", maps.get("reg")), np.float64)
    rows, columns = np.indices(offset.shape[1:])
    return (columns + offset[0]) * size + low[0], (rows + offset[1]) * size + low[1]


def table(maps, low, size, *, names=("center_z", "vel"), sine=1):
    """Every cell's box: z of the centre, exp of the sizes as they are, atan2 of the row ``sine`` and the other one."""
    x, y = cells(maps, low, size)
    rot, dim = (np.asarray(maps[name], np.float64) for name in ("rot", "dim"))
    velocity = np.asarray(maps["vel"], np.float64) if "vel" in maps else np.full((2, *x.shape), np.nan)
    parts = [x, y, np.asarray(maps[names[0]], np.float64)[0], *np.exp(dim), np.arctan2(rot[sine], rot[1 - sine])]
    return np.stack([*parts, *velocity], -1).reshape(-1, 9)


def within(rows, limit):
    return ((rows[:, :3] >= limit[:3]) & (rows[:, :3] <= limit[3:])).all(1)


def top_cells(heat, count):
    """OpenPCDet's and mmdetection3d's top-K: the best of each class, of these the best of all."""
    scores = sigmoid(heat).reshape(len(heat), -1)
    per_class = [np.argsort(-row, kind="stable")[:count] for row in scores]
    pairs = [(scores[label, cell], label, cell) for label, best in enumerate(per_class) for cell in best]
    return sorted(pairs, key=lambda pair: -pair[0])[:count]


def joined(tasks):
    """Of all tasks; labels count on from task to task."""
    rows, scores, labels, first = [], [], [], 0
    for found, score, label, classes in tasks:
        rows.append(found)
        scores.append(score)
        labels.append(label + first)
        first += classes
    return np.concatenate(rows), np.concatenate(scores), np.concatenate(labels)


def center_boxes(tasks, layout, *, low, size, limit, keep, threshold=0.1, top=500):
    """Boxes of a CenterHead; ``keep(task, rows, scores)`` says which stay. ``size`` is of a cell of the maps."""
    z, hm = {"openpcdet": ("center_z", "hm"), "mmdet3d": ("height", "heatmap"), "det3d": ("height", "hm")}[layout]
    found = []
    for task, maps in enumerate(tasks):
        rows = table(maps, low, size, names=(z, "vel"), sine=1 if layout == "openpcdet" else 0)
        heat = np.asarray(maps[hm])
        if layout == "det3d":  # the best class of every cell, no top-K; (w, l, h) and rot' = -yaw - pi/2
            scores = sigmoid(heat).reshape(len(heat), -1)
            label, score = scores.argmax(0), scores.max(0)
            rows = rows[:, [0, 1, 2, 4, 3, 5, 6, 7, 8]]
            rows[:, 6] = -rows[:, 6] - np.pi / 2
        else:
            best = top_cells(heat, top)
            score, label = np.array([pair[0] for pair in best]), np.array([pair[1] for pair in best])
            rows = rows[[pair[2] for pair in best]]
        good = (score > threshold) & within(rows, np.array(limit))
        rows, score, label = rows[good], score[good], label[good]
        kept = keep(task, rows, score)
        found.append((rows[kept], score[kept], label[kept], len(heat)))
    return joined(found)


def rotated(threshold, pre, post):
    return lambda _, rows, scores: rotated_keep(rows[:, [0, 1, 3, 4, 6]], scores, threshold, pre, post)


def circle(limits, post):
    return lambda task, rows, scores: circle_keep(rows[:, :2], scores, limits[task], post)


def anchor_result(boxes, scores, layout):
    """Suppression of ``foreign_forward.anchor_boxes``' anchors, as the published KITTI models do it."""
    empty = np.full((len(boxes), 2), np.nan)
    rows, best = np.concatenate([boxes, empty], 1), scores.max(1)
    if layout == "openpcdet":
        chosen = np.flatnonzero(best >= 0.1)
        kept = chosen[rotated_keep(rows[chosen][:, [0, 1, 3, 4, 6]], best[chosen], 0.01, 4096, 500)]
        return rows[kept], best[kept], scores.argmax(1)[kept]
    first = np.argsort(-best, kind="stable")[:100]
    found = []
    for label in range(scores.shape[1]):
        mine = first[scores[first, label] > 0.1]
        mine = mine[rotated_keep(rows[mine][:, [0, 1, 3, 4, 6]], scores[mine, label], 0.01, 10**9, 10**9)]
        found += [(scores[box, label], box, label) for box in mine]
    found = sorted(found, key=lambda item: -item[0])[:50]
    chosen = [box for _, box, _ in found]
    return rows[chosen], np.array([score for score, _, _ in found]), np.array([label for _, _, label in found])


def assert_same_boxes(ours, theirs, *, most_lost=1):
    """Every box of one side is on the other; a score or an overlap at a threshold may fall to either side."""
    rows, scores, labels = theirs
    assert abs(len(ours) - len(rows)) <= most_lost, f"{len(ours)} boxes, not {len(rows)}"
    left, lost = set(range(len(rows))), []
    for row, score, label in zip(ours.array, ours.score, ours.label, strict=True):
        match = next((i for i in left if labels[i] == label and _same(row, score, rows[i], scores[i])), None)
        if match is None:
            lost.append((row, score, label))
        else:
            left.remove(match)
    assert len(lost) <= most_lost and len(left) <= most_lost, (lost[:3], [rows[i] for i in left][:3])


def _same(row, score, other, their_score):
    turn = abs((row[6] - other[6] + np.pi) % (2 * np.pi) - np.pi)
    close = np.allclose(row[:6], other[:6], rtol=1e-4, atol=1e-3) and abs(score - their_score) < 1e-4
    return close and turn < 1e-3 and np.allclose(row[7:], other[7:], rtol=1e-4, atol=1e-3, equal_nan=True)
