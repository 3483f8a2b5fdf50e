import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kd3d.compress.search.cpr import FORMULAS, cpr
from kd3d.errors import UsageError

SAME = {"student_acts": 1.0, "teacher_acts": 1.0, "student_accuracy": 1.0, "teacher_accuracy": 1.0}


@pytest.mark.parametrize(
    ("acts", "accuracy", "a", "b", "c"),
    [  # ratios and values of the table in the specification, computed there from SparseKD's published rows
        (0.645, 0.9680, 0.646, 0.662, 11.09),
        (0.325, 0.8751, 0.720, 0.775, 5.41),
        (0.470, 0.9523, 0.719, 0.741, 11.11),
        (0.290, 0.8937, 0.754, 0.802, 6.68),
    ],
)
def test_the_table_of_the_specification(acts, accuracy, a, b, c):
    values = {**SAME, "student_acts": acts, "student_accuracy": accuracy}
    assert cpr(**values) == pytest.approx(a, abs=6e-4)
    assert cpr(**values, formula="B") == pytest.approx(b, abs=6e-4)
    assert cpr(**values, formula="C") == pytest.approx(c, abs=6e-3)


def test_by_hand_in_any_unit():
    # a quarter of the activations, 40 of 50 mAP: (0.75 + 0.64) / 2
    assert cpr(student_acts=5, teacher_acts=20, student_accuracy=40, teacher_accuracy=50) == pytest.approx(0.695)
    assert cpr(**SAME) == 0.5


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"teacher_acts": 0}, "divides by the teacher's activations, which must be above 0, not 0"),
        ({"teacher_acts": -2}, "must be above 0, not -2"),
        ({"teacher_accuracy": 0.0}, "divides by the teacher's accuracy, which must be above 0, not 0"),
        ({"teacher_accuracy": math.nan}, "must be above 0, not nan"),
        ({"student_acts": -1}, "the student's activations to be at least 0, not -1"),
        ({"student_accuracy": math.inf}, "the student's accuracy to be at least 0, not inf"),
        ({"formula": "D"}, "there is no CPR formula 'D'. Use A, B, C"),
        ({"formula": "C"}, "divides by the accuracy that is lost, and this student has 1 times"),
    ],
)
def test_what_has_no_ratio_is_refused(change, text):
    with pytest.raises(UsageError, match=text):
        cpr(**{**SAME, **change})


@given(st.floats(0, 1), st.floats(0, 0.99), st.floats(0, 0.99), st.sampled_from(sorted(FORMULAS)))
def test_at_equal_cost_the_more_accurate_student_is_never_worse(acts, one, two, formula):
    low, high = sorted((one, two))
    values = {**SAME, "student_acts": acts, "formula": formula}
    assert cpr(**{**values, "student_accuracy": low}) <= cpr(**{**values, "student_accuracy": high})
