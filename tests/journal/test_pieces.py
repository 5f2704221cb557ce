"""A file in closed pieces: how they are joined, read as one and told apart from what is none of the file."""

from __future__ import annotations

import pytest
from fake_store import JOURNAL, content, opened_pieces, pieces_of, put

from keras_adaptive_weights.journal.outbox import LostFileError
from keras_adaptive_weights.journal.pieces import PiecedFile


def test_many_small_pieces_become_one_and_a_full_one_stays(store):
    file, _ = opened_pieces()
    lines = [f"{number:09d}\n".encode() for number in range(200)]
    most = 0
    for line in lines:
        file.write(line)
        file.flush()
        most = max(most, len(pieces_of(store)))
        assert content(store).endswith(line)
    assert most <= 66
    file.write("y" * (1 << 20))
    file.flush()
    file.write("z")
    file.close()
    assert content(store) == b"".join(lines) + b"y" * (1 << 20) + b"z"
    assert [int(name.split(".")[-1].split("-")[1]) for name in pieces_of(store)] == [2000 + (1 << 20), 2001 + (1 << 20)]


def test_a_kill_before_the_small_pieces_are_removed_changes_nothing(store):
    put(store, 0, b"a\n"), put(store, 2, b"b\n")
    put(store, 0, b"a\nb\nc\n")
    assert content(store) == b"a\nb\nc\n"
    file, _ = opened_pieces()
    file.write("d\n")
    file.close()
    assert content(store) == b"a\nb\nc\nd\n"
    assert len(pieces_of(store)) == 2


def test_a_piece_that_was_to_replace_others_and_is_half_written_does_not(store):
    put(store, 0, b"a\n"), put(store, 2, b"b\n")
    put(store, 0, b"a\n", claimed=6)
    assert content(store) == b"a\nb\n"


@pytest.mark.parametrize("begin", [4, 10**14])
def test_an_object_that_claims_to_be_endless_or_far_away_is_none_of_the_file(begin, store):
    put(store, 0, b"a\nb\n")
    put(store, begin, b"c\n", claimed=10**14 if begin == 4 else None)
    assert content(store) == b"a\nb\n"


def test_what_is_missing_reads_as_lines_that_nobody_can_read(store):
    put(store, 0, b"a\n"), put(store, 200_000, b"b\n")
    file = PiecedFile(str(JOURNAL))
    assert file.size() == 200_002
    whole = file.read(0, 200_002)
    assert whole == b"".join(file.read(at, 1000) for at in range(0, 200_002, 1000))
    lines = whole.splitlines(keepends=True)
    assert (lines[0], lines[-1], len(lines)) == (b"a\n", b"b\n", 6)
    assert {line.strip(b"\0") for line in lines[1:-1]} == {b"\n"}
    assert max(map(len, lines)) <= 1 << 16


def test_a_reader_asks_again_for_what_was_replaced_between_two_questions(store):
    put(store, 0, b"a\n"), put(store, 2, b"b\n")
    file = PiecedFile(str(JOURNAL))
    assert file.size() == 4
    store.objects.clear()
    put(store, 0, b"a\nb\nc\n", "bbbbbbbb")
    assert file.read(0, 4) == b"a\nb\n"


def test_a_store_that_lists_late_is_believed_when_it_is_asked(store, monkeypatch):
    file, _ = opened_pieces()
    file.write("one\n")
    file.flush()
    with monkeypatch.context() as patch:
        patch.setattr(store, "names", lambda folder: [])
        file.write("two\n")
        file.flush()
    file.close()
    assert content(store) == b"one\ntwo\n"


@pytest.mark.parametrize("how", ["taken over", "deleted"])
def test_the_older_of_two_writers_stops_and_so_does_one_whose_file_is_gone(how, store, caplog):
    file, _ = opened_pieces()
    file.write("one\n")
    file.flush()
    if how == "deleted":
        store.objects.clear()
    else:
        other, _ = opened_pieces()
        other.write("two\n")
        other.close()
    after = content(store) if store.objects else b""
    file.write("three\n")
    file.hasten()
    file.tend()
    with pytest.raises(LostFileError, match="deleted or replaced" if how == "deleted" else "another process, too"):
        file.write("four\n")
    with pytest.raises(LostFileError):
        file.close()
    assert caplog.records == []  # whoever writes is told
    assert (content(store) if store.objects else b"") == after


def test_a_writer_shows_that_it_lives_while_there_is_nothing_to_write(store):
    file, clock = opened_pieces()
    store.now = clock
    file.write("one\n")
    file.flush()
    assert JOURNAL.stat().st_mtime == 0.0
    signs = set()
    for second in range(100):
        clock.now = float(second)
        file.tend()
        signs.add(JOURNAL.stat().st_mtime)
    assert signs == {0.0, 30.0, 60.0, 90.0}
    assert content(store) == b"one\n"
    store.fail = OSError("503")
    clock.now = 200.0
    file.tend()
    store.fail = None
    file.write("two\n")
    file.close()
    assert f"{JOURNAL}.alive" not in store.objects
    assert content(store) == b"one\ntwo\n"
