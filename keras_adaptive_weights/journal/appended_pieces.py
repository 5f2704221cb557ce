"""A file of a run that one process writes at its end, in a store that cannot append: in pieces, see `pieces`.

It has the methods of an `AppendedFile`. While there is nothing to write, as in a long validation, an empty object
beside the pieces is put there anew every half minute: its time tells a training that is slow from one that is gone.
There are no locks in a store: where two processes write to one file, the one that began earlier finds a piece that is
not its own, and stops.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable

from keras_adaptive_weights.journal.outbox import LostFileError, Outbox
from keras_adaptive_weights.journal.pieces import ALIVE, Piece, PiecedFile, all_pieces, piece_of, pieces_in_force
from keras_adaptive_weights.journal.places import Url

_FULL_BYTES = 1 << 20
_MOST_SMALL = 64


class AppendedPieces(Outbox):
    """The file at a URL, which need not be there yet; open until `close`.

    Pieces of less than a mebibyte are replaced, 64 of them or a mebibyte at a time, by one that holds them all.

    Args:
        path: The file.
        clock: Seconds; for tests.
        sleep: Waits for so many seconds; for tests.

    Raises:
        OSError: The store does not answer.
    """

    def __init__(
        self,
        path: Url,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self._writer = uuid.uuid4().hex[:8]
        found = all_pieces(str(path))
        pieces = [piece for piece in pieces_in_force(str(path)) if piece.name] if found else []
        self._there = {piece.name: piece for piece in pieces}
        self._doubtful = {piece.name for piece in found} - set(self._there)
        self._stored = pieces[-1].end if pieces else 0
        self._small: list[Piece] = []
        self._of_small = b""
        self._alive = path.parent / f"{path.name}{ALIVE}"
        super().__init__(self._store, f"The file {str(path)!r}", idle=self._live, clock=clock, sleep=sleep)

    @property
    def size(self) -> int:
        """The size in bytes, with those that are not stored yet."""
        return self._stored + self.waiting

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`, of what is stored."""
        return PiecedFile(str(self.path)).read(offset, length)

    def cut(self, size: int) -> None:
        """Drop what follows byte `size`: of what is stored, before anything is written."""
        begun = None
        for piece in sorted(self._there.values(), reverse=True):
            if piece.begin < size < piece.end:
                kept = PiecedFile(str(self.path)).read(piece.begin, size - piece.begin)
                begun = piece_of(self.path.name, piece.begin, size, self._writer)
                self._write(begun, kept)
            if piece.end > size:
                (self.path.parent / piece.name).unlink()
                del self._there[piece.name]
        self._stored = size

    def close(self) -> None:
        """Have everything stored. Harmless if called twice.

        Raises:
            OSError: It cannot be, after a minute.
        """
        super().close()
        with contextlib.suppress(OSError):
            if self._alive.is_file():
                self._alive.unlink()

    def _live(self) -> None:
        self._alive.write_bytes(b"")

    def _store(self, data: bytes) -> None:
        """Store a piece, or one in the place of several."""
        self._look()
        whole = self._of_small + data
        joins = bool(self._small) and (len(whole) >= _FULL_BYTES or len(self._small) >= _MOST_SMALL)
        replaced, kept = (self._small, []) if joins else ([], self._small)
        begin, content = (replaced[0].begin, whole) if joins else (self._stored, data)
        piece = piece_of(self.path.name, begin, begin + len(content), self._writer)
        self._write(piece, content)
        self._stored = piece.end
        full = len(content) >= _FULL_BYTES
        self._small, self._of_small = ([], b"") if full else ([*kept, piece], whole)
        for old in replaced:
            del self._there[old.name]
            self._doubtful.add(old.name)
        for name in list(self._doubtful):  # none of the file's any more; one that stays does no harm
            with contextlib.suppress(OSError):
                (self.path.parent / name).unlink()
                self._doubtful.discard(name)

    def _write(self, piece: Piece, content: bytes) -> None:
        self._doubtful.add(piece.name)  # one that fails may be there, too
        (self.path.parent / piece.name).write_bytes(content)
        self._doubtful.remove(piece.name)
        self._there[piece.name] = piece

    def _look(self) -> None:
        """Refuse to go on where the file was deleted, or where somebody else writes."""
        names = {piece.name for piece in all_pieces(str(self.path))}
        if names - set(self._there) - self._doubtful:
            raise LostFileError(f"{str(self.path)!r} is being written by another process, too.")
        missing = set(self._there) - names  # from the list: some stores are late with it
        if any(not (self.path.parent / name).is_file() for name in missing):
            raise LostFileError(f"{str(self.path)!r} was deleted or replaced while it was written.")
