"""The event file of a run that goes on: TensorBoard gets no step twice, and none that goes back.

A `fit` goes on in the event file of the one before it, as if that had never been closed. Steps only grow within a file,
so what a killed run wrote after its restore point is the end of one. It is moved to `abandoned/` and cut off, and what
follows goes to a new file: whoever reads the old one at that moment is past its end. The copy is an event file itself;
its name lacks the "tfevents" by which TensorBoard would find it. A last record that was cut short goes the same way.

In a store a file is never gone on in after it was closed: each `fit` begins another.

TensorBoard reads the files of a folder in the order of their names, which begin with a time in seconds. A new file's is
that of now or, where there is one as new, the second after it: so nobody waits for a second to pass.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from google.protobuf.message import DecodeError
from tensorboard.compat.proto.event_pb2 import Event, SourceMetadata
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter

from keras_adaptive_weights.journal.appended_file import AppendedFile
from keras_adaptive_weights.journal.continuation import move_aside
from keras_adaptive_weights.journal.places import Place, found
from keras_adaptive_weights.journal.regular_files import open_regular
from keras_adaptive_weights.recording.stored_events import StoredEvents

if TYPE_CHECKING:
    from tensorboard.compat.proto.summary_pb2 import Summary

_MARK = "tfevents"
_TIME_DIGITS = 10
_HEAD = struct.Struct("<QI")  # length of the data, and its checksum
_TAIL = struct.Struct("<I")  # checksum of the data
_logger = logging.getLogger("keras_adaptive_weights")


class Kept(NamedTuple):
    """What a folder's event files hold up to the restore point: all tags, those of its very step, a file to go on in.

    That is None where there is none, or something was cut off.
    """

    tags: frozenset[str] = frozenset()
    tags_at_step: frozenset[str] = frozenset()
    file: Place | None = None


class _Left(NamedTuple):
    """How this process left the event file of a folder: so the next `fit` need not read it."""

    size: int
    step: int
    kept: Kept


_left: dict[Place, _Left] = {}


class EventFile:
    """The event file that the records of a run go to, in the order of their steps.

    Args:
        folder: Its folder.
        step: Step that the run goes on from: what the folder's files hold of later ones is moved aside. `None`: the
            folder is new.

    Attributes:
        tags: All tags that the folder's files hold.

    Raises:
        ValueError: Another process is writing to it.
        OSError: A file cannot be read or written.
    """

    def __init__(self, folder: Place, step: int | None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder.resolve()
        kept = Kept() if step is None else _as_it_was_left(self._folder, step) or _take_back(self._folder, step)
        self.tags = set(kept.tags)
        self._step, self._tags_at_step = step or 0, set(kept.tags_at_step)
        goes_on = kept.file if isinstance(kept.file, Path) else None
        self._file = _appended(goes_on or self._folder / _later_name(self._folder))
        self._waiting = bytearray()
        self._records = RecordWriter(self)
        try:
            if goes_on is None:
                about = SourceMetadata(writer="keras_adaptive_weights")
                first = Event(wall_time=time.time(), file_version="brain.Event:2", source_metadata=about)
                self._records.write(first.SerializeToString())
                self.flush_records()
        except BaseException:
            self._file.close()
            raise

    def add(self, step: int, wall_time: float, values: Sequence[Summary.Value]) -> bool:
        """Add the values whose tags have none at this step; return whether these were all."""
        if step != self._step:
            self._step, self._tags_at_step = step, set()
        new = [value for value in values if value.tag not in self._tags_at_step]
        self._tags_at_step.update(value.tag for value in new)
        self.tags |= self._tags_at_step
        if new:
            event = Event(wall_time=wall_time, step=step)
            event.summary.value.extend(new)
            self._records.write(event.SerializeToString())
        return len(new) == len(values)

    def flush_records(self) -> None:
        """Write what was added.

        Raises:
            OSError: The disk is full, or the file was deleted.
        """
        self._records.flush()

    def write(self, data: bytes) -> None:
        """Take what TensorBoard's writer of records made of one."""
        self._waiting += data

    def flush(self) -> None:
        """Append what was taken to the file, in one piece."""
        data, self._waiting = bytes(self._waiting), bytearray()
        if data:
            self._file.write(data)

    def close(self) -> None:
        """Close the file, and remember how it was left."""
        if isinstance(self._file, StoredEvents):
            self._file.close()  # which stores the rest of it
        with contextlib.suppress(OSError):
            kept = Kept(frozenset(self.tags), frozenset(self._tags_at_step), self._file.path)
            _left[self._folder] = _Left(self._file.size, self._step, kept)
        self._file.close()


def _appended(path: Place) -> AppendedFile | StoredEvents:
    """Return an event file to append to."""
    return AppendedFile(path) if isinstance(path, Path) else StoredEvents(path, _later_name)


def _as_it_was_left(folder: Place, step: int) -> Kept | None:
    """Return what the folder holds if this process wrote to it last, and nothing of later steps; otherwise None."""
    left = _left.get(folder)
    if left is None or left.step > step or _paths(folder)[-1:] != [left.kept.file]:
        return None
    with contextlib.suppress(OSError):
        if left.kept.file is not None and left.kept.file.stat().st_size == left.size:
            return left.kept if left.step == step else left.kept._replace(tags_at_step=frozenset())
    return None


def _take_back(folder: Place, step: int) -> Kept:
    """Move what the event files of a folder hold of steps after `step` aside."""
    tags: set[str] = set()
    at_step: set[str] = set()
    newest, whole = None, True
    for path in _paths(folder):
        first = keep = 0
        with open_regular(path) as file:
            for event, end in _records(file):
                if event.step > step:
                    break
                first, keep = first or end, end
                found = {value.tag for value in event.summary.value}
                tags |= found
                at_step |= found if event.step == step else set()
            size = file.seek(0, os.SEEK_END)
        if keep < size:
            whole = False
            _move_aside(path, step, first, keep)
        if keep == first:  # nothing but the version
            path.unlink()
        else:
            newest = path
    return Kept(frozenset(tags), frozenset(at_step), newest if whole else None)


def _paths(folder: Place) -> list[Place]:
    """Return the event files of a folder in the order in which TensorBoard reads them."""
    return [path for path in found(folder, f"*{_MARK}*") if path.is_file()]


def _later_name(folder: Place) -> str:
    """Return a name for an event file that sorts after those that are there."""
    times = [path.name.partition(f"{_MARK}.")[2][:_TIME_DIGITS] for path in _paths(folder)]
    newest = max((int(digits) for digits in times if digits.isdecimal()), default=0)
    second = min(max(int(time.time()), newest + 1), 10**_TIME_DIGITS - 1)
    return f"events.out.{_MARK}.{second:0{_TIME_DIGITS}d}.{socket.gethostname()}.{os.getpid()}.0"


class _Record(NamedTuple):
    """One record of an event file, and where it ends."""

    event: Event
    end: int


def _records(file: BinaryIO) -> Iterator[_Record]:
    """Yield the whole records from the start of the file on; the checksum of the last one's data is looked at too."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    end = 0
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        after = end + _HEAD.size + length + _TAIL.size
        if masked_crc32c(head[:8]) != checksum or after > size:
            return
        data = file.read(length + _TAIL.size)
        if after == size and masked_crc32c(data[:length]) != _TAIL.unpack(data[length:])[0]:
            return
        try:
            event = Event.FromString(data[:length])
        except DecodeError:
            return
        end = after
        yield _Record(event, end)


def _move_aside(path: Place, step: int, first: int, keep: int) -> None:
    """Move what follows byte `keep` aside; the first record, which names the file's version, begins the copy too."""
    file = _appended(path)
    try:
        name = f"{path.name.replace(_MARK, 'events')}-after-step-{step}"
        to = move_aside(file, keep, name, ".events", file.read(0, first) if first else b"")
    finally:
        file.close()
    _logger.debug("What %s held of steps after %d is now in %s.", path, step, to)
