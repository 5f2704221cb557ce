"""Recorded observations -> the decisions they lead to."""

import gc
import math
import random
import subprocess
import sys
from dataclasses import replace

import pytest

from keras_adaptive_weights import (
    Action,
    AdaptiveWeightConfig,
    Journal,
    JournalWriter,
    Observation,
    read_journal,
    replay,
)
from keras_adaptive_weights.deciding import guide_rule
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.journal.header import Header

CONFIG = AdaptiveWeightConfig(warmup_steps=20, cooling_period=12, min_stable_steps=5, loss_smoothing_factor=0.3)


def recorded(steps=400, seed=3):
    """A stream with shifts, a spike and skipped steps."""
    rng = random.Random(seed)
    result = []
    for step in range(1, steps + 1):
        level = (1.0, 1.6, 0.9, 0.5)[(step // 80) % 4] * (30.0 if step == 250 else 1.0)
        loss = math.nan if step in (84, 300) else level * rng.lognormvariate(0.0, 0.03)
        result.append(Observation(step, loss, 2.5 * loss, rng.lognormvariate(0.0, 0.1), applied=math.isfinite(loss)))
    return result


def test_one_decision_for_each_observation():
    decisions = replay(recorded(), CONFIG)
    assert [d.step for d in decisions] == list(range(1, 401))
    assert {d.action for d in decisions} >= {Action.HOLD, Action.INCREASE, Action.DECREASE, Action.ROLLBACK}


def test_the_decisions_are_those_of_the_controller():
    state, expected = initial_state(CONFIG, 3.0), []
    for observation in recorded():
        state, decision = guide_rule.step(CONFIG, state, (observation,))
        expected.append(decision)
    assert repr(replay(recorded(), CONFIG, base_weight=3.0)) == repr(expected), "repr: NaN is not equal to itself"


def test_each_decision_starts_at_the_weight_of_the_one_before():
    decisions = replay(recorded(), CONFIG, base_weight=3.0)
    assert [d.old_weight for d in decisions] == [3.0, *(d.new_weight for d in decisions[:-1])]
    assert len({d.new_weight for d in decisions}) > 2


def test_a_replay_repeats_itself_and_takes_any_iterable():
    stream = recorded()
    assert repr(replay(stream, CONFIG)) == repr(replay(iter(stream), CONFIG))
    assert repr(stream) == repr(recorded()), "the argument is left as it was"


def test_other_settings_lead_to_other_decisions():
    before, after = replay(recorded(), CONFIG), replay(recorded(), replace(CONFIG, warmup_steps=100))
    assert [d.action for d in before] != [d.action for d in after]


def test_without_a_config_the_defaults_hold():
    stream = recorded()
    assert repr(replay(stream)) == repr(replay(stream, AdaptiveWeightConfig(), 2.5))


def test_no_observations_no_decisions():
    assert replay([], CONFIG) == []


@pytest.mark.parametrize(("base", "error"), [(0.5, ValueError), (math.nan, ValueError), ("2", TypeError)])
def test_a_bad_base_weight_is_refused(base, error):
    with pytest.raises(error, match=r"`base_weight`"):
        replay([], CONFIG, base_weight=base)


def test_the_decisions_of_a_live_weight_are_reproduced():
    """What an observer wrote down during training leads to the same decisions again."""
    from keras_adaptive_weights import AdaptiveWeight

    class Recorder:
        def __init__(self):
            self.seen, self.decided = [], []

        def observe(self, observations, decision):
            self.seen += observations
            self.decided.append(decision)

    weight, recorder = AdaptiveWeight(2.5, CONFIG), Recorder()
    weight.subscribe(recorder)
    for seen in recorded():
        weight.update(seen.loss, gradient_norm=seen.gradient_norm, total_loss=seen.total_loss, applied=seen.applied)
    assert weight.decisions
    assert repr(replay(recorder.seen, CONFIG, 2.5)) == repr(recorder.decided)


# --- journals ------------------------------------------------------------------------------------------


class Recorder:
    def __init__(self):
        self.decided = []

    def observe(self, observations, decision):
        self.decided.append(decision)


def write(path, weight, stream, execution=1, by_hand=()):
    """Let a weight take in a stream while a journal is kept; requests in `by_hand` come before that observation."""
    recorder = Recorder()
    header = Header.of(weight.run, "mel_loss", weight.base_weight, weight.config, weight.state.to_dict())
    journal = JournalWriter(path, header)
    weight.subscribe(journal)
    weight.subscribe(recorder)
    requests = dict(by_hand)
    for i in range(0, len(stream), execution):
        if i in requests:
            getattr(weight, requests[i])("by hand")
        weight.observe(stream[i : i + execution])
    weight.unsubscribe(journal)
    weight.unsubscribe(recorder)
    journal.close()
    return recorder.decided


def same(got, expected):
    """Whether the decisions agree in all but their evidence, which a journal does not hold for a HOLD."""
    plain = [
        [(d.step, d.action, d.reason, d.old_weight, d.new_weight, d.note) for d in part] for part in (got, expected)
    ]
    return plain[0] == plain[1]


REQUESTS = {60: "reset", 120: "rollback", 168: "disable", 200: "enable", 240: "rollback"}


@pytest.mark.parametrize("execution", [1, 4])
def test_a_journal_is_decided_again_exactly(tmp_path, execution):
    from keras_adaptive_weights import AdaptiveWeight

    weight = AdaptiveWeight(3.0, CONFIG)
    decided = write(tmp_path / "journal.jsonl", weight, recorded(), execution, REQUESTS)
    assert {d.action for d in decided} >= {Action.HOLD, *(REQUESTS[i] for i in (60, 168, 200))}
    assert execution > 1 or {d.action for d in decided} == set(Action) - {Action.BALANCE, Action.CALIBRATE}
    for source in (
        tmp_path / "journal.jsonl",
        str(tmp_path / "journal.jsonl"),
        read_journal(tmp_path / "journal.jsonl"),
    ):
        assert same(replay(source), decided)


def test_a_journal_under_other_settings(tmp_path):
    """Another configuration, another base weight; what was asked for by hand happens again."""
    from keras_adaptive_weights import AdaptiveWeight

    path = tmp_path / "journal.jsonl"
    write(path, AdaptiveWeight(3.0, CONFIG), recorded(), by_hand={200: "disable"})
    other = replace(CONFIG, warmup_steps=100, max_weight=3.02)
    got = replay(path, other)
    expected_start = replay(recorded()[:200], other, base_weight=3.0)
    assert same(got[:200], expected_start)
    assert (got[200].action, got[200].new_weight) == ("disable", 3.0)
    assert {d.new_weight for d in replay(path, base_weight=2.0)[200:]} == {2.0}
    with pytest.raises(ValueError, match=r"`base_weight`"):
        replay(path, base_weight=9.0)


def test_a_journal_of_a_run_that_was_resumed_from_an_earlier_step(tmp_path):
    """The steps after the checkpoint were taken twice: what counts is what the resumed run made of them."""
    from keras_adaptive_weights import AdaptiveWeight

    path, stream = tmp_path / "journal.jsonl", recorded()
    weight = AdaptiveWeight(3.0, CONFIG)
    first = write(path, weight, stream[:100])
    saved = weight.to_dict()
    write(path, weight, stream[100:130])
    resumed = AdaptiveWeight(3.0, CONFIG)
    resumed.restore(saved)
    second = write(path, resumed, stream[100:])
    assert same(replay(path), first + second)


def test_steps_that_a_resume_took_again_are_left_out(tmp_path):
    """A journal from two files, the first of which goes on beyond the checkpoint of the second."""
    from keras_adaptive_weights import AdaptiveWeight

    stream, weight = recorded(), AdaptiveWeight(3.0, CONFIG)
    first = write(tmp_path / "one.jsonl", weight, stream[:100])
    saved = weight.to_dict()
    write(tmp_path / "one.jsonl", weight, stream[100:130])
    weight.restore(saved)
    second = write(tmp_path / "two.jsonl", weight, stream[100:])
    one, two = read_journal(tmp_path / "one.jsonl"), read_journal(tmp_path / "two.jsonl")
    assert len(one.observations) == 130
    joined = Journal([*one.headers, *two.headers], [*one.segments, *two.segments])
    assert same(replay(joined), first + second)


def test_a_journal_that_is_none_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        replay(tmp_path / "journal.jsonl")
    (tmp_path / "other.txt").write_text("hello\n")
    with pytest.raises(ValueError, match=r"journal"):
        replay(tmp_path / "other.txt")


def test_a_replay_needs_neither_tensorflow_nor_keras():
    code = (
        "import sys, keras_adaptive_weights as kaw\n"
        "assert kaw.replay([kaw.Observation(step=1, loss=0.8)], kaw.AdaptiveWeightConfig())[0].reason == 'warmup'\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("enabled", [True, False])
def test_dead_cycles_are_looked_for_again_after_it(enabled):
    """Also where it ends by an error; and nobody who wants none of that gets it."""
    (gc.enable if enabled else gc.disable)()
    try:
        replay([Observation(1, 0.8)])
        assert gc.isenabled() is enabled
        with pytest.raises(TypeError):
            replay(["no observation"])
        assert gc.isenabled() is enabled
    finally:
        gc.enable()
