"""What a foreign checkpoint's pickle may name, and the inert things that stand in for it.

Nothing here imports the named packages. A name outside of this page is refused: see ``kd3d.importers.pickles``.
"""

from __future__ import annotations

from typing import Any

import torch

from kd3d.errors import CheckpointError


class Inert(dict[Any, Any]):
    """Stands in for an object that kd3d does not need: takes any state, does nothing, runs nothing."""

    origin = ""

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Whatever the arguments."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __setstate__(self, state: Any) -> None:
        """Ignore the state."""

    def __call__(self, *_: Any, **__: Any) -> Inert:
        """An inert result."""
        return Inert()

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def append(self, *_: Any) -> None:
        """Nothing: what is appended is not needed."""

    extend = add = append


class Ordered(dict[Any, Any]):
    """An ``OrderedDict`` without a ``__dict__``, so that no stored attribute can hide a method.

    Attributes:
        metadata: the ``_metadata`` of a module's state, which holds versions; empty where there is none.
    """

    __slots__ = ("metadata",)

    def __init__(self, pairs: Any = ()) -> None:
        super().__init__(pairs)
        self.metadata: dict[Any, Any] = {}

    def __setstate__(self, state: Any) -> None:
        """Keep ``_metadata`` of what was stored beside the entries."""
        found = state.get("_metadata") if isinstance(state, dict) else None
        self.metadata = found if isinstance(found, dict) else {}


class StorageType:
    """``torch.FloatStorage`` and its like: an element type."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype


_STORAGES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
# Packages whose objects frameworks put beside the weights: settings, logs, optimiser state. None of it is used.
_INERT_PACKAGES = (
    *("mmengine", "mmcv", "mmdet", "mmdet3d", "pcdet", "det3d", "easydict", "addict", "yapf", "omegaconf", "yacs"),
)
_INERT_MODULES = (
    "torch.optim",
    "torch.nn",
    "torch.amp",
    "torch.cuda.amp",
    "numpy.dtypes",
    "numpy.random",
)  # and what is below them
_INERT_NAMES = {
    ("argparse", "Namespace"),
    ("datetime", "date"),
    ("datetime", "datetime"),
    ("datetime", "timedelta"),
    ("datetime", "timezone"),
    ("decimal", "Decimal"),
    *(
        (module, f"{pure}{name}")
        for module in ("pathlib", "pathlib._local")  # the latter since Python 3.13
        for pure in ("", "Pure")
        for name in ("Path", "PosixPath", "WindowsPath")
    ),
    ("collections", "Counter"),
    ("collections", "defaultdict"),
    ("collections", "deque"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("torch", "Size"),
    ("torch.torch_version", "TorchVersion"),
    ("torch", "Tensor"),
    ("uuid", "UUID"),
    ("torch", "device"),
    ("torch._C", "Generator"),
    ("torch.serialization", "_get_layout"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("set", "frozenset", "slice", "range")),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("bytes", "bytearray")),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("dict", "list", "tuple", "object")),
    *((module, name) for module in ("builtins", "__builtin__") for name in ("int", "float", "str", "bool", "complex")),
}
_INERT_NUMPY = ("float", "int", "uint", "bool", "str_", "bytes_")


def stand_in(module: str, name: str) -> Any:  # noqa: PLR0911  a table, in effect
    """What the pickle gets for ``module.name``; ``None`` where it is not allowed."""
    if (module, name) == ("collections", "OrderedDict"):
        return Ordered
    if module in ("torch", "torch.storage") and name in ("UntypedStorage", "_UntypedStorage"):
        return StorageType(torch.uint8)
    if module == "torch" and name in _STORAGES:
        return StorageType(_STORAGES[name])
    if module == "torch" and name in _DTYPES:
        return getattr(torch, name)
    if (module, name) == ("_codecs", "encode"):
        return _encode
    if module in ("builtins", "__builtin__") and name == "getattr":
        return _getattr
    if module in ("copyreg", "copy_reg"):
        return _reconstruct if name == "_reconstructor" else None
    return _inert(module, name)


def _inert(module: str, name: str) -> type[Inert] | None:
    plain_numpy = module == "numpy" and name.startswith(_INERT_NUMPY)
    known = module.split(".", maxsplit=1)[0] in _INERT_PACKAGES or f"{module}.".startswith(
        tuple(f"{place}." for place in _INERT_MODULES)
    )
    if plain_numpy or known or (module, name) in _INERT_NAMES:
        return type("Inert", (Inert,), {"origin": f"{module}.{name}"})
    return None


def _encode(text: str, encoding: str = "latin1") -> bytes:
    """How protocol 2 stores bytes. Only that: other codecs could do more."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1", "utf-8", "ascii"):
        raise CheckpointError(f"the pickle asks for the codec {encoding!r}, which no checkpoint needs.")
    return text.encode(encoding)


def _getattr(owner: Any, name: str) -> Inert:
    """Mmengine's HistoryBuffer stores its bound methods through ``getattr``; nothing else is let through."""
    known = isinstance(owner, Inert) or (isinstance(owner, type) and issubclass(owner, Inert))
    if not known:
        raise CheckpointError(
            f"the pickle asks for the attribute {name!r} of a {type(owner).__name__} with builtins.getattr, which "
            "could run code, so it is not opened."
        )
    return Inert()


def _reconstruct(kind: Any, base: Any, state: Any) -> Inert:
    """``copyreg._reconstructor``: an object that takes its state later."""
    if not (isinstance(kind, type) and issubclass(kind, Inert)):
        raise CheckpointError("the pickle rebuilds an object of a type that is not allowed, so it is not opened.")
    return kind()
