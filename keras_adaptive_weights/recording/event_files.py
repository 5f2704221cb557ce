"""Event files of a run that goes on from an earlier step: TensorBoard gets no step twice, and none that goes back.

Steps only grow within one of our event files, so what a killed run wrote after its restore point is the end of a file.
It is moved to `abandoned/` and cut off. The copy is an event file itself; its name lacks the "tfevents" by which
TensorBoard would find it. A last record that was cut short by the kill goes the same way.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from keras_adaptive_weights.journal.continuation import abandoned_file, move_aside

_MARK = "tfevents"
_TIME_DIGITS = 10
_HEAD = struct.Struct("<QI")  # length of the data, and its checksum
_TAIL = struct.Struct("<I")  # checksum of the data
_logger = logging.getLogger("keras_adaptive_weights")


class Kept(NamedTuple):
    """What a folder's event files hold up to the restore point: all tags, and those of its very step."""

    tags: frozenset[str] = frozenset()
    tags_at_step: frozenset[str] = frozenset()


class _Record(NamedTuple):
    """One record of an event file, and where it ends."""

    event: Event
    end: int


def take_back(folder: Path, step: int) -> Kept:
    """Move what the event files of a folder hold of steps after `step` aside.

    Args:
        folder: Folder of the event files; it need not exist.
        step: The restore point.

    Returns:
        What is still there.

    Raises:
        OSError: A file cannot be read or changed.
    """
    tags: set[str] = set()
    at_step: set[str] = set()
    for path in sorted(folder.glob(f"*{_MARK}*")):
        with path.open("rb+") as file:
            first = keep = 0
            for event, end in _records(file):
                if event.step > step:
                    break
                first, keep = first or end, end
                found = {value.tag for value in event.summary.value}
                tags |= found
                at_step |= found if event.step == step else set()
            if keep < file.seek(0, 2):
                _move_aside(file, path, step, first, keep)
        if keep == first:  # nothing but the version
            path.unlink()
    return Kept(frozenset(tags), frozenset(at_step))


def wait_for_a_later_name(folder: Path) -> None:
    """Wait, at most a second, until a new event file is named after those that are there.

    TensorBoard reads the files of a folder in the order of their names, which begin with the second they were opened
    in; what follows (host, process, a counter without leading zeros) does not sort by age.
    """
    newest = max((path.name.partition(f"{_MARK}.")[2][:_TIME_DIGITS] for path in folder.glob(f"*{_MARK}*")), default="")
    while newest == f"{int(time.time()):0{_TIME_DIGITS}d}":
        time.sleep(0.02)


def _records(file: BinaryIO) -> Iterator[_Record]:
    """Yield the whole records from the start of the file on; the checksum of the last one's data is looked at too."""
    size = file.seek(0, 2)
    file.seek(0)
    end = 0
    while len(head := file.read(_HEAD.size)) == _HEAD.size:
        length, checksum = _HEAD.unpack(head)
        if masked_crc32c(head[:8]) != checksum:
            return
        data = file.read(length + _TAIL.size)
        if len(data) < length + _TAIL.size:
            return
        end += _HEAD.size + len(data)
        if end == size and masked_crc32c(data[:length]) != _TAIL.unpack(data[length:])[0]:
            return
        yield _Record(Event.FromString(data[:length]), end)


def _move_aside(file: BinaryIO, path: Path, step: int, first: int, keep: int) -> None:
    """Move what follows byte `keep` aside; the first record, which names the file's version, begins the copy too."""
    file.seek(0)
    version = file.read(first)
    to = abandoned_file(path.parent, f"{path.name.replace(_MARK, 'events')}-after-step-{step}", ".events")
    move_aside(file, keep, to, version)
    _logger.debug("What %s held of steps after %d is now in %s.", path, step, to)
