"""Observations as somebody gives them: in any iterable, with numbers of any class."""

from fractions import Fraction

import numpy as np
import pytest

from keras_adaptive_weights.deciding.decision import Observation
from keras_adaptive_weights.deciding.joint import JointObservation
from keras_adaptive_weights.deciding.observations import all_joint_observations, all_observations

SEEN, OF_ALL = Observation(1, 0.8), JointObservation(1, {"a": 0.8})


@pytest.mark.parametrize("given", [[SEEN], (SEEN, SEEN), iter([SEEN]), []])
def test_observations_come_in_any_iterable(given):
    kept = given if isinstance(given, (list, tuple)) else [SEEN]
    assert list(all_observations("replay", "source", given)) == list(kept)


@pytest.mark.parametrize("given", [SEEN, 5, None, [SEEN, 0.8], [OF_ALL]])
def test_anything_else_is_refused_with_the_line_to_write(given):
    message = (
        r"^replay: argument `source` must be a sequence of Observations\. Received: source=.*\. Write "
        r"`source=\[Observation\(step=1, loss=0\.8\), \.\.\.\]`, `\[observation\]` for a single one\.$"
    )
    with pytest.raises(TypeError, match=message):
        all_observations("replay", "source", given)


def test_of_several_terms_it_is_the_same():
    assert all_joint_observations("observe", "seen", iter([OF_ALL])) == [OF_ALL]
    with pytest.raises(TypeError, match=r"sequence of JointObservations\. .*\(step=1, losses=\{\"mel_loss\": 0.8\}\)"):
        all_joint_observations("observe", "seen", OF_ALL)


@pytest.mark.parametrize("number", [np.float32(0.5), np.float64(0.5), Fraction(1, 2)])
def test_numbers_become_pythons_own(number):
    """A state that holds others could not be stored."""
    (seen,) = all_observations("replay", "source", [Observation(1, number, number, number)])
    assert [(type(value), value) for value in seen[1:4]] == [(float, 0.5)] * 3
    (seen,) = all_observations("replay", "source", [Observation(1, number)])
    assert (seen.total_loss, seen.gradient_norm) == (None, None)
    given = JointObservation(1, {"a": number, "b": 0.25}, number, number, {"a": number})
    (of_all,) = all_joint_observations("observe", "seen", [given])
    values = [*of_all.losses.values(), of_all.total_loss, of_all.gradient_norm, *of_all.term_norms.values()]
    assert [(type(value), value) for value in values] == [(float, v) for v in (0.5, 0.25, 0.5, 0.5, 0.5)]


@pytest.mark.parametrize("field", [{"loss": None}, {"loss": "x"}, {"total_loss": "2"}, {"gradient_norm": [1.0]}])
def test_what_is_no_number_is_named(field):
    (name,) = field
    message = rf"^replay: argument `source` must hold.*for `{name}` at step 2\. Write `float\(\.\.\.\)`"
    with pytest.raises(TypeError, match=message):
        all_observations("replay", "source", [SEEN, Observation(**{"step": 2, "loss": 0.8, **field})])


def test_what_is_no_number_of_a_term_is_named():
    with pytest.raises(TypeError, match=r"Received: None for `losses` at step 2"):
        all_joint_observations("observe", "seen", [JointObservation(2, {"a": 0.5, "b": None})])
