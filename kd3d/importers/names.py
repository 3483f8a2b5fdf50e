"""What each framework calls the tensors of a detector, and kd3d's names for them.

A rule is a pattern and how to write kd3d's name from its groups. A tensor that no rule knows is reported, never
dropped; the few that carry no weights are skipped by a rule that says why.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from kd3d.importers.container import Framework
from kd3d.importers.voxel_names import voxel_rules

_NORM = r"(weight|bias|running_mean|running_var|num_batches_tracked)"
_BOTH = r"(weight|bias)"
Write = Callable[[re.Match[str]], "str | None"]


@dataclass(frozen=True)
class Rule:
    """Tensors whose name fits ``pattern`` are called ``write(match)``; ``None``: it does not fit after all."""

    pattern: re.Pattern[str]
    write: Write


@dataclass(frozen=True)
class Naming:
    """The result of renaming.

    Args:
        ours: kd3d's name to the framework's.
        skipped: the framework's name to the reason.
        unknown: names that no rule knows.
        clashes: names that would become the same as another.
    """

    ours: dict[str, str]
    skipped: dict[str, str]
    unknown: tuple[str, ...]
    clashes: tuple[str, ...]


def rename(names: list[str], framework: Framework) -> Naming:
    """Kd3d's names for the tensors of ``framework``."""
    ours: dict[str, str] = {}
    skipped: dict[str, str] = {}
    unknown, clashes = [], []
    residual = any(name.endswith(".conv1.weight") for name in names)
    sparse = [Rule(re.compile(pattern), write) for pattern, write in voxel_rules(framework, residual)]
    for name in names:
        reason = _skip_reason(name)
        if reason is not None:
            skipped[name] = reason
            continue
        written = _first(name, [*_RULES[framework], *sparse])
        if written is None:
            unknown.append(name)
        elif written in ours:
            clashes.append(f"{name} and {ours[written]}")
        else:
            ours[written] = name
    return Naming(ours, skipped, tuple(unknown), tuple(clashes))


def _first(name: str, rules: list[Rule]) -> str | None:
    for rule in rules:
        match = rule.pattern.fullmatch(name)
        if match is not None:
            return rule.write(match)
    return None


def _skip_reason(name: str) -> str | None:
    if name == "global_step":
        return "OpenPCDet's counter of training steps"
    if name.startswith("ema_"):
        return "a second copy that mmcv's EMAHook keeps; the tensors of the usual names hold the averages"
    return None


def _rule(pattern: str, template: str) -> Rule:
    return Rule(re.compile(pattern), lambda match: template.format(*match.groups()))


def _blocks(prefix: str, first: int) -> Rule:
    """Levels of the BEV backbone: convolution, norm, ReLU in turn; ``first`` is 1 where a ZeroPad2d leads."""

    def write(match: re.Match[str]) -> str | None:
        level, index, what = int(match[1]), int(match[2]) - first, match[3]
        if index < 0 or index % 3 == 2 or (index % 3 == 0 and what != "weight"):
            return None
        return f"backbone.levels.{level}.{index // 3}.{'norm' if index % 3 else 'conv'}.{what}"

    return Rule(re.compile(rf"{prefix}blocks\.(\d+)\.(\d+)\.{_NORM}"), write)


def _ups(prefix: str) -> list[Rule]:
    return [
        _rule(rf"{prefix}deblocks\.(\d+)\.0\.weight", "backbone.ups.{}.conv.weight"),
        _rule(rf"{prefix}deblocks\.(\d+)\.1\.{_NORM}", "backbone.ups.{}.norm.{}"),
    ]


def _points(prefix: str) -> list[Rule]:
    return [
        _rule(rf"{prefix}\.(\d+)\.linear\.weight", "encoder.layers.{}.linear.weight"),
        _rule(rf"{prefix}\.(\d+)\.norm\.{_NORM}", "encoder.layers.{}.norm.{}"),
    ]


def _anchor_head(prefix: str, boxes: str) -> list[Rule]:
    names = (("cls", "conv_cls"), ("box", boxes), ("dir", "conv_dir_cls"))
    return [_rule(rf"{prefix}{theirs}\.{_BOTH}", f"head.{ours}.{{}}") for ours, theirs in names]


def _branch(pattern: str, template: str, names: dict[str, str]) -> Rule:
    """A branch of a centre head; ``{0}`` is the task, ``{1}`` the branch, ``{2}`` the rest."""

    def write(match: re.Match[str]) -> str | None:
        branch = names.get(match[2])
        return None if branch is None else template.format(match[1], branch, match[3])

    return Rule(re.compile(pattern), write)


_PCDET_BRANCHES = {name: name for name in ("center", "center_z", "dim", "rot", "vel", "hm")}
_OTHER_BRANCHES = {"reg": "center", "height": "center_z", "dim": "dim", "rot": "rot", "vel": "vel"}
_MMDET_BRANCHES = {**_OTHER_BRANCHES, "heatmap": "hm"}
_DET3D_BRANCHES = {**_OTHER_BRANCHES, "hm": "hm"}
_PCDET_HEAD, _DET3D_HEAD = r"dense_head\.heads_list\.(\d+)\.(\w+)\.", r"bbox_head\.tasks\.(\d+)\.(\w+)\."
_MMDET_HEAD = r"pts_bbox_head\.task_heads\.(\d+)\.(\w+)\."
_HIDDEN_CONV, _HIDDEN_NORM = "head.tasks.{}.{}.hidden.conv.{}", "head.tasks.{}.{}.hidden.norm.{}"
_OUT = "head.tasks.{}.{}.out.{}"

_RULES: dict[Framework, list[Rule]] = {
    "openpcdet": [
        *_points(r"vfe\.pfn_layers"),
        _blocks(r"backbone_2d\.", 1),
        *_ups(r"backbone_2d\."),
        *_anchor_head(r"dense_head\.", "conv_box"),
        _rule(rf"dense_head\.shared_conv\.0\.{_BOTH}", "head.shared.conv.{}"),
        _rule(rf"dense_head\.shared_conv\.1\.{_NORM}", "head.shared.norm.{}"),
        _branch(rf"{_PCDET_HEAD}0\.0\.{_BOTH}", _HIDDEN_CONV, _PCDET_BRANCHES),
        _branch(rf"{_PCDET_HEAD}0\.1\.{_NORM}", _HIDDEN_NORM, _PCDET_BRANCHES),
        _branch(rf"{_PCDET_HEAD}1\.{_BOTH}", _OUT, _PCDET_BRANCHES),
    ],
    "mmdet3d": [
        *_points(r"(?:pts_)?voxel_encoder\.(?:pfn|vfe)_layers"),
        _blocks(r"(?:pts_)?backbone\.", 0),
        *_ups(r"(?:pts_)?neck\."),
        *_anchor_head(r"(?:pts_)?bbox_head\.", "conv_reg"),
        _rule(rf"pts_bbox_head\.shared_conv\.conv\.{_BOTH}", "head.shared.conv.{}"),
        _rule(rf"pts_bbox_head\.shared_conv\.bn\.{_NORM}", "head.shared.norm.{}"),
        _branch(rf"{_MMDET_HEAD}0\.conv\.{_BOTH}", _HIDDEN_CONV, _MMDET_BRANCHES),
        _branch(rf"{_MMDET_HEAD}0\.bn\.{_NORM}", _HIDDEN_NORM, _MMDET_BRANCHES),
        _branch(rf"{_MMDET_HEAD}1\.{_BOTH}", _OUT, _MMDET_BRANCHES),
    ],
    "det3d": [
        *_points(r"reader\.pfn_layers"),
        _blocks(r"neck\.", 1),
        *_ups(r"neck\."),
        _rule(rf"bbox_head\.shared_conv\.0\.{_BOTH}", "head.shared.conv.{}"),
        _rule(rf"bbox_head\.shared_conv\.1\.{_NORM}", "head.shared.norm.{}"),
        _branch(rf"{_DET3D_HEAD}0\.{_BOTH}", _HIDDEN_CONV, _DET3D_BRANCHES),
        _branch(rf"{_DET3D_HEAD}1\.{_NORM}", _HIDDEN_NORM, _DET3D_BRANCHES),
        _branch(rf"{_DET3D_HEAD}3\.{_BOTH}", _OUT, _DET3D_BRANCHES),
    ],
}
