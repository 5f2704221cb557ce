"""An event file in a store that cannot append: it grows to a mebibyte by being put there anew, then another follows.

TensorBoard reads on in a file that has grown, as it does where TensorFlow's own writer writes to a store.
"""

from __future__ import annotations

from collections.abc import Callable

from keras_adaptive_weights.journal.outbox import Outbox
from keras_adaptive_weights.journal.places import Url

_FULL_BYTES = 1 << 20


class StoredEvents(Outbox):
    """The event file at a URL, with the methods of an `AppendedFile`.

    Args:
        path: The file.
        later_name: Returns the name of the one that follows those in a folder.
    """

    def __init__(self, path: Url, later_name: Callable[[Url], str]) -> None:
        self.path = path
        self._later_name = later_name
        self._first = self._content = b""
        super().__init__(self._store, f"The event file in {str(path.parent)!r}")

    @property
    def size(self) -> int:
        """The size in bytes of what is stored."""
        return self.path.stat().st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`, of what is stored."""
        return self.path.read_bytes()[offset : offset + length]

    def write(self, text: str | bytes) -> None:
        """Append to the file; it is stored some seconds later. What is written first begins each file that follows.

        Raises:
            OSError: The store failed for ten minutes.
        """
        data = text.encode("ascii") if isinstance(text, str) else text
        self._first = self._first or data
        super().write(data)

    def cut(self, size: int) -> None:
        """Drop what follows byte `size`."""
        self.path.write_bytes(self.path.read_bytes()[:size])

    def _store(self, data: bytes) -> None:
        path, content = self.path, self._content + data
        if len(self._content) >= _FULL_BYTES:
            path, content = path.parent / self._later_name(path.parent), self._first + data
        path.write_bytes(content)
        self.path, self._content = path, content
