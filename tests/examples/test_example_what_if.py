"""The what-if example: a recorded run, decided again under other settings, as a table and a picture."""

import math
import random
import struct

import pytest
import what_if as example

import keras_adaptive_weights as kaw
from keras_adaptive_weights.deciding import envelope, guide_rule, safeguards
from keras_adaptive_weights.deciding.state import initial_state
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.writer import JournalWriter

CONFIG = kaw.AdaptiveWeightConfig()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder and its decisions: 900 steps whose loss rises, falls, and is NaN once on trial."""
    folder = tmp_path_factory.mktemp("run")
    draw, state, decisions = random.Random(2), initial_state(CONFIG, 2.5), []
    header = Header.of("a", "mel_loss", 2.5, CONFIG, state.to_dict())
    writer = JournalWriter(folder / "adaptive_weights" / "journal.jsonl", header)
    for step in range(1, 901):
        level = (1.0, 1.4, 0.9)[step // 150 % 3]
        loss = math.nan if step == 170 else level * draw.lognormvariate(0.0, 0.05)
        seen = (kaw.Observation(step, loss, 2.5 * loss, 2.0, applied=step != 170),)
        state, decision = guide_rule.step(CONFIG, state, seen)
        writer.observe(seen, decision)
        decisions.append(decision)
        if step == 600:
            state, decision = envelope.disable(state, "by hand")
            writer.observe((), decision)
            decisions.append(decision)
    writer.close()
    return folder, [decision for decision in decisions if decision.is_event]


def called(capsys, folder, *settings, png=None):
    """Return what the example printed under these settings: both columns, and all of it."""
    arguments = [str(folder), *(word for setting in settings for word in ("--set", setting))]
    code = example.main([*arguments, *(["--png", str(png)] if png else [])])
    out, err = capsys.readouterr()
    columns = [line.split("|") for line in out.splitlines() if "|" in line][1:]
    left, right = ([column.strip() for column in side if column.strip()] for side in zip(*columns, strict=True))
    assert (code, err) == (0, "")
    return left, right, out


def row(decision):
    return f"{decision.step:,} {decision.action:<8} {decision.new_weight:.3f}  {decision.reason}"


def test_both_sides_list_every_decision(capsys, run):
    folder, decisions = run
    left, right, out = called(capsys, folder, "cooling_period=100")
    assert left == [row(decision) for decision in decisions]
    again = kaw.replay(folder / "adaptive_weights" / "journal.jsonl", kaw.AdaptiveWeightConfig(cooling_period=100))
    assert right == [row(decision) for decision in again if decision.is_event]
    assert left != right
    assert "600 disable  2.500  manual" in left
    assert "600 disable  2.500  manual" in right
    assert "cooling_period 50 -> 100" in out
    holds = sum(not decision.is_event for decision in again)
    counts = out.partition("held by   ")[2].partition(" (what if)")[0].split(", ")
    assert sum(int(count.split()[0].replace(",", "")) for count in counts) == holds


def test_it_says_what_it_cannot_tell_and_from_where_on(capsys, run):
    folder, decisions = run
    out = called(capsys, folder, "warmup_steps=400")[2]
    assert example.CANNOT_TELL in out
    assert f"The same before step {decisions[0].step:,};" in out
    assert "train again" in out


def test_a_shadow_run_is_said_to_be_one(capsys, tmp_path):
    state = safeguards.set_shadow(CONFIG, initial_state(CONFIG, 2.5), shadow=True)
    header = Header.of("a", "mel_loss", 2.5, CONFIG, state.to_dict())
    writer = JournalWriter(tmp_path / "journal.jsonl", header)
    for step in range(1, 200):
        seen = (kaw.Observation(step, 1.0 if step < 120 else 0.5, None, 2.0),)
        state, decision = guide_rule.step(CONFIG, state, seen)
        writer.observe(seen, decision)
    writer.close()
    left, _, out = called(capsys, tmp_path, "cooling_period=100", png=tmp_path / "what_if.png")
    assert example.SHADOW in out
    assert "Warning" not in out
    assert "decrease 2.381" in left[0]


def test_settings_that_change_nothing_are_said_to(capsys, run):
    folder, decisions = run
    left, right, out = called(capsys, folder, "max_rollbacks=9")
    assert left == right == [row(decision) for decision in decisions]
    assert "Every decision would have been the same." in out
    assert "Warning" not in out


def test_the_picture_is_a_png(capsys, run, tmp_path):
    png = tmp_path / "what_if.png"
    out = called(capsys, run[0], "cooling_period=100", "loss_ratio_high=1.2", png=png)[2]
    data = png.read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data.startswith(b"\x89PNG")
    assert width > 800
    assert height > 400
    assert str(png) in out


def test_decisions_at_one_step_are_paired_by_what_was_done():
    def decisions(*pairs):
        return [kaw.Decision(step, kaw.Action(action), kaw.Reason.MANUAL, 2.5, 2.5) for step, action in pairs]

    result = example.WhatIf(
        CONFIG, decisions((5, "disable"), (9, "reset")), decisions((5, "reject"), (9, "reset")), {}, [], []
    )
    pairs = [tuple(side and str(side.action) for side in pair) for pair in example.side_by_side(result)]
    assert pairs == [("disable", None), (None, "reject"), ("reset", "reset")]


def test_a_record_that_other_rules_made_is_warned_of(capsys, run, tmp_path):
    folder, decisions = run
    lines = (folder / "adaptive_weights" / "journal.jsonl").read_text().splitlines(keepends=True)
    journal = tmp_path / "journal.jsonl"
    journal.write_text(
        "".join(line.replace(f'"new_weight": {decisions[0].new_weight}', '"new_weight": 3.0') for line in lines)
    )
    assert example.main([str(journal), "--set", "cooling_period=100"]) == 0
    assert "Warning: the recorded settings do not lead to the recorded decisions" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("setting", "words"),
    [("cooling=100", "cooling_period"), ("cooling_period=0", "cooling_period=0"), ("cooling_period=ten", "type int")],
)
def test_a_wrong_setting_is_refused(capsys, run, setting, words):
    assert example.main([str(run[0]), "--set", setting]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err


def test_a_folder_without_a_journal_is_refused(capsys, tmp_path):
    assert example.main([str(tmp_path), "--set", "cooling_period=100"]) == 2
    assert "journal.jsonl" in capsys.readouterr().err
