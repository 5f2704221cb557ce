"""Files through TensorBoard's own layer, so that remote log directories work, with TensorFlow installed or without it.

Local files are read directly: through TensorFlow's file layer, the first reading of a long journal took five times as
long.
"""

from __future__ import annotations

import os
from collections import deque
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

    def age(self, path: str, now: float) -> float | None:
        """Return the seconds since a local file was last written or touched; None for a remote one."""
        if _is_remote(path):
            return None
        try:
            return max(0.0, now - Path(path).stat().st_mtime)
        except OSError:
            return None


def find_journals(root: str) -> Iterator[tuple[str, str]]:
    r"""Yield the name of the run and the path of every journal below a directory, also of one that cannot be read.

    The run of `<root>/a/b/adaptive_weights/journal.jsonl` is `a/b`, and `.` for one directly below the root; a journal
    deeper inside (one for each of several terms) adds its folders to the name. What is no UTF-8 in a name is written as
    `\udcff`.
    """
    folders = _walk_remote(root) if _is_remote(root) else _walk_local(root)
    for folder, names in folders:
        inside = folder[len(root) :].replace("\\", "/").strip("/").split("/")
        if FOLDER in inside and (names is None or JOURNAL in names):
            name = "/".join(part for part in inside if part != FOLDER)
            shown = name.encode("utf-8", "backslashreplace").decode("utf-8")
            yield shown or ".", f"{folder.rstrip('/')}/{JOURNAL}"


def _walk_remote(root: str) -> Iterator[tuple[str, list[str] | None]]:
    """Yield every folder and the names of the files in it."""
    try:
        for folder, _, names in _gfile().walk(root):
            yield folder, names
    except Exception:  # noqa: BLE001 - a log dir that is not there yet, or a remote that does not answer, has no folders
        return


def _walk_local(root: str) -> Iterator[tuple[str, list[str] | None]]:
    """Yield every folder, whichever way it is reached, once, and the files in it; None: it cannot be read.

    Links to folders are followed, after all that is reached without them: so no circle of links has an end to be
    looked for, and a run is known by its own place rather than by a link to it.
    """
    seen: set[tuple[int, int]] = set()
    folders, links = deque([root]), deque[str]()
    while folders or links:
        folder = folders.popleft() if folders else links.popleft()
        try:
            status = os.stat(folder)  # noqa: PTH116 - a `Path` per folder takes longer than the folder
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            yield folder, None
            continue
        names = []
        for entry in found:
            if _is_folder(entry) and entry.name != JOURNAL:
                (links if entry.is_symlink() else folders).append(entry.path)
            else:
                names.append(entry.name)
        yield folder, names


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _is_remote(path: str) -> bool:
    return "://" in path


def _gfile() -> Any:
    """Return `tf.io.gfile`, or TensorBoard's stub of it."""
    from tensorboard.compat import tf  # noqa: PLC0415 - importing the plugin must not import TensorFlow

    return tf.io.gfile
