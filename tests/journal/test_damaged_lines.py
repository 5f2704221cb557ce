"""Journals with damaged bytes: whoever reads one or goes on with it ends soon and says in a sentence what is wrong."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path

import pytest
from dashboard_runs import CONFIG, RunMaker
from mutations import mutated

from keras_adaptive_weights import read_journal, replay
from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.deciding.state import ControllerState, initial_state
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.writer import JournalWriter
from keras_adaptive_weights.recording.lost_disable import lost_disables
from keras_adaptive_weights.recording.what_if import what_if
from keras_adaptive_weights.showing.view import view

OLDER = Path(__file__).parents[1] / "data" / "before_the_wings" / "run" / "adaptive_weights" / "journal.jsonl"
LONGEST = 10.0


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """The bytes of three journals: a run that was resumed, one with everything asked by hand, and an older one."""
    maker = RunMaker(tmp_path_factory.mktemp("resumed"), seed=4).observe(400)
    state = maker.state
    maker.observe(150).by_hand("disable", "lost").resume(state).observe(200).close()
    asked = RunMaker(tmp_path_factory.mktemp("asked"), seed=5).observe(160, per_execution=8).by_hand("disable", "x")
    for action in ("enable", "rollback", "reset", "recover"):
        asked.by_hand(action, "\x1b[2J").observe(30)
    asked.close()
    return [maker.journal.read_bytes(), asked.journal.read_bytes(), OLDER.read_bytes()]


@pytest.mark.timeout(7200)
def test_whatever_a_disk_gives_back_is_read_or_refused_in_a_sentence(seeds, originals, tmp_path):
    """By read_journal, replay and what-if, and by a run that goes on with it; what is shown is in `tests/showing`."""
    refused = 0
    for seed in seeds:
        data = mutated(originals[seed % len(originals)], seed)
        begin = time.perf_counter()
        refused += not read_and_replayed(tmp_path / "journal.jsonl", data)
        goes_on(tmp_path / f"{seed}", data)
        assert time.perf_counter() - begin < LONGEST, seed
    assert refused < len(seeds), "most of a journal can be read whatever happened to a part of it"


def read_and_replayed(path, data):
    """Read and replay; return whether it could be read."""
    path.write_bytes(data)
    try:
        journal = read_journal(path)
    except ValueError:
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_journal(path)
        return False
    assert len(journal.weights) == len(journal.observations)
    assert all(0.0 < weight < math.inf for weight in journal.weights)
    assert all(isinstance(seen, Observation) and isinstance(seen.loss, float) for seen in journal.observations)
    assert all(isinstance(problem, str) and len(problem) < 2000 for problem in journal.problems)
    assert len({header.run for header in journal.headers}) == 1
    assert all(isinstance(decision, Decision) for decision in replay(journal))
    what_if(journal)
    what_if(journal, CONFIG)
    return True


def goes_on(folder, data):
    """A run that is resumed from it, with a journal in `abandoned/` that is damaged the same way."""
    path = folder / "journal.jsonl"
    (folder / "abandoned").mkdir(parents=True)
    (folder / "abandoned" / "journal-x-after-step-1.jsonl").write_bytes(data)
    path.write_bytes(data)
    state = ControllerState(weight=2.5, base_weight=2.5, step=100)
    header = Header.of("run-a", "mel_loss", 2.5, CONFIG, state.to_dict())
    try:
        writer = JournalWriter(path, header)
    except ValueError:
        with pytest.raises(ValueError, match="belongs to another run"):
            JournalWriter(path, header)
        assert path.read_bytes() == data
        return
    lost_disables(path, 100)
    writer.close()
    after = path.read_bytes()
    kept = after[: after.rindex(b'{"kind": "header"')]
    assert data.startswith(kept)
    aside = [other for other in (folder / "abandoned").iterdir() if "x-after" not in other.name]
    assert len(aside) == (len(kept) < len(data))
    for other in aside:
        assert other.read_bytes().endswith(data[len(kept) :]), "nothing is lost"


@pytest.mark.parametrize("kind", ["block", "event", "end"])
def test_a_first_line_of_two_kinds_is_no_header(kind, originals, tmp_path):
    line = next(
        line for line in originals[0].splitlines(keepends=True) if line.startswith(f'{{"kind": "{kind}"'.encode())
    )
    path = tmp_path / "journal.jsonl"
    path.write_bytes(line.replace(b'{"kind"', b'{"kind": "header", "kind"', 1))
    for read in (read_journal, lambda path: JournalIndex(path).refresh()):
        with pytest.raises(ValueError, match="does not begin with the header of a journal"):
            read(path)


def changed(old, new):
    """A journal with something else in its header."""
    return lambda path, data: path.write_bytes(data.replace(old, new))


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda path, _: path.mkdir(), OSError, "directory"),
        (lambda path, _: os.mkfifo(path), OSError, "a pipe"),
        (lambda path, _: path.symlink_to("/dev/zero"), OSError, "a device"),
        (lambda path, _: path.write_bytes(b""), ValueError, "does not begin with the header"),
        (lambda path, _: path.write_bytes(b"\0" * 5000), ValueError, "does not begin with the header"),
        (lambda path, _: path.write_bytes(b"[" * 5_000_000), ValueError, "does not begin with the header"),
        (changed(b'"format": 2', b'"format": 3'), ValueError, "newer version"),
        (changed(b'"format": 2', b'"format": true'), ValueError, "`format`"),
        (changed(b'"weight": 2.5, "config"', b'"weight": 9e9, "config"'), ValueError, "9"),
        (changed(b'"max_weight": 5.0', b'"max_weight": 2.0'), ValueError, "2.5"),
        (changed(b'"cooling_period"', b'"tempo"'), ValueError, "tempo"),
        (changed(b'"state": {', b'"state": [{'), ValueError, "line 1|header"),
        (changed(b'"steps_since_change"', b'"moon"'), ValueError, "newer version"),
    ],
)
@pytest.mark.timeout(60)
def test_what_is_no_journal_is_refused_with_its_path(make, error, said, originals, tmp_path):
    path = tmp_path / "journal.jsonl"
    make(path, originals[0])
    with pytest.raises(error, match=said) as caught:
        read_journal(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000


STEP = b'{"kind": "step", "step": 7,'


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (STEP, b'{"kind": "step", "step": -7,', "field `step` must be an integer from 0"),
        (STEP, b'{"kind": "step", "step": 1e308,', "field `step` must be an integer from 0"),
        (STEP, b'{"kind": "step", "step": true,', "field `step` must be an integer from 0"),
        (STEP, b'{"kind": "step", "step": "7",', "field `step` must be an integer from 0"),
        (STEP, b'{"kind": "step", "step": ' + b"9" * 5000 + b",", "limit"),
        (STEP, b'{"kind": "step", "stdp": 7,', "field `step` is missing"),
        (STEP, STEP + b' "applied": 1, "w": ', r"."),
        (STEP, STEP + b' "deep": ' + b"[" * 100_000 + b"]" * 100_000 + b",", "nests too deeply"),
        (STEP, b"\xff\xfe" + STEP, "."),
        (STEP, b'{"kind": "moon", "step": 7,', r"it is of no known kind \('moon'\)"),
        (STEP, b'{"kind": ["step"], "step": 7,', "it is of no known kind"),
        (STEP, b'["kind", "step", 7], {"a":', "."),
    ],
)
def test_a_step_that_is_none_is_left_out_and_named(old, new, said, originals, tmp_path):
    path = tmp_path / "journal.jsonl"
    lines = originals[0].splitlines(keepends=True)
    at = next(number for number, line in enumerate(lines) if line.startswith(old))
    lines[at] = lines[at].replace(old, new)
    path.write_bytes(b"".join(lines))
    journal = read_journal(path)
    steps = [seen.step for seen in journal.observations]
    assert steps == [step for step in range(1, steps[-1] + 1) if step != 7]
    assert len(journal.problems) == 1
    assert re.search(rf"^line {at + 1} cannot be read \(.*{said}", journal.problems[0])


def test_two_runs_in_one_file_do_not_mix(originals, tmp_path):
    path = tmp_path / "journal.jsonl"
    other = RunMaker(tmp_path / "other", run="run-b", seed=9).observe(50).close().journal.read_bytes()
    path.write_bytes(originals[0] + other)
    journal = read_journal(path)
    (problem,) = journal.problems
    assert "begins another run ('run-b'); what follows is left out" in problem
    path.write_bytes(originals[0])
    assert len(read_journal(path).observations) == len(journal.observations)
    path.write_bytes(originals[0] + other)
    index = JournalIndex(path)
    for _ in range(2):
        index.refresh()
        assert index.spans[-1].last == 600
        assert {header["run"] for header in index.headers} == {"run-a"}
        assert (index.problems, len(index.problem_texts)) == (1, 1)
        assert "another run begins there ('run-b')" in index.problem_texts[0]


def test_a_block_that_lies_is_not_believed(originals, tmp_path):
    """Its steps are counted where they are."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(originals[0])
    index = JournalIndex(path)
    index.refresh()
    honest = view(index, points=1)
    for old, new in (
        (b'"steps": 256', b'"steps": 999999999999'),
        (b'"first": 1, "last": 256, "steps": 256', b'"first": 1, "last": 999999, "steps": 900000'),
        (b'"first": 1,', b'"fhrst": 1,'),
        (b'"phases": [[', b'"phases": [], "p": [['),
        (b'"reasons": {', b'"reasons": {"moon": 0, '),
        (b'"kind": "block"', b'"kind": "blocc"'),
    ):
        assert old in originals[0]
        path.write_bytes(originals[0].replace(old, new, 1))
        index = JournalIndex(path)
        index.refresh()
        seen = view(index, points=1)
        assert (seen.first, seen.last, seen.steps) == (honest.first, honest.last, honest.steps)
        assert seen.reasons == honest.reasons
        assert index.problems == len(index.problem_texts) == 1


def test_a_damaged_block_takes_no_steps_of_its_neighbours_with_it(tmp_path):
    """Four blocks, of which any may be damaged, or two of them."""
    maker = RunMaker(tmp_path, seed=6).observe(1100).by_hand("disable", "x").observe(100).close()
    data = maker.journal.read_bytes()
    index = JournalIndex(maker.journal)
    index.refresh()
    honest = view(index, points=1)
    starts = [match.start() for match in re.finditer(rb'\{"kind": "block"', data)]
    assert len(starts) == 4
    for damaged in ((0,), (1,), (3,), (0, 1), (1, 3)):
        copy = bytearray(data)
        for number in damaged:
            copy[starts[number] + 10] ^= 1
        maker.journal.write_bytes(copy)
        index = JournalIndex(maker.journal)
        index.refresh()
        seen = view(index, points=1)
        assert (seen.steps, seen.reasons, seen.bands) == (honest.steps, honest.reasons, honest.bands), damaged
        assert index.problems == len(damaged)


def test_very_many_problems_are_told_in_few_words(originals, tmp_path):
    path = tmp_path / "journal.jsonl"
    path.write_bytes(originals[0] + b"nonsense\n" * 5000)
    journal = read_journal(path)
    assert len(journal.problems) == 101
    assert journal.problems[-1] == "and 4900 more"


@pytest.mark.timeout(60)
def test_a_line_without_an_end_is_not_read_to_it(originals, tmp_path):
    """A file of a terabyte that holds nothing."""
    path = tmp_path / "journal.jsonl"
    path.write_bytes(originals[0])
    with path.open("r+b") as file:
        file.truncate(1 << 40)
    journal = read_journal(path)
    assert len(journal.observations) == 600
    assert "longer than" in journal.problems[-1]
    index = JournalIndex(path)
    for _ in range(2):
        index.refresh()
    assert index.spans[-1].last == 600
    assert "too long" in index.problem_texts[-1]
    state = initial_state(CONFIG, 2.5)._replace(step=600)
    with path.open("r+b") as file:
        file.truncate(len(originals[0]) + (1 << 24))
    JournalWriter(path, Header.of("run-a", "mel_loss", 2.5, CONFIG, state.to_dict())).close()
    assert path.stat().st_size < len(originals[0]) + 20_000
