"""What lies in a run's folder is opened without waiting, read without end, and parsed without a crash."""

import os
import socket
from pathlib import Path

import pytest

from keras_adaptive_weights.journal.regular_files import open_regular, parse_json, read_regular


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to("file")
    for name in ("file", "link"):
        assert read_regular(tmp_path / name, 7) == b"content"
        with open_regular(tmp_path / name) as file:
            file.seek(3)
            assert file.read() == b"tent"


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (os.mkfifo, "a pipe"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (lambda path: path.symlink_to("/dev/tty"), "device"),
        (os.mkdir, "Is a directory"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "No such file"),
        (make_socket, "No such device"),
    ],
)
def test_anything_else_is_refused_at_once(tmp_path, monkeypatch, make, said):
    monkeypatch.chdir(tmp_path)
    make(path := tmp_path / "x")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for read in (open_regular, lambda path: read_regular(path, 10)):
        with pytest.raises(OSError, match=said):
            read(path)
    assert len(list(Path("/proc/self/fd").iterdir())) == before, "no descriptor is left open"


def test_no_more_is_read_than_a_small_file_may_hold(tmp_path):
    path = tmp_path / "endless"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="larger than 100 bytes"):
        read_regular(path, 100)


@pytest.mark.parametrize("data", [b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe\xfd", b"", b"{", b"9" * 5000])
def test_what_cannot_be_parsed_is_one_kind_of_error(data):
    with pytest.raises(ValueError, match=r"."):
        parse_json(data)


def test_json_is_parsed():
    assert parse_json(b'{"a": [1, "\\ud800"]}') == {"a": [1, "\ud800"]}
