"""Strategies as plain values, and back."""

import json

import pytest

from keras_adaptive_weights.deciding.constraint import Constraint
from keras_adaptive_weights.deciding.described_strategy import describe, described, intents_of, loss_limits_of
from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss


class Own:
    """A strategy of a user's."""


OF_A_LATER_VERSION = {"strategy": "GradientShare", "config": {"colour": "red"}}
SHARES = {"a": 0.6}


@pytest.mark.parametrize(
    ("strategy", "name", "some"),
    [
        (GradientShare(SHARES, measure_every=20, variables="trunk"), "GradientShare",
         {"shares": SHARES, "measure_every": 20}),
        (Constraint("a", at_most=0.5), "Constraint", {"term": "a", "at_most": 0.5}),
        (SqrtLoss(), "SqrtLoss", {}),
    ],
)  # fmt: skip
def test_ours_come_back_from_json_but_for_where_norms_are_measured(strategy, name, some):
    values = json.loads(json.dumps(describe(strategy)))
    assert values["strategy"] == name
    assert some.items() <= values["config"].items()
    assert "variables" not in values["config"]
    back = described(values)
    assert type(back) is type(strategy)
    assert describe(back) == describe(strategy)
    assert getattr(back, "variables", None) is None


def test_ours_without_arguments_have_their_defaults():
    assert described({"strategy": "SqrtLoss"}) == SqrtLoss()
    assert described({"strategy": "GradientShare", "config": None}) == GradientShare()


def test_one_of_a_user_has_a_name_only():
    assert describe(Own()) == {"strategy": "Own"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"strategy": "Own"},
            (
                r"^the weights were balanced by 'Own', which is none of \['GradientShare', 'Constraint', 'SqrtLoss'\]: "
                r"give it as argument `balance`\.$"
            ),
        ),
        ({"strategy": ["SqrtLoss"]}, r"balanced by \['SqrtLoss'\]"),
        ({}, "balanced by None"),
        (OF_A_LATER_VERSION, r"^the strategy 'GradientShare' has other arguments than {'colour': 'red'}: .*colour"),
        ({"strategy": "Constraint"}, r"^the strategy 'Constraint' has other arguments than None: .*'term'"),
    ],
)
def test_what_is_none_of_ours_is_refused_by_name(values, message):
    with pytest.raises(ValueError, match=message):
        described(values)


@pytest.mark.parametrize(
    ("values", "intents"),
    [
        (describe(GradientShare(SHARES)), SHARES),
        (describe(GradientShare()), {"a": 0.5, "b": 0.5}),
        (describe(SqrtLoss()), {}),
        (describe(Constraint("a", at_most=0.5)), {}),
        ({"strategy": "Own"}, None),
        (OF_A_LATER_VERSION, None),
    ],
)
def test_the_parts_that_terms_are_to_make(values, intents):
    assert intents_of(values, ["a", "b"], {"a", "b"}) == intents


def test_equal_parts_are_of_all_that_is_measured():
    assert intents_of(describe(GradientShare()), ["a"], {"a", "fixed"}) == {"a": 0.5}


@pytest.mark.parametrize(
    ("values", "limits"),
    [
        (describe(Constraint("a", at_most=0.5)), {"a": 0.5}),
        (describe(GradientShare()), {}),
        ({"strategy": "Own"}, {}),
        (OF_A_LATER_VERSION, {}),
    ],
)
def test_the_limits_of_losses(values, limits):
    assert loss_limits_of(values) == limits
