"""A journal in a store that cannot append: its pieces, what readers make of them, and a store that does not behave."""

from __future__ import annotations

import logging
import threading

import pytest
from dashboard_runs import RunMaker
from fake_store import Clock, FakeStore, installed

import keras_adaptive_weights as kaw
from keras_adaptive_weights.journal.appended_pieces import AppendedPieces
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.outbox import OLDEST_SECONDS, LostFileError, Outbox
from keras_adaptive_weights.journal.pieces import PiecedFile, piece_of
from keras_adaptive_weights.journal.places import Url

JOURNAL = Url("fake://bucket/run/adaptive_weights/journal.jsonl")
FOLDER = JOURNAL.parent


@pytest.fixture
def store():
    with installed(FakeStore()) as store:
        yield store


def pieces_of(store, path=JOURNAL):
    return [name for name in store.names(str(path.parent)) if name.startswith(path.name)]


def put(store, begin, data, writer="aaaaaaaa", claimed=None):
    """Put a piece there, which may claim to be longer than it is."""
    name = piece_of(JOURNAL.name, begin, begin + (claimed or len(data)), writer).name
    store.write(f"{FOLDER}/{name}", data)
    return name


def content(store):
    file = PiecedFile(str(JOURNAL))
    return file.read(0, file.size())


def run_of(maker):
    return maker.observe(300).by_hand("disable", "clipping").observe(40, per_execution=4).by_hand("enable", "").close()


def step_file(**kwargs):
    clock = Clock()
    return AppendedPieces(JOURNAL, clock=clock, sleep=clock.sleep, **kwargs), clock


def steps_in(journal):
    return [seen.step for seen in kaw.read_journal(journal).observations]


def test_readers_take_the_pieces_as_the_journal_that_a_local_run_has(store, tmp_path):
    stored, local = run_of(RunMaker(None, path=JOURNAL)), run_of(RunMaker(tmp_path))
    assert len(pieces_of(store)) > 1
    journal = kaw.read_journal(str(JOURNAL))
    assert repr(journal) == repr(kaw.read_journal(local.journal))
    assert repr(kaw.replay(str(JOURNAL))) == repr(kaw.replay(local.journal))
    index, other = JournalIndex(JOURNAL), JournalIndex(local.journal)
    index.refresh(), other.refresh()
    assert [span.block for span in index.spans] == [span.block for span in other.spans]
    assert (index.ended, index.problems, index.size) == (True, 0, len(content(store)))
    assert b"".join(store.objects[f"{FOLDER}/{name}"] for name in pieces_of(store)) == content(store)
    assert stored.events == local.events


@pytest.mark.parametrize("whole", [False, True])
def test_a_resumed_run_goes_on_after_the_last_whole_piece(whole, store, tmp_path):
    """Also where a local run was copied there, of which there are no pieces but the whole file."""
    maker = RunMaker(tmp_path if whole else None, path=None if whole else JOURNAL).observe(100)
    state = maker.state
    maker.observe(60).close()
    if whole:
        store.write(str(JOURNAL), maker.journal.read_bytes())
        maker.journal = JOURNAL
    maker.resume(state).observe(20).close()
    assert steps_in(JOURNAL) == list(range(1, 121))
    (abandoned,) = store.names(str(FOLDER / "abandoned"))
    assert abandoned == "journal-run-a-after-step-100.jsonl"
    assert steps_in(FOLDER / "abandoned" / abandoned) == list(range(101, 161))
    assert kaw.read_journal(JOURNAL).problems == []


def test_what_is_taken_back_twice_is_kept_twice(store):
    maker = RunMaker(None, path=JOURNAL).observe(10)
    state = maker.state
    for _ in range(2):
        maker.observe(5).resume(state)
    maker.close()
    abandoned = store.names(str(FOLDER / "abandoned"))
    assert abandoned == ["journal-run-a-after-step-10-2.jsonl", "journal-run-a-after-step-10.jsonl"]
    assert all(steps_in(FOLDER / "abandoned" / name) == list(range(11, 16)) for name in abandoned)
    assert steps_in(JOURNAL) == list(range(1, 11))


@pytest.mark.parametrize(("what", "number"), [("write", 2), ("remove", 1), ("remove", 2)])
def test_a_kill_while_a_resumed_run_takes_lines_back_leaves_them_in_both_places(what, number, store, monkeypatch):
    maker = RunMaker(None, path=JOURNAL).observe(100)
    state = maker.state
    maker.observe(60).flush()
    maker._writer._file.flush()
    maker.observe(60).close()
    before = content(store)

    asked = []

    def killed(*args):
        asked.append(args[0])
        if len(asked) == number:
            raise KeyboardInterrupt
        return getattr(FakeStore, what)(store, *args)

    with monkeypatch.context() as patch:
        patch.setattr(store, what, killed)
        with pytest.raises(KeyboardInterrupt):
            maker.resume(state)
    assert before.startswith(content(store))
    assert steps_in(JOURNAL)[:100] == list(range(1, 101))
    maker.resume(state).observe(20).close()
    assert steps_in(JOURNAL) == list(range(1, 121))
    assert steps_in(FOLDER / "abandoned" / "journal-run-a-after-step-100.jsonl") == list(range(101, 221))


def test_at_most_ten_seconds_are_lost_when_a_process_is_killed(store):
    file, clock = step_file()
    written = {}
    for second in range(1, 101):
        clock.now = float(second)
        file.write(f"{second}\n")  # a second after it was seen: the backlog's
        file._outbox.tend()  # the thread does it once a second
        stored = content(store).split() if store.objects else [b"0"]
        written[second] = int(stored[-1])
    assert max(second - stored for second, stored in written.items()) == OLDEST_SECONDS - 2.0
    assert len(pieces_of(store)) == 11
    assert content(store) == b"".join(b"%d\n" % second for second in range(1, written[100] + 1))
    file.close()
    assert content(store).endswith(b"\n100\n")


def test_a_writer_shows_that_it_lives_while_there_is_nothing_to_write(store):
    file, clock = step_file()
    store.now = clock
    file.write("one\n")
    file.flush()
    assert JOURNAL.stat().st_mtime == 0.0
    signs = set()
    for second in range(100):
        clock.now = float(second)
        file._outbox.tend()
        signs.add(JOURNAL.stat().st_mtime)
    assert signs == {0.0, 30.0, 60.0, 90.0}
    assert content(store) == b"one\n"
    store.fail = OSError("503")
    clock.now = 200.0
    file._outbox.tend()
    store.fail = None
    file.write("two\n")
    file.close()
    assert f"{JOURNAL}.alive" not in store.objects
    assert content(store) == b"one\ntwo\n"


def test_an_event_is_stored_at_once_and_many_bytes_are(store):
    file, _ = step_file()
    file.write("step\n")
    file._outbox.tend()
    assert store.objects == {}
    file.hasten()
    file._outbox.tend()
    assert content(store) == b"step\n"
    file.write("x" * (1 << 20))
    file._outbox.tend()
    assert len(content(store)) == 5 + (1 << 20)
    file.close()


@pytest.mark.parametrize("by", ["event", "save", "close"])
def test_the_writer_asks_for_it_at_events_at_saves_and_at_the_end(by, store):
    maker = RunMaker(None, path=JOURNAL).observe(3).flush()
    asked = []
    maker._writer._file.hasten = lambda: asked.append(True)
    if by == "event":
        maker.by_hand("disable", "clipping")
    elif by == "save":
        maker._writer.note_save(3)
    else:
        maker.close()
    assert asked == [True]
    maker.close()


def test_the_training_never_waits_for_a_slow_store(store):
    maker = RunMaker(None, path=JOURNAL)
    store.slow = threading.Event()  # from now on it does not answer
    maker.observe(600).by_hand("disable", "clipping")
    maker._writer.note_save(600)
    maker.observe(600)
    assert not store.slow.is_set()
    store.slow.set()
    maker.close()
    assert steps_in(JOURNAL) == list(range(1, 1201))


def test_many_small_pieces_become_one_and_a_full_one_stays(store):
    file, _ = step_file()
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
    file, _ = step_file()
    file.write("d\n")
    file.close()
    assert content(store) == b"a\nb\nc\nd\n"
    assert len(pieces_of(store)) == 2


def test_a_piece_that_was_to_replace_others_and_is_half_written_does_not(store):
    put(store, 0, b"a\n"), put(store, 2, b"b\n")
    put(store, 0, b"a\n", claimed=6)
    assert content(store) == b"a\nb\n"


def test_a_last_piece_that_is_half_written_is_a_line_cut_off(store):
    maker = RunMaker(None, path=JOURNAL).observe(30).flush()
    maker._writer._file.flush()
    state = maker.state
    maker.observe(10).close()
    *_, last = (path for path in sorted(store.objects) if b'"step": 40,' in store.objects[path])
    store.objects[last] = store.objects[last][: len(store.objects[last]) // 2]
    journal = kaw.read_journal(JOURNAL)
    assert "was cut off; it is left out" in journal.problems[0]
    assert steps_in(JOURNAL) == list(range(1, 1 + len(journal.observations)))
    assert 30 <= len(journal.observations) < 40
    index = JournalIndex(JOURNAL)
    index.refresh()
    assert index.spans[-1].last == len(journal.observations)
    maker.resume(state).observe(5).close()
    assert steps_in(JOURNAL) == list(range(1, 36))
    assert kaw.read_journal(JOURNAL).problems == []


def test_a_run_whose_first_piece_is_half_written_begins_anew(store):
    RunMaker(None, path=JOURNAL).close()
    first, second = (f"{FOLDER}/{name}" for name in pieces_of(store))
    del store.objects[second]
    store.objects[first] = store.objects[first][:100]
    with pytest.raises(ValueError, match="does not begin with the header"):
        kaw.read_journal(JOURNAL)
    RunMaker(None, path=JOURNAL, run="run-b").observe(3).close()
    assert steps_in(JOURNAL) == [1, 2, 3]
    assert store.objects[f"{FOLDER}/abandoned/journal-unknown-after-step-0.jsonl"].startswith(b'{"kind": "header"')


@pytest.mark.parametrize("how", ["missing", "half"])
def test_a_piece_in_the_middle_that_is_damaged_costs_its_own_lines_only(how, store):
    maker = RunMaker(None, path=JOURNAL)
    for _ in range(3):
        maker.observe(10).flush()
        maker._writer._file.flush()
    maker.close()
    second = f"{FOLDER}/{pieces_of(store)[2]}"
    assert b'"step": 11,' in store.objects[second]
    if how == "missing":
        del store.objects[second]
    else:
        store.objects[second] = store.objects[second][:-1]
    journal, index = kaw.read_journal(JOURNAL), JournalIndex(JOURNAL)
    index.refresh()
    steps = [seen.step for seen in journal.observations]
    assert steps == ([*range(1, 11), *range(21, 31)] if how == "missing" else list(range(1, 31)))
    assert len(journal.problems) == index.problems == (how == "missing")
    assert index.spans[-1].last == 30


def test_an_index_follows_while_pieces_come_and_are_replaced(store):
    maker, index = RunMaker(None, path=JOURNAL), JournalIndex(JOURNAL)
    for number in range(1, 81):
        maker.observe(1).flush()
        maker._writer._file.flush()
        assert index.refresh()
        assert index.spans[-1].last == number
        assert not index.refresh()
    assert (index.generation, index.problems) == (0, 0)
    maker.close()


def test_an_index_follows_a_resumed_run(store):
    maker, index = RunMaker(None, path=JOURNAL).observe(40), JournalIndex(JOURNAL)
    state = maker.state
    maker.observe(30).flush()._writer._file.flush()
    index.refresh()
    assert index.spans[-1].last == 70
    maker.resume(state).observe(5).close()
    index.refresh()
    assert (index.spans[-1].last, index.generation, index.problems, index.ended) == (45, 1, 0, True)


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


def test_a_store_that_fails_for_a_while_is_tried_again_and_loses_nothing(store, caplog):
    file, clock = step_file()
    store.fail = OSError("503")
    with caplog.at_level(logging.WARNING):
        for second in range(300):
            clock.now = float(second)
            file.write(f"{second}\n")
            file._outbox.tend()
        asked = store.told.count("names")
        store.fail = None
        clock.now = 400.0
        file._outbox.tend()
    file.close()
    assert content(store) == b"".join(b"%d\n" % second for second in range(300))
    assert 5 <= asked <= 15  # later each time
    assert [record.message.rpartition("' ")[2] for record in caplog.records] == [
        "cannot be stored, and is kept in memory until it can: 503",
        "is stored again.",
    ]


def test_a_write_that_fails_half_way_is_replaced(store):
    file, clock = step_file()
    store.fail, store.half = OSError("reset by peer"), True
    store.names = lambda folder: sorted(path[len(folder) + 1 :] for path in store.objects)
    file.write("one\n")
    file.hasten()
    file._outbox.tend()
    assert len(store.objects) == 1
    store.fail = None
    clock.now = 100.0
    file.write("two\n")
    file.close()
    assert content(store) == b"one\ntwo\n"
    assert len(pieces_of(store)) == 1


def test_a_store_that_never_answers_again_is_given_up_after_ten_minutes(store):
    file, clock = step_file()
    store.fail = OSError("no space left")

    def write_on():
        for second in range(1000):
            clock.now = float(second)
            file.write("step\n")
            file._outbox.tend()

    with pytest.raises(OSError, match="no space left"):
        write_on()
    assert 600.0 <= clock.now <= 680.0


def test_a_store_that_is_too_slow_is_given_up_at_64_mebibytes(store, monkeypatch):
    monkeypatch.setattr("keras_adaptive_weights.journal.outbox._MOST_WAITING_BYTES", 1000)
    file, _ = step_file()
    file.write("x" * 1001)
    with pytest.raises(OSError, match="cannot be stored as fast as it grows"):
        file.write("x")


def test_a_store_that_lists_late_is_believed_when_it_is_asked(store, monkeypatch):
    file, _ = step_file()
    file.write("one\n")
    file.flush()
    with monkeypatch.context() as patch:
        patch.setattr(store, "names", lambda folder: [])
        file.write("two\n")
        file.flush()
    file.close()
    assert content(store) == b"one\ntwo\n"


def test_at_the_end_it_is_tried_for_a_minute(store):
    file, clock = step_file()
    file.write("one\n")
    store.fail = OSError("no space left")
    with pytest.raises(OSError, match="no space left"):
        file.close()
    assert 60.0 <= clock.now <= 62.0


def test_a_store_that_cannot_be_written_is_told_when_the_journal_is_opened(store):
    store.write = lambda path, data: (_ for _ in ()).throw(PermissionError("403"))
    with pytest.raises(PermissionError, match="403"):
        RunMaker(None, path=JOURNAL)


@pytest.mark.parametrize("how", ["taken over", "deleted"])
def test_the_older_of_two_writers_stops_and_so_does_one_whose_file_is_gone(how, store):
    file, _ = step_file()
    file.write("one\n")
    file.flush()
    if how == "deleted":
        store.objects.clear()
    else:
        other, _ = step_file()
        other.write("two\n")
        other.close()
    after = content(store) if store.objects else b""
    file.write("three\n")
    file.hasten()
    file._outbox.tend()
    with pytest.raises(LostFileError, match="deleted or replaced" if how == "deleted" else "another process, too"):
        file.write("four\n")
    with pytest.raises(LostFileError):
        file.close()
    assert (content(store) if store.objects else b"") == after


def test_another_run_is_refused_and_one_that_cannot_be_resumed_is_moved_aside(store):
    RunMaker(None, path=JOURNAL, run="run-a").observe(5).close()
    with pytest.raises(ValueError, match=r"'fake://bucket/run/adaptive_weights/journal.jsonl' belongs to another run"):
        RunMaker(None, path=JOURNAL, run="run-b")
    maker = RunMaker(None, path=FOLDER / "c" / "journal.jsonl", run="run-c").observe(5)
    maker._writer.close(interrupted=True)
    RunMaker(None, path=FOLDER / "c" / "journal.jsonl", run="run-d").observe(7).close()
    assert kaw.read_journal(FOLDER / "c" / "journal.jsonl").headers[0].run == "run-d"
    assert store.names(str(FOLDER / "c" / "abandoned")) == ["journal-run-c-after-step-0.jsonl"]


def test_an_outbox_in_order_of_what_it_was_given():
    taken, clock = [], Clock()
    outbox = Outbox(taken.append, "it", clock=clock, sleep=clock.sleep)
    outbox.add(b"a")
    outbox.add(b"b")
    outbox.flush()
    outbox.add(b"c")
    outbox.close()
    outbox.close()
    assert (taken, outbox.waiting) == ([b"ab", b"c"], 0)
