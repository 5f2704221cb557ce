"""Simulated trainings for the pure controller: noises, levels, and plants whose loss answers to the weight.

Every simulation is a module-level function of a seed and keyword arguments, so that other processes can run it.
Deviations are those of the logarithm: a noise of 0.1 scatters the losses by about 10 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding import guide_rule
from keras_adaptive_weights.deciding.joint import Term
from keras_adaptive_weights.deciding.joint_envelope import JointEnvelope
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.deciding.strategy import Strategy

BASE = 2.5
NORM = 2.0
"""Level of the gradient norms, well below the default threshold of 5."""
WITHIN = 60
"""Steps after the gates open within which a lasting change must be answered."""
_UP_AND_DOWN = (kaw.Action.INCREASE, kaw.Action.DECREASE)
Array = np.ndarray
Draw = Callable[[np.random.Generator, int], Array]


def white(rng: np.random.Generator, steps: int, *, noise: float) -> Array:
    """Return independent log-normal noise."""
    return np.exp(noise * rng.standard_normal(steps))


def wander(rng: np.random.Generator, steps: int, *, noise: float, phi: float = 0.9) -> Array:
    """Return first-order autoregressive noise with the marginal deviation `noise`."""
    return np.exp(noise * _autoregressive(rng, steps, phi))


def wander_and_batches(rng: np.random.Generator, steps: int, *, noise: float, phi: float = 0.9) -> Array:
    """Return a wandering level with as much independent noise on top."""
    return wander(rng, steps, noise=noise, phi=phi) * white(rng, steps, noise=noise)


def random_walk(rng: np.random.Generator, steps: int, *, noise: float) -> Array:
    """Return a level that takes a step of `noise` at a time and never comes back."""
    return np.exp(np.cumsum(noise * rng.standard_normal(steps)))


def heavy_tailed(rng: np.random.Generator, steps: int, *, noise: float, freedom: float = 3.0) -> Array:
    """Return noise whose logarithm is Student's t."""
    return np.exp(np.clip(noise * rng.standard_t(freedom, steps), -20.0, 20.0))


def outliers(rng: np.random.Generator, steps: int, *, noise: float, share: float, factor: float) -> Array:
    """Return white noise, a share of it `factor` times as large; two kinds of batches where the share is a half."""
    return white(rng, steps, noise=noise) * np.where(rng.random(steps) < share, factor, 1.0)


def changing_noise(rng: np.random.Generator, steps: int, *, quiet: float, loud: float, every: int = 500) -> Array:
    """Return noise that is quiet and loud by turns."""
    deviation = np.where(np.arange(steps) // every % 2, loud, quiet)
    return np.exp(deviation * rng.standard_normal(steps))


def sine(rng: np.random.Generator, steps: int, *, noise: float, period: int, amplitude: float) -> Array:
    """Return a slow oscillation with white noise."""
    return white(rng, steps, noise=noise) * np.exp(amplitude * np.sin(2.0 * math.pi * np.arange(steps) / period))


def sawtooth(rng: np.random.Generator, steps: int, *, noise: float, period: int, low: float, high: float) -> Array:
    """Return what batches sorted by difficulty make: a rise through every epoch."""
    return white(rng, steps, noise=noise) * (low + (high - low) * (np.arange(steps) % period) / period)


def with_bad_batches(rng: np.random.Generator, steps: int, *, noise: float, share: float, every: int = 500) -> Array:
    """Return losses whose level goes up and down by a quarter every now and then, and a share of which is NaN."""
    level = np.where(np.arange(steps) // every % 2, 1.25, 1.0)
    return np.where(rng.random(steps) < share, np.nan, level * white(rng, steps, noise=noise))


def near_zero(rng: np.random.Generator, steps: int) -> Array:
    """Return the absolute values of a normal distribution of 1e-6: a loss that touches zero."""
    return 1e-6 * np.abs(rng.standard_normal(steps))


def decay(steps: int, *, constant: float, floor: float = 0.2) -> Array:
    """Return an exponential descent from 1 to `floor`."""
    return floor + (1.0 - floor) * np.exp(-np.arange(steps) / constant)


def observed(losses: Array, norms: Array | None = None) -> list[kaw.Observation]:
    """Return observations of these losses and norms."""
    found = [None] * len(losses) if norms is None else norms.tolist()
    pairs = zip(losses.tolist(), found, strict=True)
    return [kaw.Observation(step, loss, BASE * loss, norm) for step, (loss, norm) in enumerate(pairs, 1)]


def decide(
    losses: Array, norms: Array | None = None, config: kaw.AdaptiveWeightConfig | None = None, execution: int = 1
) -> list[kaw.Decision]:
    """Return the decisions other than HOLD, with `execution` steps to a decision."""
    seen = observed(losses, norms)
    if execution == 1:
        return [decision for decision in kaw.replay(seen, config, BASE) if decision.is_event]
    config = config or kaw.AdaptiveWeightConfig()
    state, events = initial_state(config, BASE), []
    for start in range(0, len(seen), execution):
        state, decision = guide_rule.step(config, state, seen[start : start + execution])
        events += [decision] if decision.is_event else []
    return events


def stationary(
    seed: int,
    *,
    draw: Draw | None = None,
    norms: Draw | None = None,
    norm_level: float = NORM,
    steps: int = 10_000,
    config: kaw.AdaptiveWeightConfig | None = None,
    execution: int = 1,
) -> tuple[int, float, bool]:
    """Return, for losses of which nothing asks for a change: moves of the weight, where it ends, whether disabled."""
    rng = np.random.default_rng(seed)
    losses = white(rng, steps, noise=0.1) if draw is None else draw(rng, steps)
    found = white(rng, steps, noise=0.2) if norms is None else norms(rng, steps)
    events = decide(losses, norm_level * found, config, execution)
    ends = events[-1].new_weight if events else BASE
    return len(events), ends, any(event.action is kaw.Action.DISABLE for event in events)


def balanced(
    seed: int,
    *,
    draw: Draw,
    strategy: Strategy[Any],
    steps: int = 10_000,
    double_at: int | None = None,
    config: kaw.AdaptiveWeightConfig | None = None,
) -> tuple[int, float, bool]:
    """Return, for two terms that are balanced from the start: moves, where the first weight ends, whether it holds.

    Losses and norms are stationary and as large for both. From `double_at` on the norms of the first are twice as
    large: only moves before that are counted.
    """
    rng = np.random.default_rng(seed)
    losses, norms = ([draw(rng, steps).tolist() for _ in "ab"] for _ in ("losses", "norms"))
    envelope = JointEnvelope(
        strategy, [Term.adaptive(name, 1.0) for name in "ab"], config or kaw.AdaptiveWeightConfig()
    )
    state, moves = envelope.initial(), 0
    every, start = getattr(strategy, "measure_every", steps + 1), getattr(strategy, "calibrate_steps", None) or 0
    for step, values in enumerate(zip(*losses, *norms, strict=True), 1):
        doubled = 2.0 if double_at is not None and step > double_at else 1.0
        seen = {"a": values[2] * doubled, "b": values[3]} if step <= start or step % every == 0 else {}
        seen = kaw.JointObservation(step, {"a": values[0], "b": values[1]}, values[0] + values[1], 1.0, seen)
        state, decision = envelope.step(state, (seen,))
        moves += decision.is_event and (double_at is None or step <= double_at)
    return moves, state.core.weight["a"], state.core.rollbacks >= envelope.config.max_rollbacks


def balance_follows(seed: int, *, noise: float = 0.3, at: int = 500, steps: int = 2500) -> bool:
    """Return whether the weight of a term whose norms double goes most of the way that follows from it."""
    draw = partial(white, noise=noise)
    _, ends, _ = balanced(seed, draw=draw, strategy=kaw.GradientShare(), steps=steps, double_at=at)
    return 0.6 < ends < 0.85  # of two equal shares whose weights keep their geometric mean: the root of a half


def same_at_every_scale(seed: int, *, scales: Sequence[float] = (1000.0, 0.001), steps: int = 3000) -> bool:
    """Return whether losses with shifts lead to the same decisions when all of them are multiplied."""
    rng = np.random.default_rng(seed)
    losses = white(rng, steps, noise=0.1) * np.exp(0.3 * rng.choice([-1, 0, 1], steps // 300).repeat(300))
    found = [
        [(event.step, event.action, event.reason, event.new_weight) for event in decide(scale * losses)]
        for scale in (1.0, *scales)
    ]
    assert found[0], "losses with shifts of 30 % lead to decisions"
    return all(other == found[0] for other in found)


def shift_answered(
    seed: int, *, factor: float, noise: float, at: int, norms: bool = False, norm_noise: float = 0.2, execution: int = 1
) -> int:
    """Return how a lasting change after step `at` is answered in time: 1 rightly, 0 not at all, -1 wrongly.

    The losses change by `factor`, or with `norms` the gradient norms do, which always asks for less weight.
    """
    rng = np.random.default_rng(seed)
    steps = -(-(at + WITHIN) // execution) * execution
    losses, found = white(rng, steps, noise=noise), NORM * white(rng, steps, noise=norm_noise)
    (found if norms else losses)[at:] *= factor
    wanted = kaw.Action.INCREASE if factor > 1.0 and not norms else kaw.Action.DECREASE
    events = decide(losses, found, execution=execution)
    in_time = [event for event in events if at < event.step <= at + WITHIN and event.action in _UP_AND_DOWN]
    return 0 if not in_time else 1 if in_time[0].action is wanted else -1


def descent(seed: int, *, constant: float, noise: float, steps: int = 5000) -> tuple[int, int, float]:
    """Return, for a healthy descent: decreases, all other moves, and where the weight ends."""
    rng = np.random.default_rng(seed)
    losses = decay(steps, constant=constant) * white(rng, steps, noise=noise)
    events = decide(losses, NORM * white(rng, steps, noise=0.2))
    lowered = sum(event.action is kaw.Action.DECREASE for event in events)
    return lowered, len(events) - lowered, events[-1].new_weight if events else BASE


def trial(
    seed: int, *, effect: float, noise: float, phi: float = 0.0, lag: float = 1.0, rise: float = 1.0, at: int = 150
) -> bool | None:
    """Return whether the first change is rolled back while on trial; None: there was no change.

    At step `at` the loss rises by the factor `rise`, or without one the gradient norms double, which brings the change
    about. While the weight is not at its base, the loss is `effect` times as high, approached with the time constant
    `lag`.
    """
    config, rng = kaw.AdaptiveWeightConfig(), np.random.default_rng(seed)
    steps = at + WITHIN + config.cooling_period + 5
    losses = wander(rng, steps, noise=noise, phi=phi) if phi else white(rng, steps, noise=noise)
    norms = NORM * white(rng, steps, noise=0.1)
    losses[at:] *= rise
    norms[at:] *= 2.0 if rise == 1.0 else 1.0
    state, response, changed = initial_state(config, BASE), 0.0, None
    for step in range(1, steps + 1):
        response += ((math.log(effect) if state.weight != BASE else 0.0) - response) / lag
        loss = float(losses[step - 1]) * math.exp(response)
        seen = kaw.Observation(step, loss, state.weight * loss, float(norms[step - 1]))
        state, decision = guide_rule.step(config, state, (seen,))
        if changed is None:
            changed = step if decision.action in _UP_AND_DOWN else None
        elif decision.action is kaw.Action.ROLLBACK:
            return True
        elif step > changed + config.cooling_period:
            return False
    return None


def closed_loop(
    seed: int, *, elasticity: float, lag: float = 50.0, noise: float = 0.1, steps: int = 20_000
) -> tuple[int, int, float, float]:
    """Return, for a loss and gradients that answer to the weight: changes, those in the second half, its band there.

    The loss descends, and is proportional to the weight to the power of `-elasticity`, the norms to the weight, both
    with the time constant `lag`. At step 2,000 the loss rises by 30 %, at 4,000 the norms double; both stay.
    """
    config, rng = kaw.AdaptiveWeightConfig(), np.random.default_rng(seed)
    losses = decay(steps, constant=300.0) * white(rng, steps, noise=noise) * wander(rng, steps, noise=0.2 * noise)
    norms = 0.5 * NORM * white(rng, steps, noise=0.2)
    losses[2000:] *= 1.3
    norms[4000:] *= 2.0
    state, response, weights, events = initial_state(config, BASE), 0.0, [], []
    for step, (level, norm) in enumerate(zip(losses.tolist(), norms.tolist(), strict=True), 1):
        response += (math.log(state.weight / BASE) - response) / lag
        loss = level * math.exp(-elasticity * response)
        seen = kaw.Observation(step, loss, state.weight * loss, norm * math.exp(response))
        state, decision = guide_rule.step(config, state, (seen,))
        weights.append(state.weight)
        events += [step] if decision.is_event else []
    late = weights[steps // 2 :]
    return len(events), sum(step > steps // 2 for step in events), min(late), max(late)


def _autoregressive(rng: np.random.Generator, steps: int, phi: float) -> Array:
    shocks = (math.sqrt(1.0 - phi * phi) * rng.standard_normal(steps)).tolist()
    values = [float(rng.standard_normal())]
    for shock in shocks[1:]:
        values.append(phi * values[-1] + shock)
    return np.array(values)
