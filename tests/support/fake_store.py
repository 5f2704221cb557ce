"""A store in memory: what TensorFlow's `ram://` is, without TensorFlow, and as slow, full or broken as a test wants."""

from __future__ import annotations

import contextlib
import time

import pytest

from keras_adaptive_weights.journal import stores
from keras_adaptive_weights.journal.appended_pieces import AppendedPieces
from keras_adaptive_weights.journal.pieces import PiecedFile, piece_of
from keras_adaptive_weights.journal.places import Url

JOURNAL = Url("fake://bucket/run/adaptive_weights/journal.jsonl")
FOLDER = JOURNAL.parent


class FakeStore:
    """Objects by URL; `changed` is the time that each one bears, `fail` is raised by whatever is asked while it is set.

    `half` and the error in `fail`: the object is written in half all the same. `told` counts what was asked.
    """

    def __init__(self):
        self.objects, self.changed, self.told = {}, {}, []
        self.fail = self.slow = None
        self.half = False
        self.now = time.time

    def schemes(self):
        return ["fake"]

    def names(self, folder):
        self._ask("names")
        inside = [path[len(folder) + 1 :] for path in self.objects if path.startswith(f"{folder}/")]
        return sorted({name.partition("/")[0] for name in inside})

    def is_object(self, path):
        return path in self.objects

    def about(self, path):
        self._ask("about")
        return stores.About(len(self._object(path)), int(self.changed.get(path, 0.0) * 1e9))

    def read(self, path, offset, length):
        self._ask("read")
        return self._object(path)[offset : offset + length]

    def write(self, path, data):
        if self.fail is not None and self.half:
            self.objects[path], self.changed[path] = bytes(data[: len(data) // 2]), self.now()
        self._ask("write")
        self.objects[path], self.changed[path] = bytes(data), self.now()

    def remove(self, path):
        self._ask("remove")
        self._object(path)
        del self.objects[path]

    def make_folder(self, path):
        self._ask("make_folder")

    def walk(self, root):
        folders = {path.rpartition("/")[0] for path in self.objects if path.startswith(f"{root}/")}
        for folder in sorted(folders):
            yield folder, [name for name in self.names(folder) if f"{folder}/{name}" in self.objects]

    def _object(self, path):
        if path not in self.objects:
            raise FileNotFoundError(path)
        return self.objects[path]

    def _ask(self, what):
        self.told.append(what)
        if self.slow is not None:
            self.slow.wait()
        if self.fail is not None:
            raise self.fail


class Clock:
    """A clock that stands until it is moved; to sleep moves it."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


@contextlib.contextmanager
def installed(store):
    """Put a store in the place of TensorFlow's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stores, "_tensorflows", store)
        yield store


def pieces_of(store, path=JOURNAL):
    """Return the names of the pieces of a file, in their order."""
    return [name for name in store.names(str(path.parent)) if name.startswith(path.name)]


def put(store, begin, data, writer="aaaaaaaa", claimed=None):
    """Put a piece there, which may claim to be longer than it is."""
    name = piece_of(JOURNAL.name, begin, begin + (claimed or len(data)), writer).name
    store.write(f"{FOLDER}/{name}", data)
    return name


def content(store):
    """Return what the pieces of the journal are together."""
    file = PiecedFile(str(JOURNAL))
    return file.read(0, file.size())


def opened_pieces():
    """Return the journal, opened to append to, and its clock."""
    clock = Clock()
    return AppendedPieces(JOURNAL, clock=clock, sleep=clock.sleep), clock
