"""What configurations of mmdetection3d and det3d have in common: they have the same ancestor."""

from __future__ import annotations

from typing import Any

from kd3d.errors import CheckpointError
from kd3d.importers.lookup import at, text, whole, wholes, words

_COLUMNS = {
    "nuscenes": ("x", "y", "z", "intensity", "time_lag"),
    "waymo": ("x", "y", "z", "intensity", "elongation"),
    "kitti": ("x", "y", "z", "intensity"),
}
_VOXEL_MEANS = ("HardSimpleVFE", "VoxelFeatureExtractorV3")


def first(owner: Any, *names: str) -> Any:
    """The first entry of ``owner`` that is there."""
    return next((at(owner, name) for name in names if at(owner, name) is not None), None)


def kind_of(part: Any) -> str:
    """The ``type`` of a part, without the module that newer configurations put before it."""
    return text(at(part, "type")).rpartition(".")[2]


def refuse(problems: list[str], source: str) -> None:
    """Report what kd3d does not have, all at once.

    Raises:
        CheckpointError: there is something.
    """
    if problems:
        raise CheckpointError(f"{source}: describes a network that kd3d does not have: {'; '.join(problems)}.")


def deformable(head: Any) -> list[str]:
    """Why a centre head is not kd3d's."""
    has = "DCN" in kind_of(at(head, "separate_head")) or at(head, "dcn_head") is True
    return ["its head has deformable convolutions"] if has else []


def is_pillar(encoder: Any) -> bool | None:
    """Whether a point encoder makes pillars (or voxels); ``None`` of an unknown one."""
    kind = kind_of(encoder)
    if "Pillar" in kind or kind == "HardVFE":
        return True
    return False if kind in _VOXEL_MEANS else None


def data_set(config: dict[str, Any]) -> str:
    """``nuscenes``, ``waymo``, ``kitti``, or nothing."""
    kind = text(at(config, "dataset_type")).lower()
    return next((name for name in _COLUMNS if name in kind), "")


def columns(data: str, count: int | None, *, sweeps: bool) -> tuple[str, ...] | None:
    """Columns of a point of a data set; of several sweeps Waymo's points have their time as well."""
    found = _COLUMNS.get(data)
    if found is not None and data == "waymo" and sweeps and count == len(found) + 1:
        return (*found, "time_lag")
    return found


def detector_name(data: str, center: bool, pillars: bool | None) -> str | None:
    """A name such as presets have."""
    if not data or pillars is None:
        return None
    if center:
        return f"{data}-centerpoint-{'pillar' if pillars else 'voxel'}"
    return f"{data}-{'pointpillars' if pillars else 'second'}"


def square(size: tuple[float, ...] | None, source: str) -> float | None:
    """The side of a cell.

    Raises:
        CheckpointError: cells are not square.
    """
    if size and size[0] != size[1]:
        raise CheckpointError(f"{source}: cells of {size[0]:g} x {size[1]:g} m; kd3d's are square.")
    return size[0] if size else None


def cap_at_test(value: Any) -> int | None:
    """Of (training, test) the latter."""
    found = wholes(value)
    return found[-1] if found else whole(value)


def groups_of(tasks: Any) -> list[tuple[str, ...]]:
    """Class names of every task; nothing where one has none."""
    found = [words(at(task, "class_names")) for task in tasks] if isinstance(tasks, (list, tuple)) else []
    return [group for group in found if group] if all(found) else []


def flat(groups: list[tuple[str, ...]]) -> tuple[str, ...] | None:
    """All class names."""
    return tuple(name for group in groups for name in group) or None


def repeated(value: float | None, count: int) -> tuple[float, ...] | None:
    """One number for every task."""
    return None if value is None else (value,) * count
