"""Writing a journal: one line per step and event, behind a backlog."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.journal.backlog import Backlog, Note
from keras_adaptive_weights.journal.continuation import let_go, open_journal, take_over
from keras_adaptive_weights.journal.encoder import LineEncoder
from keras_adaptive_weights.journal.lines import FORMAT, Header, encode, header_values


class JournalWriter:
    """Appends to a journal. An observer: give it to whoever takes decisions, and `close` it at the end.

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
        self._encoder = LineEncoder()
        process = {"pid": os.getpid(), "host": socket.gethostname()}
        about = {"format": FORMAT, "wall_time": clock(), "process": process}
        header_line = encode({"kind": "header", **about, **header_values(header)})
        take_over(self._path, self)
        with contextlib.ExitStack() as opened:
            opened.callback(let_go, self._path, self)
            self._file = open_journal(self._path, header, header_line)
            opened.callback(_close_quietly, self._file)
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
        try:
            self._backlog.close(
                {"kind": "end", "wall_time": self._clock(), **({"interrupted": True} if interrupted else {})}
            )
        finally:
            self._file.close()

    def _write_notes(self, notes: Iterator[Note], last: dict[str, Any] | None) -> None:
        for note in notes:
            self._encoder.add_execution(*note)
        if last is not None:
            self._encoder.add(last)
        if lines := self._encoder.take():
            self._write(lines)
        else:
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def _write(self, lines: Sequence[str]) -> None:
        self._file.write("\n".join(lines) + "\n")
        self._file.flush()


def _close_quietly(file: TextIO) -> None:
    """Close a file that could not be written to; closing it fails for the same reason."""
    with contextlib.suppress(OSError):
        file.close()
