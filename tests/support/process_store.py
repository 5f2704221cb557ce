"""A store that several processes see: a folder, in which an object that is being written can be seen half written."""

from __future__ import annotations

import os
import time
from pathlib import Path

from keras_adaptive_weights.journal import stores


class FolderStore:
    """Objects by URL, each a file of a folder.

    Args:
        folder: The folder.
        slow: Write each object in parts, with a pause after each.

    Attributes:
        written: The URLs of what was written.
    """

    def __init__(self, folder, *, slow=False):
        self._folder, self._slow = Path(folder), slow
        self.written = []

    def schemes(self):
        return ["fake"]

    def names(self, folder):
        folder = self._path(folder)
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def is_object(self, path):
        return self._path(path).is_file()

    def about(self, path):
        status = self._path(path).stat()
        return stores.About(status.st_size, status.st_mtime_ns)

    def read(self, path, offset, length):
        return self._path(path).read_bytes()[offset : offset + length]

    def write(self, path, data):
        parts = 4 if self._slow else 1
        with self._path(path).open("wb", buffering=0) as file:
            for part in range(parts):
                file.write(data[len(data) * part // parts : len(data) * (part + 1) // parts])
                time.sleep(0.001 * (parts - 1))
        self.written.append(path)

    def remove(self, path):
        self._path(path).unlink()

    def make_folder(self, path):
        self._path(path).mkdir(parents=True, exist_ok=True)

    def walk(self, root):
        for folder, _, names in os.walk(self._path(root)):
            yield f"fake://{Path(folder).relative_to(self._folder).as_posix()}", names

    def _path(self, path):
        return self._folder / path.partition("://")[2]
