"""Whose checkpoint a file is, and what is in it: tensors by name, and the facts stored beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from kd3d.errors import CheckpointError
from kd3d.importers.pickles import Inert, LazyTensor, Ordered
from kd3d.importers.torch_file import read_torch_file

Framework = Literal["openpcdet", "mmdet3d", "det3d"]
FRAMEWORKS: tuple[Framework, ...] = ("openpcdet", "mmdet3d", "det3d")


@dataclass(frozen=True)
class ForeignCheckpoint:
    """The weights of another framework.

    Args:
        path: the file.
        framework: whose names the tensors have.
        tensors: by the framework's names, in the file's order.
        versions: of modules by their names, from ``state_dict._metadata``; empty where that is lost.
        config_text: the framework's configuration in Python syntax, where the file carries it.
        classes: class names in the model's order, where the file says them.
        version: of the framework, where the file says it.
    """

    path: Path
    framework: Framework
    tensors: dict[str, Tensor]
    versions: dict[str, int]
    config_text: str | None = None
    classes: tuple[str, ...] = ()
    version: str | None = None


def read_checkpoint(path: Path, framework: Framework | None = None) -> ForeignCheckpoint:
    """Read ``path`` without running any of it.

    Args:
        path: a ``.pth``, ``.pt`` or ``.ckpt`` file of torch.
        framework: whose it is; recognised by the names of its tensors unless given.

    Raises:
        CheckpointError: it is damaged, unsafe, of none of the frameworks, or of another than ``framework``.
    """
    path = Path(path)
    content = read_torch_file(path)
    if not isinstance(content, dict) or isinstance(content, Inert):
        raise CheckpointError(f"{path}: holds a {type(content).__name__}, not a dictionary of tensors.")
    state, meta = _state(content, path), content.get("meta")
    tensors = _tensors(state, path)
    found = _recognise(content, tensors, path)
    if framework is not None and framework != found:
        raise CheckpointError(
            f"{path}: its tensors have the names of {found}, not of {framework}. Use --format {found} or auto."
        )
    facts: Mapping[Any, Any] = meta if isinstance(meta, dict) else {}
    return ForeignCheckpoint(
        path,
        found,
        tensors,
        _versions(state),
        config_text=_first_text(facts, "cfg", "config"),
        classes=_classes(facts),
        version=_first_text(facts, "mmdet3d_version") or _since_mmengine(content, facts),
    )


def _state(content: dict[Any, Any], path: Path) -> dict[Any, Any]:
    for key in ("model_state", "state_dict", "model_state_dict", "model"):
        inner = content.get(key)
        if isinstance(inner, dict) and not isinstance(inner, Inert):
            return inner
    if content and all(isinstance(value, LazyTensor) for value in content.values()):
        return content
    raise CheckpointError(
        f"{path}: has neither model_state (OpenPCDet) nor state_dict (mmdetection3d, det3d), but "
        f"{', '.join(map(repr, list(content)[:8])) or 'nothing'}. Give a checkpoint of one of these frameworks."
    )


def _tensors(state: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    found, problems = {}, []
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, LazyTensor):
            problems.append(f"{name!r} is not a tensor")
            continue
        try:
            found[name] = value.tensor()
        except CheckpointError as error:
            problems.append(f"{name}: {error}")
        except (RuntimeError, ValueError, TypeError) as error:
            problems.append(f"{name} cannot be rebuilt ({error})")
    if problems:
        raise CheckpointError(f"{path}: {len(problems)} damaged entr(ies): {'; '.join(problems)}. Copy the file again.")
    first = next(iter(found), "")
    if first.startswith("module."):  # saved from within DistributedDataParallel
        found = {name.removeprefix("module."): tensor for name, tensor in found.items()}
    return found


def _recognise(content: dict[Any, Any], tensors: dict[str, Tensor], path: Path) -> Framework:
    names = list(tensors)

    def any_begins(*starts: str) -> bool:
        return any(name.startswith(starts) for name in names)

    if "model_state" in content or any_begins("dense_head.", "backbone_2d."):
        return "openpcdet"
    if any_begins("pts_bbox_head.", "pts_backbone.", "bbox_head.conv_cls", "bbox_head.conv_reg"):
        return "mmdet3d"
    if any_begins("bbox_head.tasks.", "reader.", "neck.blocks."):
        return "det3d"
    raise CheckpointError(
        f"{path}: its {len(names)} tensors have the names of none of {', '.join(FRAMEWORKS)}; the first are "
        f"{', '.join(names[:4]) or 'missing'}. Give a LiDAR detector of one of these frameworks."
    )


def _versions(state: dict[Any, Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    metadata = state.metadata if isinstance(state, Ordered) else {}
    for name, facts in metadata.items():
        version = facts.get("version") if isinstance(facts, dict) else None
        if isinstance(name, str) and isinstance(version, int):
            found[name.removeprefix("module.")] = version
    return found


def _first_text(facts: Mapping[Any, Any], *keys: str) -> str | None:
    return next((facts[key] for key in keys if isinstance(facts.get(key), str)), None)


def _since_mmengine(content: dict[Any, Any], facts: Mapping[Any, Any]) -> str | None:
    """Files of mmengine come from mmdetection3d 1.1 or later, which does not write its own version."""
    marks = "message_hub" in content or any(key in facts for key in ("mmengine_version", "dataset_meta", "cfg"))
    return "1.1" if marks else None


def _classes(facts: Mapping[Any, Any]) -> tuple[str, ...]:
    inner = facts.get("dataset_meta")
    for owner, key in ((inner, "classes"), (inner, "CLASSES"), (facts, "CLASSES")):
        names = owner.get(key) if isinstance(owner, dict) else None
        if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    return ()
