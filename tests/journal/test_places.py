"""What a path or a URL stands for, and what is said of one that stands for nothing."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_adaptive_weights as kaw
from keras_adaptive_weights.journal.places import Url, found, is_url, place
from keras_adaptive_weights.journal.stores import TensorFlowStore


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("runs/1", Path("runs/1")),
        (Path("runs/1"), Path("runs/1")),
        ("file:///runs/a%20b", Path("/runs/a b")),
        ("file://localhost/runs/1", Path("/runs/1")),
        ("fake://bucket/runs/1/", Url("fake://bucket/runs/1")),
        ("FAKE://bucket/runs/1", Url("fake://bucket/runs/1")),
        (Url("fake://bucket"), Url("fake://bucket")),
        ("run:1/2", Path("run:1/2")),
    ],
)
def test_a_place(given, expected, store):
    assert place(given, "f") == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("s3://b/r", r"f: argument `path` .*path='s3://b/r' with scheme 's3'; there are \['fake'\].*tensorflow-io"),
        ("zz://b/r", r"scheme 'zz'; there are \['fake'\]\. Import what registers"),
        ("file://elsewhere/r", r"must be on this machine.*'file://elsewhere/r'"),
        (Path("gs://bucket/run"), r"has lost a slash, as in a `Path`\. Write `path='gs://bucket/run'`"),
        ("gs:/bucket/run", r"Write `path='gs://bucket/run'`"),
    ],
)
def test_no_place(given, told, store):
    with pytest.raises(ValueError, match=told):
        place(given, "f")


def test_a_url_has_the_parts_of_a_path():
    url = Url("fake://bucket/run/journal.jsonl")
    assert (url.name, url.stem, url.suffix) == ("journal.jsonl", "journal", ".jsonl")
    assert [str(url.parent), str(url.parent.parent), str(url.parent.parent.parent)] == [
        "fake://bucket/run",
        "fake://bucket",
        "fake://",
    ]
    assert url.parent / "journal.jsonl" == url == url.resolve() == url.absolute()
    assert Url("fake://") / "x" == Url("fake://x")
    assert (os.fspath(url), repr(url)) == (str(url), "Url('fake://bucket/run/journal.jsonl')")
    assert {url: 1}[Url(str(url))] == 1
    assert is_url(url)
    assert not any(map(is_url, ("runs/1", Path("gs://x"), b"gs://x", None)))


def test_what_is_in_a_folder_of_a_store_is_found_by_pattern(store):
    for name in ("a/adaptive_weights/journal.jsonl", "b/adaptive_weights/journal.jsonl.000000000000000-000000000001-x"):
        store.write(f"fake://runs/{name}", b"x")
    store.write("fake://runs/c/adaptive_weights/journal.jsonl.000000000000000-000000000000001-0123abcd", b"x")
    folders = [str(path.parent.parent) for path in found(Url("fake://runs"), "*/adaptive_weights/journal.jsonl")]
    assert folders == ["fake://runs/a", "fake://runs/c"]
    assert found(Url("fake://nowhere"), "*") == []


def test_a_file_in_a_store_is_read_and_sought_as_any_other(store):
    store.write("fake://b/f", bytes(range(256)) * 4096)
    store.write("fake://b/f.000000001048576-000000001048579-0123abcd", b"end")
    with Url("fake://b/f").open_to_read() as file:
        assert file.seek(0, io.SEEK_END) == (1 << 20) + 3
        file.seek(-5, io.SEEK_CUR)
        assert (file.read(2), file.read(), file.tell()) == (b"\xfe\xff", b"end", (1 << 20) + 3)
        file.seek(255)
        assert file.read(3) == b"\xff\x00\x01"
    assert Url("fake://b/f").stat().st_size == (1 << 20) + 3
    with pytest.raises(FileNotFoundError):
        Url("fake://b/g").open_to_read()


@pytest.mark.parametrize("read", [kaw.read_journal, kaw.replay], ids=lambda read: read.__name__)
def test_readers_say_that_there_is_no_journal_or_no_file_system(read, store):
    with pytest.raises(FileNotFoundError, match=r"fake://nowhere/journal\.jsonl"):
        read("fake://nowhere/journal.jsonl")
    with pytest.raises(ValueError, match="scheme 's3'"):
        read("s3://nowhere/journal.jsonl")


@pytest.mark.parametrize("layer", ["stub", "tensorflow"])
def test_every_file_layer_reads_ranges(layer, tmp_path, monkeypatch):
    """The stub is what stores are read with where TensorFlow is not installed."""
    if layer == "stub":
        from tensorboard.compat.tensorflow_stub.io import gfile
    else:
        from tensorflow.io import gfile
    monkeypatch.setattr("keras_adaptive_weights.journal.stores._gfile", lambda: gfile)
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 8)
    store = TensorFlowStore()
    assert store.about(str(path)).size == 2048
    assert store.read(str(path), 1000, 500) == path.read_bytes()[1000:1500]
    assert store.names(str(tmp_path)) == ["file"]
    assert store.is_object(str(path))
    assert next(store.walk(str(tmp_path)))[1] == ["file"]
    assert (store.schemes() is None) == (layer == "stub")
    for fails in (lambda: store.about(str(tmp_path / "no")), lambda: store.read(str(tmp_path / "no"), 0, 10)):
        with pytest.raises(FileNotFoundError, match="no"):
            fails()


def test_tensorflows_file_layer_writes_and_removes():
    store = TensorFlowStore()
    store.make_folder("ram://places/folder")
    store.write("ram://places/folder/a", b"long")
    store.write("ram://places/folder/a", b"new")
    assert store.read("ram://places/folder/a", 1, 9) == b"ew"
    assert store.about("ram://places/folder/a").size == 3
    assert not store.is_object("ram://places/folder")
    store.remove("ram://places/folder/a")
    assert store.names("ram://places/folder") == store.names("ram://nowhere") == []
    with pytest.raises(FileNotFoundError):
        store.remove("ram://places/folder/a")


def test_local_files_need_no_tensorflow_and_unknown_schemes_are_read_by_whoever_knows_them(tmp_path):
    code = (
        "import sys, keras_adaptive_weights as kaw\n"
        "try: kaw.read_journal(sys.argv[1])\n"
        "except FileNotFoundError: print(sorted({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'keras'}))"
    )
    for path in (tmp_path / "none.jsonl", (tmp_path / "none.jsonl").as_uri()):
        command = [sys.executable, "-c", code, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        assert done.stdout == "[]\n"
