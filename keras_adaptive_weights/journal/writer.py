"""Writing a journal: what the training says is taken down at once, and put into words many lines at a time."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from keras_adaptive_weights.decision import Decision, Observation
from keras_adaptive_weights.journal.continuation import let_go, open_journal, take_over
from keras_adaptive_weights.journal.encoder import LineEncoder
from keras_adaptive_weights.journal.lines import FORMAT, Header, encode, header_values

_MOST_PENDING = 256


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
        self._pending: deque[tuple[Sequence[Observation], Decision, float | None]] = deque()
        self._encoder = LineEncoder()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._failure: OSError | None = None
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
        self._flusher = threading.Thread(target=self._flush_regularly, args=(flush_seconds,), daemon=True)
        self._flusher.start()

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Note the steps and, where it is an event, the decision.

        Raises:
            OSError: An earlier write failed, or this one.
        """
        if self._failure is not None:
            raise self._failure
        if self._closed.is_set():
            return  # another writer took over
        self._pending.append((tuple(observations), decision, self._clock() if decision.is_event else None))
        if decision.is_event or len(self._pending) >= _MOST_PENDING:
            self._flush()

    def note_save(self, step: int) -> None:
        """Note that the model is being saved; no checkpoint is ever ahead of its journal."""
        if self._closed.is_set() or self._failure is not None:
            return
        try:
            self._flush({"kind": "saved", "step": step, "wall_time": self._clock()})
        except OSError as error:
            self._failure = error

    def close(self, *, interrupted: bool = False) -> None:
        """Write what is pending and close the file. Harmless if called twice."""
        if self._closed.is_set():
            return
        self._closed.set()
        let_go(self._path, self)
        self._flusher.join()
        try:
            self._flush({"kind": "end", "wall_time": self._clock(), **({"interrupted": True} if interrupted else {})})
        finally:
            self._file.close()

    def _flush(self, last: dict[str, Any] | None = None) -> None:
        """Write what is pending, and a line after it where one is given."""
        with self._lock:
            while self._pending:  # the training may add to it meanwhile
                self._encoder.add_execution(*self._pending.popleft())
            if last is not None:
                self._encoder.add(last)
            self._write(self._encoder.take())

    def _write(self, lines: Sequence[str]) -> None:
        if lines:
            self._file.write("\n".join(lines) + "\n")
            self._file.flush()

    def _flush_regularly(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            try:
                self._flush()
            except OSError as error:
                self._failure = error
                return
            except ValueError:
                return  # the file was closed meanwhile
            with contextlib.suppress(OSError):
                os.utime(self._path)


def _close_quietly(file: TextIO) -> None:
    """Close a file that could not be written to; closing it fails for the same reason."""
    with contextlib.suppress(OSError):
        file.close()
