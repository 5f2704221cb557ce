"""What a store has still to take: kept at once, and put there by a thread, so that no training waits for a store.

A store that fails is tried again, for ten minutes, while what comes meanwhile is kept in memory.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

_logger = logging.getLogger("keras_adaptive_weights")
OLDEST_SECONDS = 10.0
_DUE_SECONDS = OLDEST_SECONDS - 2.0  # what was seen waits a second in a backlog, and one until the thread looks
_TICK_SECONDS = 1.0
_IDLE_SECONDS = 30.0
_MOST_BYTES = 1 << 20
_MOST_WAITING_BYTES = 1 << 26
_LONGEST_PAUSE_SECONDS = 60.0
_PATIENCE_SECONDS = 600.0
_PATIENCE_AT_THE_END_SECONDS = 60.0


class LostFileError(OSError):
    """What was written is gone, or another process writes there: nothing that might pass."""


class Outbox:
    """Bytes on their way to a store: there after `OLDEST_SECONDS` at the latest, sooner where they are many.

    With `size`, `read` and `cut`, which whoever puts the bytes has, it is a file with the methods of an `AppendedFile`.

    Args:
        put: Puts bytes into the store, after those that it was given before. Called by one thread at a time; what it
            raised is tried again with the same bytes and those that have come since.
        what: What they are of, for a message.
        idle: Called by the thread where nothing was put for half a minute, and every half minute from then on. What it
            raises is no matter.
        clock: Seconds; for tests.
        sleep: Waits for so many seconds; for tests.
    """

    def __init__(
        self,
        put: Callable[[bytes], None],
        what: str,
        *,
        idle: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._put = put
        self._what = what
        self._idle = idle
        self._lived = clock()
        self._clock = clock
        self._sleep = sleep
        self._waiting = bytearray()
        self._since = 0.0
        self._failing_since: float | None = None
        self._again_at = -float("inf")
        self._asked = self._closed = False
        self._failure: Exception | None = None
        self._lock, self._putting = threading.Lock(), threading.Lock()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._tend_regularly, daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many bytes are not in the store yet."""
        return len(self._waiting)

    def write(self, text: str | bytes) -> None:
        """Append to the file; it is stored some seconds later, and nobody waits for that.

        Raises:
            OSError: The store was given up, which failed for ten minutes or has 64 MiB still to take; or the file was
                deleted or is written by another process.
        """
        data = text.encode("ascii") if isinstance(text, str) else text
        if self._failure is not None:
            raise self._failure
        with self._lock:
            if not self._waiting:
                self._since = self._clock()
            self._waiting += data
        if len(self._waiting) > _MOST_WAITING_BYTES:
            self._failure = OSError(f"{self._what} cannot be stored as fast as it grows.")
        if len(self._waiting) >= _MOST_BYTES:
            self._wake.set()

    def touch(self) -> None:
        """Do nothing: where something shows that the writer lives, the thread does."""

    def hasten(self) -> None:
        """Have what waits put there as soon as possible; does not wait for it."""
        self._asked = True
        self._wake.set()

    def flush(self) -> None:
        """Have what waits put there, and wait for it. Where that fails, nothing is ever put there again.

        Raises:
            Exception: What `put` raises.
        """
        try:
            with self._putting:
                self._put_all()
        except BaseException:
            self._closed = True
            raise

    def tend(self) -> None:
        """Put there what is due; what fails is tried again later. Called by the thread, every second or sooner."""
        with self._putting:
            if self._failure is not None:
                return
            if not self._due(self._clock()):
                self._rest()
                return
            self._asked = False
            try:
                self._put_all()
            except Exception as error:  # noqa: BLE001 - raised by the next `write`, if it does not pass
                self._put_off(error)

    def close(self) -> None:
        """Have everything put there and end the thread; tries for a minute. Harmless if called twice.

        Raises:
            Exception: What `put` raised last, or an earlier failure.
        """
        if self._closed:
            return None
        self._closed = True
        end = self._clock() + _PATIENCE_AT_THE_END_SECONDS
        self._wake.set()
        self._thread.join(_PATIENCE_AT_THE_END_SECONDS)
        if self._thread.is_alive():
            raise TimeoutError(f"{self._what} is still being stored; {self.waiting} bytes of it may be missing.")
        while self._failure is None:
            try:
                with self._putting:
                    return self._put_all()
            except LostFileError:
                raise
            except Exception:
                if self._clock() >= end:
                    raise
                self._sleep(_TICK_SECONDS)
        raise self._failure

    def _due(self, now: float) -> bool:
        if not self._waiting or now < self._again_at:
            return False
        return self._asked or now - self._since >= _DUE_SECONDS or len(self._waiting) >= _MOST_BYTES

    def _rest(self) -> None:
        if not self._waiting and self._clock() - self._lived >= _IDLE_SECONDS:
            self._lived = self._clock()
            with contextlib.suppress(Exception):
                self._idle()

    def _put_all(self) -> None:
        with self._lock:
            begun, data = self._clock(), bytes(self._waiting)
        if not data:
            return
        self._put(data)
        with self._lock:
            del self._waiting[: len(data)]
            self._since = begun
        if self._failing_since is not None:
            _logger.warning("%s is stored again.", self._what)
        self._failing_since, self._again_at, self._lived = None, -float("inf"), self._clock()

    def _put_off(self, error: Exception) -> None:
        """Try again later, later each time; after ten minutes, or where it is no use, never."""
        if isinstance(error, LostFileError):
            self._failure = error
            return
        now = self._clock()
        if self._failing_since is None:
            self._failing_since = now
            _logger.warning("%s cannot be stored, and is kept in memory until it can: %s", self._what, error)
        failing = now - self._failing_since
        if failing >= _PATIENCE_SECONDS:
            self._failure = error
        self._again_at = now + min(_LONGEST_PAUSE_SECONDS, max(_TICK_SECONDS, failing))

    def _tend_regularly(self) -> None:
        while not self._closed and self._failure is None:
            self._wake.wait(_TICK_SECONDS)
            self._wake.clear()
            if not self._closed:
                self.tend()
