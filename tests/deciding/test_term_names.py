"""Names of terms: what the logs and a checkpoint can hold, each for one thing."""

import re

import pytest

from keras_adaptive_weights.deciding.term_names import check_names, weight_name


@pytest.mark.parametrize(
    ("term", "name"),
    [("mel_loss", "mel_weight"), ("mel", "mel_weight"), ("loss_of_loss", "loss_of_weight"), ("lossy", "lossy_weight")],
)
def test_the_name_of_a_weight(term, name):
    assert weight_name(term) == name


@pytest.mark.parametrize(
    "terms",
    [
        {},
        {"mel_loss": True, "stop_loss": False},
        {"x" * 100: True, "a b": True, "損失": True, ".hidden": True},
        {"mel": False, "mel_loss": False, "mel_weight": False},
        {"val_mel_loss": False},
        {"gradient": True, "x": False, "X": False},
    ],
)
def test_names_that_can_be(terms):
    check_names("Owner", terms)


_NAME = "Owner: the name of a term must have 1 to 100 printable characters, and not only dots and spaces. "
_ONE_THING = "Owner: each name in the logs must stand for one thing. Received: "
_OTHER = ". Give one of the terms another name."


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        (
            {"loss": False, "mel_loss": False, "empty_steps": False},
            "Owner: the names ['empty_steps', 'loss'] are taken by other metrics: name these terms otherwise.",
        ),
        *(
            (
                {"mel_loss": True, name: False},
                f"{_NAME}Received: {name[:200]!r}. Write a name such as 'mel_loss'.",
            )
            for name in ("", " ", ".", ". .", "a\nb", "x" * 101, "x" * 300)
        ),
        (
            {"mel": True, "mel_loss": True},
            _ONE_THING + "'mel_weight' for the weight of term 'mel' and the weight of term 'mel_loss'" + _OTHER,
        ),
        (
            {"mel_loss": True, "mel_weight": False},
            _ONE_THING + "'mel_weight' for term 'mel_weight' and the weight of term 'mel_loss'" + _OTHER,
        ),
        (
            {"mel_loss": False, "val_mel_loss": False},
            _ONE_THING + "'val_mel_loss' for term 'val_mel_loss' and for 'mel_loss' of the validation" + _OTHER,
        ),
        (
            {"val_loss": False},
            _ONE_THING + "'val_loss' for term 'val_loss' and for 'loss' of the validation" + _OTHER,
        ),
        (
            {"mel_loss": True, "val_mel_loss": True},
            _ONE_THING + "'val_mel_loss' for term 'val_mel_loss' and for 'mel_loss' of the validation" + _OTHER,
        ),
        (
            {"mel": True, "val_mel_weight": False},
            _ONE_THING + "'val_mel_weight' for term 'val_mel_weight' and for 'mel_weight' of the validation" + _OTHER,
        ),
    ],
)
def test_names_that_cannot_be(terms, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_names("Owner", terms)
