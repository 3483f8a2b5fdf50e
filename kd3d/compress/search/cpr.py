"""Cost-performance ratio (CPR) after SparseKD: one number for how much cost a student saves and how much it keeps.

The paper's equation (1) could not be read. What is known from others' summaries: it combines the student's share of
the teacher's activations (output elements of all layers, ``Cost.acts``) with its share of the teacher's accuracy
(there LEVEL-2 mAPH). ``A`` is recollected and unverified; ``B`` and ``C`` are other candidates. Compare a CPR only with
one of the same formula, never with the paper's tables.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from kd3d.errors import UsageError

FORMULAS: dict[str, Callable[[float, float], float]] = {
    "A": lambda acts, accuracy: ((1 - acts) + accuracy**2) / 2,
    "B": lambda acts, accuracy: ((1 - acts) + accuracy) / 2,
    "C": lambda acts, accuracy: _saved_per_lost(acts, accuracy),
}


def cpr(
    *, student_acts: float, teacher_acts: float, student_accuracy: float, teacher_accuracy: float, formula: str = "A"
) -> float:
    """Cost-performance ratio of a student; higher is better. Recollected, not verified against the paper.

    With a = student_acts / teacher_acts and m = student_accuracy / teacher_accuracy:
    A: ((1 - a) + m^2) / 2, B: ((1 - a) + m) / 2, C: (1 - a) / (1 - m).

    Args:
        student_acts: output elements per frame of the student's layers.
        teacher_acts: of the teacher's, on the same data.
        student_accuracy: mAP, mAPH or NDS, in any unit.
        teacher_accuracy: likewise, on the same frames.
        formula: ``A``, ``B`` or ``C``.

    Raises:
        UsageError: an unknown formula, a teacher's value that is not above 0, a student's below 0, or a value that is
            not finite; for ``C`` also a student at least as accurate as its teacher.
    """
    if formula not in FORMULAS:
        raise UsageError(f"there is no CPR formula {formula!r}. Use {', '.join(FORMULAS)}.")
    for name, value in (("activations", teacher_acts), ("accuracy", teacher_accuracy)):
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"CPR divides by the teacher's {name}, which must be above 0, not {value:g}.")
    for name, value in (("activations", student_acts), ("accuracy", student_accuracy)):
        if not (math.isfinite(value) and value >= 0):
            raise UsageError(f"CPR needs the student's {name} to be at least 0, not {value:g}.")
    return FORMULAS[formula](student_acts / teacher_acts, student_accuracy / teacher_accuracy)


def _saved_per_lost(acts: float, accuracy: float) -> float:
    if accuracy >= 1:
        raise UsageError(
            f"CPR formula C divides by the accuracy that is lost, and this student has {accuracy:.4g} times the "
            "teacher's. Use A or B."
        )
    return (1 - acts) / (1 - accuracy)
