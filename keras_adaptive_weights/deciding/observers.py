"""Observers: whoever wants to know what was decided. Two are here: they tell a person."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Protocol

from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.deciding.printable import encodable

_logger = logging.getLogger("keras_adaptive_weights")


class DecisionObserver(Protocol):
    """Whoever wants to know what was decided. Called under a lock, in the order of the steps.

    Example:

    >>> class Count:
    ...     events = 0
    ...
    ...     def observe(self, observations, decision):
    ...         self.events += decision.is_event
    >>> weight, count = AdaptiveWeight(2.5), Count()
    >>> weight.subscribe(count)
    >>> weight.disable("heard clipping")
    >>> count.events
    1
    """

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Take note of the steps of one execution and the decision after them; no steps: asked for by hand."""


class DecisionLogger:
    """Writes one log line per event to the `keras_adaptive_weights` logger.

    Example:

    >>> weight = AdaptiveWeight(2.5)
    >>> weight.subscribe(DecisionLogger())
    """

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Log the decision unless it is a HOLD."""
        del observations
        if decision.is_event:
            _logger.info("%s", decision)


class DecisionPrinter:
    """Prints one line per event, on a line of its own beside a progress bar."""

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Print the decision unless it is a HOLD."""
        del observations
        if decision.is_event:
            print(encodable(f"\n{decision}", sys.stdout), flush=True)  # noqa: T201 - asked for by `verbose=1`
