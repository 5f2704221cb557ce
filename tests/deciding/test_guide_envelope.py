"""One weight by the guide's rule has the methods of the envelope of several; each is the function it stands for."""

import json

import pytest

from keras_adaptive_weights.deciding import envelope, guide_rule, safeguards
from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Observation, Reason
from keras_adaptive_weights.deciding.guide_envelope import GuideEnvelope
from keras_adaptive_weights.deciding.state import initial_state

CONFIG = AdaptiveWeightConfig(warmup_steps=2, cooling_period=2, min_stable_steps=1, reference_steps=5)
GUIDE = GuideEnvelope(CONFIG)
SEEN = [Observation(1, 0.8, gradient_norm=1.0), Observation(2, 0.7, gradient_norm=1.0)]


@pytest.fixture
def state():
    return guide_rule.step(CONFIG, initial_state(CONFIG, 2.5), SEEN)[0]._replace(previous_weight=2.4)


@pytest.mark.parametrize(
    ("method", "function"),
    [
        (lambda s: GUIDE.step(s, [Observation(3, 0.6)]), lambda s: guide_rule.step(CONFIG, s, [Observation(3, 0.6)])),
        (lambda s: GUIDE.disable(s, "why"), lambda s: envelope.disable(s, "why")),
        (GUIDE.disable, lambda s: envelope.disable(s, "")),
        (lambda s: GUIDE.enable(s, "why"), lambda s: envelope.enable(CONFIG, s, "why")),
        (GUIDE.enable, lambda s: envelope.enable(CONFIG, s, "")),
        (lambda s: GUIDE.rollback(s, "why"), lambda s: envelope.rollback(CONFIG, s, "why")),
        (GUIDE.rollback, lambda s: envelope.rollback(CONFIG, s, "")),
        (GUIDE.reset, lambda s: envelope.reset(s, "", Reason.MANUAL)),
        (
            lambda s: GUIDE.reset(s, "why", Reason.RECOVERED_FROM_SKIPS, {"snapshot_step": 3.0}),
            lambda s: envelope.reset(s, "why", Reason.RECOVERED_FROM_SKIPS, {"snapshot_step": 3.0}),
        ),
        (lambda s: GUIDE.set_shadow(s, shadow=True), lambda s: safeguards.set_shadow(CONFIG, s, shadow=True)),
        (
            lambda s: GUIDE.set_shadow(s._replace(held_weight=2.4), shadow=False),
            lambda s: safeguards.set_shadow(CONFIG, s._replace(held_weight=2.4), shadow=False),
        ),
        (lambda s: GUIDE.restored(json.loads(json.dumps(GUIDE.to_dict(s)))), lambda s: s),
    ],
)
def test_each_method_is_the_function_it_stands_for(state, method, function):
    assert method(state) == function(state)


@pytest.mark.parametrize(
    "method",
    [
        lambda guide, s: guide.step(s, SEEN),
        *(getattr(GuideEnvelope, n) for n in ("disable", "enable", "reset", "rollback")),
    ],
)
def test_each_decision_names_the_term(state, method):
    assert method(GuideEnvelope(CONFIG, "mel_loss"), state)[1].term == "mel_loss"
    assert method(GUIDE, state)[1].term == ""


def test_a_restored_weight_is_within_todays_bounds(state):
    narrow = GuideEnvelope(AdaptiveWeightConfig(min_weight=1.0, max_weight=2.0))
    assert narrow.restored(state.to_dict()).weight == 2.0


@pytest.mark.parametrize("shadow", [False, True])
def test_in_shadow_a_decision_tells_the_weight_that_stays(state, shadow):
    state = GUIDE.set_shadow(state, shadow=shadow)
    after, decision = GUIDE.step(state, [Observation(3, 0.6)])
    assert decision.held_weight == (2.5 if shadow else None)
    assert after.weight_in_force == 2.5
