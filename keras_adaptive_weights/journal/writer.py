"""Writing a journal: one line per step and event and a block after every so many steps, behind a backlog."""

from __future__ import annotations

import contextlib
import math
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.deciding.joint import JointDecision, JointObservation, by_term
from keras_adaptive_weights.journal.appended_file import let_go, take_over
from keras_adaptive_weights.journal.backlog import Backlog, Note
from keras_adaptive_weights.journal.blocks import BLOCK_STEPS, RunBlocks
from keras_adaptive_weights.journal.continuation import open_journal
from keras_adaptive_weights.journal.header import FORMAT, Header
from keras_adaptive_weights.journal.lines import Values, encode, event_values, outcome_values, step_values
from keras_adaptive_weights.journal.places import place


class JournalWriter:
    """Appends to a journal. Tell it what was decided with `note`, and `close` it at the end.

    It is an observer: a journal of one term can be given to whoever decides on its weight.

    A forked child of the process writes nothing.

    Args:
        path: The file, or its URL; its folder is made. A journal of the same run is continued from the step that the
            header's state has; what it says about later steps is moved to `abandoned/` beside it.
        header: What the steps to come belong to.
        flush_seconds: Longest time a line stays in the buffer.
        clock: Seconds since the epoch; for tests.

    Raises:
        TypeError: `header` is something else.
        ValueError: The file holds another run's journal, another process writes to it, or TensorFlow has no file system
            for the scheme of its URL.
        OSError: The file cannot be written.

    Example:

    >>> recorded = read_journal("runs/1/adaptive_weights/journal.jsonl")
    >>> writer = JournalWriter("again/journal.jsonl", recorded.headers[0])
    >>> for seen, decision in zip(recorded.observations, replay(recorded.observations)):
    ...     writer.observe([seen], decision)
    >>> writer.close()
    >>> len(read_journal("again/journal.jsonl").observations)
    260
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        header: Header,
        *,
        flush_seconds: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(header, Header):
            raise TypeError(
                "JournalWriter: argument `header` must be a journal's header. Received: "
                f"header={header!r:.200}. Write `read_journal(...).headers[0]`."
            )
        self.run = header.run
        self._path = place(path, "JournalWriter")
        self._clock = clock
        self._term = header.term
        self._block = RunBlocks(header)
        self._fixed = {name: start.weight for name, start in header.terms.items()}
        self._told: dict[str, dict[str, float]] = {}
        process = {"pid": os.getpid(), "host": socket.gethostname()}
        about = {"format": FORMAT, "wall_time": clock(), "process": process}
        header_line = encode({"kind": "header", **about, **header.to_dict()})
        take_over(self._path, self)
        with contextlib.ExitStack() as opened:
            opened.callback(let_go, self._path, self)
            self._file = open_journal(self._path, header, header_line)
            opened.callback(self._file.close)
            self._write([header_line])
            self._file.flush()
            opened.pop_all()
        self._backlog = Backlog(self._write_notes, flush_seconds=flush_seconds, clock=clock)

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """As `note`, of the only term."""
        term = decision.term or self._term
        self.note([JointObservation.of_one(term, seen) for seen in observations], [decision._replace(term=term)])

    def note(self, steps: Sequence[JointObservation], decisions: Sequence[Decision | JointDecision]) -> None:
        """Note the steps of an execution and the decisions after it. After `close`, nothing.

        Args:
            steps: The steps; none: something was asked for by hand.
            decisions: One for each adaptive term, in their order, each with its `term`; by hand, of one term. Of a
                balance, the one for all of them.

        Raises:
            OSError: An earlier write failed, or this one.
        """
        self._backlog.add(steps, decisions)

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
        told = [values for note in notes for values in self._values(note)]
        if last is not None:
            told.append(last)
        if told:
            self._write([encode(values) for values in told])
        else:
            self._file.touch()
        if last is not None or any(values["kind"] == "event" for values in told):
            self._file.hasten()

    def _values(self, note: Note) -> Iterator[Values]:
        """Yield what is to be written of an execution."""
        weights = _weights(note.decisions)
        for number, seen in enumerate(note.steps, 1):
            values = step_values(seen)
            if not self._block.steps or weights != self._told or seen.term_norms:
                values |= weights
                self._told = weights
            if seen.term_norms:
                values["shares"] = self._shares(seen.term_norms, weights["weights"])
            if number == len(note.steps):
                values |= outcome_values(note.decisions)
            self._block.add(values)
            yield values
        if self._block.steps >= BLOCK_STEPS:
            yield self._block.take()
        for decision in note.decisions:
            if decision.is_event:
                yield event_values(decision, note.wall_time)

    def _shares(self, norms: Mapping[str, float], weights: Mapping[str, float]) -> dict[str, float]:
        """Return the part of each term in the sum of the gradients that were measured."""
        parts = {name: weights.get(name, self._fixed.get(name, 0.0)) * norm for name, norm in norms.items()}
        whole = sum(parts.values())
        return {name: float(f"{part / whole:.6g}") for name, part in parts.items()} if 0.0 < whole < math.inf else {}

    def _write(self, lines: Sequence[str]) -> None:
        self._file.write("\n".join(lines) + "\n")


def _weights(decisions: Sequence[Decision | JointDecision]) -> dict[str, dict[str, float]]:
    """Return the weights in force on the steps before these decisions, and in a shadow run those proposed then."""
    of_terms = [one for decision in decisions for one in by_term(decision)]
    held = {one.term: one.held_weight for one in of_terms if one.held_weight is not None}
    decided = {one.term: one.old_weight for one in of_terms}
    return {"weights": held, "proposed_weights": decided} if held else {"weights": decided}
