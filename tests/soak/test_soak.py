"""The soak in its short form, and a look at its own eyes."""

from __future__ import annotations

import dataclasses

import pytest
from soak import Batches, Result, main, violations

SHORT = ["--epochs", "5"]  # of 24 batches, the last one smaller


@pytest.mark.slow
@pytest.mark.usefixtures("graphs_as_traced")
def test_the_soak_in_short(capsys):
    code = main(SHORT)
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert "| steps with non-finite parameters | **0** | **0** | **from step" in shown.out


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
        ({"calibrations": 2}, "it was calibrated 2 times"),
        ({"share": 0.49}, "the share of the mel loss ended at 49%"),
        ({"share": float("nan")}, "the share of the mel loss ended at nan%"),
        ({"share": 0.3, "steps": 240}, None),
    ],
)
def test_what_does_not_hold_is_seen(figures, sentence):
    good = Result(
        "balanced",
        steps=7200,
        nan_batches=3,
        skipped=3,
        weight_low=2.0,
        weight_high=3.0,
        largest_change=0.05,
        share=0.55,
        first_loss=6.0,
        last_loss=1.0,
    )
    assert violations(good) == []
    assert violations(dataclasses.replace(good, name="stable", share=float("nan"))) == [], "nothing is said of it"
    assert violations(dataclasses.replace(good, **figures)) == [f"balanced: {sentence}"] * (sentence is not None)
