"""What a file's writer has still to write: noted at once, and put into words many steps at a time by a thread.

Between two executions everything is slow: the caches are full of the model. What takes a record 40 microseconds among
others takes it 200 there, and the training waits. A thread of the writer's own does it while the model computes.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from keras_adaptive_weights.deciding.decision import Decision
from keras_adaptive_weights.deciding.joint import JointDecision

_MOST_NOTES = 256


class Note(NamedTuple):
    """The steps of one execution (none: asked for by hand), the decisions after them, and when these were taken."""

    steps: Sequence[Any]
    decisions: Sequence[Decision | JointDecision]
    wall_time: float


class Backlog:
    """Keeps what a writer is told until its thread has written it: at once if it is an event, else within a second.

    The training waits for it only where a person asked for something by hand, which must not be lost in a crash, where
    the model is saved, and after 256 decisions. In a forked child nothing is noted, and nothing written: what waits is
    the parent's to write.

    Args:
        write: Writes the notes it is given, oldest first, and something after them where `flush` was given something.
            Called by one thread at a time; also once a second when there are none.
        flush_seconds: Longest time a note waits.
        clock: Seconds since the epoch; for tests.
    """

    def __init__(
        self,
        write: Callable[[Iterator[Note], Any], None],
        *,
        flush_seconds: float = 1.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._write = write
        self._clock = clock
        self._notes: deque[Note] = deque()
        self._lock = threading.RLock()
        self._writing = self._closed = False
        self._process = os.getpid()
        self._wake = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._flush_regularly, args=(flush_seconds,), daemon=True)
        self._thread.start()

    @property
    def closed(self) -> bool:
        """Whether `close` was called, or another process made it."""
        return self._closed or os.getpid() != self._process

    def add(self, steps: Sequence[Any], decisions: Sequence[Decision | JointDecision]) -> None:
        """Note the steps and the decisions; after `close`, nothing.

        Raises:
            Exception: What `write` raised, now or earlier.
        """
        if self._failure is not None:
            raise self._failure
        if self.closed:
            return
        self._notes.append(Note(tuple(steps), tuple(decisions), self._clock()))
        if len(self._notes) >= _MOST_NOTES or any(decision.by_hand for decision in decisions):
            self.flush()
        elif any(decision.is_event for decision in decisions):
            self._wake.set()

    def flush(self, last: Any = None) -> None:
        """Have everything written now, and `last` after it.

        Asked for while this thread is writing, as by a signal handler, it is left to what is being written, or to the
        next time.

        Raises:
            Exception: What `write` raises.
        """
        with self._lock:
            if self._writing:
                return
            self._writing = True
            try:
                self._write(self._taken(), last)
            finally:
                self._writing = False

    def flush_or_fail_later(self, last: Any = None) -> None:
        """As `flush`, but what `write` raises is raised by the next `add`; after `close` or a failure, nothing."""
        if self.closed or self._failure is not None:
            return
        try:
            self.flush(last)
        except Exception as error:  # noqa: BLE001 - raised by the next `add`
            self._failure = error

    def close(self, last: Any = None) -> None:
        """Have everything written, and `last` after it, and end the thread. Harmless if called twice.

        Raises:
            Exception: What `write` raised, now or earlier and was not told.
        """
        if self.closed:
            return
        self._closed = True
        self._wake.set()
        self._thread.join()
        self.flush(last)
        if self._failure is not None:
            raise self._failure

    def _taken(self) -> Iterator[Note]:
        while self._notes:  # the training may add to them meanwhile
            yield self._notes.popleft()

    def _flush_regularly(self, seconds: float) -> None:
        while not self.closed and self._failure is None:
            self._wake.wait(seconds)
            self._wake.clear()
            self.flush_or_fail_later()
