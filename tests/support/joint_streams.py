"""Streams of joint observations, and an envelope that is driven through them."""

import json
import math
import random
from dataclasses import dataclass

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Reason
from keras_adaptive_weights.deciding.joint import JointDecision, JointObservation, Term
from keras_adaptive_weights.deciding.joint_state import JointState

QUICK = AdaptiveWeightConfig(
    warmup_steps=20, cooling_period=12, min_stable_steps=5, reference_steps=20, loss_smoothing_factor=0.3
)
ADAPTIVE = (Term.adaptive("a", 1.0), Term.adaptive("b", 1.0))
BESIDE = (Term.adaptive("a", 1.0), Term("f", 2.0))


@dataclass(frozen=True)
class Turn:
    """One call of the envelope: what went in, and what came out."""

    before: JointState
    given: tuple[JointObservation, ...] | str
    after: JointState
    decision: JointDecision


def by_hand(envelope, state, name):
    """Do what a person, or the recovery of the model, asks for."""
    if name == "recover":
        return envelope.reset(state, "restored", Reason.RECOVERED_FROM_SKIPS, {"snapshot_step": 3.0})
    return getattr(envelope, name)(state, "by hand")


def play(envelope, script, execution=1, state=None):
    """Run a script of observations and names of manual operations; `execution` observations a decision."""
    state, turns, batch = state or envelope.initial(), [], []
    for item, following in zip(script, [*script[1:], None], strict=True):
        if isinstance(item, str):
            given = item
            after, decision = by_hand(envelope, state, item)
        else:
            batch.append(item._replace(step=state.core.step + len(batch) + 1))
            if len(batch) < execution and isinstance(following, JointObservation):
                continue
            given, batch = tuple(batch), []
            after, decision = envelope.step(state, given)
        turns.append(Turn(state, given, after, decision))
        state = after
    return turns


def seen(losses, norms=None, **values):
    """Return one step; the number is put in by `play`."""
    return JointObservation(0, losses, term_norms=norms or {}, **values)


def steady(steps, norms, *, losses=None, every=1, noise=0.0, seed=0):
    """Return steps with losses (1 each) and, on every so many, norms around these levels."""
    rng, losses = random.Random(seed), losses or dict.fromkeys(norms, 1.0)

    def around(levels):
        return {name: level * rng.lognormvariate(0.0, noise) if noise else level for name, level in levels.items()}

    return [seen(around(losses), around(norms) if i % every == 0 else None) for i in range(1, steps + 1)]


def bad(names=("a", "b")):
    """Return a step that was skipped for a loss that is not a number."""
    return seen(dict.fromkeys(names, math.nan), applied=False)


def changes(turns):
    """Return what happened: (step, action, reason) of every decision but HOLD."""
    return [(t.decision.step, str(t.decision.action), str(t.decision.reason)) for t in turns if t.decision.is_event]


def through_json(envelope, state):
    """Return the state after it was written to JSON and read back."""
    return envelope.restored(json.loads(json.dumps(envelope.to_dict(state))))
