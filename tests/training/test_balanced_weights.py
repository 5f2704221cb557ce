"""Weights that are balanced together, through the same callback and record: calibrated once, and decided again."""

from __future__ import annotations

import json
import pickle
import re

import keras
import numpy as np
import pytest
from event_records import read
from journal_rows import texts
from small_training import absolute_error, batches, fit, make_model, squared_error
from tensorboard.plugins.custom_scalar import layout_pb2

import keras_adaptive_weights as kaw
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.recording.what_if import what_if
from keras_adaptive_weights.showing.view import view

pytestmark = pytest.mark.usefixtures("graphs_as_traced")

CONFIG = kaw.AdaptiveWeightConfig(
    warmup_steps=10, cooling_period=8, min_stable_steps=5, reference_steps=20, loss_smoothing_factor=0.3,
    variance_threshold=5.0, min_weight=0.01, max_weight=100.0,
)  # fmt: skip
STRATEGY = kaw.GradientShare({"mel_loss": 0.8}, measure_every=5, calibrate_steps=10)
DATA = batches(60)


@keras.saving.register_keras_serializable(package="tests")
def hundredfold(y_true, y_pred):
    return 100.0 * squared_error(y_true, y_pred)


def loss_of(balance=STRATEGY, config=CONFIG):
    terms = {
        "mel_loss": kaw.LossTerm(squared_error, weight=kaw.AdaptiveWeight(1.0, config)),
        "stop_loss": kaw.LossTerm(hundredfold, weight=kaw.AdaptiveWeight(2.0, config)),
        "pitch_loss": kaw.LossTerm(absolute_error, weight=0.5),
    }
    return kaw.CompositeLoss(terms, balance=balance)


def model_of(**kwargs):
    optimizer = keras.optimizers.SGD(1e-4)
    return make_model(loss=loss_of(**kwargs.pop("loss", {})), optimizer=optimizer, **kwargs)


def path_of(folder):
    return folder / "adaptive_weights" / "journal.jsonl"


def replayed(folder):
    return texts(decision for decision in kaw.replay(path_of(folder)) if decision.is_event)


def index_of(folder, term=None):
    index = JournalIndex(path_of(folder), term=term)
    index.refresh()
    return index


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    callback = kaw.AdaptiveWeightCallback(log_dir=folder)
    model = model_of(loss={"balance": kaw.GradientShare(measure_every=5, calibrate_steps=10)})
    fit(model, DATA, callbacks=[callback])
    return folder, callback, model


def test_it_is_calibrated_once_and_the_variables_hold_what_was_decided(run):
    _, callback, model = run
    (calibration,) = (d for d in callback.decisions if d.action is kaw.Action.CALIBRATE)
    assert calibration.step == 10
    assert calibration.new_weights["mel_loss"] / calibration.new_weights["stop_loss"] > 10.0
    for name, weight in model.loss.adaptive_weights.items():
        assert float(weight.variable) == np.float32(callback.decisions[-1].new_weights[name])
        assert weight.weight == callback.decisions[-1].new_weights[name]
    assert callback.get_stability_metrics("stop_loss")["step_count"] == 60
    for a, b in zip(callback.decisions[1:], callback.decisions[2:], strict=False):
        ratios = [b.new_weights[name] / a.new_weights[name] for name in a.new_weights]
        assert max(max(ratio, 1.0 / ratio) for ratio in ratios) <= 1.05 + 1e-9


def test_the_record_holds_norms_shares_and_weights_and_is_decided_again(run):
    folder, callback, _ = run
    journal = kaw.read_journal(path_of(folder))
    assert (journal.joint, journal.problems) == (True, [])
    assert replayed(folder) == texts(callback.decisions) == texts(journal.events)
    measured = [seen.step for seen in journal.observations if seen.term_norms]
    assert measured == [*range(1, 11), *range(15, 61, 5)]
    lines = [json.loads(line) for line in path_of(folder).read_text().splitlines()]
    at = next(line for line in lines if line["kind"] == "step" and line["step"] == 15)
    assert set(at["term_norms"]) == set(at["shares"]) == {"mel_loss", "stop_loss", "pitch_loss"}
    weights = at["weights"] | {"pitch_loss": 0.5}
    parts = {name: weights[name] * norm for name, norm in at["term_norms"].items()}
    assert at["shares"] == pytest.approx({name: part / sum(parts.values()) for name, part in parts.items()}, rel=1e-5)
    events = [line for line in lines if line["kind"] == "event"]
    assert all(set(event["old_weights"]) == set(event["new_weights"]) == {"mel_loss", "stop_loss"} for event in events)


def test_one_term_of_it_is_shown_as_any_weight_is(run):
    folder, callback, model = run
    index = index_of(folder)
    assert (index.terms, index.fixed) == (["mel_loss", "stop_loss"], {"pitch_loss": 0.5})
    assert index.balance["strategy"] == "GradientShare"
    for name, weight in model.loss.adaptive_weights.items():
        mine = index.of(name)
        assert mine.weight == weight.weight
        assert [(e["action"], e["new_weight"]) for e in mine.events] == [
            (d.action, d.new_weights[name]) for d in callback.decisions
        ]
        seen = view(mine)
        assert np.nanmax(seen.column("share", "greatest")) <= 1.0
        assert np.isfinite(seen.column("term_norm")).sum() == 20
        assert seen.reasons["warmup"] == 9


def test_tensorboard_gets_shares_and_what_was_decided_together(run):
    folder, callback, _ = run
    records = read(folder / "adaptive_weights")
    calibration = callback.decisions[0]
    assert records["adaptive_weights/mel_loss/weight"][10] == pytest.approx(calibration.new_weights["mel_loss"])
    assert records["adaptive_weights/balance/action"][10] == kaw.Action.CALIBRATE.code
    assert b"mel_loss 1 " in records["adaptive_weights/balance/decisions/calibrate"][10]
    assert max(records["adaptive_weights/mel_loss/intent"].values()) == pytest.approx(1 / 3)
    assert 0.0 < max(records["adaptive_weights/mel_loss/share"].values()) < 1.0
    assert {tag for tag in records if not tag.startswith("adaptive_weights/")} == {"custom_scalars__config__"}
    journal = kaw.read_journal(path_of(folder))
    losses = {seen.step: seen.losses["pitch_loss"] for seen in journal.observations}
    for step, loss in records["adaptive_weights/pitch_loss/loss"].items():
        assert loss == pytest.approx(losses[step])


def test_the_layout_shows_weights_and_parts_of_a_balance_together(run):
    folder, _, _ = run
    records = read(folder / "adaptive_weights")
    layout = layout_pb2.Layout.FromString(records["custom_scalars__config__"][0])
    charts = {category.title: {chart.title: chart for chart in category.chart} for category in layout.category}
    assert list(charts) == ["balance", "mel_loss", "stop_loss"]
    assert "part of the gradient and its intent" in charts["mel_loss"]
    for chart in (chart for of_one in charts.values() for chart in of_one.values()):
        tags = list(chart.multiline.tag) or [chart.margin.series[0].value]
        for pattern in tags:
            assert any(re.fullmatch(pattern, tag) for tag in records), f"{chart.title}: there is no {pattern}"
    assert len(charts["balance"]["parts of the gradient"].multiline.tag) == 3, "of the fixed term, too"


def test_it_is_resumed_without_a_second_calibration(tmp_path):
    whole = kaw.AdaptiveWeightCallback(log_dir=tmp_path / "whole")
    fit(model_of(), DATA, callbacks=[whole])
    model = model_of()
    fit(model, DATA[:30], callbacks=[kaw.AdaptiveWeightCallback(log_dir=tmp_path / "parts")])
    model.save_weights(tmp_path / "half.weights.h5")
    model = model_of()
    model.load_weights(tmp_path / "half.weights.h5")
    resumed = kaw.AdaptiveWeightCallback(log_dir=tmp_path / "parts")
    fit(model, DATA[30:], callbacks=[resumed])
    assert [d.action for d in whole.decisions].count(kaw.Action.CALIBRATE) == 1
    assert replayed(tmp_path / "parts") == texts(whole.decisions)
    assert kaw.Action.CALIBRATE not in [d.action for d in resumed.decisions]
    assert [header.step for header in kaw.read_journal(path_of(tmp_path / "parts")).headers] == [0, 30]


def test_a_checkpoint_of_before_the_balance_goes_on_from_its_weights_and_is_not_calibrated(tmp_path):
    model = model_of(loss={"balance": None})
    fit(model, DATA[:30], callbacks=[kaw.AdaptiveWeightCallback()])
    weights = {name: weight.weight for name, weight in model.loss.adaptive_weights.items()}
    model.save_weights(tmp_path / "before.weights.h5")
    model = model_of()
    model.load_weights(tmp_path / "before.weights.h5")
    assert model.loss.balanced.weights == weights
    callback = kaw.AdaptiveWeightCallback(log_dir=tmp_path)
    fit(model, DATA, callbacks=[callback])
    assert model.loss.balanced.step_count == 90
    assert kaw.Action.CALIBRATE not in [d.action for d in callback.decisions]
    assert replayed(tmp_path) == texts(callback.decisions)


class Asks(keras.callbacks.Callback):
    def __init__(self, **plan):
        super().__init__()
        self.plan = {int(at.removeprefix("at")): ask for at, ask in plan.items()}

    def on_train_batch_begin(self, batch, logs=None):
        if batch in self.plan:
            self.plan[batch]()


def test_what_is_asked_for_by_hand_is_done_to_all(tmp_path):
    callback = kaw.AdaptiveWeightCallback(log_dir=tmp_path)
    model = model_of()
    asks = Asks(
        at20=lambda: callback.rollback("undo the calibration"),
        at25=lambda: callback.emergency_disable("all", term="stop_loss"),
        at30=lambda: model.loss.adaptive_weights["mel_loss"].enable("one asks for all"),
        at40=lambda: callback.reset("new data"),
    )
    fit(model, DATA, callbacks=[asks, callback])
    by_hand = [(d.step, str(d.action), d.note) for d in callback.decisions if d.by_hand]
    assert by_hand == [
        (20, "rollback", "undo the calibration"),
        (25, "disable", "all"),
        (30, "enable", "one asks for all"),
        (40, "reset", "new data"),
    ]
    undone = next(d for d in callback.decisions if d.step == 20 and d.by_hand)
    assert undone.new_weights == {"mel_loss": 1.0, "stop_loss": 2.0}
    assert replayed(tmp_path) == texts(callback.decisions)
    journal = kaw.read_journal(path_of(tmp_path))
    measured = [seen.step for seen in journal.observations if seen.term_norms]
    assert [step for step in measured if 40 < step <= 50] == list(range(41, 51)), "measured in a row once more"


def test_a_shadow_run_holds_all_weights(tmp_path):
    callback = kaw.AdaptiveWeightCallback(log_dir=tmp_path, shadow=True)
    model = model_of()
    fit(model, DATA, callbacks=[callback])
    assert callback.decisions[0].action is kaw.Action.CALIBRATE
    assert callback.decisions[0].held_weights == {"mel_loss": 1.0, "stop_loss": 2.0}
    assert [float(w.variable) for w in model.loss.adaptive_weights.values()] == [1.0, 2.0]
    index = index_of(tmp_path, "mel_loss")
    assert (index.shadow, index.weight, index.proposed) == (True, 1.0, callback.decisions[-1].new_weights["mel_loss"])
    assert replayed(tmp_path) == texts(callback.decisions)


def test_another_balance_is_tried_on_the_record(run):
    folder, _, _ = run
    journal = kaw.read_journal(path_of(folder))
    assert what_if(journal).same
    other = kaw.GradientShare({"mel_loss": 0.1}, measure_every=5, calibrate_steps=10)
    result = what_if(journal, balance=other)
    assert not result.same
    assert result.path[0] == (0, {"mel_loss": 1.0, "stop_loss": 2.0})
    assert result.decided[0].new_weights["stop_loss"] == 2.0, "without a share it keeps its weight"


def test_a_balance_is_tried_on_the_record_of_the_guide_s_rule(tmp_path):
    callback = kaw.AdaptiveWeightCallback(log_dir=tmp_path)
    asks = Asks(at20=lambda: callback.emergency_disable("all"), at25=lambda: callback.enable("all"))
    fit(model_of(loss={"balance": None}), DATA, callbacks=[asks, callback])
    decisions = kaw.replay(path_of(tmp_path), balance=kaw.SqrtLoss())
    assert len(decisions) == 62, "what was asked of all weights is asked of the balance once"
    assert {d.action for d in decisions} >= {kaw.Action.CALIBRATE, kaw.Action.DISABLE, kaw.Action.ENABLE}
    with pytest.raises(ValueError, match=r"Write `read_journal\(path, joint=True\)`"):
        kaw.replay(kaw.read_journal(path_of(tmp_path)), balance=kaw.SqrtLoss())


@pytest.mark.parametrize("balance", [STRATEGY, kaw.SqrtLoss()])
def test_a_copy_leads_its_own_weights(balance):
    loss = loss_of(balance)
    loss.balanced.disable("copied with it")
    copy = pickle.loads(pickle.dumps(loss))
    assert copy.balanced is not loss.balanced
    assert copy.balanced.state.core.disabled
    copy.balanced.enable()
    assert loss.balanced.state.core.disabled
    assert [weight.enabled for weight in copy.adaptive_weights.values()] == [True, True]


class Breaks(kaw.GradientShare):
    """A strategy with a mistake that shows late."""

    def step(self, state, observations):
        if observations[-1].step == 30:
            raise ZeroDivisionError("a mistake")
        return super().step(state, observations)


def test_a_mistake_of_a_strategy_ends_the_training_with_its_name_and_leaves_everything_whole(tmp_path):
    model = model_of(loss={"balance": Breaks(measure_every=5, calibrate_steps=10)})
    callback = kaw.AdaptiveWeightCallback(log_dir=tmp_path)
    with pytest.raises(ZeroDivisionError, match="a mistake") as caught:
        fit(model, DATA, callbacks=[callback])
    assert caught.value.__notes__ == ["This came up in the strategy Breaks, at step 30."]
    assert model.loss.balanced.step_count == 29
    for name, weight in model.loss.adaptive_weights.items():
        assert float(weight.variable) == np.float32(callback.decisions[-1].new_weights[name])
    journal = kaw.read_journal(path_of(tmp_path))
    assert [seen.step for seen in journal.observations] == list(range(1, 1 + len(journal.observations)))
    assert journal.problems == []
    model.save_weights(tmp_path / "after.weights.h5")
    again = model_of()
    again.load_weights(tmp_path / "after.weights.h5")
    assert again.loss.balanced.weights == model.loss.balanced.weights, "the checkpoint is usable"


def test_wrong_turns_are_refused():
    with pytest.raises(ValueError, match=r"argument `term` must be None where the weights are balanced"):
        fit(model_of(), DATA[:2], callbacks=[kaw.AdaptiveWeightCallback("mel_loss")])
    with pytest.raises(ValueError, match=r"decided on together with others. Write `loss.balanced.observe"):
        loss_of().adaptive_weights["mel_loss"].update(1.0)
    terms = {
        name: kaw.LossTerm(squared_error, weight=kaw.AdaptiveWeight(1.0, config))
        for name, config in (("mel_loss", CONFIG), ("stop_loss", None))
    }
    with pytest.raises(ValueError, match=r"settings of all adaptive weights must agree in all but their bounds"):
        kaw.CompositeLoss(terms, balance=kaw.GradientShare())


def test_without_settings_a_weight_reaches_a_hundredfold():
    terms = {name: kaw.LossTerm(squared_error, weight=kaw.AdaptiveWeight(2.0)) for name in ("mel_loss", "stop_loss")}
    loss = kaw.CompositeLoss(terms, balance=kaw.GradientShare())
    for again in (loss, kaw.CompositeLoss.from_config(loss.get_config())):
        config = again.adaptive_weights["mel_loss"].config
        assert (config.min_weight, config.max_weight) == (0.02, 200.0)
