"""What TensorBoard gets, read back from the event files by tag and step."""

from __future__ import annotations

import re

import keras
import numpy as np
import pytest
from event_records import read
from given_losses import QUICK, RISING, fit, make_model
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.recording.summaries import _markdown

MEL = "adaptive_weights/mel_loss"


def run(tmp_path, losses=RISING, update_freq=10, **kwargs):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path, update_freq=update_freq)
    fit(make_model(), losses, [callback], **kwargs)
    return callback, read(tmp_path / "adaptive_weights")


def test_scalars_come_every_update_freq_steps_and_at_every_event(tmp_path):
    callback, records = run(tmp_path)
    (event,) = callback.decisions
    assert event.step % 10 != 1
    regular = set(records[f"{MEL}/weight"]) - {event.step}
    assert {b - a for a, b in zip(sorted(regular), sorted(regular)[1:], strict=False)} <= {10, *range(1, 20)}
    assert event.step in records[f"{MEL}/weight"]
    assert len(regular) in (7, 8)
    assert records[f"{MEL}/weight"][event.step] == pytest.approx(2.625)
    assert records[f"{MEL}/weight"][1] == 2.5
    assert set(records[f"{MEL}/minimum"].values()) == {1.0}
    assert set(records[f"{MEL}/maximum"].values()) == {5.0}
    assert set(records[f"{MEL}/base"].values()) == {2.5}
    assert records[f"{MEL}/action"][event.step] == event.action.code
    assert records[f"{MEL}/reason"][event.step] == event.reason.code
    assert records[f"{MEL}/loss_ratio"][event.step] == pytest.approx(event.evidence["loss_ratio"], rel=1e-6)
    for tag in (
        "loss", "running_average", "loss_variance", "stability_score", "gradient_norm", "average_gradient_norm",
        "stable_steps", "cooling_left", "skipped_steps",
    ):  # fmt: skip
        assert event.step in records[f"{MEL}/{tag}"], tag


def test_skipped_steps_are_counted(tmp_path):
    losses = [1.0] * 20
    losses[7] = np.nan
    callback, records = run(tmp_path, losses, update_freq=1)
    assert callback.decisions == []
    assert [records[f"{MEL}/skipped_steps"][step] for step in (7, 8, 20)] == [0.0, 1.0, 1.0]
    assert 8 not in {s for s, v in records[f"{MEL}/loss"].items() if not np.isfinite(v)}


def test_every_event_has_a_text_with_reason_evidence_and_advice(tmp_path):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)

    class Operator(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            asked = {60: callback.rollback, 65: callback.emergency_disable, 70: callback.enable, 75: callback.reset}
            if batch in asked:
                asked[batch](f"note at {batch}")

    fit(make_model(), RISING, [callback, Operator()])
    records = read(tmp_path / "adaptive_weights")
    assert len(callback.decisions) == 5
    for event in callback.decisions:
        text = records[f"{MEL}/decisions/{event.action.value}"][event.step].decode()
        assert event.advice in text
        assert event.reason.value in text
        assert event.note in text
    increase = callback.decisions[0]
    assert f"| loss_ratio | {increase.evidence['loss_ratio']:.6g} |" in (
        records[f"{MEL}/decisions/increase"][increase.step].decode()
    )


@pytest.mark.parametrize("ours_first", [True, False])
def test_it_works_beside_the_tensorboard_callback_in_either_order(tmp_path, ours_first):
    """That callback leaves `record_if` active, with which other summaries are dropped."""
    ours = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path, update_freq=5)
    theirs = keras.callbacks.TensorBoard(log_dir=tmp_path, update_freq=7, write_graph=False)
    fit(make_model(), RISING, [ours, theirs] if ours_first else [theirs, ours])
    records = read(tmp_path / "adaptive_weights")
    (event,) = ours.decisions
    assert {1, 6, 11, event.step} <= set(records[f"{MEL}/weight"])
    assert event.step in records[f"{MEL}/decisions/increase"]
    assert any("loss" in tag for tag in read(tmp_path / "train"))


def test_the_layout_shows_the_weight_inside_its_bounds(tmp_path):
    _, records = run(tmp_path)
    layout = layout_pb2.Layout.FromString(records["custom_scalars__config__"][0])
    chart = layout.category[0].chart[0]
    series = chart.margin.series[0]
    assert {series.value, series.lower, series.upper} <= set(records)
    assert (series.value, series.lower, series.upper) == (f"{MEL}/weight", f"{MEL}/minimum", f"{MEL}/maximum")


def test_tensorboard_s_own_reader_shows_events_at_default_sampling(tmp_path):
    callback, _ = run(tmp_path)
    accumulator = EventAccumulator(str(tmp_path / "adaptive_weights"))
    accumulator.Reload()
    (event,) = callback.decisions
    assert [e.step for e in accumulator.Tensors(f"{MEL}/decisions/increase")] == [event.step]
    steps = [e.step for e in accumulator.Tensors(f"{MEL}/weight")]
    assert steps == sorted(set(steps))


def test_steps_never_rewind_over_two_fits(tmp_path):
    callback = kaw.AdaptiveMelWeightCallback(log_dir=tmp_path, update_freq=1)
    model = make_model(QUICK)
    fit(model, RISING[:10], [callback])
    fit(model, RISING[:10], [callback])
    assert sorted(read(tmp_path / "adaptive_weights")[f"{MEL}/weight"]) == list(range(1, 21))


@pytest.mark.parametrize(
    "note", ["<b>x</b> ![](http://elsewhere/x.png)\n\n# head\n| a | b |\n|---|---|", "\ud83d\x1b[2J\u202e"]
)
def test_a_note_is_text_for_tensorboard_too(note):
    from tensorboard.plugin_util import markdown_to_safe_html

    decision = kaw.Decision(5, kaw.Action.DISABLE, kaw.Reason.MANUAL, 2.6, 2.5, {"loss": 1.0}, note=note)
    text = _markdown(decision)
    text.encode()
    page = markdown_to_safe_html(text)
    assert not re.search(r"<(b|img|h1|a)\b", page)
    assert page.count("<table>") == 1, "the evidence"
    assert "\x1b" not in page
    assert printable(note).replace("<", "&lt;").replace(">", "&gt;") in page
