"""The report: its figures are the journal's, its picture is one, and its page is escaped and needs nothing else."""

import dataclasses
import re
import struct
import subprocess
import sys

import pytest
from dashboard_runs import MARKUP, RunMaker, eventful_run, hostile_run

from keras_adaptive_weights.deciding.decision import Reason
from keras_adaptive_weights.recording.run_folder import find_journal, liveliness
from keras_adaptive_weights.showing.explain import meaning
from keras_adaptive_weights.showing.picture import draw_run
from keras_adaptive_weights.showing.report import make_report, open_index
from keras_adaptive_weights.showing.report_pages import to_html, to_text
from keras_adaptive_weights.showing.what_if_picture import draw_what_if


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return eventful_run(tmp_path_factory.mktemp("report") / "run", steps=1200, note=MARKUP)


@pytest.fixture(scope="module")
def folder(run):
    return run.journal.parent.parent


def png_size(data):
    assert data.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", data[16:24])


def test_the_figures_are_those_of_the_run(run, folder):
    report = make_report(folder)
    assert (report.first, report.last, report.weight, report.enabled) == (1, 1200, run.state.weight, True)
    assert (report.term, report.base, report.process, report.resumed) == ("mel_loss", 2.5, "ended", 0)
    assert sum(move.count for move in report.moves) == len(run.events)
    assert sum(hold.count for hold in report.holds) + len([e for e in run.events if not e.by_hand]) == 1200
    assert sum(hold.share for hold in report.holds) == pytest.approx(1.0)
    assert report.skipped == len(run.skipped)
    weights = [2.5, *(event.new_weight for event in run.events)]
    assert (report.lowest, report.highest) == (min(weights), max(weights))
    assert report.largest_change == pytest.approx(0.05)
    assert report.latest[0]["step"] == run.events[-1].step


def test_a_run_still_going_can_be_reported(tmp_path):
    maker = RunMaker(tmp_path).observe(70).flush()
    report = make_report(tmp_path)
    assert (report.process, report.last, report.moves) == ("alive", 70, [])
    assert "It did not." in to_text(report)
    assert png_size(draw_run(open_index(tmp_path)))[0] > 1000
    maker.close()


def test_a_run_without_steps_can_be_reported(tmp_path):
    RunMaker(tmp_path).close()
    report = make_report(tmp_path)
    assert (report.first, report.last, report.holds) == (0, 0, [])
    assert "Adaptive weight of mel_loss" in to_text(report)
    assert png_size(draw_run(open_index(tmp_path)))[0] > 1000


def test_the_text_says_why_the_weight_moved_and_why_not(folder):
    text = to_text(make_report(folder))
    moved, held = text.index("Why the weight moved"), text.index("Why it did not")
    assert re.search(r"disable\s+manual\s+1\s+600\s+600", text[moved:held])
    assert "cooling" in text[held:]
    assert "At least 30 steps lie between two changes" in text[held:], "with the run's own settings"


def test_the_page_needs_no_other_file_and_shows_markup_as_text(tmp_path):
    RunMaker(tmp_path).observe(30).by_hand("disable", MARKUP).close()
    page = to_html(make_report(tmp_path), b"PNG")
    assert "&lt;img src=&quot;x&quot;" in page
    assert MARKUP not in page
    assert re.findall(r"<(?:script|link|iframe)|https?://|url\(", page) == []
    assert page.count("<img ") == 1
    assert 'src="data:image/png;base64,UE5H"' in page


def test_nothing_from_a_journal_is_obeyed_by_page_or_picture(tmp_path):
    hostile_run(tmp_path)
    page = to_html(make_report(tmp_path), draw_run(open_index(tmp_path)))
    assert [c for c in page if not c.isprintable() and c != "\n"] == []
    assert re.findall(r"<(?:b|script)\b|onerror=\"", page) == []
    assert page.count("<img ") == 1
    page.encode()


def test_the_picture_is_a_png_and_changes_no_backend(folder):
    code = (
        "import sys, matplotlib; before = matplotlib.rcParams._get('backend');"
        "from keras_adaptive_weights.showing.picture import draw_run;"
        "from keras_adaptive_weights.showing.report import open_index;"
        "data = draw_run(open_index(sys.argv[1])); assert data[:4] == b'\\x89PNG' and len(data) > 20_000;"
        "assert matplotlib.rcParams._get('backend') is before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True, timeout=60)


def test_without_matplotlib_the_error_says_what_to_install(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'keras-adaptive-weights\[plot\]'"):
        draw_run(open_index(folder))


def test_the_picture_of_a_what_if(folder, run):
    from keras_adaptive_weights.journal.reader import read_journal
    from keras_adaptive_weights.recording.what_if import what_if

    journal = read_journal(run.journal)
    assert png_size(draw_what_if(what_if(journal), journal))[0] > 1000
    changed = what_if(journal, dataclasses.replace(journal.headers[0].config, cooling_period=90))
    assert changed.first_difference is not None
    assert draw_what_if(changed, journal, theme="dark") != draw_what_if(changed, journal)


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_a_meaning_without_gaps(reason, run):
    text = meaning(reason.value, run.config.to_dict())
    assert text.endswith(".")
    assert "{" not in text
    assert "None" not in text


def test_a_reason_of_a_newer_version_has_none():
    assert meaning("moonlight", {}) == ""


def test_the_journal_is_found_from_the_run_its_folder_or_itself(run, folder):
    for path in (folder, run.journal.parent, run.journal):
        assert find_journal(path) == run.journal


def test_where_no_journal_is_the_runs_below_are_named(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Runs below it: '.*run'"):
        find_journal(folder.parent)
    with pytest.raises(FileNotFoundError, match=r"no adaptive_weights/journal\.jsonl in"):
        find_journal(tmp_path)


def test_several_terms_are_told_apart(tmp_path):
    for term in ("mel_loss", "stop_loss"):
        RunMaker(tmp_path, path=tmp_path / "adaptive_weights" / term / "journal.jsonl").close()
    with pytest.raises(ValueError, match=r"several terms.*mel_loss.*stop_loss"):
        find_journal(tmp_path)
    assert find_journal(tmp_path / "adaptive_weights" / "stop_loss").parent.name == "stop_loss"


def test_a_writer_is_alive_while_it_touches_its_file_even_without_steps(tmp_path):
    import os
    import time

    maker = RunMaker(tmp_path).flush()
    os.utime(maker.journal, (1, 1))
    assert liveliness(maker.journal, ended=False)[0] == "silent"
    end = time.monotonic() + 10
    while liveliness(maker.journal, ended=False)[0] != "alive" and time.monotonic() < end:
        time.sleep(0.1)
    assert liveliness(maker.journal, ended=False)[0] == "alive"
    maker.close()
    assert liveliness(maker.journal, ended=True)[0] == "ended"
