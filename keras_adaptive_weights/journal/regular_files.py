"""Opening what others put into a run's folder: a pipe, a device or an endless file holds nobody up.

Everything that reads a file of a run (journal, control and answer file) opens it here, and has its JSON parsed here.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from keras_adaptive_weights.journal.places import is_url, place

_AT_ONCE = sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC"))


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading, if it is a regular one, or a link to one; never waits for a writer.

    Args:
        path: The file, or its URL.

    Raises:
        OSError: There is none, it may not be read, or it is a pipe, device, socket or folder.
        ValueError: The scheme of a URL is unknown.
    """
    if is_url(path):
        path = place(path, "open_regular")
        if not isinstance(path, Path):
            return path.open_to_read()
    file = open(path, "rb", opener=lambda name, flags: os.open(name, flags | _AT_ONCE))  # noqa: SIM115 - the caller closes it
    mode = os.fstat(file.fileno()).st_mode
    if stat.S_ISREG(mode):
        return file
    file.close()
    raise OSError(f"{os.fspath(path)!r} is no regular file but {_kind(mode)}.")


class LocalFile:
    """Reads a file of this machine's own file system that may grow, as `PiecedFile` does one in a store.

    It is read directly: through TensorFlow's file layer, the first reading of a long journal took five times as long.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    def size(self) -> int:
        """Return the size in bytes."""
        return Path(self._path).stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`."""
        with open_regular(self._path) as file:
            file.seek(offset)
            return file.read(length)


def read_regular(path: str | os.PathLike[str], most: int) -> bytes:
    """Return what a small regular file holds.

    Args:
        path: The file.
        most: Bytes that it may hold.

    Raises:
        OSError: As `open_regular`.
        ValueError: It is larger.
    """
    with open_regular(path) as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"it is larger than {most} bytes.")
    return data


def chunks_of(file: BinaryIO, most: int) -> Iterator[bytes]:
    """Yield the lines from where a file stands, as far as it goes now, many at a time; the last one may lack its end.

    Args:
        file: The file.
        most: Bytes of the longest line. Of a longer one these and some more are yielded, and nothing after them: there
            is no telling what it is.
    """
    begin, rest = file.tell(), b""
    left = file.seek(0, os.SEEK_END) - begin
    file.seek(begin)
    while left > 0 and len(rest) <= most and (data := file.read(min(left, most))):
        left -= len(data)
        lines, newline, rest = (rest + data).rpartition(b"\n")
        if newline:
            yield lines + newline
    if rest:
        yield rest


def lines_of(file: BinaryIO, most: int) -> Iterator[bytes]:
    """Yield the same lines one by one."""
    return (line for lines in chunks_of(file, most) for line in lines.splitlines(keepends=True))


def parse_json(data: bytes | str) -> Any:
    """Return the value that JSON holds.

    Raises:
        ValueError: It is no JSON, nests too deeply, is no UTF-8, or holds a number of thousands of digits.
    """
    try:
        return json.loads(data)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def _kind(mode: int) -> str:
    return "a pipe" if stat.S_ISFIFO(mode) else "a device"
