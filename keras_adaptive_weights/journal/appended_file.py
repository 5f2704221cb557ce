"""A file of a run that one process writes at its end: locked, unbuffered, and told when it is gone.

- *Locked* with `flock`, which belongs to the open file: unlike a record lock of POSIX it does not vanish when another
  part of the process reads the file and closes it again.
- *Unbuffered*, so that a forked child inherits nothing it could write. The child's copy is closed at once; so the lock
  is gone with the process that took it, whoever else lives on.
- *Gone*: a file whose folder was deleted takes what is written and keeps nothing. Every write looks whether its path
  still leads to it.
"""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path
from typing import Protocol

from keras_adaptive_weights.journal.places import Place

try:
    import fcntl
except ImportError:  # Windows has no locks of this kind
    fcntl = None  # type: ignore[assignment]

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT
_FLAGS |= sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC", "O_BINARY"))
_ABSENT = -1


class AppendedFile:
    """The file at a path, made where there is none; open until `close`.

    Args:
        path: The file.

    Raises:
        ValueError: Another process is writing to it.
        OSError: It cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor = os.open(path, _FLAGS, 0o666)
        _open_files.add(self)
        try:
            self._lock()
        except BaseException:
            self.close()
            raise

    @property
    def size(self) -> int:
        """The size in bytes; 0 for what keeps nothing, as a pipe or a device."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`."""
        os.lseek(self._descriptor, offset, os.SEEK_SET)
        return os.read(self._descriptor, length)

    def write(self, text: str | bytes) -> None:
        """Append to the file.

        Raises:
            OSError: The disk is full, or the file was deleted or replaced, or keeps nothing.
        """
        data = memoryview(text.encode("ascii") if isinstance(text, str) else text)
        self._look()
        while data:
            data = data[os.write(self._descriptor, data) :]
        if not self.size:
            raise OSError(f"{os.fspath(self.path)!r} keeps nothing of what is written to it.")

    def touch(self) -> None:
        """Give the file the time of now.

        Raises:
            OSError: It was deleted or replaced.
        """
        self._look()
        with contextlib.suppress(OSError):
            os.utime(self.path)

    def hasten(self) -> None:
        """Do nothing: what was written is in the file."""

    def flush(self) -> None:
        """Do nothing, as above."""

    def cut(self, size: int) -> None:
        """Drop what follows byte `size`."""
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        """Close the file and let its lock go. Harmless if called twice."""
        descriptor, self._descriptor = self._descriptor, _ABSENT
        if descriptor != _ABSENT:
            os.close(descriptor)

    def _look(self) -> None:
        """Refuse to go on where the path does not lead to the file any more."""
        try:
            there = os.path.samestat(os.fstat(self._descriptor), self.path.stat())
        except FileNotFoundError:
            there = False
        if not there:
            raise FileNotFoundError(f"{os.fspath(self.path)!r} was deleted or replaced while it was written.")

    def _lock(self) -> None:
        """Hold the file against other processes; where locks are not to be had, go without."""
        if fcntl is None:
            return
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"The file {os.fspath(self.path)!r} is being written by another process. End that process first, or "
                "give the callback another `log_dir`."
            ) from None
        except OSError:  # a file system that knows none
            pass


_open_files: weakref.WeakSet[AppendedFile] = weakref.WeakSet()


def _close_in_child() -> None:
    for file in list(_open_files):
        with contextlib.suppress(OSError):
            file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)


class Recorder(Protocol):
    """Whoever keeps a file of a run open."""

    run: str

    def close(self) -> None:
        """Close the file. Harmless if called twice."""


_recorders: weakref.WeakValueDictionary[Place, Recorder] = weakref.WeakValueDictionary()


def take_over(path: Place, recorder: Recorder) -> None:
    """Make `recorder` the only one in this process that writes to `path`.

    One of the same run that is still open is closed: a `fit` that ended by an exception, or by Ctrl-C, left it so.

    Raises:
        ValueError: One of another run is still open.
    """
    path = path.resolve()
    older = _recorders.get(path)
    if older is not None:
        if older.run != recorder.run:
            raise another_run(path, older.run, recorder.run)
        older.close()
    _recorders[path] = recorder


def let_go(path: Place, recorder: Recorder) -> None:
    """Undo `take_over`."""
    if _recorders.get(path.resolve()) is recorder:
        del _recorders[path.resolve()]


def another_run(path: Place, owner: object, run: str) -> ValueError:
    """Return the error that refuses a file of another run."""
    return ValueError(
        f"The journal {os.fspath(path)!r} belongs to another run ({owner!r}; this one is {run!r}). Runs are never "
        "mixed: give the callback another `log_dir`, or load this run's checkpoint before `fit`."
    )
