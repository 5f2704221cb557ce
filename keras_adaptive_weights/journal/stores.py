"""A store of objects, as TensorFlow's file layer reaches it: `gs://` and, by plugins, others; `ram://` in tests.

An object there is written whole or not at all, on most; none is ever appended to. TensorFlow is imported by the first
question; where it is not installed, TensorBoard's stub of its file layer reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple


class About(NamedTuple):
    """Size in bytes, and when an object was written, in nanoseconds since the epoch; 0: the store does not say."""

    size: int
    changed_ns: int = 0


class TensorFlowStore:
    """Every store that TensorFlow has a file system for: objects by their URLs.

    Every method raises an `OSError` of the fitting kind where it fails.
    """

    def schemes(self) -> list[str] | None:
        """Return the schemes of the URLs that can be written; `None`: nobody knows, as TensorBoard's stub."""
        registered = getattr(_gfile(), "get_registered_schemes", None)
        return None if registered is None else sorted(filter(None, registered()))

    def names(self, folder: str) -> list[str]:
        """Return the names of what is in a folder; none where there is no such folder, as stores know none."""
        try:
            with _errors_of(folder):
                return [name.rstrip("/") for name in _gfile().listdir(folder)]
        except FileNotFoundError:
            return []

    def is_object(self, path: str) -> bool:
        """Return whether there is an object, and no folder."""
        with _errors_of(path):
            return bool(_gfile().exists(path)) and not _gfile().isdir(path)

    def about(self, path: str) -> About:
        """Return what is known of an object."""
        with _errors_of(path):
            found = _gfile().stat(path)
        return About(int(found.length), int(getattr(found, "mtime_nsec", 0)))

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes of an object from `offset` on."""
        gfile = _gfile()
        with _errors_of(path):
            if hasattr(gfile.GFile, "seek"):
                with gfile.GFile(path, "rb") as file:
                    file.seek(offset)
                    return bytes(file.read(length))
            token = {"opaque_offset": offset, "byte_offset": offset}
            data, _ = gfile.get_filesystem(path).read(path, binary_mode=True, size=length, continue_from=token)
            return bytes(data[:length])

    def write(self, path: str, data: bytes) -> None:
        """Put an object in the place of the one that is there, if any."""
        gfile = _gfile()
        with _errors_of(path):
            if path.startswith("ram://") and gfile.exists(path):  # where "wb" appends
                gfile.remove(path)
            with gfile.GFile(path, "wb") as file:
                file.write(data)

    def remove(self, path: str) -> None:
        """Remove an object."""
        with _errors_of(path):
            _gfile().remove(path)

    def make_folder(self, path: str) -> None:
        """Make a folder and those around it, where a store has folders.

        Raises:
            FileNotFoundError: No such bucket: TensorFlow would look for it for ever.
        """
        gfile, bucket = _gfile(), "/".join(path.split("/")[:3])
        with _errors_of(path):
            if path.startswith("gs://") and not gfile.isdir(path) and not gfile.exists(bucket):
                raise FileNotFoundError(f"{path!r}: there is no bucket {bucket!r}, or it is not to be seen from here.")
            gfile.makedirs(path)

    def walk(self, root: str) -> Iterator[tuple[str, list[str]]]:
        """Yield every folder below a root, and the names of the objects in it."""
        with _errors_of(root):
            for folder, _, names in _gfile().walk(root):
                yield folder, names


_tensorflows = TensorFlowStore()


def store() -> TensorFlowStore:
    """Return the store that all URLs are in."""
    return _tensorflows


@contextlib.contextmanager
def _errors_of(path: str) -> Iterator[None]:
    """Raise what the file layer raises, which are errors of its own, as the `OSError` that a file system would."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        kinds: dict[str, type[OSError]] = {
            "NotFoundError": FileNotFoundError,
            "PermissionDeniedError": PermissionError,
            "UnauthenticatedError": PermissionError,
        }
        raise kinds.get(type(error).__name__, OSError)(f"{path!r}: {error or type(error).__name__}") from error


def _gfile() -> Any:
    """Return `tf.io.gfile`, or TensorBoard's stub of it."""
    from tensorboard.compat import tf  # noqa: PLC0415 - what reads local files needs no TensorFlow

    return tf.io.gfile
