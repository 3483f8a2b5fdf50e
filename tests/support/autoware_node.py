"""Autoware's CenterPoint node in plain loops, written from docs/autoware.md and without a line of kd3d.

It reads the parameter files as ROS would, groups and decorates points, scatters pillars, decodes and suppresses, and
publishes objects in ROS conventions. The networks are given as functions of arrays.
"""

from __future__ import annotations

import math

import numpy as np
import yaml
from shapely.geometry import Polygon

SLOTS, CHANNELS = 32, 32
LABELS = {"CAR": 1, "TRUCK": 2, "BUS": 3, "TRAILER": 4, "MOTORBIKE": 5, "BICYCLE": 6, "PEDESTRIAN": 7}


def parameters(*texts: str) -> dict:
    """Files are read one after the other; later ones win, as in a launch file."""
    merged: dict = {}
    for text in texts:
        for name, value in yaml.safe_load(text)["/**"]["ros__parameters"].items():
            if isinstance(value, dict):
                merged.setdefault(name, {}).update(value)
            else:
                merged[name] = value
    return merged


class Node:
    def __init__(self, params: dict, encoder, head) -> None:
        self.encoder, self.head = encoder, head
        model, post = params["model_params"], params["post_process_params"]
        self.low = np.array(model["point_cloud_range"][:3], np.float32)
        self.high = np.array(model["point_cloud_range"][3:], np.float32)
        self.voxel = np.array(model["voxel_size"], np.float32)
        grid = ((self.high - self.low) / self.voxel).astype(np.int64)  # cut off, not rounded
        self.nx, self.ny = int(grid[0]), int(grid[1])
        self.factor = model["downsample_factor"]
        self.wx, self.wy = self.nx // self.factor, self.ny // self.factor
        self.rows, self.width = model["max_voxel_size"], model["encoder_in_feature_size"]
        self.columns = model["point_feature_size"]
        self.names, self.twist = model["class_names"], model["has_twist"]
        self.score = post["score_threshold"]
        self.yaw_norms = post["yaw_norm_thresholds"]
        self.circle = post["circle_nms_dist_threshold"]
        self.reach, self.iou = post["iou_nms_search_distance_2d"], post["iou_nms_threshold"]
        assert len(self.yaw_norms) == len(self.names)

    def group(self, points, rng):
        """Shuffled points, at most 32 of each cell: cell (x, y) to its points."""
        found: dict[tuple[int, int], list] = {}
        for point in points[rng.permutation(len(points))].astype(np.float32):
            if (point[:3] < self.low).any() or (point[:3] >= self.high).any():
                continue
            x, y = (int(v) for v in np.floor((point[:2] - self.low[:2]) / self.voxel[:2]))
            slot = found.setdefault((x, y), [])
            if len(slot) < SLOTS:
                slot.append(point)
        return found

    def decorate(self, groups):
        """``[max_voxel_size, 32, F]`` and the cell of each row."""
        out = np.zeros((self.rows, SLOTS, self.width), np.float32)
        cells = list(groups)[: self.rows]
        for row, (x, y) in enumerate(cells):
            points = np.stack(groups[x, y])
            mean = points[:, :3].mean(axis=0)
            middle = self.voxel / 2 + np.array([x, y, 0], np.float32) * self.voxel + self.low
            parts = [points, points[:, :3] - mean, points[:, :3] - middle]
            if self.width == 9:
                parts[2] = parts[2][:, :2]
            out[row, : len(points)] = np.concatenate(parts, axis=1)
        return out, cells

    def scatter(self, pillars, cells):
        canvas = np.zeros((1, CHANNELS, self.ny, self.nx), np.float32)
        for row, (x, y) in enumerate(cells):
            canvas[0, :, y, x] = np.asarray(pillars).reshape(self.rows, CHANNELS)[row]
        return canvas

    def decode(self, maps):
        """Boxes as the node's kernel makes them, best first: x, y, z, l, w, h, yaw, vx, vy, label, score."""
        heatmap, offset, z, dim, rot, vel = (np.asarray(m)[0].astype(np.float64) for m in maps)
        found = []
        for y in range(self.wy):
            for x in range(self.wx):
                scores = 1 / (1 + np.exp(-heatmap[:, y, x]))
                label = int(scores.argmax())
                sine, cosine = rot[:, y, x]
                if scores[label] < self.score or math.hypot(sine, cosine) < self.yaw_norms[label]:
                    continue
                w, l, h = np.exp(dim[:, y, x])  # noqa: E741
                px = self.voxel[0] * self.factor * (x + offset[0, y, x]) + self.low[0]
                py = self.voxel[1] * self.factor * (y + offset[1, y, x]) + self.low[1]
                yaw = math.atan2(sine, cosine)
                found.append([px, py, z[0, y, x], l, w, h, yaw, *vel[:, y, x], label, scores[label]])
        return np.array(sorted(found, key=lambda row: -row[10])).reshape(-1, 11)

    def suppress_circle(self, boxes):
        kept: list = []
        for box in boxes:
            if all((box[0] - k[0]) ** 2 + (box[1] - k[1]) ** 2 >= self.circle**2 for k in kept):
                kept.append(box)
        return np.array(kept).reshape(-1, 11)

    def suppress_iou(self, objects):
        """A box goes where any better one overlaps it, also one that goes itself; pedestrians only mind each other."""
        shapes = [corners(row) for row in objects]
        walks = [self.names[int(row[9])] == "PEDESTRIAN" for row in objects]
        keep = []
        for i, mine in enumerate(shapes):
            near = [
                j for j in range(i)
                if np.hypot(*(objects[i, :2] - objects[j, :2])) <= self.reach and walks[i] == walks[j]
            ]  # fmt: skip
            keep.append(all(overlap(mine, shapes[j]) <= self.iou for j in near))
        return objects[np.array(keep, bool)]

    def publish(self, boxes):
        """Objects in ROS conventions: yaw counter-clockwise from +x."""
        objects = boxes.copy()
        objects[:, 6] = -boxes[:, 6] - math.pi / 2
        if not self.twist:
            objects[:, 7:9] = np.nan
        return objects

    def __call__(self, points, *, seed=0, iou=False):
        assert points.shape[1] == self.columns
        features, cells = self.decorate(self.group(points, np.random.default_rng(seed)))
        maps = self.head(self.scatter(self.encoder(features), cells))
        objects = self.publish(self.suppress_circle(self.decode(maps)))
        return self.suppress_iou(objects) if iou else objects


def corners(row):
    x, y, _, length, width, _, yaw = row[:7]
    c, s = math.cos(yaw), math.sin(yaw)
    points = [(length / 2, width / 2), (-length / 2, width / 2), (-length / 2, -width / 2), (length / 2, -width / 2)]
    return Polygon([(x + c * a - s * b, y + s * a + c * b) for a, b in points])


def overlap(one, two):
    both = one.intersection(two).area
    return both / (one.area + two.area - both)
