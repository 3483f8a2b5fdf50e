"""Networks that nobody trained, but that give boxes; and frames for them."""

from __future__ import annotations

from typing import Any

import torch

from kd3d.bench.synthetic import synthetic_frames
from kd3d.detectors.build import build
from kd3d.detectors.checkpoint import Model
from kd3d.detectors.torch_pipeline import TorchPipeline
from kd3d.runtime.frames import Frame
from kd3d.spec import AnchorHeadSpec, DetectorSpec

_LOGIT = -0.85  # of a score of 0.3


def lively(module: Any, seed: int) -> Any:
    """The same network with norms as training leaves them, and scores that rise above 0.3 here and there."""
    torch.manual_seed(seed)
    for part in module.modules():
        if isinstance(part, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)):
            part.running_mean.normal_(0, 0.2)
            part.running_var.uniform_(0.5, 2)
            part.bias.data.normal_(0, 0.2)
    return with_scores(module)


def with_scores(module: Any) -> Any:
    """The same network with steeper heatmaps: untrained ones are flat, and no box would be compared."""
    if isinstance(module.spec.head, AnchorHeadSpec):
        torch.nn.init.normal_(module.head.cls.weight, std=1.0)
        torch.nn.init.constant_(module.head.cls.bias, -4.0)
        torch.nn.init.normal_(module.head.box.weight, std=0.05)
        torch.nn.init.normal_(module.head.dir.weight, std=0.5)
    else:
        for task in module.head.tasks:
            task["hm"].out.weight.data *= 20
    return module.eval()


def audible(module: Any) -> Any:
    """The same network with its classes raised until one cell in a thousand scores 0.5, if none scores 0.3.

    Layers that a student leaves out can silence what it inherits.
    """
    if isinstance(module.spec.head, AnchorHeadSpec):
        return module
    outputs = [task["hm"].out for task in module.head.tasks]
    seen: dict[int, Any] = {}
    hooks = [
        one.register_forward_hook(lambda part, given, made, place=place: seen.__setitem__(place, made))
        for place, one in enumerate(outputs)
    ]
    try:
        (frame,) = frames(module.spec, 1, seed=100)
        TorchPipeline(Model(module.spec, module), padded=True)(frame)
    finally:
        for hook in hooks:
            hook.remove()
    for place, one in enumerate(outputs):
        if float(seen[place].max()) < _LOGIT:
            one.bias.data -= float(seen[place].flatten().float().quantile(0.999))
    return module


def untrained(spec: DetectorSpec, seed: int = 0) -> Model:
    """A network of ``spec``."""
    torch.manual_seed(seed)
    return Model(spec, lively(build(spec), seed))


def frames(spec: DetectorSpec, count: int, seed: int = 0) -> list[Frame]:
    """Clouds with objects in them, as ``kd3d bench --synthetic`` has them."""
    import numpy as np

    made = synthetic_frames(spec, count=count, points=20_000, seed=seed)
    names = spec.head.classes
    return [Frame(one.token, one.points, one.features, None, names, np.eye(4), np.eye(4)) for one in made]
