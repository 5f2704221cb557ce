"""Where a run is kept: a path of this machine, or the URL of a store that TensorFlow has a file system for.

What is local goes through `pathlib.Path`, as ever. A `Url` has those of its methods that a run needs; what they say of
a file is also true of one in pieces.
"""

from __future__ import annotations

import fnmatch
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import urlsplit

from keras_adaptive_weights.journal.pieces import PiecedFile, all_pieces, files_of, last_sign_of_life, pieces_in_force
from keras_adaptive_weights.journal.stores import store

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_LOST_SLASH = re.compile(r"(?:file|gs|s3|hdfs|viewfs|az|ram|https?):[/\\]")
_OF_PLUGINS = ("s3", "hdfs", "viewfs", "har", "az")
_PLUGIN = "Write `pip install tensorflow-io` (in a version for this TensorFlow) and `import tensorflow_io` before it"
_BUFFER_BYTES = 1 << 20


class Status(NamedTuple):
    """What is known of a file in a store, by the names of `os.stat_result`.

    The time is that of the last sign of life of whoever writes it; 0: the store does not say.
    """

    st_size: int
    st_mtime_ns: int

    @property
    def st_mtime(self) -> float:
        """Seconds since the epoch."""
        return self.st_mtime_ns / 1e9


class Url(os.PathLike[str]):
    """A place in a store; one is the other if they are spelled alike.

    Args:
        text: The URL.
    """

    def __init__(self, text: str) -> None:
        scheme, _, rest = text.partition("://")
        self._text = f"{scheme.lower()}://{rest.rstrip('/')}"

    def __fspath__(self) -> str:
        """Return the URL."""
        return self._text

    def __repr__(self) -> str:
        return f"Url({self._text!r})"

    __str__ = __fspath__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)

    def __truediv__(self, name: str) -> Url:
        return Url(f"{self._text}{'' if self._text.endswith('/') else '/'}{name}")

    @property
    def name(self) -> str:
        """The part after the last slash."""
        return self._text.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The end of the name, from its last dot on."""
        return Path(self.name).suffix

    @property
    def stem(self) -> str:
        """The name without it."""
        return Path(self.name).stem

    @property
    def parent(self) -> Url:
        """The folder around it."""
        scheme, _, rest = self._text.partition("://")
        return Url(f"{scheme}://{rest.rpartition('/')[0]}")

    def resolve(self) -> Url:
        """Return it as it is."""
        return self

    absolute = resolve

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        """Make the folder and those around it, where a store has folders."""
        del parents, exist_ok
        store().make_folder(self._text)

    def is_file(self) -> bool:
        """Return whether there is such a file, whole or in pieces."""
        return store().is_object(self._text) or bool(all_pieces(self._text))

    def stat(self) -> Status:
        """Return its size, and when it was written last.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return Status(pieces_in_force(self._text)[-1].end, last_sign_of_life(self._text))

    def glob(self, pattern: str) -> Iterator[Url]:
        """Yield the files and folders in it whose names are of the pattern, of several parts where it has slashes."""
        first, _, rest = pattern.partition("/")
        for name in fnmatch.filter(files_of(store().names(self._text)), first):
            yield from (self / name).glob(rest) if rest else (self / name,)

    def unlink(self) -> None:
        """Remove the object."""
        store().remove(self._text)

    def read_bytes(self) -> bytes:
        """Return what the object holds."""
        return store().read(self._text, 0, store().about(self._text).size)

    def write_bytes(self, data: bytes) -> None:
        """Put an object there."""
        store().write(self._text, data)

    def open_to_read(self) -> BinaryIO:
        """Open the file, which may be in pieces.

        Raises:
            FileNotFoundError: There is no such file.
        """
        return io.BufferedReader(_Reader(self._text), _BUFFER_BYTES)


Place = Path | Url


def found(folder: Place, pattern: str) -> list[Place]:
    """Return what is in a folder and has a name of the pattern, sorted."""
    paths: Iterator[Place] = folder.glob(pattern)
    return sorted(paths, key=os.fspath)


def is_url(path: Any) -> bool:
    """Return whether it is the URL of something in a store, or of a file."""
    return isinstance(path, Url) or (isinstance(path, str) and _URL.match(path) is not None)


def place(path: str | os.PathLike[str], owner: str, argument: str = "path") -> Place:
    """Return the place that a path or a URL stands for.

    Args:
        path: A path of this machine, also as a URL `file:///...`; or a URL of any scheme that TensorFlow has a file
            system for.
        owner: Who was given it, for the error.
        argument: As which argument.

    Raises:
        ValueError: There is no file system for the scheme, the file is on another machine, or it is a URL that has lost
            a slash on its way through a `Path`.
    """
    if isinstance(path, (Path, Url)) and not _LOST_SLASH.match(os.fspath(path)):
        return path
    text = os.fspath(path)
    scheme = match[1].lower() if (match := _URL.match(text)) else None
    if scheme == "file":
        return _local(text, owner, argument)
    if scheme is not None:
        schemes = store().schemes()
        if schemes is not None and scheme not in schemes:
            way = _PLUGIN if scheme in _OF_PLUGINS else "Import what registers a file system for it before"
            raise ValueError(
                f"{owner}: argument `{argument}` must be a path, or a URL that TensorFlow has a file system "
                f"for. Received: {argument}={text!r} with scheme {scheme!r}; there are {schemes}. {way}, or "
                "give a folder of this machine, on which the store may be mounted."
            )
        return Url(text)
    if _LOST_SLASH.match(text):
        whole = re.sub(r":[/\\]", "://", text, count=1)
        raise ValueError(
            f"{owner}: argument `{argument}` must be a path or a URL. Received: {argument}={text!r}, a URL that has "
            f"lost a slash, as in a `Path`. Write `{argument}={whole!r}`."
        )
    return Path(text)


def local_folder(path: str | os.PathLike[str], owner: str, argument: str, why: str) -> Path:
    """Return the folder of this machine that a path or a URL `file:///...` stands for.

    Args:
        path: The path.
        owner: Who was given it, for the error.
        argument: As which argument.
        why: Why it must be one, and what to do else, in sentences.

    Raises:
        ValueError: It is in a store.
    """
    if isinstance(found := place(path, owner, argument), Path):
        return found
    raise ValueError(
        f"{owner}: argument `{argument}` must be a folder of a file system of this machine. Received: "
        f"{argument}={os.fspath(path)!r}. {why}"
    )


def _local(text: str, owner: str, argument: str) -> Path:
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path:
        raise ValueError(
            f"{owner}: argument `{argument}` must be on this machine where its scheme is 'file'. Received: "
            f"{argument}={text!r}. Write 'file:///' and the path from the root on."
        )
    from urllib.request import url2pathname  # noqa: PLC0415 - imports what talks to servers

    return Path(url2pathname(parts.path))


class _Reader(io.RawIOBase):
    """A file in a store, as far as it goes when it is opened."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = PiecedFile(path)
        self._size = self._file.size()
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(self._at, min(len(buffer), self._size - self._at))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
