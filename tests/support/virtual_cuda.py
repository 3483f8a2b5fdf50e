"""A CUDA device that is none: CPU tensors that were moved to ``cuda`` say so, and refuse what CUDA tensors refuse.

The computation is the CPU's. What differs: ``device``, ``is_cuda``; operators over tensors of both devices fail, as do
``numpy()`` and ``pin_memory()`` of what is on the device. As with CUDA, tensors without dimensions may come from the
CPU, and CPU indices may index a device tensor. Autocast for ``cuda`` is the CPU's.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from kd3d.detectors import sparse

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
_COPIES = ("aten::copy_", "aten::set_", "aten::_to_copy")
_INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
_DEVICE, _IS_CUDA, _IS_CPU = torch.Tensor.device.__get__, torch.Tensor.is_cuda.__get__, torch.Tensor.is_cpu.__get__
_QUANTILES = (torch.quantile, torch.Tensor.quantile)  # made of other operators over a tensor that they make
_TO_HOST = (torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.pin_memory)


class Marks:
    """Which memory is on the device."""

    def __init__(self):
        self.held = {}  # a weak reference keeps the address from being used again

    def on(self, tensor):
        with torch._C.DisableTorchFunction():
            return tensor.untyped_storage()._cdata in self.held

    def put(self, tensor, where=CUDA):
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            if where.type == "cuda":
                self.held[storage._cdata] = StorageWeakRef(storage)
            else:
                self.held.pop(storage._cdata, None)
        return tensor


class _Operators(TorchDispatchMode):
    def __init__(self, marks):
        super().__init__()
        self.marks = marks

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = function._schema.name
        compared = (args[0], *args[2:]) if name in _INDEXED and self.marks.on(args[0]) else (args, kwargs)
        tensors = [leaf for leaf in tree_leaves(compared) if isinstance(leaf, torch.Tensor)]
        there = [self.marks.on(tensor) for tensor in tensors]
        if any(there) and name not in _COPIES:
            for tensor, on in zip(tensors, there, strict=True):
                if not on and tensor.dim():
                    raise RuntimeError(f"{name}: tensors on cuda:0 and cpu, the latter {tuple(tensor.shape)}")
        result = function(*args, **kwargs)
        if any(there) and not (name == "aten::copy_" and not there[0]):
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self.marks.put(leaf)
        return result


class _Names(TorchFunctionMode):
    def __init__(self, marks):
        super().__init__()
        self.marks = marks

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function == _DEVICE:
            return CUDA if self.marks.on(args[0]) else function(*args)
        if function in (_IS_CUDA, _IS_CPU):
            return self.marks.on(args[0]) == (function == _IS_CUDA)
        if function in _TO_HOST and self.marks.on(args[0]):
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy or page-locked memory: {args[0].shape}")
        if function in _QUANTILES:
            with _disable_current_modes():
                result = function(*args, **kwargs)
            return self.marks.put(result) if self.marks.on(args[0]) else result
        if function is torch.Tensor.cpu:
            return self._moved(args[0], CPU, {})
        if function is torch.Tensor.cuda:
            return self._moved(args[0], CUDA, {})
        if function is torch.Tensor.to:
            return self._to(*args, **kwargs)
        wanted = kwargs.get("device")
        if wanted is None:
            result = function(*args, **kwargs)
            return self.marks.put(result) if function is torch.Tensor.new_tensor and self.marks.on(args[0]) else result
        where = torch.device(wanted)
        result = function(*args, **{**kwargs, "device": CPU if where.type == "cuda" else where})
        return self.marks.put(result, where) if where.type != "meta" else result

    def _to(self, tensor, *args, **kwargs):
        if args and isinstance(args[0], torch.Tensor):
            like = args[0]
            return self._moved(tensor, CUDA if self.marks.on(like) else CPU, {"dtype": like.dtype})
        device, dtype, _, layout = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})
        here = CUDA if self.marks.on(tensor) else CPU
        how = {key: value for key, value in (("dtype", dtype), ("memory_format", layout)) if value is not None}
        return self._moved(tensor, here if device is None else device, how)

    def _moved(self, tensor, where, how):
        with torch._C.DisableTorchFunction():
            changed = tensor.to(**how) if how else tensor
            if (where.type == "cuda") == self.marks.on(tensor) or where.type == "meta":
                return changed
            if changed.untyped_storage()._cdata == tensor.untyped_storage()._cdata:
                changed = changed.clone()
        return self.marks.put(changed, where)


class VirtualCuda:
    """The context in which there is such a device. ``patch`` is pytest's ``monkeypatch``."""

    def __init__(self, patch):
        self.marks, self._stack = Marks(), ExitStack()
        autocast, enabled, dtype = torch.autocast, torch.is_autocast_enabled, torch.get_autocast_dtype

        def cpu(name):
            return "cpu" if name == "cuda" else name

        patch.setattr(torch, "autocast", lambda kind, *rest, **how: autocast(cpu(kind), *rest, **how))
        patch.setattr(torch, "is_autocast_enabled", lambda kind="cpu": enabled(cpu(kind)))
        patch.setattr(torch, "get_autocast_dtype", lambda kind: dtype(cpu(kind)))
        patch.setattr("kd3d.training.precision._has_bf16", lambda device: True)
        patch.setattr("kd3d.training.loop._cuda_devices", lambda device: [])
        patch.setattr(torch.cuda, "is_available", lambda: True)
        for function in (sparse._TableConv, sparse._PairConv):
            patch.setattr(function, "backward", staticmethod(self._named(function.backward)))

    def _named(self, backward):
        """Autograd leaves the mode of names: a backward pass that is written in Python enters it again."""

        def called(context, *gradients):
            with _Names(self.marks):
                return backward(context, *gradients)

        return called

    def __enter__(self):
        self._stack.enter_context(_Operators(self.marks))
        self._stack.enter_context(_Names(self.marks))
        return self.marks

    def __exit__(self, *details):
        self._stack.close()
