"""A recorded run -> its decisions again, exactly; and the same run under other settings."""

import json
import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_adaptive_weights import AdaptiveWeightConfig, Observation, read_journal, replay
from keras_adaptive_weights.deciding import envelope, guide_rule
from keras_adaptive_weights.deciding.decision import Action, Decision, Reason
from keras_adaptive_weights.deciding.joint import JointObservation
from keras_adaptive_weights.deciding.state import ControllerState, initial_state
from keras_adaptive_weights.journal.header import Header, TermStart
from keras_adaptive_weights.journal.lines import encode, outcome_values, read_line, read_step, step_values
from keras_adaptive_weights.journal.reader import Entry, Journal, _Reading, usual_step
from keras_adaptive_weights.journal.writer import JournalWriter
from keras_adaptive_weights.recording.what_if import what_if

CONFIG = AdaptiveWeightConfig(warmup_steps=20, cooling_period=12, min_stable_steps=5, loss_smoothing_factor=0.3)
OTHER = replace(CONFIG, cooling_period=40, max_change_percent=0.02)
BY_HAND = ("disable", "enable", "rollback", "reset", "recover")


def observations(steps, seed=3):
    """Losses with shifts, spikes, skipped steps of both kinds, and norms that grow."""
    draw = random.Random(seed)
    found = []
    for step in range(1, steps + 1):
        loss = (1.0, 1.6, 0.9, 0.5)[(step // 80) % 4] * draw.lognormvariate(0.0, 0.03)
        loss = math.nan if step % 211 == 84 else 30.0 * loss if step % 250 == 0 else loss
        norm = (2.0 if step % 400 < 300 else 7.0) * draw.lognormvariate(0.0, 0.1)
        scaling = step % 190 == 120
        taken = math.isfinite(loss) and not scaling
        found.append(Observation(step, loss, 2.5 * loss, norm, applied=taken, loss_scaling=scaling))
    return found


class Run:
    """A training's controller and its journal. `decisions` are all it took, HOLDs too."""

    def __init__(self, path, config=CONFIG, base=2.5, seed=3):
        self.path, self.config = path, config
        self.state = initial_state(config, base)
        self.seen = observations(3000, seed)
        self.decisions = []
        self.begin()

    def begin(self):
        self.writer = JournalWriter(
            self.path, Header.of("run", "mel_loss", self.state.base_weight, self.config, self.state.to_dict())
        )
        return self

    def train(self, steps, per_execution=1):
        for _ in range(steps // per_execution):
            seen = self.seen[self.state.step : self.state.step + per_execution]
            self.note(seen, *guide_rule.step(self.config, self.state, seen))
        return self

    def by_hand(self, action):
        evidence = {"snapshot_step": 40.0, "recoveries": 1.0}
        request = {
            "disable": lambda: envelope.disable(self.state, "noise in the attic"),
            "enable": lambda: envelope.enable(self.config, self.state, "all clear"),
            "rollback": lambda: envelope.rollback(self.config, self.state, "by hand"),
            "reset": lambda: envelope.reset(self.state, "new data"),
            "recover": lambda: envelope.reset(self.state, "", Reason.RECOVERED_FROM_SKIPS, evidence),
        }[action]
        self.note((), *request())
        return self

    def note(self, seen, state, decision):
        decision = decision._replace(term="mel_loss")
        self.writer.observe(seen, decision)
        self.decisions.append(decision)
        self.state = state

    def resume(self, checkpoint, config=None):
        """Be killed, and go on from a checkpoint: what came after it has not happened."""
        self.writer.close()
        lines = self.path.read_text().splitlines(keepends=True)
        self.path.write_text("".join(lines[:-1]) + lines[-2][:40])  # no word of the end, and a line cut short
        state, decisions = checkpoint
        self.decisions = list(decisions)
        self.config = config or self.config
        self.state = ControllerState.from_dict(json.loads(json.dumps(state.to_dict()))).within(self.config)
        return self.begin()

    @property
    def checkpoint(self):
        return self.state, self.decisions[:]

    def end(self):
        self.writer.close()
        return self


def texts(decisions):
    """Return decisions as lines of JSON: NaN is not equal to itself."""
    return [encode(decision.to_dict()) for decision in decisions]


def kinds(decisions):
    return {str(decision.action) for decision in decisions}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "journal.jsonl"


@pytest.mark.parametrize("per_execution", [1, 8])
def test_a_recorded_run_is_decided_again_exactly(path, per_execution):
    run = Run(path).train(800, per_execution).by_hand("rollback").by_hand("disable").train(80, per_execution)
    run.by_hand("enable").train(400, per_execution).by_hand("reset").by_hand("recover")
    run.train(1600, per_execution).end()
    journal = read_journal(path)
    again = replay(journal)
    assert texts(again) == texts(run.decisions)
    assert texts(decision for decision in again if decision.is_event) == texts(journal.events)
    assert len(again) == 2880 // per_execution + 5
    assert kinds(again) >= {"hold", "decrease", "rollback", "disable", "enable", "reset"}


def test_a_journal_is_taken_as_it_is_or_by_its_path(path):
    Run(path).train(200).end()
    assert texts(replay(path)) == texts(replay(str(path))) == texts(replay(read_journal(path)))


def test_a_run_that_was_killed_and_resumed_twice_is_decided_again_exactly(path):
    """The steps between the checkpoint and the kill were taken twice; the first time does not count."""
    run = Run(path).train(96, per_execution=8)
    checkpoint = run.checkpoint
    run.train(104).by_hand("disable").resume(checkpoint).train(312, per_execution=8)
    checkpoint = run.checkpoint
    run.train(50).resume(checkpoint).by_hand("rollback").train(500).end()
    journal = read_journal(path)
    assert len(journal.headers) == 3
    assert [seen.step for seen in journal.observations] == list(range(1, 909))
    assert texts(replay(journal)) == texts(run.decisions)
    assert what_if(journal).same


def test_settings_changed_on_the_way_are_kept(path):
    run = Run(path).train(300)
    run.resume(run.checkpoint, replace(OTHER, max_weight=2.6)).train(600).end()
    assert texts(replay(path)) == texts(run.decisions)
    assert max(decision.new_weight for decision in replay(path)[300:]) <= 2.6


def test_the_record_is_that_of_the_run_not_of_these_settings(path):
    """A state that nothing in the journal led to: the steps before it were recorded elsewhere, or not at all."""
    run = Run(path)
    run.end()
    path.unlink()
    run.state = initial_state(CONFIG, 2.5)
    for seen in run.seen[:333]:
        run.state, _ = guide_rule.step(CONFIG, run.state, (seen,))
    run.begin().train(400).end()
    assert texts(replay(path)) == texts(run.decisions)
    assert replay(path)[0].old_weight != 2.5


def by_loop(run, config, base=2.5):
    """What a training under other settings decides on the observations and requests of a run."""
    other = Run(run.path.with_name("other.jsonl"), config, base)
    return other.train(400, 8).by_hand("disable").by_hand("enable").train(400).end().decisions


def test_other_settings_lead_to_what_they_would_have_decided(path):
    """Across a resume, too: the state in its header is that of the recorded settings."""
    run = Run(path).train(400, 8).by_hand("disable").by_hand("enable").train(200)
    run.resume(run.checkpoint).train(200).end()
    expected = by_loop(run, OTHER)
    assert texts(replay(path, OTHER)) == texts(expected)
    assert texts(replay(path, OTHER)) != texts(replay(path))
    assert [str(event) for event in what_if(read_journal(path), OTHER).decided] == [
        str(decision) for decision in expected if decision.is_event
    ]


def test_another_base_weight_leads_to_what_it_would_have_decided(path):
    run = Run(path).train(400, 8).by_hand("disable").by_hand("enable").train(400).end()
    assert texts(replay(path, base_weight=4.0)) == texts(by_loop(run, CONFIG, 4.0))
    assert texts(replay(path, OTHER, 4)) == texts(by_loop(run, OTHER, 4.0))


def test_narrower_bounds_hold_from_the_first_step(path):
    Run(path, base=4.0).train(500).by_hand("disable").train(10).end()
    again = replay(path, replace(CONFIG, min_weight=2.0, max_weight=3.0))
    assert {3.0} == {decision.old_weight for decision in again[:20]}
    assert all(2.0 <= decision.new_weight <= 3.0 for decision in again)
    assert again[-1].new_weight == 3.0, "the base weight is within the bounds, too"


def test_what_a_resume_superseded_is_left_out():
    """Also where it stands in the journal, as in one that was put together by hand."""
    seen = observations(400)
    state, states = initial_state(CONFIG, 2.5), {}
    for step, observation in enumerate(seen, 1):
        state, _ = guide_rule.step(CONFIG, state, (observation,))
        states[step] = state
    headers = [
        Header.of("run", "mel_loss", 2.5, CONFIG, s.to_dict()) for s in (initial_state(CONFIG, 2.5), states[250])
    ]
    _, disabled = envelope.disable(states[300])
    lost = [Entry((observation,)) for observation in seen[:300]] + [Entry((), disabled)]
    journal = Journal(headers, [lost, [Entry((observation,)) for observation in seen[250:]]])
    expected = texts(decision._replace(term="mel_loss") for decision in replay(seen, CONFIG))
    assert texts(replay(journal)) == texts(replay(journal, CONFIG)) == expected


@pytest.mark.parametrize(("base", "error"), [(0.5, ValueError), (math.nan, ValueError), ("2", TypeError)])
def test_a_bad_base_weight_is_refused(path, base, error):
    Run(path).train(10).end()
    with pytest.raises(error, match=r"replay: argument `base_weight`"):
        replay(path, base_weight=base)


def lines_of(run):
    return run.path.read_text().splitlines(keepends=True)


@pytest.mark.parametrize(("at", "problem"), [("header", "step 95"), ("end", "step 103")])
def test_steps_that_came_to_no_decision_leave_nothing_behind(path, at, problem):
    """An execution of 8 steps whose last ones were lost, before the header of a resumed run or at the end."""
    run = Run(path).train(88, per_execution=8)
    checkpoint = run.checkpoint
    before = [line for line in lines_of(run.train(8, per_execution=8).end()) if '"kind": "end"' not in line]
    cut = before[: 1 + next(i for i, line in enumerate(before) if '"step": 95,' in line)]
    path.unlink()
    run.state, run.decisions = checkpoint
    after = lines_of(run.begin().train(16, per_execution=8).end())
    if at == "end":
        cut = before[: 1 + next(i for i, line in enumerate(before) if '"step": 88,' in line)]
        after = after[: 1 + next(i for i, line in enumerate(after) if '"step": 103,' in line)]
    path.write_text("".join(cut + after))
    journal = read_journal(path)
    assert journal.problems == [f"the 7 steps up to {problem} have no decision after them; they are left out"]
    assert len(journal.weights) == len(journal.observations) == (104 if at == "header" else 96)
    weights = dict(zip((seen.step for seen in journal.observations), journal.weights, strict=True))
    expected = {
        step: decision.old_weight for decision in run.decisions for step in range(decision.step - 7, decision.step + 1)
    }
    assert weights == {step: expected[step] for step in weights}


def test_a_step_without_its_losses_is_left_out_whole(path):
    """Not its losses alone."""
    run = Run(path).train(10).end()
    path.write_text(
        "".join(line.replace('"losses"', '"l"') if '"step": 7,' in line else line for line in lines_of(run))
    )
    journal = read_journal(path)
    assert [seen.step for seen in journal.observations] == [1, 2, 3, 4, 5, 6, 8, 9, 10]
    assert len(journal.weights) == 9
    assert journal.problems == ["line 8 cannot be read (step: field `losses` is missing.); it is left out"]


@pytest.mark.parametrize(
    "change", [('"action": "disable"', '"action": "pirouette"'), ('"losses": {', '"losses": "heavy", "l": {')]
)
def test_what_this_version_does_not_know_is_left_out_and_named(path, change):
    run = Run(path).train(10).by_hand("disable").train(10).end()
    lines = lines_of(run)
    place = next(i for i, line in enumerate(lines) if change[0] in line and '"kind": "header"' not in line)
    lines[place] = lines[place].replace(*change)
    path.write_text("".join(lines))
    journal = read_journal(path)
    assert len(journal.problems) == 1
    assert journal.problems[0].startswith(f"line {place + 1} cannot be read (")
    assert len(journal.observations) + len(journal.events) == 20


@pytest.mark.parametrize("change", [('"format": 2', '"format": 3'), ('"warmup_steps"', '"tempo"')])
def test_a_header_of_a_newer_version_is_refused(path, change):
    run = Run(path).train(10).end()
    path.write_text("".join(line.replace(*change) for line in lines_of(run)))
    with pytest.raises(ValueError, match=r"install a newer version|unknown settings \['tempo'\]"):
        read_journal(path)


_FIGURES = st.one_of(st.floats(), st.floats(0.0, 10.0))


OUTCOME = outcome_values([Decision(7, Action.HOLD, Reason.COOLING, 2.5, 2.5, {"loss_ratio": 1.25}, term="mel_loss")])


TERMS = {"mel_loss": TermStart(2.5, CONFIG, initial_state(CONFIG, 2.5).to_dict()), "stop_loss": TermStart(1.0)}
HEADER = Header("run", TERMS)
DECIDED = encode(step_values(JointObservation(10**9 + 1, {"mel_loss": 1.0})) | OUTCOME)


@settings(max_examples=300)
@given(
    seen=st.builds(
        Observation,
        step=st.integers(1, 10**9),
        loss=_FIGURES,
        total_loss=st.none() | _FIGURES,
        gradient_norm=st.none() | _FIGURES,
        applied=st.sampled_from([True, True, True, False]),
        loss_scaling=st.sampled_from([False, False, True]),
        dampening=st.sampled_from([1.0, 1.0, 0.5]),
        non_finite=st.sampled_from([None, None, "mel_loss"]),
        empty=st.sampled_from([False, False, True]),
    ),
    weight=st.floats(1.0, 5.0),
    outcome=st.booleans(),
    told=st.sampled_from([False, False, True]),
)
def test_a_step_is_read_the_same_with_and_without_the_parser(seen, weight, outcome, told):
    step = JointObservation.of_one("mel_loss", seen)
    step = step._replace(losses={**step.losses, "stop_loss": weight})
    values = step_values(step) | ({"weights": {"mel_loss": weight}} if told else {})
    line = (encode(values | (OUTCOME if outcome else {})) + "\n").encode()
    quickly = usual_step(HEADER)(line.decode(), 0)
    unusual = any(name in values for name in ("loss_scaling", "dampening", "non_finite", "weights"))
    finite = all(value is None or math.isfinite(value) for value in seen[1:4])
    assert (quickly is None) == (unusual or not finite or not seen.applied or seen.empty)
    assert (repr(read_step(read_line(line))), "decided" in read_line(line)) == (repr(step), outcome)
    assert step.of("mel_loss") == seen or seen.empty or math.isnan(seen.loss)
    lines = [encode({"kind": "header", "format": 2, **HEADER.to_dict()}), line.decode().strip(), DECIDED]
    journal = _Reading("it", joint=False).take(["\n".join(lines).encode()])
    assert repr(journal.observations[0]) == repr(step.of("mel_loss"))
    assert [len(entry.observations) for entry in journal.entries] == ([1, 1] if outcome else [2])


def test_a_usual_step_that_was_cut_off_or_run_into_is_none():
    step, read = JointObservation(7, {"mel_loss": 0.5, "stop_loss": 2.0}, 1.5, 2.0), usual_step(HEADER)
    for values in ({}, OUTCOME):
        line = encode(step_values(step) | values)
        assert read(line, 0).groups()[:4] == ("7", "0.5", "1.5", "2.0")
        assert (read(line, 0)[5] is not None) == bool(values)
        for less in ({"stop_loss"}, {"mel_loss"}):  # a fixed term may be missing
            losses = {name: loss for name, loss in step.losses.items() if name not in less}
            there = read(encode(step_values(step._replace(losses=losses)) | values), 0)
            assert (there is not None) == ("mel_loss" in losses)
        assert not any(read(line[:length], 0) for length in range(len(line)))
        assert not any(read(f"{line[:length]}{line}\n", 0) for length in range(1, len(line) + 1))


def test_a_file_that_is_no_journal_is_refused(path):
    with pytest.raises(FileNotFoundError):
        replay(path)
    path.write_text('{"kind": "step"}\n')
    with pytest.raises(ValueError, match="does not begin with the header of a journal"):
        replay(path)


_ACTIONS = st.one_of(
    st.tuples(st.just("train"), st.integers(1, 60), st.sampled_from([1, 3, 8])),
    st.tuples(st.just("by_hand"), st.sampled_from(BY_HAND)),
    st.tuples(st.just("save")),
    st.tuples(st.just("resume"), st.sampled_from([CONFIG, OTHER])),
)


@settings(max_examples=40)
@given(script=st.lists(_ACTIONS, min_size=1, max_size=25), seed=st.integers(0, 5))
def test_whatever_happened_is_decided_again_exactly(tmp_path_factory, script, seed):
    """Any mixture of executions, requests by hand, saves, and kills after which the last save is resumed.

    A step is trained after every save and resume: which requests at one step came before a save, the record cannot say.
    """
    path = tmp_path_factory.mktemp("run") / "journal.jsonl"
    run = Run(path, seed=seed).train(120)
    saved = run.checkpoint
    run.train(1)
    for action, *arguments in script:
        if action == "save":
            saved = run.checkpoint
            run.train(1)
        elif action == "resume":
            run.resume(saved, *arguments).train(1)
        else:
            getattr(run, action)(*arguments)
    run.end()
    assert texts(replay(path)) == texts(run.decisions)


def test_reading_and_replaying_a_journal_needs_neither_tensorflow_nor_keras(path):
    Run(path).train(50).end()
    code = (
        "import sys, keras_adaptive_weights as kaw\n"
        "assert len(kaw.replay(sys.argv[1])) == 50\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
