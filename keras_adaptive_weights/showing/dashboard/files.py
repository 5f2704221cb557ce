"""Files through TensorBoard's own layer, so that remote log directories work, with TensorFlow installed or without it.

Local files are read directly: through TensorFlow's file layer, the first reading of a long journal took five times as
long.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_adaptive_weights.journal.index import LocalFiles
from keras_adaptive_weights.recording.run_folder import FOLDER, JOURNAL


class TensorBoardFiles:
    """Reads files wherever TensorBoard can: TensorFlow's file systems, or those of TensorBoard's stub of them."""

    def __init__(self) -> None:
        self._local = LocalFiles()

    def size(self, path: str) -> int:
        """Return the size in bytes.

        Raises:
            OSError: No such file, or it cannot be read.
        """
        if not _is_remote(path):
            return self._local.size(path)
        try:
            return int(_gfile().stat(path).length)
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{path}: {error}") from error

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes from `offset`.

        Raises:
            OSError: No such file, or it cannot be read.
        """
        if not _is_remote(path):
            return self._local.read(path, offset, length)
        gfile = _gfile()
        try:
            if hasattr(gfile.GFile, "seek"):
                with gfile.GFile(path, "rb") as file:
                    file.seek(offset)
                    return bytes(file.read(length))
            token = {"opaque_offset": offset, "byte_offset": offset}
            data, _ = gfile.get_filesystem(path).read(path, binary_mode=True, size=length, continue_from=token)
            return bytes(data[:length])
        except OSError:
            raise
        except Exception as error:
            raise OSError(f"{path}: {error}") from error

    def many_small_reads(self, path: str) -> bool:
        """Return whether thousands of small reads are cheap: for local files."""
        return not _is_remote(path)

    def age(self, path: str, now: float) -> float | None:
        """Return the seconds since a local file was last written or touched; None for a remote one."""
        if _is_remote(path):
            return None
        try:
            return max(0.0, now - Path(path).stat().st_mtime)
        except OSError:
            return None


def find_journals(root: str) -> Iterator[tuple[str, str]]:
    """Yield the name of the run and the path of every journal below a directory.

    The run of `<root>/a/b/adaptive_weights/journal.jsonl` is `a/b`, and `.` for one directly below the root; a journal
    deeper inside (one for each of several terms) adds its folders to the name.
    """
    gfile = _gfile()
    try:
        for directory, _, names in gfile.walk(root):
            if JOURNAL in names:
                inside = directory[len(root) :].replace("\\", "/").strip("/").split("/")
                if FOLDER in inside:
                    name = "/".join(part for part in inside if part != FOLDER)
                    yield name or ".", f"{directory.rstrip('/')}/{JOURNAL}"
    except Exception:  # noqa: BLE001 - a log dir that is not there yet, or a remote that does not answer, is no journal
        return


def _is_remote(path: str) -> bool:
    return "://" in path


def _gfile() -> Any:
    """Return `tf.io.gfile`, or TensorBoard's stub of it."""
    from tensorboard.compat import tf  # noqa: PLC0415 - importing the plugin must not import TensorFlow

    return tf.io.gfile
