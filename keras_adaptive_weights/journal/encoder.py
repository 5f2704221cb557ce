"""What a journal's writer writes, line by line: steps, events, and a block after every so many steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.journal.blocks import BLOCK_STEPS, BlockBuilder
from keras_adaptive_weights.journal.lines import encode, outcome_values, step_values


class LineEncoder:
    """Puts one execution after the other into lines, and keeps account of the block that they belong to."""

    def __init__(self) -> None:
        self._block = BlockBuilder()
        self._lines: list[str] = []
        self._begin_block()

    def take(self) -> list[str]:
        """Return the lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def add_execution(self, observations: Sequence[Observation], decision: Decision, wall_time: float) -> None:
        """Add the steps and, where it is an event, the decision.

        Args:
            observations: The steps of one execution; none: asked for by hand.
            decision: The decision after them.
            wall_time: When that was decided, in seconds since the epoch.
        """
        held, last = decision.held_weight, len(observations) - 1
        weights = (decision.old_weight, None) if held is None else (held, decision.old_weight)
        for number, seen in enumerate(observations):
            values = step_values(seen, *weights)
            if number == last:
                values.update(outcome_values(decision))
            self._block.add(values)
            self.add(values)
        if self._block.steps >= BLOCK_STEPS:
            self.add({**self._block.take(), "bytes": self._bytes, "events": self._events})
            self._begin_block()
        if decision.is_event:
            begin = self._bytes
            event = {"kind": "event", **decision.to_dict(), "advice": decision.advice, "wall_time": wall_time}
            self.add(event)
            self._events.append((begin, self._bytes - begin))

    def add(self, values: Mapping[str, Any]) -> None:
        """Add one line of any other kind."""
        line = encode(values)
        self._bytes += len(line) + 1
        self._lines.append(line)

    def _begin_block(self) -> None:
        self._bytes = 0
        self._events: list[tuple[int, int]] = []
