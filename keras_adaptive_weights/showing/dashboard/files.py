"""The journals below a log directory, here or in a store."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterator

from keras_adaptive_weights.journal.pieces import files_of
from keras_adaptive_weights.journal.places import is_url
from keras_adaptive_weights.journal.stores import store
from keras_adaptive_weights.recording.run_folder import FOLDER, JOURNAL


def find_journals(root: str) -> Iterator[tuple[str, str]]:
    r"""Yield the name of the run and the path of every journal below a directory, also of one that cannot be read.

    The run of `<root>/a/b/adaptive_weights/journal.jsonl` is `a/b`, and `.` for one directly below the root; a journal
    deeper inside (one for each of several terms) adds its folders to the name. What is no UTF-8 in a name is written as
    `\udcff`.
    """
    folders = _walk_store(root) if is_url(root) else _walk_local(root)
    for folder, names in folders:
        inside = folder[len(root) :].replace("\\", "/").strip("/").split("/")
        if FOLDER in inside and (names is None or JOURNAL in names):
            name = "/".join(part for part in inside if part != FOLDER)
            shown = name.encode("utf-8", "backslashreplace").decode("utf-8")
            yield shown or ".", f"{folder.rstrip('/')}/{JOURNAL}"


def _walk_store(root: str) -> Iterator[tuple[str, list[str] | None]]:
    """Yield every folder and the names of the files in it."""
    with contextlib.suppress(OSError):  # a log dir that is not there yet, or a store that does not answer, has none
        for folder, names in store().walk(root):
            yield folder, files_of(names)


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
