"""A file that grows, in a store that cannot append: closed pieces, each an object named by the bytes it holds.

    journal.jsonl.000000000000000-000000004096-1a2b3c4d      begin, end, and who wrote it

So one listing tells how long the file is, whether a piece is missing, and which of two that begin at one byte is the
longer, which was to replace the other; `cat journal.jsonl*` is the file. A whole file of that name, as a copied run has
one, comes before its pieces. A piece that was only half written, or is gone, reads as lines that nobody can read, up to
where the next one begins; at the end of the file there is nothing in its place, as after any kill.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from typing import NamedTuple

from keras_adaptive_weights.journal.stores import store

ALIVE = ".alive"
_NAME = re.compile(r"\.(\d{15})-(\d{15})-([0-9a-f]{8})$")
_KEPT_PIECES = 4
_LARGEST_BYTES = 1 << 28
_LONGEST_GAP_LINE = 1 << 16


class Piece(NamedTuple):
    """The bytes from `begin` to `end` of a file, and the name of the object; none: they are missing."""

    begin: int
    end: int
    name: str

    @property
    def size(self) -> int:
        """How many bytes it should hold."""
        return self.end - self.begin


def piece_of(file: str, begin: int, end: int, writer: str) -> Piece:
    """Return the piece of a file's name that a writer of this id, eight hexadecimal digits, writes."""
    return Piece(begin, end, f"{file}.{begin:015d}-{end:015d}-{writer}")


def files_of(names: Iterable[str]) -> list[str]:
    """Return the files that there are of objects of these names, whole or in pieces, sorted."""
    return sorted({_NAME.sub("", name) for name in names})


def all_pieces(path: str) -> list[Piece]:
    """Return every object that is a piece of a file, or the whole of it, sorted, the longest first of each byte."""
    folder, _, file = path.rpartition("/")
    names = store().names(folder)
    found = [piece for name in names if (piece := _read_name(name, file)) is not None]
    if file in names and store().is_object(path):
        found.append(Piece(0, store().about(path).size, file))
    return sorted(found, key=lambda piece: (piece.begin, -piece.end))


def last_sign_of_life(path: str) -> int:
    """Return when the last piece of a file was written, or its writer showed that it lives, in nanoseconds."""
    folder, _, file = path.rpartition("/")
    signs = [pieces_in_force(path)[-1].name, *{f"{file}{ALIVE}"}.intersection(store().names(folder))]
    return max(store().about(f"{folder}/{name}").changed_ns for name in signs)


def pieces_in_force(path: str) -> list[Piece]:
    """Return the pieces that make up a file, in their order, with those that are missing in between.

    Where more is missing than a piece can be, the file ends.

    Raises:
        FileNotFoundError: There is none.
    """
    found, folder = all_pieces(path), path.rpartition("/")[0]
    if not found:
        raise FileNotFoundError(f"no file {path!r}.")
    taken: list[Piece] = []
    for number, piece in enumerate(found):
        reached = taken[-1].end if taken else 0
        if piece.begin < reached:
            continue  # a longer one has replaced it
        replaces = number + 1 < len(found) and found[number + 1].begin < piece.end
        if replaces and _written(f"{folder}/{piece.name}") < piece.size:
            continue  # those that it was to replace are still there
        if piece.begin > reached + _LARGEST_BYTES:
            break
        if piece.begin > reached:
            taken.append(Piece(reached, piece.begin, ""))
        taken.append(piece)
    return taken


class PiecedFile:
    """Reads a file in pieces as if it were one. Every method may be called from any thread.

    Args:
        path: Its URL.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._folder, _, self._file = path.rpartition("/")
        self._lock = threading.Lock()
        self._pieces: list[Piece] = []
        self._contents: dict[str, bytes] = {}

    def size(self) -> int:
        """Return the size in bytes now.

        Raises:
            FileNotFoundError: There is no such file.
            OSError: The store does not answer.
        """
        with self._lock:
            self._pieces = pieces_in_force(self._path)
            return self._pieces[-1].end

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`, of the file as it was when its size was last asked for.

        Raises:
            OSError: As above.
        """
        with self._lock:
            try:
                return self._read(offset, length)
            except FileNotFoundError:  # it was replaced by a longer piece meanwhile
                self._pieces = pieces_in_force(self._path)
                return self._read(offset, length)

    def _read(self, offset: int, length: int) -> bytes:
        if not self._pieces:
            self._pieces = pieces_in_force(self._path)
        data = bytearray()
        for number, piece in enumerate(self._pieces):
            if piece.end <= offset or piece.begin >= offset + length:
                continue
            begin, end = max(offset, piece.begin) - piece.begin, min(offset + length, piece.end) - piece.begin
            last = number + 1 == len(self._pieces)
            data += self._part(piece, begin, end, last=last)
        return bytes(data)

    def _part(self, piece: Piece, begin: int, end: int, *, last: bool) -> bytes:
        """Return bytes of a piece; of one that is written whole at once, all of it is kept for a while."""
        if piece.name == self._file:
            return store().read(self._path, begin, end - begin)
        content = self._contents.get(piece.name, b"")
        if len(content) < piece.size and piece.name:
            content = store().read(f"{self._folder}/{piece.name}", 0, piece.size)
            latest = [*self._contents.items()][1 - _KEPT_PIECES :]
            self._contents = dict(latest) | {piece.name: content}
        have = len(content)
        missing = b"" if last else _gap(max(0, begin - have), end - have, piece.size - have)
        return content[begin:end] + missing


def _read_name(name: str, file: str) -> Piece | None:
    if (match := _NAME.fullmatch(name, len(file)) if name.startswith(file) else None) is None:
        return None
    piece = Piece(int(match[1]), int(match[2]), name)
    return piece if 0 < piece.size <= _LARGEST_BYTES else None


def _written(path: str) -> int:
    """Return how much of an object there is."""
    try:
        return store().about(path).size
    except FileNotFoundError:
        return 0


def _gap(begin: int, end: int, length: int) -> bytes:
    """Return the bytes from `begin` to `end` of so many that are missing: lines that nobody can read."""
    data = bytearray(max(0, end - begin))
    for newline in [*range(_LONGEST_GAP_LINE - 1, length, _LONGEST_GAP_LINE), length - 1]:
        if begin <= newline < end:
            data[newline - begin] = ord("\n")
    return bytes(data)
