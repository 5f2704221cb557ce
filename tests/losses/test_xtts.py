"""Every term of the XTTS loss against NumPy written with loops, padding and all."""

import dataclasses
import functools
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from guide_training import QUICK_TRAINING, TRAINING_EFFECT, observations

from keras_adaptive_weights import AdaptiveWeight, AdaptiveWeightConfig, TrainingConfig, XTTSConfig, XTTSLoss

B, T, M, D, N = 3, 7, 5, 7, 4
TERMS = ("mel_loss", "stop_loss", "attention_loss", "duration_loss", "pitch_loss", "energy_loss")
FRAMES = {"mel_target", "mel_output", "stop_target", "stop_tokens", "pitch_target", "pitch_output"}
FRAMES |= {"energy_target", "energy_output", "attention_weights"}
TOKENS = {"duration_target", "duration_pred"}
KEYS = {
    "mel_loss": (("mel_target",), ("mel_output",)),
    "stop_loss": (("stop_target",), ("stop_tokens",)),
    "attention_loss": ((), ("attention_weights",)),
    "duration_loss": (("duration_target",), ("duration_pred",)),
    "pitch_loss": (("pitch_target",), ("pitch_output",)),
    "energy_loss": (("energy_target",), ("energy_output",)),
}
LENGTHS = {
    "none": {},
    "full": {"mel_lengths": [T, T, T], "text_lengths": [N, N, N]},
    "ragged": {"mel_lengths": [7, 3, 5], "text_lengths": [2, 4, 3]},
    "column": {"mel_lengths": [[7], [3], [5]], "text_lengths": [[2], [4], [3]]},
    "too long": {"mel_lengths": [9, 3, 7], "text_lengths": [4, 3, 1]},
    "empty": {"mel_lengths": [0, 3, 7], "text_lengths": [0, 2, 4]},
    "frames only": {"mel_lengths": [7, 3, 5]},
    "tokens only": {"text_lengths": [2, 4, 3]},
}


def batch(lengths="ragged", seed=0, decoder_steps=D):
    rng = np.random.default_rng(seed)
    y_true = {
        "mel_target": rng.normal(size=(B, T, M)) * 2.0,
        "stop_target": (rng.random((B, T)) < 0.3).astype(float),
        "duration_target": rng.integers(0, 9, (B, N)),
        "pitch_target": rng.normal(size=(B, T)),
        "energy_target": rng.normal(size=(B, T)),
        **{name: np.array(values) for name, values in LENGTHS[lengths].items()},
    }
    attention = np.exp(rng.normal(size=(B, decoder_steps, N)))
    y_pred = {
        "mel_output": rng.normal(size=(B, T, M)) * 2.0,
        "stop_tokens": rng.normal(size=(B, T, 1)) * 3.0,
        "attention_weights": attention / attention.sum(-1, keepdims=True),
        "duration_pred": rng.normal(size=(B, N)),
        "pitch_output": rng.normal(size=(B, T, 1)),
        "energy_output": rng.normal(size=(B, T)),
    }
    return y_true, y_pred


# --- the definitions, with loops ----------------------------------------------------------------------


def valid(y_true, key, sample, size):
    """Number of valid positions of a sample."""
    return min(int(np.ravel(y_true[key])[sample]), size) if key in y_true else size


def numpy_mel(y_true, y_pred, delta=1.0):
    result = []
    for b in range(B):
        frames, total = valid(y_true, "mel_lengths", b, T), 0.0
        for t in range(frames):
            for m in range(M):
                error = abs(y_true["mel_target"][b, t, m] - y_pred["mel_output"][b, t, m])
                if delta is None:
                    total += error
                else:
                    total += 0.5 * error**2 if error <= delta else delta * (error - 0.5 * delta)
        result.append(total / (max(frames, 1) * M))
    return result


def numpy_stop(y_true, y_pred, positive=5.0):
    result = []
    for b in range(B):
        frames, total = valid(y_true, "mel_lengths", b, T), 0.0
        for t in range(frames):
            probability = 1.0 / (1.0 + math.exp(-float(np.ravel(y_pred["stop_tokens"][b, t])[0])))
            label = y_true["stop_target"][b, t]
            total -= positive * label * math.log(probability) + (1.0 - label) * math.log(1.0 - probability)
        result.append(total / max(frames, 1))
    return result


def numpy_attention(y_true, y_pred):
    weights = y_pred["attention_weights"]
    decoder_steps = weights.shape[1]
    result = []
    for b in range(B):
        steps = decoder_steps
        if "mel_lengths" in y_true:
            steps = max(int(np.ravel(y_true["mel_lengths"])[b]), 1)
            if "mel_target" in y_true:
                steps = math.ceil(steps * decoder_steps / T)
        tokens = max(int(np.ravel(y_true["text_lengths"])[b]), 1) if "text_lengths" in y_true else N
        total, before = 0.0, None
        for d in range(min(steps, decoder_steps)):
            position = 0.0
            for n in range(min(tokens, N)):
                distance = n / tokens - d / steps
                total += weights[b, d, n] * (1.0 - math.exp(-(distance**2) / (2.0 * 0.2**2)))
                position += weights[b, d, n] * n / tokens
            if before is not None:
                total += max(0.0, before - position)
            before = position
        result.append(total / min(steps, decoder_steps))
    return result


def numpy_squared(y_true, y_pred, target, output, lengths, size, change=lambda value: value):
    result = []
    for b in range(B):
        count, total = valid(y_true, lengths, b, size), 0.0
        for i in range(count):
            total += (change(np.ravel(y_true[target][b, i])[0]) - np.ravel(y_pred[output][b, i])[0]) ** 2
        result.append(total / max(count, 1))
    return result


NUMPY = {
    "mel_loss": numpy_mel,
    "stop_loss": numpy_stop,
    "attention_loss": numpy_attention,
    "duration_loss": lambda t, p: numpy_squared(
        t, p, "duration_target", "duration_pred", "text_lengths", N, lambda frames: math.log(1.0 + frames)
    ),
    "pitch_loss": lambda t, p: numpy_squared(t, p, "pitch_target", "pitch_output", "mel_lengths", T),
    "energy_loss": lambda t, p: numpy_squared(t, p, "energy_target", "energy_output", "mel_lengths", T),
}


def test_every_public_term_has_its_definition_here():
    assert set(XTTSLoss().terms) == set(NUMPY) == set(TERMS)


# --- values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_each_term_equals_its_definition(lengths, seed):
    y_true, y_pred = batch(lengths, seed)
    got = XTTSLoss(reduction="none", dtype="float64").evaluate(y_true, y_pred)
    assert list(got.terms) == list(TERMS)
    for name, expected in NUMPY.items():
        np.testing.assert_allclose(got.terms[name], expected(y_true, y_pred), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("decoder_steps", [1, 3, 4, 14])
@pytest.mark.parametrize("lengths", ["none", "ragged", "too long"])
def test_attention_whose_steps_are_not_frames(lengths, decoder_steps):
    y_true, y_pred = batch(lengths, decoder_steps=decoder_steps)
    got = XTTSLoss(reduction="none", dtype="float64").evaluate(y_true, y_pred).terms["attention_loss"]
    np.testing.assert_allclose(got, numpy_attention(y_true, y_pred), rtol=1e-9)


@pytest.mark.parametrize("lengths", ["none", "ragged"])
def test_attention_without_a_mel_to_scale_its_lengths_by(lengths):
    y_true, y_pred = batch(lengths)
    del y_true["mel_target"]
    got = XTTSLoss(reduction="none", dtype="float64").evaluate(y_true, y_pred).terms["attention_loss"]
    np.testing.assert_allclose(got, numpy_attention(y_true, y_pred), rtol=1e-9)


def test_attention_on_the_diagonal_costs_least():
    losses = {}
    for name, weights in {
        "diagonal": np.eye(N),
        "reversed": np.eye(N)[::-1],
        "diffuse": np.full((N, N), 1.0 / N),
        "stuck": np.tile(np.eye(N)[:1], (N, 1)),
    }.items():
        losses[name] = float(XTTSLoss()({}, {"attention_weights": weights[None]}))
    assert losses["diagonal"] == pytest.approx(0.0, abs=1e-6)
    assert max(losses, key=losses.get) == "reversed"
    assert min(losses["diffuse"], losses["stuck"]) > 0.05


@pytest.mark.parametrize(("mel_loss", "delta"), [("l1", None), ("huber", 1.0), ("huber", 0.1), ("huber", 10.0)])
def test_the_mel_error_is_absolute_or_hubers(mel_loss, delta):
    y_true, y_pred = batch()
    loss = XTTSLoss(mel_loss=mel_loss, reduction="none", dtype="float64", **({"huber_delta": delta} if delta else {}))
    got = loss.evaluate(y_true, y_pred).terms["mel_loss"]
    np.testing.assert_allclose(got, numpy_mel(y_true, y_pred, delta), rtol=1e-9)


def test_a_mel_of_one_band():
    y_true, y_pred = {"mel_target": np.zeros((2, 3, 1))}, {"mel_output": np.full((2, 3, 1), 0.5)}
    assert float(XTTSLoss().evaluate(y_true, y_pred).terms["mel_loss"]) == pytest.approx(0.125)


@pytest.mark.parametrize("positive", [0.5, 1.0, 20.0])
def test_the_weight_of_the_frames_that_stop(positive):
    y_true, y_pred = batch()
    got = XTTSLoss(stop_positive_weight=positive, reduction="none", dtype="float64").evaluate(y_true, y_pred)
    np.testing.assert_allclose(got.terms["stop_loss"], numpy_stop(y_true, y_pred, positive), rtol=1e-9)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
def test_the_stop_loss_of_a_certain_model_is_finite(logit):
    y_true, y_pred = {"stop_target": np.array([[0.0, 1.0]])}, {"stop_tokens": np.full((1, 2), logit)}
    assert float(XTTSLoss()(y_true, y_pred)) == pytest.approx(1e4 * (5.0 if logit < 0 else 1.0) / 2)


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 3.0]])
@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum", "none", None])
def test_the_total_is_the_weighted_sum(reduction, weights):
    y_true, y_pred = batch()
    factors = {"mel_loss": 3.0, "stop_loss": 0.7, "attention_loss": 0.2, "duration_loss": 0.3}
    factors |= {"pitch_loss": 0.4, "energy_loss": 0.0}
    loss = XTTSLoss(
        **{f"{name}_weight": factor for name, factor in factors.items()}, reduction=reduction, dtype="float64"
    )
    per_sample = sum(factor * np.array(NUMPY[name](y_true, y_pred)) for name, factor in factors.items())
    sample_weights = np.ones(B) if weights is None else np.array(weights)
    weighted = per_sample * sample_weights
    expected = {
        "sum": weighted.sum(),
        "none": weighted,
        None: weighted,
        "mean_with_sample_weight": weighted.sum() / sample_weights.sum(),
    }.get(reduction, weighted.sum() / B)
    np.testing.assert_allclose(loss(y_true, y_pred, weights), expected, rtol=1e-9)


def test_the_default_weights():
    weights = {name: term.weight for name, term in XTTSLoss().terms.items()}
    assert weights.pop("mel_loss").weight == 2.5
    assert weights == {
        "stop_loss": 1.0,
        "attention_loss": 0.5,
        "duration_loss": 0.1,
        "pitch_loss": 0.1,
        "energy_loss": 0.1,
    }


@pytest.mark.parametrize("mode", [{}, {"jit_compile": True}])
def test_a_graph_computes_the_same(mode):
    y_true, y_pred = batch()
    loss = XTTSLoss()
    values = [{key: tf.constant(v, tf.float32) for key, v in part.items()} for part in (y_true, y_pred)]
    function = tf.function(loss, autograph=False, **mode)
    np.testing.assert_allclose(function(*values), loss(y_true, y_pred), rtol=1e-5)


def test_a_graph_of_unknown_sizes_computes_the_same():
    loss = XTTSLoss()
    specs = [
        {key: tf.TensorSpec([None] * np.ndim(value), tf.float32) for key, value in part.items()} for part in batch()
    ]
    for spec in specs:
        for key in ("stop_tokens", "pitch_output"):
            if key in spec:
                spec[key] = tf.TensorSpec([None, None, 1], tf.float32)
    function = tf.function(loss, autograph=False, input_signature=specs)
    for lengths in ("ragged", "full"):
        parts = [{k: tf.constant(v, tf.float32) for k, v in part.items()} for part in batch(lengths)]
        np.testing.assert_allclose(function(*parts), loss(*batch(lengths)), rtol=1e-5)


# --- padding ---------------------------------------------------------------------------------------------


def poisoned(part, y_true, value):
    """Return the part with `value` in all padding."""
    result = {}
    for key, values in part.items():
        values = np.array(values, dtype=float)  # noqa: PLW2901
        for b in range(B):
            if key in FRAMES:
                values[b, valid(y_true, "mel_lengths", b, T) :] = value
            if key in TOKENS:
                values[b, valid(y_true, "text_lengths", b, N) :] = value
            if key == "attention_weights":
                values[b, :, valid(y_true, "text_lengths", b, N) :] = value
        result[key] = values
    return result


@functools.cache
def measure(xla):
    """Return a function that computes each term and its gradients: for XLA one for all, which is compiled once."""
    loss, zero = XTTSLoss(), tf.UnconnectedGradients.ZERO

    def compute(y_true, outputs):
        with tf.GradientTape(persistent=True) as tape:
            tape.watch(outputs)
            terms = loss.evaluate(y_true, outputs).terms
        return {name: (v, tape.gradient(v, outputs, unconnected_gradients=zero)) for name, v in terms.items()}

    return tf.function(compute, autograph=False, jit_compile=True) if xla else compute


@functools.cache
def losses_and_gradients(value=None, *, xla=False):
    """Return the value and the gradients of each term, with a value in all padding; and what they are of."""
    y_true, y_pred = batch("ragged")
    if value is not None:
        y_true, y_pred = (poisoned(part, y_true, value) for part in (y_true, y_pred))
    tensors = ({key: tf.constant(v, tf.float32) for key, v in part.items()} for part in (y_true, y_pred))
    return measure(xla)(*tensors), y_pred


@pytest.mark.parametrize("xla", [False, True], ids=["eager", "xla"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -1e30], ids=str)
@pytest.mark.parametrize("term", TERMS)
def test_what_is_in_the_padding_reaches_neither_loss_nor_gradients(term, value, xla):
    (clean, y_pred), (dirty, spoilt) = losses_and_gradients(), losses_and_gradients(value, xla=xla)
    assert any(not np.array_equal(spoilt[key], y_pred[key]) for key in y_pred)
    np.testing.assert_allclose(dirty[term][0], clean[term][0], rtol=1e-6)
    gradients, y_true = dirty[term][1], batch("ragged")[0]
    for key, gradient in gradients.items():
        np.testing.assert_allclose(gradient, clean[term][1][key], rtol=1e-5, atol=1e-8, err_msg=key)
        assert not np.asarray(poisoned({key: gradient}, y_true, 0.0)[key] - gradient).any(), "none in the padding"
    outputs = KEYS[term][1]
    assert any(np.asarray(gradients[key]).any() for key in outputs), "but some elsewhere"


@pytest.mark.parametrize("term", TERMS)
def test_a_nan_that_is_not_padding_is_seen(term):
    """The masks hide the padding, and nothing else."""
    y_true, y_pred = batch("ragged")
    y_pred[KEYS[term][1][0]][1, 0] = math.nan
    assert math.isnan(XTTSLoss().evaluate(y_true, y_pred).terms[term])


# --- keys, shapes, types ----------------------------------------------------------------------------------


@pytest.mark.parametrize("term", TERMS)
def test_a_term_alone(term):
    y_true, y_pred = batch("ragged")
    lengths = {key: y_true[key] for key in ("mel_lengths", "text_lengths")}
    targets = {key: y_true[key] for key in KEYS[term][0]} | lengths
    outputs = {key: y_pred[key] for key in KEYS[term][1]}
    loss = XTTSLoss(reduction="none", dtype="float64")
    got = loss.evaluate(targets, outputs)
    assert list(got.terms) == [term]
    np.testing.assert_allclose(got.terms[term], NUMPY[term](targets, outputs), rtol=1e-9)


@pytest.mark.parametrize("missing", sorted({key for pair in KEYS.values() for keys in pair for key in keys}))
def test_a_term_whose_key_is_missing_takes_no_part(missing):
    y_true, y_pred = batch("none")
    for part in (y_true, y_pred):
        part.pop(missing, None)
    got = XTTSLoss().evaluate(y_true, y_pred)
    gone = next(term for term, pair in KEYS.items() if missing in (*pair[0], *pair[1]))
    assert set(got.terms) == set(TERMS) - {gone}


def test_further_keys_do_not_matter():
    y_true, y_pred = batch()
    more = {**y_true, "speaker": np.arange(B)}, {**y_pred, "hidden": np.ones((B, 2))}
    np.testing.assert_allclose(XTTSLoss()(*more), XTTSLoss()(y_true, y_pred))


def test_lengths_of_any_integer_or_float_type():
    y_true, y_pred = batch()
    expected = float(XTTSLoss()(y_true, y_pred))
    for dtype in ("int32", "int64", "uint8", "float32"):
        y_true["mel_lengths"] = np.array(LENGTHS["ragged"]["mel_lengths"], dtype)
        assert float(XTTSLoss()(y_true, y_pred)) == pytest.approx(expected)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_no_frame_is_lost_in_half_precision(dtype):
    """301 is 300 in bfloat16."""
    frames = 301
    y_true = {"mel_target": np.zeros((1, frames, 1)), "mel_lengths": np.array([frames])}
    y_pred = {"mel_output": np.zeros((1, frames, 1))}
    y_pred["mel_output"][0, -1] = 100.0
    assert float(XTTSLoss(dtype=dtype).evaluate(y_true, y_pred).terms["mel_loss"]) > 0.0


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        ("mel_output", (B, T, 1)),
        ("mel_output", (B, T - 1, M)),
        ("mel_output", (B, T)),
        ("mel_target", (1, T, M)),
        ("stop_tokens", (B, T, 2)),
        ("stop_target", (B, 1)),
        ("duration_pred", (B, 1)),
        ("duration_target", (B, N + 1)),
        ("pitch_output", (B, 1)),
        ("pitch_target", (B, T + 1)),
        ("energy_output", (1, T)),
        ("energy_target", (B,)),
    ],
)
def test_shapes_that_do_not_fit_are_refused_rather_than_broadcast(key, shape):
    y_true, y_pred = batch("none")
    (y_true if key in y_true else y_pred)[key] = np.ones(shape)
    with pytest.raises(ValueError, match=rf"'{key}'"):
        XTTSLoss()(y_true, y_pred)


@pytest.mark.parametrize("extra", ["stop_target", "duration_target", "pitch_target", "energy_target", "duration_pred"])
def test_a_last_axis_of_one_is_no_difference(extra):
    y_true, y_pred = batch("none")
    expected = float(XTTSLoss()(y_true, y_pred))
    part = y_true if extra in y_true else y_pred
    part[extra] = part[extra][..., None]
    assert float(XTTSLoss()(y_true, y_pred)) == pytest.approx(expected)


@pytest.mark.parametrize("key", ["mel_target", "mel_output"])
def test_a_key_in_the_wrong_structure_is_refused_by_name(key):
    y_true, y_pred = batch("none")
    here, there = (y_true, y_pred) if key in y_true else (y_pred, y_true)
    there[key] = here.pop(key)
    with pytest.raises(ValueError, match=rf"'{key}' belongs in y_"):
        XTTSLoss()(y_true, y_pred)


def test_text_where_numbers_belong_is_refused():
    y_true, y_pred = batch("none")
    y_true["mel_target"] = np.full((B, T, M), "loud")
    with pytest.raises(
        ValueError, match=r"must be numbers of shape \[batch, frames, bands\]\. Received: string \(3, 7, 5\)"
    ):
        XTTSLoss()(y_true, y_pred)


# --- as other people's models have them -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["int32", "uint8", "bool", "float16", "float64"])
def test_labels_and_lengths_of_any_type_are_taken(kind):
    y_true, y_pred = batch("full")
    expected = float(XTTSLoss()(y_true, y_pred))
    y_true["stop_target"] = y_true["stop_target"].astype(kind)
    if kind != "bool":
        for key in ("duration_target", "mel_lengths", "text_lengths"):
            y_true[key] = y_true[key].astype(kind)
    assert float(XTTSLoss()(y_true, y_pred)) == pytest.approx(expected)


def test_probabilities_in_place_of_logits():
    y_true, y_pred = batch()
    expected = XTTSLoss().evaluate(y_true, y_pred).terms["stop_loss"]
    y_pred["stop_tokens"] = 1.0 / (1.0 + np.exp(-y_pred["stop_tokens"]))
    got = XTTSLoss(stop_from_logits=False).evaluate(y_true, y_pred).terms["stop_loss"]
    np.testing.assert_allclose(got, expected, rtol=1e-5)


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_the_stop_loss_of_a_wrong_certainty_is_finite_and_so_are_its_gradients(probability):
    output = tf.Variable([[probability, probability]])
    with tf.GradientTape() as tape:
        loss = XTTSLoss(stop_from_logits=False)({"stop_target": np.array([[0.0, 1.0]])}, {"stop_tokens": output})
    assert float(loss) == pytest.approx(-math.log(1e-7) * (1.0 if probability else 5.0) / 2, rel=0.02)
    assert np.isfinite(tape.gradient(loss, output)).all()


def test_of_several_heads_the_mean_counts():
    y_true, y_pred = batch()
    heads = np.stack([y_pred["attention_weights"], y_pred["attention_weights"][:, ::-1]], axis=1)
    y_pred["attention_weights"] = heads.mean(1)
    expected = XTTSLoss().evaluate(y_true, y_pred).terms["attention_loss"]
    got = XTTSLoss().evaluate(y_true, {**y_pred, "attention_weights": heads}).terms["attention_loss"]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("weights", [np.ones((B, N)), [np.ones((B, D, N))] * 2, np.ones((1, 2, 3, D, N))])
def test_attention_of_another_shape_is_refused(weights):
    with pytest.raises(ValueError, match=r"'attention_weights' must have shape \[batch, decoder steps, tokens\] or"):
        XTTSLoss()({}, {"attention_weights": weights})


@pytest.mark.parametrize("graph", [False, True])
def test_stop_tokens_of_decoder_steps_have_lengths_in_steps(graph):
    """Two frames a step: of 7, 3 and 5 frames there are 4, 2 and 3 steps; in padding the worst token costs nothing."""
    y_true, y_pred = batch()
    steps = np.array([4, 2, 3])
    y_true["stop_target"] = np.zeros((B, 4))
    y_pred["stop_tokens"] = np.where(np.arange(4)[None] < steps[:, None], -20.0, 20.0)
    loss = (
        tf.function(XTTSLoss(reduction="none").evaluate, autograph=False)
        if graph
        else XTTSLoss(reduction="none").evaluate
    )
    np.testing.assert_allclose(loss(y_true, y_pred).terms["stop_loss"], np.zeros(B), atol=1e-6)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("key", ["pitch", "energy"])
def test_pitch_and_energy_of_tokens_have_lengths_in_tokens(key, graph):
    y_true, y_pred = batch()
    tokens = y_true["text_lengths"]
    y_true[f"{key}_target"] = np.zeros((B, N))
    y_pred[f"{key}_output"] = np.where(np.arange(N)[None] < tokens[:, None], 2.0, 1e6)
    loss = XTTSLoss(reduction="none").evaluate
    if graph:
        specs = [
            {name: tf.TensorSpec([None, None, *np.shape(value)[2:]][: np.ndim(value)]) for name, value in part.items()}
            for part in (y_true, y_pred)
        ]
        loss = tf.function(loss, autograph=False, input_signature=specs)
        y_true, y_pred = ({n: tf.constant(v, tf.float32) for n, v in part.items()} for part in (y_true, y_pred))
    np.testing.assert_allclose(loss(y_true, y_pred).terms[f"{key}_loss"], [4.0] * B)


@pytest.mark.parametrize("which", [["mel_output"], ["mel_target", "mel_output"]])
def test_a_mel_with_the_bands_first_is_told_what_to_write(which):
    loss = XTTSLoss()
    shapes = {name: (None, M, None) if name in which else (None, None, M) for name in ("mel_target", "mel_output")}

    specs = [{name: tf.TensorSpec(shapes[name])} for name in shapes]
    with pytest.raises(ValueError, match=r"Write `keras\.ops\.swapaxes\(mel, 1, 2\)`"):
        tf.function(loss).get_concrete_function(*specs)


def test_samples_without_a_frame_are_no_losses_of_zero():
    y_true, y_pred = batch("empty")
    got = XTTSLoss(dtype="float64").evaluate(y_true, y_pred)
    for name in ("mel_loss", "stop_loss", "duration_loss", "pitch_loss", "energy_loss"):
        assert float(got.terms[name]) == pytest.approx(np.mean(NUMPY[name](y_true, y_pred)[1:])), name
    y_true["mel_lengths"] = np.zeros(B)
    measured = XTTSLoss().evaluate(y_true, y_pred).measured
    assert {name for name, there in measured.items() if there} == {"duration_loss"}


def test_attention_alone_needs_no_targets():
    assert float(XTTSLoss()(None, {"attention_weights": np.eye(N)[None]})) == pytest.approx(0.0, abs=1e-6)


# --- arguments ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "values"),
    {
        "mel_loss_weight": (0.5, 5.5, math.nan, "2.5", None, True),
        "use_adaptive_weights": (1, None, "yes"),
        "loss_smoothing_factor": (0.0, 1.5, math.nan, "0.1", None),
        "max_loss_spike_threshold": (1.0, -2.0, math.inf, "2", None),
        "gradient_norm_threshold": (0.0, -1.0, math.nan, "5"),
        "stop_loss_weight": (-0.1, math.nan, "1", None),
        "attention_loss_weight": (-0.1, math.inf, "1", None),
        "duration_loss_weight": (-0.1, math.nan, "1", None),
        "pitch_loss_weight": (-0.1, math.nan, "1", None),
        "energy_loss_weight": (-0.1, math.nan, "1", None),
        "mel_loss": ("l2", None, 1),
        "huber_delta": (0.0, -1.0, math.nan, "1", None),
        "stop_positive_weight": (0.0, -1.0, math.nan, "1", None),
        "reduction": ("average",),
        "config": ({"enabled": True}, 3),
        "stop_from_logits": (1, None, "yes"),
    }.items(),
)
def test_bad_arguments_are_refused(name, values):
    for value in values:
        with pytest.raises((TypeError, ValueError)) as refusal:
            XTTSLoss(**{name: value})
        assert str(value) in str(refusal.value)
        assert name in str(refusal.value)


@pytest.mark.parametrize(
    "arguments", [{"mel_loss_weight": XTTSConfig()}, {"config": XTTSConfig()}, {"config": TrainingConfig()}]
)
def test_the_guides_configuration_is_told_what_to_write(arguments):
    with pytest.raises(TypeError, match=r"Write `XTTSLoss\.from_training_config\("):
        XTTSLoss(**arguments)


def test_settings_given_twice_are_refused():
    with pytest.raises(ValueError, match=r"`config` already holds \['loss_smoothing_factor'\]"):
        XTTSLoss(loss_smoothing_factor=0.3, config=AdaptiveWeightConfig())
    with pytest.raises(ValueError, match=r"`config` already holds \['enabled'\]"):
        XTTSLoss(use_adaptive_weights=False, config=AdaptiveWeightConfig())


def test_the_guides_arguments_reach_the_weight_and_the_dampening():
    loss = XTTSLoss(3.0, False, 0.2, 4.0, 9.0)
    config = loss.mel_weight.config
    assert (loss.mel_weight.base_weight, config.enabled, config.loss_smoothing_factor) == (3.0, False, 0.2)
    assert (config.max_loss_spike_threshold, config.gradient_norm_threshold) == (4.0, 9.0)
    assert (loss.max_loss_spike_threshold, loss.loss_smoothing_factor) == (4.0, 0.2)


def test_all_settings_at_once():
    config = AdaptiveWeightConfig(max_weight=8.0, max_loss_spike_threshold=3.0)
    loss = XTTSLoss(6.0, config=config)
    assert loss.mel_weight.config is config
    assert loss.max_loss_spike_threshold == 3.0


def test_from_the_training_configuration():
    training = TrainingConfig(mel_loss_weight=3.5, loss_smoothing_factor=0.2)
    loss = XTTSLoss.from_training_config(training, stop_loss_weight=0.5)
    assert loss.mel_weight.base_weight == 3.5
    assert loss.mel_weight.config == training.adaptive_weight_config()
    assert loss.terms["stop_loss"].weight == 0.5
    with pytest.raises(TypeError, match=r"`training` must be a TrainingConfig, as in XTTSConfig\(\)\.training"):
        XTTSLoss.from_training_config(XTTSConfig())


# --- serialisation ------------------------------------------------------------------------------------------


def test_the_configuration_survives_json():
    loss = XTTSLoss(
        3.5,
        config=AdaptiveWeightConfig(warmup_steps=3, gradient_norm_threshold=None),
        stop_loss_weight=0.9,
        attention_loss_weight=0.8,
        duration_loss_weight=0.7,
        pitch_loss_weight=0.6,
        energy_loss_weight=0.5,
        mel_loss="l1",
        huber_delta=0.4,
        stop_positive_weight=2.0,
        stop_from_logits=False,
        reduction="sum",
        name="speech",
        dtype="float64",
    )
    again = keras.losses.deserialize(json.loads(json.dumps(keras.losses.serialize(loss))))
    assert type(again) is XTTSLoss
    assert again.get_config() == loss.get_config()
    assert (again.name, again.reduction, again.dtype) == ("speech", "sum", "float64")
    assert again.mel_weight.config == loss.mel_weight.config
    assert again.mel_weight is not loss.mel_weight
    np.testing.assert_allclose(again(*batch()), loss(*batch()), rtol=1e-12)


def test_a_second_adaptive_weight_survives_json():
    loss = XTTSLoss(
        stop_loss_weight=AdaptiveWeight(1.5, AdaptiveWeightConfig(warmup_steps=3)), huber_delta=np.float32(2)
    )
    again = keras.losses.deserialize(json.loads(json.dumps(keras.losses.serialize(loss))))
    assert list(again.adaptive_weights) == ["mel_loss", "stop_loss"]
    assert again.get_config() == loss.get_config()


def test_a_configuration_of_an_earlier_version_loads():
    config = XTTSLoss().get_config()
    del config["stop_from_logits"]
    assert XTTSLoss.from_config(config).get_config() == XTTSLoss().get_config()


def test_every_argument_is_in_the_configuration():
    """One left out would silently become its default in a loaded model."""
    replaced = {"use_adaptive_weights", "loss_smoothing_factor", "max_loss_spike_threshold", "gradient_norm_threshold"}
    code = XTTSLoss.__init__.__code__
    arguments = set(code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount])
    assert set(XTTSLoss().get_config()) == arguments - replaced


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(TrainingConfig)])
def test_each_training_setting_changes_what_the_loss_does(name):
    """By the guide's names, through the loss that a user builds from them."""
    value, losses, norms = TRAINING_EFFECT[name]

    def run(training):
        weight = XTTSLoss.from_training_config(training).mel_weight
        seen = [weight.observe([observation]) for observation in observations(losses, norms)]
        return [(d.action, d.reason, d.new_weight) for d in seen]

    assert value != getattr(QUICK_TRAINING, name)
    assert run(QUICK_TRAINING) != run(dataclasses.replace(QUICK_TRAINING, **{name: value}))


# --- the guide's interface -------------------------------------------------------------------------------------


def test_the_guides_methods_work_on_the_mel_weight():
    loss = XTTSLoss()
    for _ in range(3):
        loss.mel_weight.update(0.8, gradient_norm=2.0, total_loss=3.0)
    assert loss.step_count == 3
    loss.disable_adaptive_weights("why")
    assert not loss.get_adaptive_weight_metrics()["weight_adjustment_enabled"]
    loss.reset_stability_state("again")
    assert not loss.get_adaptive_weight_metrics()["weight_adjustment_enabled"]
    assert math.isnan(loss.get_stability_metrics()["running_mel_loss"])
    loss.enable_adaptive_weights("fine")
    assert loss.get_adaptive_weight_metrics()["weight_adjustment_enabled"]
    assert [(d.action, d.note) for d in loss.mel_weight.decisions] == [
        ("disable", "why"),
        ("reset", "again"),
        ("enable", "fine"),
    ]
    assert loss.step_count == 3
