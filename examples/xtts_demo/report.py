"""What is printed before and after the training."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from typing import Any

from keras_adaptive_weights import Action, Decision, Journal, Observation

from .audio import SAMPLE_RATE
from .clips import Scan
from .features import HOP

_FIRST, _LAST = 5, 20


class DecisionCounter:
    """An observer that counts every decision, also those that leave the weight as it is.

    Attributes:
        counts: Number of decisions by action and reason.
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Count one decision."""
        del observations
        self.counts[decision.action.value, decision.reason.value] += 1


def seconds(frames: float) -> float:
    """Return the duration of so many frames."""
    return frames * HOP / SAMPLE_RATE


def describe_scan(found: Scan, source: str) -> str:
    """Return what was found in a folder: one line, and one more for each clip that is left out."""
    speakers = len({clip.speaker for clip in found.clips})
    total = seconds(sum(clip.frames for clip in found.clips))
    lines = [
        f"{source}: {len(found.clips)} clips of {speakers} speaker{'s' * (speakers != 1)}, {total / 60:.1f} minutes; "
        f"character durations {'from word times' if found.aligned else 'spread evenly'}"
        + (f"; {found.resampled} clips resampled to {SAMPLE_RATE} Hz" if found.resampled else "")
    ]
    if found.skipped:
        lines.append(f"{len(found.skipped)} clips are left out:")
        lines += [f"  {name}: {reason}" for name, reason in found.skipped]
    return "\n".join(lines)


def describe_training(
    journal: Journal,
    counts: Counter[tuple[str, str]],
    validation: Sequence[tuple[int, float]],
    bounds: tuple[float, float],
) -> str:
    """Return the table at the end.

    Args:
        journal: The run's journal.
        counts: Number of decisions by action and reason.
        validation: Step and mel loss of the validation clips, before the first step and after each epoch.
        bounds: Lowest and highest weight allowed.
    """
    seen = journal.observations
    skipped = [step for step in seen if not step.applied]
    dampened = [step for step in seen if step.dampening < 1.0]
    rows = [
        ("steps", f"{len(seen)}, of which {len(seen) - len(skipped)} applied and {len(skipped)} skipped"),
        *(("", f"step {step.step} skipped: {step.non_finite} is not finite") for step in skipped),
        *(("", f"step {step.step} spiked: its gradients were scaled by {step.dampening:.2g}") for step in dampened),
        ("train mel loss", _train_losses([_mel_loss(step) for step in seen if step.finite])),
        ("validation mel loss", _validation_losses(validation)),
        ("mel weight", f"{_path(journal)}   (within [{bounds[0]:g}, {bounds[1]:g}])"),
        *(
            ("", f"step {event.step}: {event.action} to {_mel_weights(event)[1]:.4g}, {event.reason}")
            for event in journal.events
        ),
        *_shares(journal),
        *zip(["decisions", *[""] * len(counts)], _by_action(counts), strict=False),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}".rstrip() for name, value in rows)


def _mel_loss(step: Any) -> float:
    """Return the mel loss of a step, also of one on which a balance decided."""
    return step.losses["mel_loss"] if hasattr(step, "losses") else step.loss


def _mel_weights(event: Any) -> tuple[float, float]:
    """Return the mel weight before and after a decision, also of a balance."""
    if hasattr(event, "new_weights"):
        return event.old_weights["mel_loss"], event.new_weights["mel_loss"]
    return event.old_weight, event.new_weight


def _shares(journal: Journal) -> list[tuple[str, str]]:
    """Return what part of the gradient each term made when that was last measured, and what it is to make."""
    measured = [
        (step, weights)
        for step, weights in zip(journal.observations, journal.weights, strict=True)
        if (norms := getattr(step, "term_norms", {})) and all(map(math.isfinite, norms.values()))
    ]
    if not measured:
        return []
    step, adaptive = measured[-1]
    weights = {name: start.weight for name, start in journal.headers[-1].terms.items()} | adaptive
    parts = {name: weights[name] * norm for name, norm in step.term_norms.items()}
    total = sum(parts.values()) or 1.0
    intents = next((event.evidence for event in reversed(journal.events) if "intent.mel_loss" in event.evidence), {})
    rows = []
    for name, part in parts.items():
        intent = f" (to be {intents[f'intent.{name}']:.0%})" if f"intent.{name}" in intents else ""
        rows.append(("", f"{name} {part / total:.0%}{intent}"))
    return [(f"gradient, step {step.step}", rows[0][1]), *rows[1:]]


def _train_losses(losses: Sequence[float]) -> str:
    """Return how the loss of the training steps changed; medians, which a spike does not move."""
    if not losses:
        return "no finite step"
    first, last = losses[:_FIRST], losses[-_LAST:]
    change = _change(statistics.median(first), statistics.median(last))
    return f"{change}   (medians of the first {len(first)} and last {len(last)} steps)"


def _validation_losses(validation: Sequence[tuple[int, float]]) -> str:
    """Return how the validation loss changed in this process, which may have resumed the run."""
    (begin, first), (_, last) = validation[0], validation[-1]
    since = f"after step {begin}, where it resumed" if begin else "before the first step"
    return f"{_change(first, last)}   ({since}, at the end)"


def _change(first: float, last: float) -> str:
    """Return two values and how far apart they are."""
    percent = 100.0 * (last / first - 1.0) if first else math.nan
    return f"{first:.4f} -> {last:.4f}   {percent:+.1f} %"


def _path(journal: Journal) -> str:
    """Return the weights in the order they were in force."""
    moves = [(old, new) for old, new in map(_mel_weights, journal.events) if new != old]
    if not moves:
        return f"{journal.headers[0].base_weight:.4g}, unchanged"
    return " -> ".join(f"{weight:.4g}" for weight in (moves[0][0], *(new for _, new in moves)))


def _by_action(counts: Counter[tuple[str, str]]) -> list[str]:
    """Return one phrase for each action, with its reasons; those that hold the weight last."""
    phrases = []
    for action in sorted({action for action, _ in counts}, key=lambda action: (action == Action.HOLD, action)):
        reasons = [(reason, count) for (name, reason), count in counts.most_common() if name == action]
        total = sum(count for _, count in reasons)
        phrases.append(f"{total} {action}: {', '.join(f'{reason} {count}' for reason, count in reasons)}")
    return phrases
