"""Text that others wrote, made fit to be shown: a note, a name, a message that quotes a file.

Whoever prints such text on a terminal, into a log or into a picture passes it through `printable` once, as the last
thing before it is shown. What is recorded stays as it was given.
"""

from __future__ import annotations

import unicodedata
from typing import TextIO

LONGEST_NOTE = 1000
LONGEST_SHOWN = 400
LONGEST_ERROR = 2000
_JOINERS = "\u200c\u200d"  # Persian, Arabic and the scripts of India are misspelt without them


def bounded(text: str, most: int = LONGEST_NOTE) -> str:
    """Return the text, cut to at most `most` characters, the last of which is then an ellipsis."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def printable(text: object, most: int = LONGEST_SHOWN) -> str:
    r"""Return text on one line that no terminal obeys, no reader misreads and no encoder refuses.

    Escape sequences, line breaks, overrides of the writing direction, invisible characters and halves of surrogate
    pairs become what Python writes for them: ``\x1b``, ``\n``, ``\u202e``.

    Args:
        text: What is to be shown; anything but a string is shown as `str` has it.
        most: Characters of it to show; what is longer ends in an ellipsis.
    """
    shown = bounded(str(text), most)
    return shown if shown.isprintable() else "".join(map(_shown, shown))


def encodable(text: str, stream: TextIO) -> str:
    r"""Return text that a stream can write: what its encoding has no character for becomes ``\u2192`` and the like."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _shown(character: str) -> str:
    if character.isprintable() or character in _JOINERS or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
