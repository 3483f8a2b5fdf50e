"""Forward passes of the three frameworks in plain torch and numpy, written from their layouts; no kd3d code.

Maps are in the framework's own convention, by the framework's own names.
"""

import numpy as np
import torch
from torch.nn import functional

BN_EPS, HEAD_EPS = 1e-3, 1e-5


def norm(x, state, name, eps):
    part = [state[f"{name}.{what}"] for what in ("running_mean", "running_var", "weight", "bias")]
    return functional.batch_norm(x, *part, training=False, eps=eps)


def cells(points, low, high, size):
    """Cell of every point on three axes, and which are inside, in float32."""
    low, high, size = (np.asarray(v, np.float32) for v in (low, high, size))
    place = np.floor((points[:, :3] - low) / size).astype(np.int64)
    shape = np.round((high - low) / size).astype(np.int64)
    return place, shape, ((place >= 0) & (place < shape)).all(1)


def hard(points, low, high, size, max_points, max_voxels):
    """First-come voxels: padded points [V, N, F], counts, coordinates (x, y, z)."""
    place, _, inside = cells(points, low, high, size)
    found, padded, counts, where = {}, [], [], []
    for point, key in zip(points[inside], map(tuple, place[inside]), strict=True):
        index = found.get(key)
        if index is None:
            if len(found) >= max_voxels:
                continue
            index = found[key] = len(found)
            padded.append(np.zeros((max_points, points.shape[1]), np.float32))
            counts.append(0)
            where.append(key)
        if counts[index] < max_points:
            padded[index][counts[index]] = point
            counts[index] += 1
    return np.stack(padded), np.array(counts), np.array(where)


def decorate(padded, counts, where, low, size, *, layout, legacy=False):
    points, count = torch.from_numpy(padded), torch.from_numpy(counts)
    mean = points[..., :3].sum(1, keepdim=True) / count.view(-1, 1, 1)
    cluster = points[..., :3] - mean
    axes = 2 if layout == "det3d" else 3
    centre = torch.tensor(
        np.stack([where[:, a] * np.float32(size[a]) + np.float32(size[a] / 2 + low[a]) for a in range(axes)], 1)
    ).float()
    offset = points[..., :axes] - centre[:, None]
    raw = points.clone()
    if legacy:
        raw[..., :axes] = offset
    used = torch.arange(points.shape[1])[None] < count[:, None]
    return torch.cat([raw, cluster, offset], 2) * used[..., None]


def hard_encoder(state, prefix, decorated):
    x, layers = decorated, sum(k.endswith("linear.weight") and k.startswith(f"{prefix}pfn_layers") for k in state)
    for index in range(layers):
        x = functional.linear(x, state[f"{prefix}pfn_layers.{index}.linear.weight"])
        x = norm(x.permute(0, 2, 1), state, f"{prefix}pfn_layers.{index}.norm", BN_EPS).permute(0, 2, 1)
        x = functional.relu(x)
        highest = x.max(1, keepdim=True)[0]
        x = highest if index == layers - 1 else torch.cat([x, highest.expand_as(x)], 2)
    return x[:, 0]


def dynamic_encoder(state, prefix, points, low, size, shape):
    """DynPillarVFE: no caps, z unchecked."""
    place = np.floor((points[:, :2] - np.float32(low[:2])) / np.float32(size[:2])).astype(np.int64)
    inside = ((place >= 0) & (place < np.asarray(shape[:2]))).all(1)
    points, place = torch.from_numpy(points[inside]), torch.from_numpy(place[inside])
    key, owner = torch.unique(place[:, 1] * shape[0] + place[:, 0], return_inverse=True)
    count = torch.bincount(owner).float()
    mean = torch.zeros(len(key), 3).index_add_(0, owner, points[:, :3]) / count[:, None]
    centre = torch.stack(
        [place[:, a].float() * np.float32(size[a]) + np.float32(size[a] / 2 + low[a]) for a in range(2)]
        + [torch.full((len(points),), np.float32(size[2] / 2 + low[2]))], 1
    )  # fmt: skip
    x = torch.cat([points, points[:, :3] - mean[owner], points[:, :3] - centre], 1)
    for index in range(2):
        x = functional.linear(x, state[f"{prefix}pfn_layers.{index}.linear.weight"])
        x = functional.relu(norm(x, state, f"{prefix}pfn_layers.{index}.norm", BN_EPS))
        highest = torch.full((len(key), x.shape[1]), -1.0)
        highest = highest.scatter_reduce(0, owner[:, None].expand_as(x), x, "amax")
        x = highest if index == 1 else torch.cat([x, highest[owner]], 1)
    where = torch.stack([key % shape[0], key // shape[0]], 1)
    return x, where.numpy()


def scatter(features, where, nx, ny):
    canvas = torch.zeros(features.shape[1], ny * nx)
    canvas[:, torch.from_numpy(where[:, 1] * nx + where[:, 0])] = features.t()
    return canvas.view(1, -1, ny, nx)


def trunk(state, x, layout, *, strides, ups, stride_one_conv):
    blocks = {"openpcdet": "backbone_2d.", "mmdet3d": "pts_backbone.", "det3d": "neck."}[layout]
    deblocks = {"openpcdet": "backbone_2d.", "mmdet3d": "pts_neck.", "det3d": "neck."}[layout]
    if f"{blocks}blocks.0.0.weight" not in state and f"{blocks}blocks.0.1.weight" not in state:
        blocks, deblocks = "backbone.", "neck."
    first, raised = (0 if layout == "mmdet3d" else 1), []
    for level, (stride, up) in enumerate(zip(strides, ups, strict=True)):
        at = first
        while f"{blocks}blocks.{level}.{at}.weight" in state:
            x = functional.conv2d(
                x, state[f"{blocks}blocks.{level}.{at}.weight"], stride=stride if at == first else 1, padding=1
            )
            x = functional.relu(norm(x, state, f"{blocks}blocks.{level}.{at + 1}", BN_EPS))
            at += 3
        weight = state[f"{deblocks}deblocks.{level}.0.weight"]
        if up < 1:
            y = functional.conv2d(x, weight, stride=round(1 / up))
        elif up == 1 and stride_one_conv:
            y = functional.conv2d(x, weight)
        else:
            y = functional.conv_transpose2d(x, weight, stride=int(up))
        raised.append(functional.relu(norm(y, state, f"{deblocks}deblocks.{level}.1", BN_EPS)))
    return torch.cat(raised, 1)


def center_head(state, x, layout):
    """One dictionary of maps per task."""
    prefix = {"openpcdet": "dense_head.", "mmdet3d": "pts_bbox_head.", "det3d": "bbox_head."}[layout]
    conv, bn = ("conv", "bn") if layout == "mmdet3d" else ("0", "1")
    stem = {"openpcdet": "heads_list", "mmdet3d": "task_heads", "det3d": "tasks"}[layout]
    hidden, between, last = {
        "openpcdet": ("0.0", "0.1", "1"), "mmdet3d": ("0.conv", "0.bn", "1"), "det3d": ("0", "1", "3"),
    }[layout]  # fmt: skip
    shared = f"{prefix}shared_conv"
    x = functional.conv2d(x, state[f"{shared}.{conv}.weight"], state.get(f"{shared}.{conv}.bias"), padding=1)
    x = functional.relu(norm(x, state, f"{shared}.{bn}", HEAD_EPS))
    tasks, found = {}, [k for k in state if k.startswith(f"{prefix}{stem}.") and k.endswith(f".{last}.weight")]
    for key in found:
        task, name = key.removeprefix(f"{prefix}{stem}.").split(".")[:2]
        head = f"{prefix}{stem}.{task}.{name}"
        if key != f"{head}.{last}.weight":
            continue
        y = functional.conv2d(x, state[f"{head}.{hidden}.weight"], state.get(f"{head}.{hidden}.bias"), padding=1)
        y = functional.relu(norm(y, state, f"{head}.{between}", HEAD_EPS))
        y = functional.conv2d(y, state[f"{head}.{last}.weight"], state[f"{head}.{last}.bias"], padding=1)
        tasks.setdefault(int(task), {})[name] = y[0]
    return [tasks[t] for t in sorted(tasks)]


def physical(maps, layout, *, old=False):
    """What the maps of a task mean: (sin, cos) of yaw, log (l, w, h), whatever the framework calls them."""
    pick = lambda *names: next((maps[n] for n in names if n in maps), None)  # noqa: E731
    rot, dim = maps["rot"], maps["dim"]
    if layout == "openpcdet":
        sin, cos = rot[1], rot[0]
    elif layout == "det3d" or old:  # rot' = -yaw - pi/2
        sin, cos = -rot[1], -rot[0]
        dim = torch.stack([dim[1], dim[0], dim[2]])
    else:
        sin, cos = rot[0], rot[1]
    return {
        "hm": pick("hm", "heatmap"), "center": pick("center", "reg"), "center_z": pick("center_z", "height"),
        "dim": dim, "rot": torch.stack([sin, cos]), "vel": maps.get("vel"),
    }  # fmt: skip


def anchor_head(state, x):
    """Maps ``cls``, ``box``, ``dir`` of OpenPCDet's or mmdetection3d's anchor head."""
    prefix = "dense_head." if "dense_head.conv_cls.weight" in state else "bbox_head."
    box = "box" if prefix == "dense_head." else "reg"
    return {
        ours: functional.conv2d(x, state[f"{prefix}conv_{name}.weight"], state[f"{prefix}conv_{name}.bias"])[0]
        for ours, name in (("cls", "cls"), ("box", box), ("dir", "dir_cls"))
    }


def limit(value, offset, period):
    return value - np.floor(value / period + offset) * period


def anchor_boxes(maps, layout):
    """Every anchor's box (x, y, z of the centre, l, w, h, yaw) and its class scores, written out anchor by anchor."""
    car, walker, cyclist = ((3.9, 1.6, 1.56), -1.78), ((0.8, 0.6, 1.73), -0.6), ((1.76, 0.6, 1.73), -0.6)
    order = (car, walker, cyclist) if layout == "openpcdet" else (walker, cyclist, car)
    cls, box, way = (np.asarray(maps[name], np.float64) for name in ("cls", "box", "dir"))
    _, height, width = cls.shape
    low, high = (0.0, -39.68), (69.12, 39.68)
    if layout == "openpcdet":
        xs, ys = (low[a] + np.arange(n) * (high[a] - low[a]) / (n - 1) for a, n in ((0, width), (1, height)))
    else:
        xs, ys = (low[a] + (np.arange(n) + 0.5) * (high[a] - low[a]) / n for a, n in ((0, width), (1, height)))
    boxes, scores = [], []
    for index, ((length, w, h), bottom) in enumerate(order):
        for turn, yaw in enumerate((0.0, 1.57)):
            a = index * 2 + turn
            t, d = box[a * 7 : a * 7 + 7], np.hypot(length, w)
            angle = t[6] + yaw
            heading = way[a * 2 : a * 2 + 2].argmax(0)
            o = 0.78539 if layout == "openpcdet" else -np.pi / 2
            angle = limit(angle - o, 0, np.pi) + o + np.pi * heading
            parts = [t[0] * d + xs[None, :], t[1] * d + ys[:, None], t[2] * h + bottom + h / 2]
            parts += [np.exp(t[3]) * length, np.exp(t[4]) * w, np.exp(t[5]) * h, angle]
            boxes.append(np.stack(np.broadcast_arrays(*parts), -1).reshape(-1, 7))
            scores.append((1 / (1 + np.exp(-cls[a * 3 : a * 3 + 3]))).reshape(3, -1).T)
    return np.concatenate(boxes), np.concatenate(scores)


def dense_backbone(state, layout, names, features, where, shape, *, residual=True, spconv="2"):
    """The sparse backbone as dense convolutions with a mask of active sites: ``[1, 2C, H, W]``."""
    prefix, down, block, end = names
    order = {"2": (0, 4, 1, 2, 3), "1": (4, 3, 0, 1, 2), "native": (3, 4, 0, 1, 2)}[spconv]
    nx, ny, nz = shape
    x = torch.zeros(1, features.shape[1], nz + 1, ny, nx)
    x[0, :, where[:, 2], where[:, 1], where[:, 0]] = features.t()
    mask = torch.zeros(1, 1, nz + 1, ny, nx)
    mask[0, 0, where[:, 2], where[:, 1], where[:, 0]] = 1

    def conv(x, name, stride=1, padding=1):
        return functional.conv3d(x, state[f"{name}.weight"].permute(order), state.get(f"{name}.bias"), stride, padding)

    def strided(x, mask, name, bn, stride, padding):
        kernel = torch.ones(1, 1, *state[f"{name}.weight"].permute(order).shape[2:])
        found = (functional.conv3d(mask, kernel, None, stride, padding) > 0).float()
        return functional.relu(norm(conv(x, name, stride, padding), state, bn, BN_EPS)) * found, found

    x = functional.relu(norm(conv(x, f"{prefix}conv_input.0"), state, f"{prefix}conv_input.1", BN_EPS)) * mask
    for stage in range(4):
        if stage:
            name, bn = down(stage)
            x, mask = strided(x, mask, name, bn, 2, (0, 1, 1) if stage == 3 else 1)
        for index in range(2 if residual or stage else 1):
            name = block(stage, index)
            if not residual:
                x = functional.relu(norm(conv(x, f"{name}.0"), state, f"{name}.1", BN_EPS)) * mask
                continue
            y = functional.relu(norm(conv(x, f"{name}.conv1"), state, f"{name}.bn1", BN_EPS)) * mask
            y = norm(conv(y, f"{name}.conv2"), state, f"{name}.bn2", BN_EPS)
            x = functional.relu(x + y) * mask
    x, _ = strided(x, mask, f"{prefix}{end}.0", f"{prefix}{end}.1", (2, 1, 1), 0)
    return x.view(1, -1, *x.shape[3:])
