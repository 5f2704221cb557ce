"""A journal of balanced weights: read back, indexed term by term, resumed, decided again, and under another balance."""

import json

import pytest
from joint_run import SHARE, JointRun
from journal_rows import rows_of, texts

from keras_adaptive_weights.deciding.decision import Action
from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.reader import read_journal
from keras_adaptive_weights.recording.lost_disable import lost_disables
from keras_adaptive_weights.recording.replay import replay
from keras_adaptive_weights.recording.what_if import what_if
from keras_adaptive_weights.showing.view import view


def index_of(path, term=None):
    index = JournalIndex(path, term=term)
    index.refresh()
    return index


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    run = JointRun(tmp_path_factory.mktemp("run")).observe(200).by_hand("rollback").observe(60).by_hand("disable")
    run.observe(20).by_hand("enable").observe(100).by_hand("reset").by_hand("recover").observe(300)
    return run.close()


def test_it_is_decided_again_exactly(run):
    assert {event.action for event in run.events} >= {Action.CALIBRATE, Action.ROLLBACK, Action.DISABLE, Action.RESET}
    journal = read_journal(run.journal)
    assert (journal.joint, journal.problems, journal.terms) == (True, [], ["mel_loss", "stop_loss"])
    assert texts(replay(run.journal)) == texts(replay(journal)) == texts(run.decisions)
    assert texts(journal.events) == texts(run.events)
    assert what_if(journal).same


@pytest.mark.parametrize("per_execution", [4, 8])
def test_an_execution_of_several_steps_is_decided_on_once(tmp_path, per_execution):
    run = JointRun(tmp_path).observe(160, per_execution).close()
    assert texts(replay(run.journal)) == texts(run.decisions)
    assert len(run.decisions) == 160 // per_execution


@pytest.mark.parametrize("term", ["mel_loss", "stop_loss"])
def test_one_term_of_it_is_as_a_weight_by_itself(run, term):
    index = index_of(run.journal, term)
    assert [(e["step"], e["action"], e["old_weight"], e["new_weight"]) for e in index.events] == [
        (e.step, e.action, e.old_weights[term], e.new_weights[term]) for e in run.events
    ]
    core = run.state.core
    assert (index.weight, index.disabled, index.shadow) == (core.weight[term], False, False)
    rows = rows_of(run.journal, term)
    seen = view(index, points=len(rows))
    assert seen.column("weight") == [row["weight"] for row in rows]
    measured = [i for i, row in enumerate(rows) if "term_norms" in row]
    assert [seen.column("share")[i] for i in measured] == [rows[i]["shares"][term] for i in measured]
    assert index.headers[-1]["config"]["max_weight"] == 100.0 * run.envelope.initial().core.weight[term]
    assert index.balance == {"strategy": "GradientShare", "config": json.loads(json.dumps(index.balance["config"]))}
    assert len(index.all_events) == len(run.events)


def test_it_is_resumed_and_what_was_lost_by_hand_is_known(tmp_path):
    run = JointRun(tmp_path).observe(150)
    run.writer.note_save(150)
    state, decisions = run.state, list(run.decisions)
    run.observe(10).by_hand("disable").observe(10)
    run.resume(state, decisions)
    assert {term: lost.step for term, lost in lost_disables(run.journal, 150).items()} == {"": 160}
    run.observe(100).close()
    assert texts(replay(run.journal)) == texts(run.decisions)
    assert [event.action for event in run.events].count(Action.CALIBRATE) == 1


def test_another_balance_and_one_of_one_s_own(run, tmp_path):
    journal = read_journal(run.journal)
    less = what_if(journal, balance=GradientShare({"mel_loss": 0.05}, measure_every=5, calibrate_steps=10))
    assert less.decided[0].new_weights["mel_loss"] < run.events[0].new_weights["mel_loss"]
    assert less.first_difference == run.events[0].step

    class Own(SqrtLoss):
        pass

    own = JointRun(tmp_path, strategy=Own()).observe(60).close()
    with pytest.raises(ValueError, match=r"replay: the weights were balanced by 'Own'.*give it as argument `balance`"):
        replay(own.journal)
    assert texts(replay(own.journal, balance=Own())) == texts(own.decisions)
    with pytest.raises(ValueError, match="cannot be decided again for one"):
        journal.of("mel_loss")
    with pytest.raises(ValueError, match="`base_weight` must be None"):
        replay(journal, base_weight=2.0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"old_weights": {"mel_loss"', '"old_weights": {"mal_loss"'),
        ('"new_weights": {"mel_loss": ', '"new_weights": {"mel_loss": -'),
    ],
)
def test_a_joint_event_of_other_terms_or_weights_is_left_out(old, new, tmp_path):
    run = JointRun(tmp_path).observe(60).close()
    lines = run.journal.read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if line.startswith('{"kind": "event"'))
    lines[place] = lines[place].replace(old, new)
    run.journal.write_text("".join(lines))
    assert len(read_journal(run.journal).problems) == index_of(run.journal).problems == 1


def test_a_damaged_balance_in_a_header_is_refused(tmp_path):
    run = JointRun(tmp_path).observe(20).close()
    text = run.journal.read_text()
    run.journal.write_text(text.replace('"balance": {"strategy"', '"balance": {"s"', 1))
    with pytest.raises(ValueError, match="field `balance` must hold `strategy` and `state`"):
        read_journal(run.journal)
    run.journal.write_text(text.replace('"calibrated": false', '"calibrated": "no"', 1))
    with pytest.raises(ValueError, match="calibrated"):
        replay(run.journal)
    assert SHARE is run.strategy
