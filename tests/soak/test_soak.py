"""The soak in its short form, and a look at its own eyes."""

from __future__ import annotations

import dataclasses

import pytest
from soak import Batches, Result, main, violations

SHORT = ["--epochs", "10"]  # of 24 batches, the last one smaller


@pytest.mark.slow
def test_the_soak_in_short(capsys):
    code = main(SHORT)
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "| steps with non-finite parameters | **0** | **from step" in shown.out


def test_there_are_bad_batches_in_it():
    """With the seed of the short form: some of each kind, and the same again for the next contestant."""
    counts = []
    for _ in range(2):
        data = Batches(188, seed=1)
        for _ in range(10):
            for index in range(len(data)):
                data[index]
            data.on_epoch_end()
        counts.append((data.nan_batches, data.spikes))
    assert counts[0] == counts[1]
    assert min(counts[0]) >= 1


@pytest.mark.parametrize(
    ("figures", "sentence"),
    [
        ({"bad_steps": 1}, "1 steps left variables that are not finite"),
        ({"nan_batches": 4}, "4 NaN batches, but 3 skipped steps"),
        ({"weight_low": 0.99}, "the weight was 0.99 to 3"),
        ({"weight_high": 5.01}, "the weight was 2 to 5.01"),
        ({"largest_change": 0.051}, "the weight changed by 5.100% at once"),
        ({"memory_growth": 30.0}, "memory grew by 30.0 MB"),
        ({"last_loss": float("nan")}, "the loss went from 6 to nan"),
    ],
)
def test_what_does_not_hold_is_seen(figures, sentence):
    good = Result(
        "stable",
        nan_batches=3,
        skipped=3,
        weight_low=2.0,
        weight_high=3.0,
        largest_change=0.05,
        first_loss=6.0,
        last_loss=1.0,
    )
    lost = Result("plain", first_bad_step=48)
    assert violations(good, lost) == []
    assert violations(dataclasses.replace(good, **figures), lost) == [sentence]
    assert violations(good, Result("plain")) == ["plain Keras survived"]
