"""A journal of several terms: written, read back whole, indexed term by term, cut and continued, decided again."""

import json
import math
from pathlib import Path

import pytest
from dashboard_runs import RunMaker
from journal_rows import rows_of, texts
from several_terms import SeveralTerms, eventful

from keras_adaptive_weights.deciding.decision import Action
from keras_adaptive_weights.journal.header import FORMAT
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.reader import read_journal
from keras_adaptive_weights.recording.lost_disable import AGAIN, lost_disables
from keras_adaptive_weights.recording.replay import replay
from keras_adaptive_weights.recording.what_if import what_if
from keras_adaptive_weights.showing.view import view


def index_of(path, term=None):
    index = JournalIndex(path, term=term)
    index.refresh()
    return index


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return eventful(tmp_path_factory.mktemp("run"))


@pytest.mark.parametrize("per_execution", [1, 4])
def test_all_is_decided_again_in_the_order_in_which_it_was(tmp_path, per_execution):
    run = eventful(tmp_path) if per_execution == 1 else SeveralTerms(tmp_path).observe(1200, per_execution).close()
    assert {event.term for event in run.events} == set(run.adaptive)
    assert texts(replay(run.journal)) == texts(run.decisions)


def test_a_journal_of_one_term_is_cut_out(run):
    journal = read_journal(run.journal)
    assert (journal.terms, journal.problems) == (list(run.adaptive), [])
    for term in run.adaptive:
        mine = journal.of(term)
        assert texts(mine.events) == texts(event for event in run.events if event.term == term)
        assert [seen.step for seen in mine.observations] == list(range(1, run.step + 1))
        assert mine.weights == [row["weight"] for row in rows_of(run.journal, term)]
        assert {seen.step for seen in mine.observations if seen.empty} == (
            set(range(91, run.step, 91)) if term == "stop_loss" else set()
        )
        assert texts(replay(mine)) == texts(decision for decision in run.decisions if decision.term == term)
        assert what_if(mine).same
    with pytest.raises(ValueError, match=r"must be one of \['mel_loss', .*Received: term='duration_loss'"):
        journal.of("duration_loss")
    with pytest.raises(ValueError, match=r"what_if: .* must be of one term.*`what_if\(journal.of\('mel_loss'\)\)`"):
        what_if(journal)


@pytest.mark.parametrize("term", ["mel_loss", "stop_loss", "pitch_loss"])
@pytest.mark.parametrize("points", [1, 50, 5000])
def test_the_index_of_a_term_says_what_its_lines_say(run, term, points):
    index = index_of(run.journal).of(term)
    mine = [event for event in run.events if event.term == term]
    assert [(e["step"], e["action"], e["new_weight"]) for e in index.events] == [
        (e.step, e.action, e.new_weight) for e in mine
    ]
    assert [event["index"] for event in index.events] == list(range(len(mine)))
    state = run.states[term]
    assert (index.term, index.weight, index.disabled, index.problems) == (term, state.weight, state.disabled, 0)
    assert index.headers[-1]["base_weight"] == run.adaptive[term]
    seen, rows = view(index, points=points), rows_of(run.journal, term)
    for figure in ("weight", "loss", "total_loss", "loss_ratio"):
        finite = [row[figure] for row in rows if isinstance(row.get(figure), (int, float))]
        assert min(value for value in seen.column(figure, "least") if not math.isnan(value)) == min(finite)
        assert max(value for value in seen.column(figure, "greatest") if not math.isnan(value)) == max(finite)
    held = [row["reason"] for row in rows if row.get("action") == "hold"]
    assert seen.reasons == {reason: held.count(reason) for reason in set(held)}


def test_the_index_knows_all_terms_and_reads_the_file_once(run):
    index = index_of(run.journal)
    assert (index.term, index.terms, index.fixed) == ("mel_loss", list(run.adaptive), run.fixed)
    assert [(event["step"], event["term"]) for event in index.all_events] == [(e.step, e.term) for e in run.events]
    fixed = view(index.of("duration_loss"), points=1)
    assert fixed.column("weight") == [0.1]
    assert fixed.column("loss", "greatest") == [max(row["loss"] for row in rows_of(run.journal, "duration_loss"))]
    size = index.size
    assert not index.of("stop_loss").refresh()
    assert index.of("stop_loss").size == size
    with pytest.raises(ValueError, match=r"no term 'pich_loss'; there are \['mel_loss'"):
        index.of("pich_loss")


def test_a_run_that_is_resumed_is_decided_again_and_nothing_stands_twice(tmp_path):
    run = SeveralTerms(tmp_path).observe(400)
    checkpoint = run.checkpoint
    run.observe(60).by_hand("disable", "lost", "stop_loss").observe(30)
    run.resume(checkpoint).observe(200).close()
    assert texts(replay(run.journal)) == texts(run.decisions)
    assert [row["step"] for row in rows_of(run.journal)] == list(range(1, 601))
    assert not index_of(run.journal, "stop_loss").disabled


@pytest.mark.parametrize("saved_between", [True, False])
def test_requests_at_the_restore_point_are_kept_as_far_as_they_were_saved(saved_between, tmp_path):
    """Of two terms disabled one after the other, with a save before both or between them."""
    run = SeveralTerms(tmp_path).observe(100)
    checkpoint = run.checkpoint
    run.by_hand("disable", "first", "mel_loss")
    if saved_between:
        checkpoint = run.checkpoint
    run.by_hand("disable", "second", "pitch_loss").observe(5).die()
    run.resume(checkpoint)
    lost = lost_disables(run.journal, run.step)
    expected = {"pitch_loss": "second"} if saved_between else {"mel_loss": "first", "pitch_loss": "second"}
    assert {term: word.note.removesuffix(AGAIN) for term, word in lost.items()} == expected
    assert [event.note for event in read_journal(run.journal).events] == (["first"] if saved_between else [])
    run.close()


def test_a_journal_of_format_1_goes_on_in_todays(tmp_path):
    """Lines of both stand in one file; each header says which follow it."""
    then = Path(__file__).parents[1] / "data" / "before_the_wings" / "run" / "adaptive_weights" / "journal.jsonl"
    path = tmp_path / "adaptive_weights" / "journal.jsonl"
    path.parent.mkdir()
    path.write_bytes(then.read_bytes())
    before, old = replay(then), read_journal(then)
    run = SeveralTerms(
        tmp_path,
        run=old.headers[0].run,
        config=old.headers[-1].config,
        adaptive={"mel_loss": 2.0, "stop_loss": 2.0},
        path=tmp_path / "scratch",
    )
    run.close()
    last = before[-1].step
    run.states = {term: state._replace(step=last) for term, state in run.states.items()}
    run.journal = path
    run._begin()
    run.observe(50).close()
    journal = read_journal(path)
    assert [header.format for header in journal.headers] == [1] * len(old.headers) + [FORMAT]
    assert [seen.step for seen in journal.of("mel_loss").observations][-50:] == list(range(last + 1, last + 51))
    again = replay(path)
    assert texts(again[: len(before)]) == texts(before)
    assert texts(again[len(before) :]) == texts(run.decisions)
    assert {decision.term for decision in before} == {""}
    assert index_of(path, "mel_loss").spans[-1].last == last + 50
    assert index_of(path, "stop_loss").spans[0].first == last + 1


def test_a_step_costs_no_more_bytes_than_in_format_1(tmp_path):
    """Of one term; the journal that is compared with has 300 steps of the same kind."""
    run = RunMaker(tmp_path).observe(300).close()
    lines = run.journal.read_text().splitlines()
    sizes = [len(line) for line in lines if line.startswith('{"kind": "step"') and '"decided"' in line]
    usual = {"kind": "step", "step": 123, "weight": 2.5, "loss": 1.0123456789012345, "total_loss": 2.9308641972530865}
    usual |= {"gradient_norm": 3.0123456789012345, "applied": True, "action": "hold", "reason": "within_band"}
    usual |= {"smoothed_loss": 1.01234, "running_average": 1.01234, "loss_ratio": 1.00012, "loss_variance": 0.0123456}
    usual |= {"average_gradient_norm": 3.01234}
    assert sum(sizes) / len(sizes) < len(json.dumps(usual))


@pytest.mark.parametrize("damage", ['"term": "pich_loss"', '"term": 3'])
def test_an_event_of_a_term_that_there_is_not_is_left_out_and_named(damage, tmp_path):
    run = SeveralTerms(tmp_path).observe(30).by_hand("disable", "x", "stop_loss").observe(30).close()
    run.journal.write_text(run.journal.read_text().replace('"term": "stop_loss"', damage))
    journal, index = read_journal(run.journal), index_of(run.journal, "stop_loss")
    assert len(journal.problems) == index.problems == 1
    assert Action.DISABLE not in [event.action for event in journal.events]
    assert index.events == []
