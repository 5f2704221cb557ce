"""The index over a journal and the windows it answers: complete, exact at every zoom, and quick on a growing file."""

import math

import pytest
from dashboard_runs import RunMaker, eventful_run
from journal_rows import rows_of

from keras_adaptive_weights.journal.blocks import BlockBuilder
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.reader import read_journal
from keras_adaptive_weights.showing.view import to_columns, view


def index_of(path):
    index = JournalIndex(path)
    index.refresh()
    return index


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return eventful_run(tmp_path_factory.mktemp("run"), steps=1500)


def test_every_event_is_indexed_in_order(run):
    index = index_of(run.journal)
    assert [(e["step"], e["action"], e["new_weight"]) for e in index.events] == [
        (e.step, e.action, e.new_weight) for e in run.events
    ]
    assert [e["index"] for e in index.events] == list(range(len(run.events)))
    assert {"increase", "decrease", "rollback", "reject", "disable", "enable", "reset"} <= {
        e.action for e in run.events
    }
    assert (index.weight, index.disabled, index.ended, index.problems) == (run.state.weight, False, True, 0)


def test_the_reader_of_the_whole_journal_is_not_disturbed_by_blocks(run):
    journal = read_journal(run.journal)
    assert len(journal.observations) == run.step
    assert repr(journal.events) == repr([type(e).from_dict(e.to_dict()) for e in run.events])
    assert journal.problems == []


@pytest.mark.parametrize("points", [1, 7, 64, 700, 5000])
@pytest.mark.parametrize("window", [(None, None), (300, 900), (257, 512), (1400, 99_999), (1, 1)])
def test_a_window_has_the_extremes_reasons_and_skips_of_its_own_lines(run, window, points):
    first, last = window[0] or 1, window[1] or run.step
    rows = [row for row in rows_of(run.journal) if first <= row["step"] <= last]
    seen = view(index_of(run.journal), *window, points=points)
    assert 1 <= len(seen.buckets) <= points
    assert (seen.first, seen.last, seen.steps) == (rows[0]["step"], rows[-1]["step"], len(rows))
    for figure in ("weight", "loss", "gradient_norm", "loss_ratio"):
        finite = [row[figure] for row in rows if isinstance(row.get(figure), (int, float))]
        assert min([v for v in seen.column(figure, "least") if not math.isnan(v)], default=None) == min(
            finite, default=None
        )
        assert max([v for v in seen.column(figure, "greatest") if not math.isnan(v)], default=None) == max(
            finite, default=None
        )
    held = [row["reason"] for row in rows if row.get("action") == "hold"]
    assert seen.reasons == {reason: held.count(reason) for reason in set(held)}
    assert [skip[0] for skip in seen.skipped] == [step for step in run.skipped if first <= step <= last]


def test_a_window_without_steps_is_empty(run):
    seen = view(index_of(run.journal), 5000, 6000)
    assert (seen.steps, seen.buckets, seen.bands, seen.reasons) == (0, [], [], {})


@pytest.mark.parametrize("points", [2, 3000])
def test_bands_say_for_every_step_what_its_own_line_says(run, points):
    """Also the trial: the cooling that follows an increase or a decrease, until something else happens."""
    phases = {"warmup": "warmup", "cooling": "cooling", "disabled": "disabled"}
    expected, tried, events = {}, False, {event.step: event for event in run.events}
    phase = ""
    for row in rows_of(run.journal):
        step = row["step"]
        if row["reason"] != "non_finite":
            phase = phases.get(row["reason"], "")
        if phase:
            expected[step] = "trial" if phase == "cooling" and tried else phase
        if step in events and events[step].action != "reject":
            tried = events[step].action in ("increase", "decrease")
    covered = {}
    for band in view(index_of(run.journal), points=points).bands:
        for step in range(band.first, band.last + 1):
            assert step not in covered
            covered[step] = band.kind
    assert covered == expected
    assert set(expected.values()) == {"warmup", "trial", "cooling", "disabled"}


def test_a_growing_journal_is_followed_and_a_torn_last_line_waits(tmp_path):
    maker = RunMaker(tmp_path).observe(400).flush()
    index = index_of(maker.journal)
    assert view(index).last == 400
    assert not index.refresh()
    maker.observe(200).close()
    data = maker.journal.read_bytes()
    maker.journal.write_bytes(data[: data.rfind(b'{"kind": "step"') + 40])
    assert index.refresh()
    assert view(index).last == 599, "the last line is not whole yet"
    assert index.problems == 0
    maker.journal.write_bytes(data)
    index.refresh()
    assert view(index).last == 600
    assert index.ended


def test_lines_that_cannot_be_read_are_counted_and_left_out(tmp_path):
    maker = RunMaker(tmp_path).observe(30).close()
    lines = maker.journal.read_text().splitlines()
    lines[5] = lines[5][:30]
    lines[9] = '{"kind": "event", "step": '
    maker.journal.write_text("\n".join(lines) + "\n")
    index = index_of(maker.journal)
    assert view(index).steps == 28
    assert index.problems == 2


def test_a_resume_from_an_earlier_step_supersedes_what_came_after_it(tmp_path):
    """The writer itself cuts such lines off; this is a journal whose writer could not."""
    maker = RunMaker(tmp_path).observe(500)
    state = maker.state
    maker.observe(300).by_hand("disable", "superseded").flush()
    before = maker.journal.read_bytes()
    index = index_of(maker.journal)
    assert index.disabled
    maker.resume(state).observe(200).close()
    after = maker.journal.read_bytes()
    maker.journal.write_bytes(before + after[after.rindex(b'{"kind": "header"') :])
    index.refresh()
    assert index.generation == 1
    assert not index.disabled
    seen = view(index, points=5000)
    assert [bucket["last"] for bucket in seen.buckets] == list(range(1, 701))
    assert "superseded" not in [event["note"] for event in index.events]


def test_a_journal_that_was_cut_and_grew_again_is_read_anew(tmp_path):
    maker = RunMaker(tmp_path).observe(500)
    state = maker.state
    maker.observe(300).by_hand("disable", "cut off").flush()
    index = index_of(maker.journal)
    size = index.size
    maker.resume(state).observe(900).close()
    assert maker.journal.stat().st_size > size, "so that its size does not tell"
    index.refresh()
    assert index.generation == 1
    assert view(index).steps == 1400
    assert index.problems == 0
    assert "cut off" not in [event["note"] for event in index.events]


def test_steps_that_no_block_sums_up_are_summed_up_by_the_reader(tmp_path):
    maker = RunMaker(tmp_path).observe(1300).close()
    with_blocks = to_columns(view(index_of(maker.journal), points=40))
    lines = [line for line in maker.journal.read_text().splitlines(True) if '"kind": "block"' not in line]
    maker.journal.write_text("".join(lines))
    without = index_of(maker.journal)
    assert to_columns(view(without, points=5000))["to"] == list(range(1, 1301))
    columns = to_columns(view(without, points=40))
    for name in ("reasons", "skipped", "bands", "first", "last", "steps"):
        assert columns[name] == with_blocks[name]


def test_executions_of_several_steps_have_one_decision_each(tmp_path):
    maker = RunMaker(tmp_path).observe(800, per_execution=8).close()
    seen = view(index_of(maker.journal))
    assert seen.steps == 800
    assert sum(seen.reasons.values()) == 100 - len(maker.events)


@pytest.mark.parametrize("text", ["not a journal\n", '{"kind": "step"}\n', '{"kind": "header", "format": 99}\n'])
def test_what_is_no_journal_is_refused(tmp_path, text):
    path = tmp_path / "journal.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"journal\.jsonl"):
        index_of(path)


def test_a_replaced_journal_is_read_anew(tmp_path):
    maker = RunMaker(tmp_path).observe(300).close()
    index = index_of(maker.journal)
    maker.journal.unlink()
    RunMaker(tmp_path, run="run-b").observe(10).close()
    index.refresh()
    assert view(index).steps == 10
    assert index.generation == 1


def test_a_block_leaves_out_what_is_not_finite():
    builder = BlockBuilder()
    for step, loss in enumerate((1.0, "nan", 3.0, math.inf, 2.0), 1):
        builder.add({"step": step, "loss": loss})
    block = builder.take()
    assert block["figures"]["loss"] == [1.0, 3.0, 2.0]
    assert builder.steps == 0
