"""How runtimes say that a device's memory is too small."""

from __future__ import annotations

_WORDS = (
    "out of memory",
    "outofmemory",
    "out_of_memory",
    "insufficient memory",
    "failed to allocate memory",
    "could not be allocated",
    "alloc_failed",
    "bad_alloc",
)


def out_of_memory(text: str) -> bool:
    """Whether a message of TensorRT, ONNX Runtime, cuBLAS or cuDNN is about memory that is not there."""
    text = text.lower()
    return any(word in text for word in _WORDS)
