"""What the guide promises: its eight tests, and one for everything that the implementation before did not keep."""

import itertools
import json
import math
import random
from dataclasses import fields, replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from traced_models import SHELF

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding.state import ControllerState

NAN = math.nan
QUICK = kaw.AdaptiveWeightConfig(
    warmup_steps=20, cooling_period=12, min_stable_steps=5, reference_steps=20, loss_smoothing_factor=0.3
)
FLAT = [1.0, 1.02] * 20
HIGH, LOW = [1.5] * 4, [0.6] * 4
BATCH, FRAMES, BANDS = 4, 6, 3
pytestmark = pytest.mark.usefixtures("fresh_session", "traced_models")


def feed(weight, losses, norms=1.0):
    """Tell the weight about these steps, as a custom training loop does; returns the last decision."""
    norms = [norms] * len(losses) if isinstance(norms, float) else norms
    decision = None
    for loss, norm in zip(losses, norms, strict=True):
        decision = weight.update(loss, gradient_norm=norm, applied=math.isfinite(loss))
    return decision


def drift(factor, steps, noise=0.05):
    """Losses that grow by a factor each step, with some noise."""
    rng = random.Random(2)
    return [factor**i * rng.lognormvariate(0.0, noise) for i in range(steps)]


def changed(weight):
    """The actions that moved the weight."""
    return [d.action for d in weight.decisions if d.new_weight != d.old_weight]


def data(steps, seed=0, bad=(), scale=None):
    """Noisy mels of a linear function; the batches in `bad` hold a NaN, those in `scale` that many times as loud."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(steps, BATCH, FRAMES, 4)).astype("float32")
    y = x @ rng.normal(size=(4, BANDS)).astype("float32") + rng.normal(size=(steps, BATCH, FRAMES, BANDS)) * 0.1
    for step, factor in (scale or {}).items():
        y[step] *= factor
    for step in bad:
        y[step, 0, 0, 0] = NAN
    return x.reshape(-1, FRAMES, 4), y.reshape(-1, FRAMES, BANDS).astype("float32")


def make_model(loss=None, optimizer=None, cls=kaw.StableModel, **compile_):
    keras.utils.set_random_seed(1)
    ours = issubclass(cls, kaw.StableTrainStepMixin)

    def new():
        inputs = keras.Input((FRAMES, 4))
        hidden = keras.layers.BatchNormalization()(keras.layers.Dense(8, activation="relu")(inputs))
        output = keras.layers.Dense(BANDS)(hidden)
        model = cls(inputs, {"mel_output": output} if ours else output)
        to_minimize = (kaw.XTTSLoss(config=QUICK) if loss is None else loss) if ours else keras.losses.Huber()
        model.compile(optimizer=optimizer or keras.optimizers.Adam(0.01), loss=to_minimize, **compile_)
        model.optimizer.build(model.trainable_variables)  # or plain Keras would trace its step twice
        return model

    as_usual = cls is kaw.StableModel and loss is None and optimizer is None
    return SHELF.take(new, "guide", **compile_) if as_usual else new()


def dataset(x, y, ours=True):
    """As Keras makes of arrays, with functions that it traces anew for each."""
    return tf.data.Dataset.from_tensor_slices((x, {"mel_target": y} if ours else y)).batch(BATCH)


def fit(model, x, y, **kwargs):
    batches = dataset(x, y, isinstance(model, kaw.StableTrainStepMixin))
    return model.fit(batches, shuffle=False, verbose=0, **kwargs)


class Seen:
    """An observer that keeps what went in and what came out."""

    def __init__(self):
        self.observations, self.decisions = [], []

    def observe(self, observations, decision):
        self.observations += observations
        self.decisions.append(decision)


# --- the guide's eight tests ---------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
@pytest.mark.parametrize("place", ["loss", "gradient_norm", "total_loss"])
def test_nan_and_inf_safety(bad, place):
    """A step that is not finite is named, changes nothing, and leaves no trace in the averages."""
    weight = kaw.AdaptiveWeight(2.5, QUICK)
    feed(weight, FLAT)
    before = weight.state
    decision = weight.update(**{"loss": 1.0, "gradient_norm": 1.0, "total_loss": 2.5, place: bad})
    assert (decision.action, decision.reason, decision.new_weight) == ("hold", "non_finite", 2.5)
    assert (weight.state.losses, weight.state.gradient_norms) == (before.losses, before.gradient_norms)
    assert weight.state.running_total_loss == before.running_total_loss
    assert weight.state.stable_steps == 0
    feed(weight, [bad] * 10)
    assert (weight.weight, weight.enabled) == (2.5, False), "many of them: base weight, until somebody looks"


def test_conservative_adaptation():
    """At most 5 % at a time and always within [1, 5], however long the evidence points one way."""
    for factor, bound in ((1.02, 5.0), (0.98, 1.0)):
        weight, path = kaw.AdaptiveWeight(2.5, replace(QUICK, trial_tolerance=9.0)), [2.5]
        path += [weight.update(loss, gradient_norm=1.0).new_weight for loss in drift(factor, 900)]
        ratios = [b / a for a, b in itertools.pairwise(path)]
        assert max(ratios) <= 1.05 * (1 + 1e-12)
        assert min(ratios) >= 1 / 1.05 / (1 + 1e-12)
        assert all(1.0 <= w <= 5.0 for w in path)
        assert path[-1] == bound, "it does move"


def test_cooling():
    """The guide's 100 steps before the first change and 50 between two."""
    weight = kaw.AdaptiveWeight(2.5, kaw.AdaptiveWeightConfig(trial_tolerance=9.0))
    feed(weight, drift(1.01, 1500))
    steps = [d.step for d in weight.decisions]
    assert steps[0] > 100
    assert min(b - a for a, b in itertools.pairwise(steps)) > 50
    assert len(steps) > 10


def test_gradient_aware_decisions():
    """Growing gradients lower the weight, and never allow an increase."""
    rising, growing, both = (kaw.AdaptiveWeight(2.5, QUICK) for _ in range(3))
    for weight in (rising, growing, both):
        feed(weight, FLAT)
    assert feed(rising, HIGH).action == "increase"
    assert feed(growing, [1.0] * 6, 1.7).reason == "gradients_growing"
    assert growing.weight == 2.5 / 1.05
    assert feed(both, HIGH, 1.9).reason == "gradients_block_increase"
    feed(both, [1.5] * 40, [1.9 * 1.1**i for i in range(40)])
    assert both.weight < 2.5
    assert "increase" not in changed(both)


def test_stability_under_loss_spikes():
    """A spike in the data: its gradients are damped, the weight does not follow it, training goes on."""
    x, y = data(60, scale={40: 200.0})
    model, seen = make_model(), Seen()
    fit(model, x, y, callbacks=[kaw.AdaptiveMelWeightCallback(observers=[seen])])
    spike = seen.observations[40]
    assert spike.loss > 10 * seen.observations[39].loss
    assert spike.dampening < 0.2
    assert all(o.dampening == 1.0 for o in seen.observations[20:40])
    assert "increase" not in [d.action for d in seen.decisions]
    after = [o.loss for o in seen.observations[45:]]
    assert max(after) < 2 * np.mean([o.loss for o in seen.observations[30:40]])


def test_nan_prevention_over_a_whole_run(tmp_path):
    """NaN batches in every epoch: this model ends finite and has learnt, plain Keras with the same data ends NaN."""
    x, y = data(16, bad=(5, 11))
    model, plain = make_model(), make_model(cls=keras.Model)
    history = fit(model, x, y, epochs=12, callbacks=[kaw.AdaptiveMelWeightCallback(log_dir=tmp_path)]).history
    fit(plain, x, y, epochs=2)
    assert any(np.isnan(w).any() for w in plain.get_weights()), "or this test shows nothing"
    assert all(np.isfinite(w).all() for w in model.get_weights())
    assert np.isfinite(history["loss"]).all()
    assert history["mel_loss"][-1] < 0.5 * history["mel_loss"][0]
    assert history["skipped_steps"] == [2.0] * 12


def test_manual_enable_and_disable():
    """Disabled it goes to the base weight at once and stays; enabled it moves again after a cooling."""
    loss = kaw.XTTSLoss(config=QUICK)
    feed(loss.mel_weight, FLAT + HIGH)
    assert loss.mel_weight.weight == 2.625
    loss.disable_adaptive_weights("clipping")
    assert loss.mel_weight.variable.numpy() == np.float32(2.5)
    feed(loss.mel_weight, [1.5, 1.52] * 10 + [2.4, 2.42] * 10)
    assert (changed(loss.mel_weight), loss.mel_weight.weight) == (["increase", "disable"], 2.5)
    loss.enable_adaptive_weights()
    assert feed(loss.mel_weight, [2.4, 2.42] * 6).reason == "cooling"
    feed(loss.mel_weight, [2.4, 2.42] * 10 + [3.6] * 4)
    assert changed(loss.mel_weight) == ["increase", "disable", "increase"]


def test_metrics_reporting():
    """The guide's keys, with values that a hand can check."""
    loss = kaw.XTTSLoss(config=QUICK)
    feed(loss.mel_weight, FLAT + HIGH, [2.0] * 44)
    feed(loss.mel_weight, [1.5, 1.5, NAN], 4.0)
    stability = loss.get_stability_metrics()
    assert set(stability) == {
        "running_mel_loss",
        "running_total_loss",
        "loss_variance",
        "loss_stability_score",
        "step_count",
    }
    assert stability["running_mel_loss"] == pytest.approx(1.5)
    assert stability["loss_variance"] == pytest.approx(0.0)
    assert stability["loss_stability_score"] == pytest.approx(1.0)
    assert stability["step_count"] == loss.step_count == 47
    assert loss.get_adaptive_weight_metrics() == {
        "current_mel_weight": 2.625,
        "previous_mel_weight": 2.625,
        "base_mel_weight": 2.5,
        "steps_since_weight_change": 0,
        "consecutive_stable_steps": 0,
        "weight_adjustment_enabled": True,
        "avg_gradient_norm": pytest.approx((3 * 2.0 + 2 * 4.0) / 5),
    } | {"current_mel_weight": 2.5, "previous_mel_weight": 2.5}, "the NaN undid the change"


# --- what the implementation before promised and did not do -----------------------------------------------


def test_graph_eager_xla_and_several_steps_per_execution_give_the_same_result():
    """It crashed in graph mode. (test_execution_modes.py has the whole matrix.)"""
    x, y = data(8, bad=(5,))
    held = kaw.AdaptiveWeightConfig(warmup_steps=10**6)
    runs = {}
    for mode in ({}, {"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 4}):
        model, seen = make_model(kaw.XTTSLoss(config=held), **mode), Seen()
        fit(model, x, y, epochs=2, callbacks=[kaw.AdaptiveMelWeightCallback(observers=[seen])])
        observed = [(o.step, o.loss, o.gradient_norm, o.applied) for o in seen.observations]
        runs[str(mode)] = (model.get_weights(), observed)
    first_weights, first_observed = runs["{}"]
    assert len(first_observed) == 16
    for weights, observed in runs.values():
        np.testing.assert_allclose(np.array(observed, float), np.array(first_observed, float), rtol=2e-4, atol=1e-6)
        for got, expected in zip(weights, first_weights, strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-5)


def test_no_change_exceeds_5_percent_where_training_looks_unsafe():
    """The weight jumped to its base, from 4.0 to 2.5 in one step."""
    weight = kaw.AdaptiveWeight(2.5, QUICK)
    weight.restore({"run": "r", "state": ControllerState(weight=4.0, base_weight=2.5).to_dict()})
    unsafe = FLAT + [90.0, NAN, NAN, 1.0, 1e30, NAN, 5.0] + HIGH + FLAT + [1.8] * 20 + [NAN] + FLAT
    norms = [1.0, 1e30, 8.0, 0.0] * len(unsafe)
    path = [4.0] + [feed(weight, [loss], [norm]).new_weight for loss, norm in zip(unsafe, norms, strict=False)]
    assert weight.enabled, "short of the circuit breaker"
    assert max(max(a / b, b / a) for a, b in itertools.pairwise(path)) <= 1.05 * (1 + 1e-12)
    assert min(path) > 2.5


@pytest.mark.parametrize(("bound", "losses", "after"), [(1.0, HIGH, 1.05), (5.0, LOW, 5.0 / 1.05)])
def test_at_a_bound_the_weight_moves_the_other_way(bound, losses, after):
    """It froze there for good."""
    weight = kaw.AdaptiveWeight(bound, QUICK)
    feed(weight, FLAT + (LOW if bound == 1.0 else HIGH))
    assert weight.weight == bound
    feed(weight, FLAT + losses)
    assert weight.weight == after


def test_the_gradient_norm_is_passed_in_and_its_threshold_read():
    """It never was, and it never was."""
    x, y = data(30)
    outcomes = {}
    for threshold in (1e-6, None):
        model, seen = make_model(kaw.XTTSLoss(config=replace(QUICK, gradient_norm_threshold=threshold))), Seen()
        fit(model, x, y, callbacks=[kaw.AdaptiveMelWeightCallback(observers=[seen])])
        assert all(o.gradient_norm > 0.0 and math.isfinite(o.gradient_norm) for o in seen.observations)
        outcomes[threshold] = {d.reason for d in seen.decisions}
    assert "gradients_above_threshold" in outcomes[1e-6]
    assert "gradients_above_threshold" not in outcomes[None]


def test_the_previous_weight_is_restored():
    """It was stored, and never used: there was no rollback."""
    for harm in ([NAN], [9.0], [2.0] * 5):
        weight = kaw.AdaptiveWeight(2.7, QUICK)
        feed(weight, FLAT + HIGH)
        assert weight.variable.numpy() == np.float32(2.7 * 1.05)
        assert feed(weight, harm).action == "rollback"
        assert weight.weight == 2.7
        assert weight.variable.numpy() == np.float32(2.7)


def test_a_nan_loss_is_not_a_low_loss():
    """It was read as 0.0, and lowered the weight."""
    zero, bad = kaw.AdaptiveWeight(2.5, QUICK), kaw.AdaptiveWeight(2.5, QUICK)
    feed(zero, FLAT + [0.0] * 4)
    feed(bad, FLAT + [NAN] * 4)
    feed(bad, [1.0] * 30)
    assert zero.weight < 2.5, "0.0 is low indeed"
    assert bad.weight == 2.5
    assert bad.decisions == []


def test_a_skipped_step_leaves_parameters_and_moments_as_they_were():
    """`where` left NaN gradients, and zeroed ones still moved the weights through Adam's moments."""
    model = make_model()
    fit(model, *data(12))
    before = [v.numpy().copy() for v in (*model.variables, *model.optimizer.variables)]
    x, y = data(5, seed=3, bad=range(5))
    fit(model, x, y)
    after = [v.numpy() for v in (*model.variables, *model.optimizer.variables)]
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(new, old)
    fit(model, *data(1))
    assert any((v.numpy() != old).any() for v, old in zip(model.trainable_variables, before, strict=False))


def test_consecutive_stable_steps_go_back_to_zero():
    """They never did."""
    loss = kaw.XTTSLoss(config=QUICK)

    def stable():
        return loss.get_adaptive_weight_metrics()["consecutive_stable_steps"]

    for bad in (NAN, math.inf, 9.0):
        feed(loss.mel_weight, FLAT)
        assert stable() == 40
        feed(loss.mel_weight, [bad])
        assert stable() == 0
        loss.reset_stability_state()


def test_validation_changes_no_state():
    """Neither `evaluate` and `validation_data`, nor the check of a new weight."""
    x, y = data(30)
    model = make_model()
    fit(model, x, y, callbacks=[kaw.AdaptiveMelWeightCallback()])
    weight = model.loss.mel_weight

    def everything():
        return json.dumps(weight.to_dict()), [v.numpy().tobytes() for v in (*model.variables, model.loss.total_average)]

    before = everything()
    model.evaluate(dataset(x, y * 50.0), verbose=0)
    x, y = data(2, bad=(0,))
    model.evaluate(dataset(x, y), verbose=0)
    assert everything() == before
    refused, free = (
        kaw.AdaptiveWeight(2.5, replace(QUICK, **s)) for s in ({"absurd_loss_factor": 1.1}, {"enabled": False})
    )
    for w in (refused, free):
        feed(w, FLAT + HIGH)
    assert [d.action for d in refused.decisions] == ["reject"]
    assert refused.state == free.state._replace(cooling=refused.state.cooling)


def test_validation_data_in_fit_changes_no_state():
    """The same training, with and without it."""
    x, y = data(24)
    states = []
    for validation in (None, dataset(x, y * 30.0)):
        model = make_model()
        fit(model, x, y, epochs=2, validation_data=validation, callbacks=[kaw.AdaptiveMelWeightCallback()])
        states.append((model.loss.mel_weight.state, model.get_weights()))
    assert states[0][0] == states[1][0]
    assert states[0][0].step == 48
    for one, other in zip(states[0][1], states[1][1], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_running_average_does_not_contain_what_it_is_compared_with():
    """It did, which hid part of every change."""
    weight = kaw.AdaptiveWeight(2.5, replace(QUICK, enabled=False))
    feed(weight, [1.0] * 40)
    evidence = feed(weight, [3.0] * 6).evidence
    assert evidence["running_average"] == 1.0
    assert evidence["loss_ratio"] == 3.0


@pytest.mark.parametrize("seed", range(5))
def test_on_stationary_noise_of_15_percent_the_weight_stays(seed):
    """It wandered from 2.5 to 1.4 or 2.9 within 2,500 steps."""
    rng = random.Random(100 + seed)
    stream = [
        kaw.Observation(i, rng.lognormvariate(0.0, 0.15), None, rng.lognormvariate(0.0, 0.15)) for i in range(1, 2501)
    ]
    assert {d.new_weight for d in kaw.replay(stream)} == {2.5}


@pytest.mark.parametrize("factor", [1000.0, 0.001, 2.0**20])
def test_the_variance_gate_does_not_depend_on_scale(factor):
    """That of the loss, or that of the weighted total."""
    rng = random.Random(5)
    losses = [rng.lognormvariate(0.0, 0.1 if i < 60 else 1.2) for i in range(120)]
    streams = [
        [kaw.Observation(i, loss * f, loss * t, 1.0) for i, loss in enumerate(losses, 1)]
        for f, t in ((1.0, 1.0), (factor, 1.0), (1.0, factor))
    ]
    reasons = [[d.reason for d in kaw.replay(stream, QUICK)] for stream in streams]
    assert reasons[0] == reasons[1] == reasons[2]
    assert {"high_variance", "within_band"} <= set(reasons[0]), "the gate was open, and shut"


def test_a_reset_does_not_enable_what_an_operator_disabled():
    """It did."""
    loss = kaw.XTTSLoss(config=QUICK)
    loss.disable_adaptive_weights()
    loss.reset_stability_state()
    assert not loss.get_adaptive_weight_metrics()["weight_adjustment_enabled"]
    feed(loss.mel_weight, FLAT + HIGH)
    assert loss.mel_weight.weight == 2.5
    loss.enable_adaptive_weights()
    assert loss.get_adaptive_weight_metrics()["weight_adjustment_enabled"]


def test_every_training_setting_is_read():
    """Five were read by nobody. (test_config.py shows for each what it changes in the decisions.)"""
    from guide_training import QUICK_TRAINING, TRAINING_EFFECT

    plain = kaw.XTTSLoss.from_training_config(QUICK_TRAINING).get_config()
    for field in fields(kaw.TrainingConfig):
        value = TRAINING_EFFECT[field.name][0]
        other = kaw.XTTSLoss.from_training_config(replace(QUICK_TRAINING, **{field.name: value})).get_config()
        differing = [k for k in plain["config"] if plain["config"][k] != other["config"][k]]
        assert differing or plain["mel_loss_weight"] != other["mel_loss_weight"], field.name


@pytest.mark.parametrize("how", ["weights", "model"])
def test_the_state_is_in_the_models_own_checkpoint(how, tmp_path):
    """It was in none."""
    x, y = data(30)
    model = make_model()
    fit(model, x, y, callbacks=[kaw.AdaptiveMelWeightCallback()])
    model.loss.mel_weight.rollback()
    model.loss.mel_weight.disable("kept")
    if how == "weights":
        model.save_weights(tmp_path / "m.weights.h5")
        other = make_model()
        fit(other, *data(1))
        other.load_weights(tmp_path / "m.weights.h5")
    else:
        model.save(tmp_path / "m.keras")
        other = keras.models.load_model(tmp_path / "m.keras", custom_objects={"StableModel": kaw.StableModel})
    assert other.loss.mel_weight.state == model.loss.mel_weight.state
    assert other.loss.mel_weight.state.step == 30
    assert not other.loss.mel_weight.enabled
    assert other.loss.mel_weight.config == QUICK
    np.testing.assert_array_equal(other.loss.total_average, model.loss.total_average)


def test_spike_dampening_reaches_the_gradients():
    """The total was scaled for the log only."""
    model = make_model(optimizer=keras.optimizers.SGD(0.01))
    fit(model, *data(20))
    x, y = data(1, seed=9)
    y = 100.0 * y
    average = float(model.loss.total_average[0])
    before = [v.numpy().copy() for v in model.trainable_variables]
    moving = [v.numpy().copy() for v in model.non_trainable_variables]
    with tf.GradientTape() as tape:
        total = model.loss({"mel_target": y}, model(x, training=True))
    gradients = tape.gradient(total, model.trainable_variables)
    for variable, value in zip(model.non_trainable_variables, moving, strict=True):
        variable.assign(value)
    factor = 2.0 * average / float(total)
    assert factor < 0.1
    fit(model, x, y)
    for variable, old, gradient in zip(model.trainable_variables, before, gradients, strict=True):
        expected = -0.01 * factor * gradient.numpy()
        np.testing.assert_allclose(variable.numpy() - old, expected, rtol=2e-3, atol=2e-7)
