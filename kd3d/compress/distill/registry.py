"""Signals by name, so that a recipe can be data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from kd3d.compress.distill.anchors import AnchorBoxes, AnchorDirections, AnchorLogits
from kd3d.compress.distill.baselines import Affinity, AttentionTransfer, FeatureMse, InstanceRelation, Mimic
from kd3d.compress.distill.features import cross_scale
from kd3d.compress.distill.instances import InstanceLogits, RegionFeatures
from kd3d.compress.distill.labelfree import ProposalRanking, SoftBoxes, SoftHeatmap
from kd3d.compress.distill.masks import (
    Confident,
    Everywhere,
    Foreground,
    GaussianPivotal,
    Mask,
    Product,
    Richness,
    TopRank,
)
from kd3d.compress.distill.responses import PillarResponses, PivotalBoxes
from kd3d.compress.distill.signals import CenterRegression, PivotalLogits, Signal
from kd3d.compress.distill.unidistill import GaussianResponses, NinePoints, PointRelations
from kd3d.errors import UsageError
from kd3d.spec import DetectorSpec

MASKS: dict[str, Callable[..., Mask]] = {
    "gaussian": GaussianPivotal,
    "confidence": Confident,
    "rank": TopRank,
    "foreground": Foreground,
    "everywhere": Everywhere,
    "richness": Richness,
    "confident-foreground": lambda: Product((Foreground(), Confident(0.3))),
}

KINDS: dict[str, type[Any]] = {
    "logits": PivotalLogits,
    "center-boxes": CenterRegression,
    "pivotal-boxes": PivotalBoxes,
    "fitnet": FeatureMse,
    "attention": AttentionTransfer,
    "mimic": Mimic,
    "affinity": Affinity,
    "gid-relation": InstanceRelation,
    "gid-logits": InstanceLogits,
    "region": RegionFeatures,
    "nine-points": NinePoints,
    "relations": PointRelations,
    "responses": GaussianResponses,
    "pillars": PillarResponses,
    "soft-heatmap": SoftHeatmap,
    "soft-boxes": SoftBoxes,
    "ranking": ProposalRanking,
    "anchor-logits": AnchorLogits,
    "anchor-boxes": AnchorBoxes,
    "anchor-directions": AnchorDirections,
}
CROSS_SCALE = "cross-scale"


def mask_named(name: object) -> Mask:
    """The mask called ``name``, with its default settings.

    Raises:
        UsageError: there is none; lists the known ones.
    """
    if not isinstance(name, str) or name not in MASKS:
        raise UsageError(f"there is no mask {name!r}. Use {', '.join(MASKS)}.")
    return MASKS[name]()


def check_entry(entry: Mapping[str, Any]) -> None:
    """Refuse an entry of a recipe that names no signal, or options that its signal does not have.

    Raises:
        UsageError: says which, and what there is.
    """
    kind = entry.get("signal")
    if kind != CROSS_SCALE and kind not in KINDS:
        raise UsageError(f"there is no signal {kind!r}. Use {', '.join((*KINDS, CROSS_SCALE))}.")
    known = ["weight", "mask", "kinds"] if kind == CROSS_SCALE else [f.name for f in fields(KINDS[str(kind)])]
    unknown = sorted(set(entry) - {"signal", "optional", *known})
    if unknown:
        raise UsageError(f"the signal {kind} has no option {', '.join(unknown)}; it has {', '.join(known)}.")
    weight = entry.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < float("inf"):
        raise UsageError(f"the weight of {kind} must be a number of 0 or more, not {weight!r}.")
    if "mask" in entry:
        mask_named(entry["mask"])


def made(entry: Mapping[str, Any], student: DetectorSpec, teacher: DetectorSpec) -> tuple[Signal, ...]:
    """The signals of an entry such as ``{"signal": "mimic", "weight": 0.1}`` for a pair of models.

    ``"optional": true`` leaves a signal out where it cannot join the models; ``"mask"`` is a mask's name.

    Raises:
        UsageError: the entry is wrong, or the signal cannot join the models.
    """
    check_entry(entry)
    options = {key: value for key, value in entry.items() if key not in ("signal", "optional")}
    if "mask" in options:
        options["mask"] = mask_named(options["mask"])
    try:
        if entry["signal"] == CROSS_SCALE:
            options["kinds"] = tuple(options.get("kinds", ("levels", "neck")))
            return tuple(cross_scale(student, teacher, **options))
        signal: Signal = KINDS[entry["signal"]](**options)
        signal.check(student, teacher)
    except UsageError:
        if entry.get("optional"):
            return ()
        raise
    except TypeError as error:
        raise UsageError(f"the signal {entry['signal']} cannot be made from {dict(entry)}: {error}.") from error
    return (signal,)
