"""Random weights in the layouts and containers of OpenPCDet, mmdetection3d and det3d."""

import math
import sys
import types
from collections import OrderedDict

import torch

SIX = [1, 2, 2, 1, 2, 2]
PCDET_NAMES = ("center", "center_z", "dim", "rot", "vel", "hm")
MMDET_NAMES = ("reg", "height", "dim", "rot", "vel", "heatmap")
DET3D_NAMES = ("reg", "height", "dim", "rot", "vel", "hm")
SIZES = (2, 1, 3, 2, 2)


class Weights:
    """Draws tensors with magnitudes that keep activations near one."""

    def __init__(self, seed=0):
        self.random = torch.Generator().manual_seed(seed)
        self.state = OrderedDict()

    def draw(self, *shape):
        return torch.randn(*shape, generator=self.random)

    def matrix(self, name, shape, fan):
        self.state[name] = self.draw(*shape) * math.sqrt(2 / fan)

    def bias(self, name, size, middle=0.0):
        self.state[name] = self.draw(size) * 0.1 + middle

    def norm(self, name, size):
        self.state[f"{name}.weight"] = 1 + 0.2 * self.draw(size)
        self.state[f"{name}.bias"] = 0.2 * self.draw(size)
        self.state[f"{name}.running_mean"] = 0.2 * self.draw(size)
        self.state[f"{name}.running_var"] = 0.5 + torch.rand(size, generator=self.random)
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def points(w, prefix, inputs, filters):
    width = inputs
    for index, out in enumerate(filters):
        units = out if index == len(filters) - 1 else out // 2
        w.matrix(f"{prefix}pfn_layers.{index}.linear.weight", (units, width), width * 4)
        w.norm(f"{prefix}pfn_layers.{index}.norm", units)
        width = out
    return width


def trunk(w, blocks, deblocks, layout, *, inputs, layers, channels, ups, up_channels, stride_one_conv):
    for level, (count, width) in enumerate(zip(layers, channels, strict=True)):
        for k in range(count + 1):
            at = 3 * k + (0 if layout == "mmdet3d" else 1)
            w.matrix(f"{blocks}blocks.{level}.{at}.weight", (width, inputs, 3, 3), inputs * 9)
            w.norm(f"{blocks}blocks.{level}.{at + 1}", width)
            inputs = width
    for level, (up, width, out) in enumerate(zip(ups, channels, up_channels, strict=True)):
        conv = up < 1 or (up == 1 and stride_one_conv)
        size = round(1 / up) if up < 1 else int(up)
        shape = (out, width, size, size) if conv else (width, out, size, size)
        w.matrix(f"{deblocks}deblocks.{level}.0.weight", shape, width * (size**2 if conv else 1))
        w.norm(f"{deblocks}deblocks.{level}.1", out)
    return sum(up_channels)


def center_head(w, layout, *, inputs, tasks, shared, velocity):
    prefix, names = {
        "openpcdet": ("dense_head.", PCDET_NAMES),
        "mmdet3d": ("pts_bbox_head.", MMDET_NAMES),
        "det3d": ("bbox_head.", DET3D_NAMES),
    }[layout]
    conv, norm = ("conv", "bn") if layout == "mmdet3d" else ("0", "1")
    w.matrix(f"{prefix}shared_conv.{conv}.weight", (shared, inputs, 3, 3), inputs * 9)
    if layout != "mmdet3d":
        w.bias(f"{prefix}shared_conv.{conv}.bias", shared)
    w.norm(f"{prefix}shared_conv.{norm}", shared)
    stem = {"openpcdet": "heads_list", "mmdet3d": "task_heads", "det3d": "tasks"}[layout]
    hidden, between, last = {
        "openpcdet": ("0.0", "0.1", "1"),
        "mmdet3d": ("0.conv", "0.bn", "1"),
        "det3d": ("0", "1", "3"),
    }[layout]
    for task, classes in enumerate(tasks):
        for name, size in zip(names, (*SIZES, classes), strict=True):
            if name == "vel" and not velocity:
                continue
            head = f"{prefix}{stem}.{task}.{name}"
            w.matrix(f"{head}.{hidden}.weight", (shared, shared, 3, 3), shared * 9)
            if layout != "mmdet3d":
                w.bias(f"{head}.{hidden}.bias", shared)
            w.norm(f"{head}.{between}", shared)
            w.matrix(f"{head}.{last}.weight", (size, shared, 3, 3), shared * 9 * 8)
            w.bias(f"{head}.{last}.bias", size, -2.19 if name in ("hm", "heatmap") else 0.0)


def centerpoint_pillar(
    layout, *, seed=0, tasks=SIX, features=5, width=64, velocity=True, ups=(0.5, 1, 2), layers=(3, 5, 5)
):
    """State of a CenterPoint-Pillar of ``layout``; ``width`` 64 is the published one."""
    w = Weights(seed)
    pfn = {"openpcdet": "vfe.", "mmdet3d": "pts_voxel_encoder.", "det3d": "reader."}[layout]
    blocks = {"openpcdet": "backbone_2d.", "mmdet3d": "pts_backbone.", "det3d": "neck."}[layout]
    deblocks = {"openpcdet": "backbone_2d.", "mmdet3d": "pts_neck.", "det3d": "neck."}[layout]
    if layout == "openpcdet":
        w.state["global_step"] = torch.zeros(1, dtype=torch.int64)
    offsets = 5 if layout == "det3d" else 6
    inputs = points(w, pfn, features + offsets, (width,) if layout == "mmdet3d" else (width, width))
    neck = trunk(
        w, blocks, deblocks, layout,
        inputs=inputs, layers=layers, channels=(width, 2 * width, 4 * width), ups=ups, up_channels=(2 * width,) * 3,
        stride_one_conv=layout != "openpcdet",
    )  # fmt: skip
    center_head(w, layout, inputs=neck, tasks=tasks, shared=width, velocity=velocity)
    return w.state


def write(path, layout, state, *, meta=None, legacy=None):
    """The framework's own container."""
    if layout == "openpcdet":
        content = {"epoch": 20, "it": 1000.0, "model_state": state, "optimizer_state": None, "version": "pcdet+0.6.0"}
        torch.save(content, path, _use_new_zipfile_serialization=False if legacy is None else not legacy)
        return path
    if layout == "mmdet3d":
        state._metadata = OrderedDict({"": {"version": 1}})
        meta = mmengine_meta() if meta is None else meta
        content = {"meta": meta, "state_dict": state, "message_hub": message_hub()}
    else:
        content = {"meta": {"epoch": 20, "iter": 100}, "state_dict": state}
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    return path


def mmengine_meta(cfg="", classes=None):
    facts = {"epoch": 20, "iter": 100, "cfg": cfg, "seed": 0, "experiment_name": "x", "mmengine_version": "0.10.3"}
    return {**facts, **({"dataset_meta": {"classes": classes}} if classes else {})}


def message_hub():
    """What mmengine writes: a HistoryBuffer with numpy arrays and bound methods, of a module that is made up here."""
    import numpy as np

    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self):
            self._log = np.arange(3.0)
            self._statistics = {"mean": self.mean}

        def mean(self):
            return self._log.mean()

    HistoryBuffer.__module__, HistoryBuffer.__qualname__ = module.__name__, "HistoryBuffer"
    module.HistoryBuffer = HistoryBuffer
    for name in ("mmengine", "mmengine.logging"):
        sys.modules.setdefault(name, types.ModuleType(name))
    sys.modules[module.__name__] = module
    return {"log_scalars": OrderedDict(loss=HistoryBuffer()), "runtime_info": OrderedDict(iter=np.int64(3))}


def pointpillars(layout, *, seed=0, width=64, layers=(3, 5, 5), classes=3):
    """State of KITTI's PointPillars: one point layer of [64, 10], three levels, an anchor head of six anchors."""
    w = Weights(seed)
    pfn, blocks, deblocks, head = {
        "openpcdet": ("vfe.", "backbone_2d.", "backbone_2d.", "dense_head."),
        "mmdet3d": ("voxel_encoder.", "backbone.", "neck.", "bbox_head."),
    }[layout]
    if layout == "openpcdet":
        w.state["global_step"] = torch.zeros(1, dtype=torch.int64)
    inputs = points(w, pfn, 10, (width,))
    neck = trunk(
        w, blocks, deblocks, layout,
        inputs=inputs, layers=layers, channels=(width, 2 * width, 4 * width), ups=(1, 2, 4),
        up_channels=(2 * width,) * 3, stride_one_conv=False,
    )  # fmt: skip
    anchors = 2 * classes
    for name, size in (("cls", anchors * classes), ("box" if layout == "openpcdet" else "reg", anchors * 7)):
        w.matrix(f"{head}conv_{name}.weight", (size, neck, 1, 1), neck * 4)
        w.bias(f"{head}conv_{name}.bias", size, -2.0 if name == "cls" else 0.0)
    w.matrix(f"{head}conv_dir_cls.weight", (anchors * 2, neck, 1, 1), neck)
    w.bias(f"{head}conv_dir_cls.bias", anchors * 2)
    return w.state
