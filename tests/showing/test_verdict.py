"""What a person asks first: is something wrong, and why is nothing changing?"""

import math

import pytest
from dashboard_runs import RunMaker

from keras_adaptive_weights.showing.report import make_report, open_index
from keras_adaptive_weights.showing.verdict import Concern, Standing, concerns, duration, standing, standing_text
from keras_adaptive_weights.showing.view import view


def told(folder, process="alive", age=1.0):
    index = open_index(folder)
    return [(concern.level, concern.text) for concern in concerns(index, view(index, points=1), process, age)]


def test_a_quiet_run_has_nothing_that_stands_out(tmp_path):
    RunMaker(tmp_path).observe(50).close()
    assert told(tmp_path) == []


def test_a_silent_process_comes_first(tmp_path):
    RunMaker(tmp_path).observe(50).by_hand("disable", "x").close()
    assert told(tmp_path, "silent", 400.0) == [
        ("bad", "no sign of life for 7 min: killed or stuck"),
        ("warn", "disabled by hand at step 50"),
    ]


def test_a_run_that_switched_itself_off_needs_somebody(tmp_path):
    maker = RunMaker(tmp_path).observe(80)
    for _ in range(200):
        maker.observe_loss(math.nan)
    maker.close()
    [off] = [event for event in maker.events if event.action == "disable"]
    expected = ("bad", f"adaptation switched itself off at step {off.step}: repeated non finite")
    assert told(tmp_path)[0] == expected


def test_skips_are_a_warning_while_they_are_recent_and_a_note_afterwards(tmp_path):
    maker = RunMaker(tmp_path).observe(347)
    index = open_index(maker.flush().journal)
    assert concerns(index, view(index, points=1), "alive") == [
        Concern("warn", "1 step skipped, last 347: mel_loss not finite", 347)
    ]
    maker.observe(340).close()
    assert told(tmp_path) == [("note", "1 step skipped, last 347: mel_loss not finite")]


def test_recoveries_and_unreadable_lines_are_told(tmp_path):
    maker = RunMaker(tmp_path).observe(50).by_hand("recover", "").by_hand("recover", "").close()
    maker.journal.write_text(maker.journal.read_text() + '{"kind": "event"}\n')
    assert told(tmp_path) == [
        ("warn", "model restored 2 times, last at step 50"),
        ("warn", "1 line of the journal cannot be read"),
    ]


def test_why_the_weight_stays_is_told_with_how_long_and_what_to_do(tmp_path):
    RunMaker(tmp_path).observe(45).close()
    now = standing(open_index(tmp_path))
    meaning = "The first 60 steps only collect statistics: wait, or lower warmup_steps."
    assert now == Standing("hold", "warmup", 1, 45, exact=False, meaning=meaning)
    assert standing_text(now) == "hold at step 45: warmup, since step 1 or before"


def test_the_first_step_with_another_reason_ends_it(tmp_path):
    maker = RunMaker(tmp_path).observe(70).close()
    now = standing(open_index(tmp_path))
    assert (now.reason, now.exact, now.last) == ("within_band", True, 70)
    assert now.since == 61
    assert maker.events == []


def test_no_decision_yet(tmp_path):
    RunMaker(tmp_path).close()
    assert standing(open_index(tmp_path)) is None
    assert make_report(tmp_path).standing is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(3.2, "3 s"), (119.0, "119 s"), (120.0, "2 min"), (7200.0, "2 h"), (200_000.0, "2 days")]
)
def test_times_are_in_the_unit_a_person_would_use(seconds, text):
    assert duration(seconds) == text
