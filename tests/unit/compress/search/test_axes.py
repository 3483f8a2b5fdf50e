import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kd3d.compress.search.axes import WIDTHS, parse_space
from kd3d.compress.search.space import Space
from kd3d.errors import UsageError


def test_without_options_the_space_is_the_default_or_the_given_one():
    assert parse_space() == Space()
    base = Space(cell=(1.0, 2.0))
    assert parse_space(base=base) == base
    assert parse_space(["head=0.5"], base=base) == Space(head=(0.5,), cell=(1.0, 2.0))


def test_widths_of_every_part_and_of_one():
    assert parse_space(["0.25,0.5"]) == Space(**dict.fromkeys(WIDTHS, (0.25, 0.5)))
    found = parse_space(["0.5,1", "backbone=0.25", " neck = 0.75 , 1 ,"])
    assert (found.encoder, found.backbone, found.neck, found.head) == ((0.5, 1.0), (0.25,), (0.75, 1.0), (0.5, 1.0))
    assert (found.depth, found.cell) == (Space().depth, Space().cell)


def test_what_is_given_later_holds():
    assert parse_space(["backbone=0.25", "0.5"]).backbone == (0.5,)
    assert parse_space(["0.5", "backbone=0.25"]).backbone == (0.25,)


def test_depths_and_cells():
    found = parse_space(depths="0,1", cells="1,1.5")
    assert (found.depth, found.cell) == ((0.0, 1.0), (1.0, 1.5))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 100), min_size=1))
def test_every_number_is_kept_once_in_its_order(percents):
    found = parse_space([",".join(str(value / 100) for value in percents)]).neck
    assert found == tuple(dict.fromkeys(value / 100 for value in percents))


@pytest.mark.parametrize("part", ["tail", "", "Backbone"])
def test_an_unknown_part_is_named_with_the_known_ones(part):
    text = rf"there is no axis '{part}' in --widths {part}=0.5. Use encoder, backbone, neck, head."
    with pytest.raises(UsageError, match=text):
        parse_space([f"{part}=0.5"])


@pytest.mark.parametrize(
    ("given", "option"),
    [({"widths": [""]}, "--widths"), ({"widths": ["neck= ,"]}, "--widths"), ({"depths": ","}, "--depths"),
     ({"cells": ""}, "--cells")],
)  # fmt: skip
def test_an_axis_without_values_is_refused(given, option):
    with pytest.raises(UsageError, match=rf"{option} '.*' leaves the search space empty. Give at least one number."):
        parse_space(**given)


@pytest.mark.parametrize(
    ("given", "text"),
    [({"widths": ["half"]}, "--widths 'half'"), ({"widths": ["head=0.5;1"]}, "--widths '0.5;1'"),
     ({"depths": "0.5 1"}, "--depths '0.5 1'"), ({"cells": "50%"}, "--cells '50%'")],
)  # fmt: skip
def test_what_is_no_number_is_quoted_with_how_to_write_it(given, text):
    with pytest.raises(UsageError, match=rf"{text} is not understood. Write numbers with commas: 0.25,0.5,1."):
        parse_space(**given)


@pytest.mark.parametrize(
    ("given", "text"),
    [({"widths": ["1.5"]}, r"the encoder multipliers of the search space must lie in 0..1; got \(1.5,\)"),
     ({"widths": ["neck=0"]}, "the neck multipliers"), ({"widths": ["head=nan"]}, "the head multipliers"),
     ({"depths": "-0.5"}, "the depth multipliers"), ({"cells": "0.5,1"}, "the cell multipliers .* in 1..8"),
     ({"cells": "inf"}, "the cell multipliers")],
)  # fmt: skip
def test_numbers_out_of_range_are_refused(given, text):
    with pytest.raises(UsageError, match=text):
        parse_space(**given)
