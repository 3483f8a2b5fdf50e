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


def pointpillars(layout, *, seed=0, width=64, layers=(3, 5, 5), classes=3, features=4):
    """State of KITTI's PointPillars: one point layer of [64, 10], three levels, an anchor head of six anchors."""
    w = Weights(seed)
    pfn, blocks, deblocks, head = {
        "openpcdet": ("vfe.", "backbone_2d.", "backbone_2d.", "dense_head."),
        "mmdet3d": ("voxel_encoder.", "backbone.", "neck.", "bbox_head."),
    }[layout]
    if layout == "openpcdet":
        w.state["global_step"] = torch.zeros(1, dtype=torch.int64)
    inputs = points(w, pfn, features + 6, (width,))
    neck = trunk(
        w, blocks, deblocks, layout,
        inputs=inputs, layers=layers, channels=(width, 2 * width, 4 * width), ups=(1, 2, 4),
        up_channels=(2 * width,) * 3, stride_one_conv=False,
    )  # fmt: skip
    anchor_head(w, layout, head, neck, classes)
    return w.state


def anchor_head(w, layout, head, neck, classes):
    anchors = 2 * classes
    for name, size in (("cls", anchors * classes), ("box" if layout == "openpcdet" else "reg", anchors * 7)):
        w.matrix(f"{head}conv_{name}.weight", (size, neck, 1, 1), neck * 4)
        w.bias(f"{head}conv_{name}.bias", size, -2.0 if name == "cls" else 0.0)
    w.matrix(f"{head}conv_dir_cls.weight", (anchors * 2, neck, 1, 1), neck)
    w.bias(f"{head}conv_dir_cls.bias", anchors * 2)


def sparse_names(layout, residual):
    """Where the parts of the sparse backbone are: (down of stage s, block b of stage s, last)."""
    if layout == "openpcdet":
        p = "backbone_3d."
        down = lambda s: (f"{p}conv{s + 1}.0.0", f"{p}conv{s + 1}.0.1")  # noqa: E731
        block = lambda s, b: f"{p}conv{s + 1}.{b + (1 if s else 0)}"  # noqa: E731
        return p, down, block, "conv_out"
    if layout == "mmdet3d" and not residual:  # KITTI's SECOND: no prefix, and stages begin with the strided one
        p = "middle_encoder.encoder_layers.encoder_layer"
        down = lambda s: (f"{p}{s + 1}.0.0", f"{p}{s + 1}.0.1")  # noqa: E731
        return "middle_encoder.", down, lambda s, b: f"{p}{s + 1}.{b + (1 if s else 0)}", "conv_out"
    if layout == "mmdet3d":
        p = "pts_middle_encoder."
        down = lambda s: tuple(f"{p}encoder_layers.encoder_layer{s}.2.{i}" for i in (0, 1))  # noqa: E731
        return p, down, lambda s, b: f"{p}encoder_layers.encoder_layer{s + 1}.{b}", "conv_out"
    p = "backbone."
    return (
        p,
        lambda s: (f"{p}conv{s + 1}.0", f"{p}conv{s + 1}.1"),
        lambda s, b: f"{p}conv{s + 1}.{b + (3 if s else 0)}",
        "extra_conv",
    )


def sparse_kernel(w, name, out, inputs, kernel, spconv):
    weight = w.draw(out, inputs, *kernel) * math.sqrt(2 / (inputs * math.prod(kernel) / 3))
    order = {"2": (0, 2, 3, 4, 1), "1": (2, 3, 4, 1, 0), "native": (2, 3, 4, 0, 1)}[spconv]
    w.state[f"{name}.weight"] = weight.permute(order).contiguous()


def sparse_backbone(w, layout, *, inputs, widths, last, residual=True, spconv="2"):
    prefix, down, block, end = sparse_names(layout, residual)
    bias = residual and layout != "mmdet3d"
    sparse_kernel(w, f"{prefix}conv_input.0", widths[0], inputs, (3, 3, 3), spconv)
    w.norm(f"{prefix}conv_input.1", widths[0])
    width = widths[0]
    for stage, out in enumerate(widths):
        if stage:
            conv, bn = down(stage)
            sparse_kernel(w, conv, out, width, (3, 3, 3), spconv)
            w.norm(bn, out)
        for index in range(2 if residual or stage else 1):
            name = block(stage, index)
            for part in ("1", "2") if residual else ("",):
                conv, bn = (f"{name}.conv{part}", f"{name}.bn{part}") if residual else (f"{name}.0", f"{name}.1")
                sparse_kernel(w, conv, out, out, (3, 3, 3), spconv)
                if bias:
                    w.bias(f"{conv}.bias", out)
                w.norm(bn, out)
        width = out
    sparse_kernel(w, f"{prefix}{end}.0", last, width, (3, 1, 1), spconv)
    w.norm(f"{prefix}{end}.1", last)
    return last * 2


def centerpoint_voxel(layout, *, seed=0, widths=(16, 32, 64, 128), last=128, trunk_width=128, shared=64, **options):
    """State of a CenterPoint-Voxel for nuScenes."""
    w = Weights(seed)
    if layout == "openpcdet":
        w.state["global_step"] = torch.zeros(1, dtype=torch.int64)
    bev = sparse_backbone(w, layout, inputs=5, widths=widths, last=last, **options)
    blocks = {"openpcdet": "backbone_2d.", "mmdet3d": "pts_backbone.", "det3d": "neck."}[layout]
    deblocks = {"openpcdet": "backbone_2d.", "mmdet3d": "pts_neck.", "det3d": "neck."}[layout]
    neck = trunk(
        w, blocks, deblocks, layout,
        inputs=bev, layers=(5, 5), channels=(trunk_width, 2 * trunk_width), ups=(1, 2),
        up_channels=(2 * trunk_width,) * 2, stride_one_conv=layout != "openpcdet",
    )  # fmt: skip
    center_head(w, layout, inputs=neck, tasks=SIX, shared=shared, velocity=True)
    return w.state


def second(layout="openpcdet", *, seed=0, widths=(16, 32, 64, 64), last=128, trunk_width=128, classes=3, spconv="2"):
    """State of SECOND for KITTI: plain sparse blocks, two levels, an anchor head of six anchors."""
    w = Weights(seed)
    blocks, deblocks, head = {
        "openpcdet": ("backbone_2d.", "backbone_2d.", "dense_head."),
        "mmdet3d": ("backbone.", "neck.", "bbox_head."),
    }[layout]
    if layout == "openpcdet":
        w.state["global_step"] = torch.zeros(1, dtype=torch.int64)
    bev = sparse_backbone(w, layout, inputs=4, widths=widths, last=last, residual=False, spconv=spconv)
    neck = trunk(
        w, blocks, deblocks, layout,
        inputs=bev, layers=(5, 5), channels=(trunk_width, 2 * trunk_width), ups=(1, 2),
        up_channels=(2 * trunk_width,) * 2, stride_one_conv=False,
    )  # fmt: skip
    anchor_head(w, layout, head, neck, classes)
    return w.state
