"""A journal in a store that cannot append: what readers make of it, and runs that are resumed, killed or refused."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dashboard_runs import RunMaker
from fake_store import FOLDER, JOURNAL, FakeStore, content, installed, pieces_of
from process_store import FolderStore

import keras_adaptive_weights as kaw
from keras_adaptive_weights.journal.index import JournalIndex


def run_of(maker):
    return maker.observe(300).by_hand("disable", "clipping").observe(40, per_execution=4).by_hand("enable", "").close()


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


def test_a_store_that_cannot_be_written_is_told_when_the_journal_is_opened(store):
    store.write = lambda path, data: (_ for _ in ()).throw(PermissionError("403"))
    with pytest.raises(PermissionError, match="403"):
        RunMaker(None, path=JOURNAL)


def test_another_run_is_refused_and_one_that_cannot_be_resumed_is_moved_aside(store):
    RunMaker(None, path=JOURNAL, run="run-a").observe(5).close()
    with pytest.raises(ValueError, match=r"'fake://bucket/run/adaptive_weights/journal.jsonl' belongs to another run"):
        RunMaker(None, path=JOURNAL, run="run-b")
    maker = RunMaker(None, path=FOLDER / "c" / "journal.jsonl", run="run-c").observe(5)
    maker._writer.close(interrupted=True)
    RunMaker(None, path=FOLDER / "c" / "journal.jsonl", run="run-d").observe(7).close()
    assert kaw.read_journal(FOLDER / "c" / "journal.jsonl").headers[0].run == "run-d"
    assert store.names(str(FOLDER / "c" / "abandoned")) == ["journal-run-c-after-step-0.jsonl"]


KILLED = """
import sys
sys.path[:0] = sys.argv[2:]
from dashboard_runs import RunMaker
from fake_store import JOURNAL, installed
from keras_adaptive_weights.journal import outbox
from process_store import FolderStore

outbox._DUE_SECONDS = outbox._TICK_SECONDS = 0.02
with installed(FolderStore(sys.argv[1], slow=True)) as store:
    maker = RunMaker(None, path=JOURNAL)
    while True:
        maker.observe(1).flush()
        print(maker.step, len(store.written), flush=True)
"""


@pytest.mark.parametrize("pieces", [3, 70])
def test_a_killed_process_leaves_a_journal_that_is_read_and_gone_on_with(pieces, tmp_path):
    """Killed at any moment of writing, joining or removing pieces, in a store that shows what is half written."""
    support = str(Path(__file__).parents[1] / "support")
    command = [sys.executable, "-c", KILLED, str(tmp_path), support]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            step, written = map(int, line.split())
            if written >= pieces:
                process.kill()
                break
    with installed(FolderStore(tmp_path)):
        journal, index = kaw.read_journal(JOURNAL), JournalIndex(JOURNAL)
        index.refresh()
        last = len(journal.observations)
        assert steps_in(JOURNAL) == list(range(1, last + 1))
        assert index.spans[-1].last == last
        assert 0 < last <= step + 2
        assert [problem for problem in journal.problems if "was cut off" not in problem] == []
        maker = RunMaker(None, path=JOURNAL)
        maker._writer.close()
        assert steps_in(JOURNAL) == []  # from its beginning: the whole record is in `abandoned`


def test_whatever_becomes_of_its_pieces_a_journal_is_read_or_refused(store, seeds):
    """Removed, cut short, doubled or of another writer: steps are never out of order, and never made up."""
    maker = RunMaker(None, path=JOURNAL)
    for _ in range(8):
        maker.observe(12).flush()._writer._file.flush()
    state = maker.state
    maker.close()
    whole, names = dict(store.objects), [f"{FOLDER}/{name}" for name in pieces_of(store)]
    for seed in seeds:
        draw = random.Random(seed)
        store.objects = dict(whole)
        for path in draw.sample(names, draw.randint(1, 4)):
            data = store.objects.pop(path)
            match draw.choice(("removed", "short", "other writer", "claims more", "claims less")):
                case "short":
                    store.objects[path] = data[: draw.randrange(len(data))]
                case "other writer":
                    store.objects |= {path: data, f"{path[:-8]}{'0' * 8}": data[: draw.randrange(len(data))]}
                case "claims more":
                    end = int(path[-24:-9])
                    store.objects[f"{path[:-24]}{end + draw.randrange(1, 9999):015d}{path[-9:]}"] = data
                case "claims less":
                    end = int(path[-24:-9])
                    store.objects[f"{path[:-24]}{end - draw.randrange(1, 99):015d}{path[-9:]}"] = data
        try:
            steps = steps_in(JOURNAL)
        except ValueError:  # no header any more
            continue
        assert steps == sorted(set(steps)), seed
        assert set(steps) <= set(range(1, 97)), seed
        index = JournalIndex(JOURNAL)
        index.refresh()
        assert [span.last for span in index.spans] == sorted(span.last for span in index.spans), seed
        again = RunMaker(None, path=JOURNAL)
        again.observe(2).close()
        again.resume(state)
        again.observe(3).close()
        assert steps_in(JOURNAL)[-3:] == [97, 98, 99], seed
