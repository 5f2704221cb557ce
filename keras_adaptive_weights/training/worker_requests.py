"""With several workers: what is asked for by hand on any one of them takes effect on all, at the same step.

A worker passes the request on with its next execution, whose measurements are reduced over all workers anyway. Each
then finds it in the telemetry of the same step, and carries it out after that step, the asking one included. Nobody
waits, and no file is shared.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from keras_adaptive_weights.training.telemetry import StepRow, Telemetry

FROM_ANOTHER_WORKER = "asked for on another worker"


class WorkerRequests:
    """The requests for one adaptive weight on this worker, passed on one at a time, so that their order is kept.

    Args:
        term: Name of the loss term.

    Attributes:
        asked: Requests by method name and note, filled from any thread, and emptied here.
    """

    def __init__(self, term: str) -> None:
        self._term = term
        self.asked: deque[tuple[str, str]] = deque()

    def pass_on(self, telemetry: Telemetry) -> None:
        """Before an execution: let the oldest request travel with it."""
        telemetry.ask(self._term, self.asked[0][0] if self.asked else None)

    def arrived(self, rows: Sequence[StepRow]) -> list[tuple[str, str]]:
        """After an execution: return what all workers carry out now, by method name and note."""
        found = dict.fromkeys(name for row in rows for term, name in row.requests if term == self._term)
        return [(name, self._own_note(name)) for name in found]

    def _own_note(self, name: str) -> str:
        """Return the note of the request if this worker made it too, which is done with it."""
        if self.asked and self.asked[0][0] == name:
            return self.asked.popleft()[1]
        return FROM_ANOTHER_WORKER
