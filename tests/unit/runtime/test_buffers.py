"""Buffers are used again, and never while somebody holds them."""

import gc

import numpy as np
import pytest

from kd3d.errors import GraphError
from kd3d.runtime.buffers import BufferPool
from kd3d.runtime.tensors import onnx_tensor


def test_a_released_buffer_is_used_again_also_for_less():
    pool = BufferPool()
    first = pool.empty("a", (10, 3), np.float32)
    address = first.ctypes.data
    del first
    gc.collect()
    assert pool.empty("a", (7, 3), np.float32).ctypes.data == address


def test_a_held_buffer_is_left_alone():
    pool = BufferPool()
    first = pool.empty("a", (10, 3), np.float32)
    first.fill(1)
    view = memoryview(first[2:5])
    del first
    pool.empty("a", (10, 3), np.float32).fill(2)
    assert np.asarray(view).tolist() == [[1, 1, 1]] * 3


def test_a_tensor_made_from_a_buffer_holds_it():
    import torch

    pool = BufferPool()
    tensor = torch.from_numpy(pool.empty("a", (4,), np.float32)).fill_(1)
    pool.empty("a", (4,), np.float32).fill(2)
    assert tensor.tolist() == [1] * 4


def test_names_do_not_share_memory():
    pool = BufferPool()
    assert not np.shares_memory(pool.empty("a", (4,), np.int32), pool.empty("b", (4,), np.int32))


def test_a_type_that_numpy_does_not_have_is_refused_by_name():
    class Item:
        name, type, shape = "features", "tensor(float8e4m3fnuz)", ["p", 4]

    with pytest.raises(GraphError, match=r"features is of type tensor\(float8e4m3fnuz\), which no network of kd3d has"):
        onnx_tensor(Item())
