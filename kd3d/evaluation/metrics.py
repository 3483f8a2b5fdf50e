"""The result of an evaluation, in one shape for every data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Metrics:
    """How good a detector is. All precisions are fractions in 0..1.

    Args:
        mAP: nuScenes: mean over classes and distances; KITTI: mean over classes of the moderate 3D AP (R40);
            Waymo: mean over classes of the 3D AP at LEVEL_2 (``extras["mAPH"]`` weights it by heading).
        NDS: nuScenes detection score; ``None`` elsewhere.
        per_class: AP per class, of the same kind as ``mAP``.
        tp_errors: nuScenes' mean true-positive errors (``trans_err`` m, ``scale_err`` 1 - IoU, ``orient_err`` rad,
            ``vel_err`` m/s, ``attr_err`` 1 - accuracy); NaN where a metric does not apply.
        extras: more numbers of the data set's own, nested by name.
    """

    mAP: float  # noqa: N815 (the field's standard spelling, and a stable JSON key)
    NDS: float | None
    per_class: Mapping[str, float]
    tp_errors: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what is NaN or infinite becomes ``None``."""
        return {
            "mAP": finite(self.mAP),
            "NDS": finite(self.NDS),
            "per_class": finite(self.per_class),
            "tp_errors": finite(self.tp_errors),
            "extras": finite(self.extras),
        }


def finite(value: Any) -> Any:
    """``value`` as plain JSON, with NaN and infinity as ``None``, in nested mappings and sequences too."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(item) for item in value]
    if isinstance(value, (bool, int, str)) or value is None:
        return value
    number = float(value)
    return number if math.isfinite(number) else None
