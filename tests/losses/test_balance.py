"""What a loss holds of its balance: checked, saved, and when gradient norms are measured."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_training import absolute_error, batches, make_model, squared_error

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding.joint import Term
from keras_adaptive_weights.deciding.strategy import Proposal
from keras_adaptive_weights.losses.balance import NormSchedule, terms_of


@keras.saving.register_keras_serializable(package="test_balance")
class Alternate:
    """A strategy of one's own."""

    def __init__(self, period=3):
        self.period = period

    def initial(self, terms):
        return ()

    def step(self, state, observations):
        return state, Proposal()

    def get_config(self):
        return {"period": self.period}

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="test_balance")
def kernels(variables):
    return [variable for variable in variables if variable.path.endswith("kernel")]


def loss_with(balance, **kwargs):
    weights = {"a_loss": kaw.AdaptiveWeight(2.5), "b_loss": 0.5, **kwargs}
    fns = {"a_loss": squared_error, "b_loss": absolute_error}
    terms = {name: kaw.LossTerm(fns.get(name, squared_error), weight) for name, weight in weights.items()}
    return kaw.CompositeLoss(terms, balance=balance)


STRATEGIES = {
    "none": None,
    "auto": kaw.GradientShare(),
    "share": kaw.GradientShare({"a_loss": 0.6}, measure_every=7, calibrate_steps=None, variables=["dense", "x/kernel"]),
    "one name": kaw.GradientShare(variables="dense"),
    "a function": kaw.GradientShare(variables=kernels),
    "constraint": kaw.Constraint("a_loss", at_most=1.5),
    "losses": kaw.SqrtLoss(measure_every=20),
}


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_balance_comes_back_from_a_config(name):
    loss = loss_with(STRATEGIES[name])
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert again.balance == loss.balance


def test_a_config_of_an_earlier_version_has_no_balance():
    config = loss_with(None).get_config()
    del config["balance"]
    assert kaw.CompositeLoss.from_config(config).balance is None
    config = kaw.XTTSLoss().get_config()
    del config["balance"]
    assert kaw.XTTSLoss.from_config(config).balance is None


def test_a_strategy_of_ones_own_comes_back_as_a_layer_does():
    again = kaw.CompositeLoss.from_config(loss_with(Alternate(5)).get_config())
    assert (type(again.balance), again.balance.period) == (Alternate, 5)


def test_layers_and_variables_are_saved_by_their_names():
    layer = keras.layers.Dense(2, name="bottleneck")
    layer.build((None, 3))
    config = loss_with(kaw.GradientShare(variables=[layer, layer.kernel])).get_config()
    assert config["balance"]["config"]["variables"] == ["bottleneck", layer.kernel.path]


def test_the_balance_of_a_speech_loss_comes_back_and_its_weight_has_room():
    loss = kaw.XTTSLoss(0.025, balance=kaw.GradientShare({"mel_loss": 0.6}))
    config = loss.mel_weight.config
    assert (config.min_weight, config.max_weight) == (pytest.approx(0.00025), pytest.approx(2.5))
    again = kaw.XTTSLoss.from_config(loss.get_config())
    assert (again.balance, again.mel_weight.config) == (loss.balance, config)
    given = kaw.AdaptiveWeightConfig(min_weight=0.5, max_weight=9.0)
    assert kaw.XTTSLoss(2.5, balance=kaw.GradientShare(), config=given).mel_weight.config == given
    assert kaw.XTTSLoss().balance is None


@pytest.mark.parametrize("balance", ["auto", kaw.GradientShare, 0.6, {"a_loss": 0.6}])
def test_what_is_no_strategy_is_refused(balance):
    with pytest.raises(TypeError, match=r"CompositeLoss: argument `balance` must be a strategy.*`balance=GradientS"):
        loss_with(balance)


def test_terms_that_cannot_be_balanced_are_refused_where_the_loss_is_made():
    with pytest.raises(ValueError, match=r"GradientShare: argument `shares` names \['c_loss'\]"):
        loss_with(kaw.GradientShare({"c_loss": 0.6}))
    with pytest.raises(ValueError, match=r"Constraint: argument `term` must name a term with an adaptive weight"):
        loss_with(kaw.Constraint("b_loss", at_most=1.0))
    with pytest.raises(ValueError, match=r"GradientShare: needs two or more terms"):
        loss_with(kaw.GradientShare(), b_loss=0.0)


def test_a_strategy_sees_the_terms_with_their_bounds_and_none_that_counts_for_nothing():
    loss = loss_with(None, c_loss=0, d_loss=0.0)
    assert terms_of(loss.terms) == (Term("a_loss", 2.5, 0.025, 250.0), Term("b_loss", 0.5))


# --- when gradient norms are measured -------------------------------------------------------------------


@pytest.mark.parametrize("name", STRATEGIES)
def test_norms_are_measured_only_for_a_strategy_that_looks_at_them(name):
    schedule = loss_with(STRATEGIES[name]).norm_schedule
    assert (schedule is not None) is isinstance(STRATEGIES[name], kaw.GradientShare)


@pytest.mark.parametrize(
    ("at_start", "steps", "due"),
    [
        (0, "........", "..x..x.."),
        (2, "........", "xx..x..x"),
        (2, "s.u.....", "xxxx..x."),  # a skipped step and one that told nothing do not count at the start
        (0, "..ss....", "..xxx..x"),  # what was due is put off to the next step that is applied
        (0, "..u.....", "..x..x.."),
    ],
)
def test_norms_are_measured_in_a_row_and_then_every_so_many_steps(at_start, steps, due):
    schedule, seen = NormSchedule(3, at_start), ""
    for step in steps:
        measures = schedule.due()
        seen += "x" if measures else "."
        schedule.note(measures, tf.constant(step != "s"), tf.constant(step == "."))
    assert seen == due


def test_a_strategy_that_forgot_measures_in_a_row_again():
    schedule = NormSchedule(9, 1)
    schedule.note(schedule.due(), tf.constant(True), tf.constant(True))
    assert not schedule.due()
    schedule.begin_again()
    assert schedule.due()


def test_the_schedule_travels_in_the_checkpoint(tmp_path):
    model = make_model(loss=loss_with(kaw.GradientShare()))
    model.train_on_batch(*batches(1)[0])
    model.loss.norm_schedule.variable.assign([3, 11])
    model.save_weights(tmp_path / "a.weights.h5")
    other = make_model(loss=loss_with(kaw.GradientShare()))
    other.load_weights(tmp_path / "a.weights.h5")
    assert other.loss.norm_schedule.variable.numpy().tolist() == [3, 11]
    without = make_model(loss=loss_with(None))
    without.load_weights(tmp_path / "a.weights.h5")
    assert without.loss.norm_schedule is None


@pytest.mark.parametrize("damaged", [[1.0, 2.0], [1], [-1, 0]])
def test_a_damaged_schedule_is_refused(damaged):
    store = {"norm_schedule": np.array(damaged)}
    with pytest.raises(ValueError, match=r"The field `norm_schedule` of the loss in the checkpoint cannot be used"):
        loss_with(kaw.GradientShare()).load_own_variables(store)
