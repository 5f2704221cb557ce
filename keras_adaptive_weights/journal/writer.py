"""Writing a journal: one line per step and event and a block after every so many steps, behind a backlog."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.journal.appended_file import let_go, take_over
from keras_adaptive_weights.journal.backlog import Backlog, Note
from keras_adaptive_weights.journal.blocks import BLOCK_STEPS, BlockBuilder
from keras_adaptive_weights.journal.continuation import open_journal
from keras_adaptive_weights.journal.lines import (
    FORMAT,
    Header,
    Values,
    encode,
    event_values,
    header_values,
    outcome_values,
    step_values,
)


class JournalWriter:
    """Appends to a journal. An observer: give it to whoever takes decisions, and `close` it at the end.

    A forked child of the process writes nothing.

    Args:
        path: The file; its folder is made. A journal of the same run is continued from the step that the header's
            state has; what it says about later steps is moved to `abandoned/` beside it.
        header: What the steps to come belong to.
        flush_seconds: Longest time a line stays in the buffer.
        clock: Seconds since the epoch; for tests.

    Raises:
        ValueError: The file holds another run's journal, or another process writes to it.
        OSError: The file cannot be written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: Header,
        *,
        flush_seconds: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.run = header.run
        self._path = Path(path)
        self._clock = clock
        self._block = BlockBuilder()
        process = {"pid": os.getpid(), "host": socket.gethostname()}
        about = {"format": FORMAT, "wall_time": clock(), "process": process}
        header_line = encode({"kind": "header", **about, **header_values(header)})
        take_over(self._path, self)
        with contextlib.ExitStack() as opened:
            opened.callback(let_go, self._path, self)
            self._file = open_journal(self._path, header, header_line)
            opened.callback(self._file.close)
            self._write([header_line])
            opened.pop_all()
        self._backlog = Backlog(self._write_notes, flush_seconds=flush_seconds, clock=clock)

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Note the steps and, where it is an event, the decision. After `close`, nothing.

        Raises:
            OSError: An earlier write failed, or this one.
        """
        self._backlog.add(observations, decision)

    def note_save(self, step: int) -> None:
        """Note that the model is being saved; no checkpoint is ever ahead of its journal."""
        self._backlog.flush_or_fail_later({"kind": "saved", "step": step, "wall_time": self._clock()})

    def close(self, *, interrupted: bool = False) -> None:
        """Write what is pending and close the file. Harmless if called twice."""
        if self._backlog.closed:
            return
        let_go(self._path, self)
        how = {"interrupted": True} if interrupted else {}
        try:
            self._backlog.close({"kind": "end", "wall_time": self._clock(), **how})
        finally:
            self._file.close()

    def _write_notes(self, notes: Iterator[Note], last: Values | None) -> None:
        lines = [encode(values) for note in notes for values in self._values(note)]
        if last is not None:
            lines.append(encode(last))
        if lines:
            self._write(lines)
        else:
            self._file.touch()

    def _values(self, note: Note) -> Iterator[Values]:
        """Yield what is to be written of an execution."""
        observations, decision, wall_time = note
        held, final = decision.held_weight, len(observations) - 1
        weights = (decision.old_weight, None) if held is None else (held, decision.old_weight)
        for number, seen in enumerate(observations):
            values = step_values(seen, *weights)
            if number == final:
                values.update(outcome_values(decision))
            self._block.add(values)
            yield values
        if self._block.steps >= BLOCK_STEPS:
            yield self._block.take()
        if decision.is_event:
            yield event_values(decision, wall_time)

    def _write(self, lines: Sequence[str]) -> None:
        self._file.write("\n".join(lines) + "\n")
