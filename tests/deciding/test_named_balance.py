"""A balance as it is written on a command line."""

import pytest

from keras_adaptive_weights.deciding.constraint import Constraint
from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.deciding.named_balance import balance_of
from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss


@pytest.mark.parametrize(
    ("text", "balance"),
    [
        ("guide", None),
        ("auto", GradientShare()),
        ("sqrt", SqrtLoss()),
        ("share:mel_loss=0.6", GradientShare({"mel_loss": 0.6})),
        ("share:a=0.25,b/c=5e-1", GradientShare({"a": 0.25, "b/c": 0.5})),
        ("share:a=b=0.5", GradientShare({"a=b": 0.5})),
        ("constraint:rec_loss=1.5", Constraint("rec_loss", at_most=1.5)),
    ],
)
def test_a_text_names_a_balance(text, balance):
    assert balance_of(text) == balance


@pytest.mark.parametrize(
    "text",
    [
        *("", "equal", "auto:", "guide:a=1", "SHARE:a=1", "share", "share:", "share:a", "share:a=", "share:a=x"),
        *("share:a=1.5", "share:a=0", "share:a=0.6,b=0.6", "share:a=0.2,a=0.3"),
        *("constraint:a=1,b=2", "constraint:a=0", "constraint:a=nan"),
    ],
)
def test_a_text_that_names_none_is_refused_with_what_there_is(text):
    with pytest.raises(ValueError, match=r"a balance must be one of guide, auto, share:TERM=PART.*Received: '") as it:
        balance_of(text)
    assert "unpack" not in str(it.value), "nobody is told of our own code"
