"""Count a built network's cost by running it: the witness that ``cost`` is right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kd3d.compress.search.cost import Cost
from kd3d.detectors.batch import Batch
from kd3d.detectors.model import CenterPoint
from kd3d.detectors.sparse import KernelMap, SparseConv


def count(module: CenterPoint, batch: Batch) -> Cost:
    """Cost of one forward pass over ``batch``, in the conventions of ``Cost``; ``stages`` stays empty.

    Elements read and written are the inputs and outputs of the weighted layers: their weights, the scatter into the BEV
    map and the peak are not seen.

    Args:
        module: left as it was.
        batch: one frame.
    """
    found = {"macs": 0, "thop": 0, "acts": 0, "read": 0}

    def hook(layer: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        if isinstance(layer, _BatchNorm):
            found["thop"] += 2 * inputs[0].numel()
            return
        if isinstance(layer, SparseConv):
            macs, thop = _sparse_operations(layer, inputs[1])
        else:
            macs, thop = _operations(layer, inputs[0], output)
        found["macs"] += macs
        found["thop"] += thop
        found["acts"] += output.numel()
        found["read"] += inputs[0].numel()

    kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear, SparseConv, _BatchNorm)
    handles = [layer.register_forward_hook(hook) for layer in module.modules() if isinstance(layer, kinds)]
    training = module.training
    try:
        with torch.no_grad():
            module.eval()(batch)
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    params = sum(parameter.numel() for parameter in module.parameters())
    return Cost(
        params, found["macs"], found["thop"], found["acts"], (),
        read_elements=found["read"], written_elements=found["acts"],
    )  # fmt: skip


def _operations(layer: Any, read: Tensor, written: Tensor) -> tuple[int, int]:
    """Physical and thop operations of a weighted layer."""
    if isinstance(layer, nn.Linear):
        return (written.numel() * layer.in_features,) * 2
    taps = layer.kernel_size[0] * layer.kernel_size[1]
    bias = int(layer.bias is not None)
    if isinstance(layer, nn.ConvTranspose2d):
        # Physically every input element meets every tap of every output channel once.
        return read.numel() * layer.out_channels * taps, written.numel() * (layer.in_channels * taps + bias)
    macs = written.numel() * layer.in_channels * taps // layer.groups
    return macs, macs + written.numel() * bias


def _sparse_operations(layer: SparseConv, kernel_map: KernelMap) -> tuple[int, int]:
    """Those of a sparse convolution: its kernel map's pairs, and in thop one per site for a bias."""
    outputs, inputs, _ = layer.weight.shape
    pairs = int((kernel_map.table < kernel_map.sites).sum())
    macs = pairs * inputs * outputs
    return macs, macs + len(kernel_map.table) * (layer.bias is not None)
