"""Runs in a store, as people look at them: report, command line and dashboard are what they are of a local run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from dashboard_runs import RunMaker
from fake_store import FakeStore, installed
from werkzeug.test import Client

from keras_adaptive_weights.journal.places import Url
from keras_adaptive_weights.operating.command_line import main
from keras_adaptive_weights.operating.control import Switch
from keras_adaptive_weights.showing.dashboard.plugin import AdaptiveWeightsPlugin
from keras_adaptive_weights.showing.report import make_report
from keras_adaptive_weights.showing.report_pages import to_text

ROOT = Url("fake://bucket/runs")


def journal_of(name):
    return ROOT / name / "adaptive_weights" / "journal.jsonl"


@pytest.fixture(scope="module")
def store():
    with installed(FakeStore()) as store:
        run = RunMaker(None, path=journal_of("a")).observe(400)
        run.by_hand("disable", "clipping").observe(100).by_hand("enable", "").observe(400).close()
        RunMaker(None, path=journal_of("deep/b"), run="run-b").observe(50).flush()._writer._file.flush()
        store.write(str(ROOT / "elsewhere" / "journal.jsonl"), b"not ours\n")
        yield store


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    run = RunMaker(tmp_path_factory.mktemp("local")).observe(400).by_hand("disable", "clipping").observe(100)
    return run.by_hand("enable", "").observe(400).close()


def dashboard(logdir=ROOT):
    """Return what asks the plugin for an answer."""
    plugin = AdaptiveWeightsPlugin(SimpleNamespace(logdir=str(logdir), flags=None))
    assert plugin.is_active()
    apps = plugin.get_plugin_apps()
    return lambda route, **parameters: Client(apps[route]).get(route, query_string=parameters).json


@pytest.fixture
def get(store):
    return dashboard()


def test_the_dashboard_finds_the_runs_below_a_url(get):
    runs = {run["run"]: run for run in get("/runs")["runs"]}
    assert list(runs) == ["a", "deep/b"]
    assert (runs["a"]["last"], runs["a"]["process"], runs["a"]["events"]) == (900, "ended", runs["a"]["events"])
    assert (runs["deep/b"]["last"], runs["deep/b"]["process"]) == (50, "alive")


@pytest.mark.parametrize("route", ["/series", "/events"])
def test_the_dashboard_answers_as_for_a_local_run(route, get, local):
    expected = dashboard(local.journal.parent.parent)(route, run=".")
    for values in (expected, answer := get(route, run="a")):
        for event in values.get("events", ()):
            event.pop("wall_time")
    assert answer == expected


def test_the_dashboard_follows_a_run_in_a_store(store):
    maker = RunMaker(None, path=Url("fake://bucket/growing/adaptive_weights/journal.jsonl"))
    get = dashboard("fake://bucket/growing")
    for last in (10, 20, 30):
        maker.observe(10).flush()._writer._file.flush()
        assert get("/series", run=".")["last"] == last
    maker.close()


def test_a_store_that_does_not_answer_is_an_error_of_the_run(store, get):
    get("/runs")
    store.fail = OSError("503 try again")
    try:
        assert get("/series", run="a") == {"error": "503 try again"}
    finally:
        store.fail = None


def test_the_report_is_that_of_a_local_run(store, local):
    stored, here = make_report(str(ROOT / "a")), make_report(local.journal)
    assert stored.journal == str(journal_of("a"))
    for text in ("Why the weight moved", "Why it did not"):
        assert to_text(stored).partition(text)[2].splitlines()[:4] == to_text(here).partition(text)[2].splitlines()[:4]
    assert (stored.weight, stored.holds, stored.moves, stored.process) == (here.weight, here.holds, here.moves, "ended")


def test_report_and_status_where_the_store_tells_no_times(store, capsys):
    times = dict(store.changed)
    store.changed = dict.fromkeys(times, 0.0)
    try:
        assert main(["status", str(ROOT / "a")]) == main(["report", str(ROOT / "a")]) == 0
        assert "process     ended\n" in capsys.readouterr().out
        assert main(["status", str(ROOT / "deep" / "b")]) == main(["report", str(ROOT / "deep" / "b")]) == 0
        out = capsys.readouterr().out
    finally:
        store.changed = times
    assert "process     not known: the store does not say when it was written to" in out
    assert "process        not known: the store tells no times" in out


def test_the_command_line_reads_a_url(store, capsys, tmp_path):
    assert main(["replay", str(ROOT / "a"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["same"] is True
    assert main(["report", str(ROOT / "a"), "--png", str(tmp_path / "run.png")]) == 0
    assert (tmp_path / "run.png").read_bytes().startswith(b"\x89PNG")
    assert main(["report", "s3://bucket/run"]) == 1
    assert "scheme 's3'; there are ['fake']" in capsys.readouterr().err


def test_the_switch_says_that_it_needs_a_file_system_that_both_see(store, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = dict(store.objects)
    store.fail = OSError("503: the store need not be asked")
    try:
        assert main(["disable", str(ROOT / "a"), "--reason", "clipping"]) == 1
    finally:
        store.fail = None
    said = capsys.readouterr().err
    assert "needs a file system that the process that trains sees, too. Call `callback.emergency_disable(...)`" in said
    with pytest.raises(ValueError, match=r"Switch: argument `folder` must be a folder .*'fake://bucket/runs'"):
        Switch(ROOT, "run-a")
    assert (store.objects, list(tmp_path.iterdir())) == (before, [])
