"""A framework's weights in kd3d's conventions: everything that differs is moved into the weights.

kd3d: rot is (sin, cos) of yaw counter-clockwise from +x, dim is log (length, width, height), up branches of stride 1
are transposed convolutions, points are decorated with three offsets from the mean and three from the centre.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from kd3d.detectors.blocks import HEAD_EPS
from kd3d.importers.architecture import Architecture
from kd3d.importers.container import Framework

Tensors = dict[str, Tensor]


@dataclass(frozen=True)
class Convention:
    """How the weights differ from kd3d's.

    Args:
        framework: whose they are.
        features: columns of a raw point.
        old_boxes: boxes are (w, l, h) with rot' = -yaw - pi/2 (det3d, mmdetection3d before 1.0).
        legacy_decoration: x, y, z of a decorated point are its offsets from the pillar's centre.
        head_eps: of the head's batch norms.
    """

    framework: Framework
    features: int
    old_boxes: bool
    legacy_decoration: bool
    head_eps: float = HEAD_EPS


def convert(tensors: Tensors, shape: Architecture, convention: Convention) -> tuple[Tensors, list[str]]:
    """Weights in kd3d's conventions, as float32, and one line for every rule that changed something.

    Args:
        tensors: by kd3d's names; they are not changed.
        shape: what they are.
        convention: how they differ.
    """
    made = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    notes: list[str] = []
    if any(tensor.is_floating_point() and tensor.dtype != torch.float32 for tensor in tensors.values()):
        notes.append("weights of another precision became float32")
    if shape.encoder == "pillar":
        notes += _decoration(made, shape, convention)
    notes += _up_branches(made, shape)
    if shape.head == "center":
        notes += _center_rows(made, convention)
        notes += _head_norms(made, convention)
    notes += _zero_biases(made)
    notes += _counters(made)
    return made, notes


def _decoration(made: Tensors, shape: Architecture, convention: Convention) -> list[str]:
    name, notes = "encoder.layers.0.linear.weight", []
    weight, features = made[name], convention.features
    if shape.inputs == features + 5:
        weight = torch.cat([weight, weight.new_zeros(len(weight), 1)], dim=1)
        notes.append(
            "a zero column for the offset in z from the pillar's centre, which this framework does not compute"
        )
    if convention.legacy_decoration:
        axes = shape.inputs - features - 3  # how many offsets from the centre there are
        weight = weight.clone()
        weight[:, features + 3 : features + 3 + axes] += weight[:, :axes]
        weight[:, :axes] = 0
        notes.append("legacy decoration: the columns of x, y, z are added to those of the offsets from the centre")
    made[name] = weight
    return notes


def _up_branches(made: Tensors, shape: Architecture) -> list[str]:
    turned = []
    for level, branch in enumerate(shape.ups):
        if branch.stride == 1 and not branch.transposed:
            name = f"backbone.ups.{level}.conv.weight"
            made[name] = made[name].transpose(0, 1).contiguous()
            turned.append(name)
    return [f"1x1 convolution of stride 1 became a transposed one: {', '.join(turned)}"] if turned else []


def _center_rows(made: Tensors, convention: Convention) -> list[str]:
    swapped = convention.framework == "openpcdet" or convention.old_boxes
    for name, tensor in made.items():
        match = re.fullmatch(r"head\.tasks\.\d+\.(rot|dim)\.out\.(weight|bias)", name)
        if match is None:
            continue
        if match[1] == "rot" and swapped and len(tensor) == 2:
            made[name] = tensor.flip(0) * (-1 if convention.old_boxes else 1)
        if match[1] == "dim" and convention.old_boxes and len(tensor) == 3:
            made[name] = tensor[[1, 0, 2]]
    if convention.old_boxes:
        return ["rows of rot swapped and negated, rows of dim swapped: (w, l, h) and clockwise yaw become kd3d's"]
    return ["rows of rot swapped: (cos, sin) becomes (sin, cos)"] if swapped else []


def _head_norms(made: Tensors, convention: Convention) -> list[str]:
    if convention.head_eps == HEAD_EPS:
        return []
    for name in [name for name in made if name.startswith("head.") and name.endswith("running_var")]:
        made[name] = made[name] + (convention.head_eps - HEAD_EPS)
    return [
        f"the head's norms have eps {convention.head_eps:g}: the difference to {HEAD_EPS:g} went into the variances"
    ]


def _zero_biases(made: Tensors) -> list[str]:
    """mmdetection3d's head has no bias before its norms; kd3d's has."""
    convs = [name for name in made if re.fullmatch(r"head\..*conv\.weight", name)]
    if not convs or any(name.replace("weight", "bias") in made for name in convs):
        return []  # none has one, or a missing one is reported as missing
    for name in convs:
        made[name.replace("weight", "bias")] = torch.zeros(made[name].shape[0])
    return [f"{len(convs)} convolution(s) of the head have no bias: zero"]


def _counters(made: Tensors) -> list[str]:
    """Counters of batches, which files from before torch 0.4.1 lack, or which tools strip; they do not matter."""
    norms = [name[: -len("running_mean")] for name in made if name.endswith("norm.running_mean")]
    missing = [f"{name}num_batches_tracked" for name in norms if f"{name}num_batches_tracked" not in made]
    for name in missing:
        made[name] = torch.tensor(0)
    return [f"{len(missing)} counter(s) of batches are not stored: zero"] if missing else []
