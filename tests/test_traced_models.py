"""A model that was traced for an earlier test is as good as new, or is not handed out again."""

from __future__ import annotations

import given_losses
import keras
import numpy as np
import pytest
import small_training
import tensorflow as tf
from traced_models import variables_of

import keras_adaptive_weights as kaw
from keras_adaptive_weights.runtime.written_variables import global_seed_state
from keras_adaptive_weights.training.recovery import ModelRecovery

pytestmark = pytest.mark.usefixtures("graphs_as_traced", "all_tricks")
MAKERS = {"given losses": given_losses.make_model, "small training": small_training.make_model}
DATA = small_training.batches(12)
DATASETS = {
    "given losses": tf.data.Dataset.from_tensors((tf.ones((4, 2)), tf.ones((4, 1)))).unbatch().batch(4),
    "small training": tf.data.Dataset.from_tensors((tf.ones((8, 4)), tf.ones((8, 3)))).unbatch().batch(8),
}


def handles_in(model, batches):
    """Return the handles of all variables that the traced step reads or writes, whoever knows of them."""
    train = held(model.train_function, "function")
    traced = held(train, "from_dataset").get_concrete_function(iter(batches))
    return {id(outside) for outside, _ in traced.graph.captures if outside.dtype == tf.resource}


def held(function, name):
    """Return what a function holds under a name."""
    return dict(zip(function.__code__.co_freevars, function.__closure__, strict=True))[name].cell_contents


def train(kind, model, folder, **kwargs):
    """Return what came of a training: the logs, the decisions, all values, and how often the step was traced."""
    callback = kaw.AdaptiveMelWeightCallback(log_dir=folder, **kwargs)
    if kind == "given losses":
        logs = given_losses.fit(model, given_losses.RISING, [callback]).history
    else:
        logs = small_training.fit(model, DATA, callbacks=[callback]).history
    values = [variable.numpy() for variable in variables_of(model)]
    weight = model.loss.adaptive_weights["mel_loss"]
    return logs, [d._replace() for d in callback.decisions], values, weight.state


@pytest.mark.parametrize("kind", MAKERS)
def test_a_model_that_was_used_is_as_good_as_new(kind, shelf, tmp_path):
    keras.utils.set_random_seed(1)
    fresh = MAKERS[kind](steps_per_execution=2)
    expected = train(kind, fresh, tmp_path / "fresh")
    shelf.open = True
    keras.utils.set_random_seed(1)
    used = MAKERS[kind](steps_per_execution=2)
    run = used.loss.adaptive_weights["mel_loss"].run
    train(kind, used, tmp_path / "used", recovery=ModelRecovery(every=3), shadow=True)
    step = used.train_function
    used.optimizer.learning_rate = 0.5
    used.loss.total_average.assign([3.0, 7.0])
    used.loss.adaptive_weights["mel_loss"].disable("by hand")
    used.stop_training = True
    used.set_weights([np.full_like(value, np.nan) for value in used.get_weights()])
    shelf.take_back()
    again = MAKERS[kind](steps_per_execution=2)
    assert again is used
    assert again.loss.adaptive_weights["mel_loss"].run != run
    logs, decisions, values, state = train(kind, again, tmp_path / "again")
    assert again.train_function is step
    assert (logs, decisions, state) == (expected[0], expected[1], expected[3])
    for value, other in zip(values, expected[2], strict=True):
        np.testing.assert_array_equal(value, other)
    known = [*variables_of(again), *global_seed_state()]
    known = {id((variable.value if isinstance(variable, keras.Variable) else variable).handle) for variable in known}
    assert handles_in(again, DATASETS[kind]) <= known
    shelf.open = False
    shelf.clear()


def test_two_at_a_time_are_two_and_what_was_exchanged_or_given_is_not_kept(traced_models):
    one, other = given_losses.make_model(), given_losses.make_model()
    assert one is not other
    assert given_losses.make_model(metrics=["mae"]) is not given_losses.make_model(metrics=["mae"])
    one.compile("sgd", one.loss)
    other.layers[-1].trainable = False
    traced_models.take_back()
    assert given_losses.make_model() not in (one, other)
