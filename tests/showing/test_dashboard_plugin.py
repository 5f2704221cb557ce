"""The plugin behind the page: runs are found, followed and served through TensorBoard's own layers."""

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import pytest
from dashboard_runs import MARKUP, RunMaker, eventful_run
from werkzeug.test import Client

from keras_adaptive_weights.showing.dashboard.plugin import AdaptiveWeightsPlugin
from keras_adaptive_weights.showing.dashboard.store import RunStore, parse_roots


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    eventful_run(folder / "a", run="run-a", steps=900, note=MARKUP)
    RunMaker(folder / "deep" / "b", run="run-b", seed=2).observe(300).close()
    (folder / "c" / "adaptive_weights").mkdir(parents=True)
    (folder / "c" / "adaptive_weights" / "journal.jsonl").write_text("no journal\n")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "journal.jsonl").write_text("not ours\n")
    return folder


@pytest.fixture(scope="module")
def plugin(logdir):
    return AdaptiveWeightsPlugin(SimpleNamespace(logdir=str(logdir), flags=None))


@pytest.fixture(scope="module")
def get(plugin):
    apps = plugin.get_plugin_apps()

    def get(route, **parameters):
        return Client(apps[route]).get(route, query_string=parameters)

    return get


def test_the_entry_point_names_the_plugin():
    found = [point for point in metadata.entry_points(group="tensorboard_plugins") if "adaptive" in point.value]
    assert [point.load() for point in found] == [AdaptiveWeightsPlugin]


def test_importing_the_plugin_imports_neither_tensorflow_nor_keras():
    code = (
        "import sys, keras_adaptive_weights.showing.dashboard.plugin;"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'tensorflow', 'keras'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"


def test_it_works_where_tensorflow_is_not_installed(logdir):
    code = (
        "import sys; sys.modules['tensorflow'] = None; sys.modules['keras'] = None\n"
        "from types import SimpleNamespace\n"
        "from keras_adaptive_weights.showing.dashboard.plugin import AdaptiveWeightsPlugin\n"
        "plugin = AdaptiveWeightsPlugin(SimpleNamespace(logdir=sys.argv[1], flags=None))\n"
        "assert plugin.is_active(); print([r['run'] for r in plugin._runs(None)['runs']])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(logdir)], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "['a', 'c', 'deep/b']\n"


def test_the_tab_is_active_only_where_there_is_a_journal(plugin, tmp_path):
    assert plugin.is_active()
    assert not AdaptiveWeightsPlugin(SimpleNamespace(logdir=str(tmp_path), flags=None)).is_active()
    assert not AdaptiveWeightsPlugin(SimpleNamespace(logdir=str(tmp_path / "not there"), flags=None)).is_active()
    assert not AdaptiveWeightsPlugin(SimpleNamespace(logdir=None, flags=None)).is_active()


def test_the_frontend_is_a_module_that_is_served(plugin, get):
    path = plugin.frontend_metadata().es_module_path
    response = get(path)
    assert response.status_code == 200
    assert response.headers["Content-Type"].startswith("text/javascript")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert get("/static/page.css").headers["Content-Type"].startswith("text/css")


def test_the_page_has_no_inline_code_no_other_host_and_no_markup_from_data(plugin):
    import re

    from keras_adaptive_weights.showing.dashboard import plugin as module

    for path in module._STATIC.glob("*.js"):
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", text), (
            path
        )
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path


def test_runs_are_listed_with_what_the_selector_needs(get):
    runs = {run["run"]: run for run in get("/runs").json["runs"]}
    assert sorted(runs) == ["a", "c", "deep/b"]
    assert (runs["a"]["first"], runs["a"]["last"], runs["a"]["ended"], runs["a"]["enabled"]) == (1, 900, True, True)
    assert runs["a"]["config"]["loss_ratio_high"] == 1.1
    assert "does not begin with the header" in runs["c"]["error"]


def test_events_come_incrementally(get):
    everything = get("/events", run="a").json
    later = get("/events", run="a", after=3).json
    assert later["events"] == everything["events"][3:]
    assert MARKUP in [event["note"] for event in everything["events"]]
    assert all(event["advice"] for event in everything["events"])
    assert {event["mark"] for event in everything["events"] if event["reason"] == "recovered_from_skips"} == {"recover"}


def test_a_window_comes_in_at_most_as_many_points_as_asked_for(get):
    columns = get("/series", run="a", points=50, **{"from": 100, "to": 800}).json
    assert (columns["first"], columns["last"], columns["steps"]) == (100, 800, 701)
    assert len(columns["to"]) <= 50
    assert len(columns["figures"]["loss"]["least"]) == len(columns["to"])
    assert set(columns["meanings"]) == set(columns["reasons"])
    exact = get("/series", run="a", **{"from": 100, "to": 120}).json
    assert exact["exact"] is True
    assert exact["to"] == list(range(100, 121))


def test_the_present_is_told_with_what_may_be_wrong(get):
    present = get("/present", run="a").json
    assert present["process"] == "ended"
    assert present["standing"]["last"] == 900
    assert present["standing"]["action"] == "hold"
    assert present["standing"]["meaning"]
    assert any("model restored once" in concern["text"] for concern in present["concerns"])


def test_a_window_comes_with_the_scales_of_its_panels(get):
    whole, part = (get("/series", run="a", **window).json for window in ({}, {"from": 1, "to": 60}))
    assert list(whole["scales"]) == ["weight", "share", "loss", "ratio", "variance", "gradient"]
    kind, low, high = whole["scales"]["weight"]
    assert kind == "linear"
    assert 1.0 < low < min(whole["figures"]["weight"]["last"]) < max(whole["figures"]["weight"]["last"]) < high < 5.0
    assert part["scales"]["weight"][2] - part["scales"]["weight"][1] < high - low, "only what is in view"


@pytest.mark.parametrize(
    ("route", "parameters", "code"),
    [
        ("/series", {"run": "nowhere"}, 404),
        ("/series", {"run": "a", "from": "x"}, 400),
        ("/events", {"run": "a", "after": "1.5"}, 400),
        ("/events", {}, 404),
        ("/series", {"run": "../../etc"}, 404),
        ("/series", {"run": "c"}, 422),
        ("/present", {"run": "c"}, 422),
        ("/present", {"run": "nowhere"}, 404),
        ("/series", {"run": "a", "from": "9" * 5000}, 400),
    ],
)
def test_a_request_that_cannot_be_answered_says_why(get, route, parameters, code):
    response = get(route, **parameters)
    assert response.status_code == code
    assert response.json["error"]


@pytest.mark.parametrize(
    ("parameters", "size"), [({"points": 1}, 16), ({"points": 10**9}, 900), ({"from": -5, "to": 10}, 10)]
)
def test_extreme_windows_are_clamped(get, parameters, size):
    assert len(get("/series", run="a", **parameters).json["to"]) <= size


def test_answers_are_json_that_a_browser_reads(get):
    """No NaN or Infinity, which Python would write and no browser would read."""

    def refuse(token):
        raise AssertionError(token)

    for route in ("/series", "/events", "/runs", "/present"):
        json.loads(get(route, run="a").get_data(as_text=True), parse_constant=refuse)


@pytest.mark.parametrize(
    ("logdir", "spec", "roots"),
    [
        ("/logs", None, {"": "/logs"}),
        ("/logs", "", {"": "/logs"}),
        ("gs://bucket/logs", "", {"": "gs://bucket/logs"}),
        (None, "one:/logs/1,two:/logs/2", {"one": "/logs/1", "two": "/logs/2"}),
        ("one:/logs/1", "one:/logs/1", {"one": "/logs/1"}),
        ("", "gs://bucket/a,/b", {"0": "gs://bucket/a", "1": "/b"}),
        (None, None, {}),
    ],
)
def test_log_directories_are_read_as_tensorboard_reads_them(logdir, spec, roots):
    assert parse_roots(logdir, spec) == roots


def test_runs_that_come_and_go_are_noticed(tmp_path):
    now = [0.0]
    store = RunStore({"x": str(tmp_path)}, rescan_seconds=5.0, clock=lambda: now[0])
    assert store.names() == []
    RunMaker(tmp_path / "new").observe(3).close()
    assert store.names() == [], "not before the list is five seconds old"
    now[0] = 5.0
    assert store.names() == ["x/new"]
    shutil.rmtree(tmp_path / "new")
    assert "error" in store.summary("x/new"), "gone, but still listed"
    now[0] = 10.0
    assert store.names() == []


def runs_below(folder):
    return {
        run["run"]: run
        for run in AdaptiveWeightsPlugin(SimpleNamespace(logdir=str(folder), flags=None))._runs(None)["runs"]
    }


@pytest.mark.timeout(60)
def test_whatever_lies_in_a_log_directory_the_healthy_runs_are_shown(tmp_path):
    """Links in a circle, a pipe in a journal's place, a name that is no UTF-8, a tree too deep for a path."""
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "up").symlink_to("..")
    RunMaker(tmp_path / "good").observe(60).close()
    shutil.copytree(tmp_path / "good" / "adaptive_weights", tmp_path / os.fsdecode(b"\xff\xfe") / "adaptive_weights")
    for name, target in (("1", "."), ("2", "."), ("broken", "nowhere")):
        (tmp_path / name).symlink_to(target)
    broken = {"pipe": os.mkfifo, "folder": Path.mkdir, "endless": lambda path: path.symlink_to("/dev/zero")}
    for name, make in broken.items():
        (tmp_path / name / "adaptive_weights").mkdir(parents=True)
        make(tmp_path / name / "adaptive_weights" / "journal.jsonl")
    deep = os.open(tmp_path, os.O_RDONLY)
    for _ in range(60):
        os.mkdir("d" * 100, dir_fd=deep)
        inner = os.open("d" * 100, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = inner
    os.close(deep)
    runs = runs_below(tmp_path)
    assert sorted(runs) == sorted(["good", r"\udcff\udcfe", *broken])
    assert runs["good"]["last"] == runs[r"\udcff\udcfe"]["last"] == 60
    assert "a pipe" in runs["pipe"]["error"]
    assert "a device" in runs["endless"]["error"]
    assert "directory" in runs["folder"]["error"]


def test_a_run_is_known_by_its_own_place_and_a_link_out_of_the_directory_is_followed(tmp_path):
    RunMaker(tmp_path / "elsewhere" / "far").observe(5).close()
    RunMaker(tmp_path / "logs" / "z").observe(5).close()
    (tmp_path / "logs" / "latest").symlink_to("z")
    (tmp_path / "logs" / "link").symlink_to(tmp_path / "elsewhere")
    assert sorted(runs_below(tmp_path / "logs")) == ["link/far", "z"]


def test_a_folder_that_may_not_be_read_is_named_where_a_run_would_be(tmp_path, monkeypatch):
    for name in ("a", "b"):
        RunMaker(tmp_path / name).observe(5).close()
    (tmp_path / "private").mkdir()
    listed = os.scandir

    def scandir(path):
        if path.endswith(("a/adaptive_weights", "private")):
            raise PermissionError(13, "Permission denied", path)
        return listed(path)

    monkeypatch.setattr("os.scandir", scandir)
    assert sorted(runs_below(tmp_path)) == ["a", "b"]


def test_two_log_directories_with_runs_of_one_name_are_two_runs(tmp_path):
    for number, folder in enumerate(("one/b", "two"), 1):
        RunMaker(tmp_path / folder / "c", run=f"run-{number}").observe(5).close()
    store = RunStore({"x": str(tmp_path / "one"), "x/b": str(tmp_path / "two")})
    assert {name: store.summary(name)["id"] for name in store.names()} == {"x/b/c": "run-1", "x/b/c (2)": "run-2"}


def test_what_nobody_thought_of_in_one_journal_is_named_and_harms_no_other(logdir, monkeypatch):
    from keras_adaptive_weights.journal.index import JournalIndex

    refresh = JournalIndex.refresh

    def fail(self):
        if "/deep/" in self.path:
            raise KeyError("figures")
        return refresh(self)

    monkeypatch.setattr(JournalIndex, "refresh", fail)
    plugin = AdaptiveWeightsPlugin(SimpleNamespace(logdir=str(logdir), flags=None))
    runs = {run["run"]: run for run in plugin._runs(None)["runs"]}
    assert runs["a"]["last"] == 900
    assert "KeyError('figures')" in runs["deep/b"]["error"]
    response = Client(plugin.get_plugin_apps()["/series"]).get("/series", query_string={"run": "deep/b"})
    assert response.status_code == 422
    assert "KeyError('figures')" in response.json["error"]


def test_runs_are_shown_while_others_are_still_looked_for(tmp_path, monkeypatch):
    import threading

    RunMaker(tmp_path / "first").observe(5).close()
    hangs = threading.Event()

    def find(path):
        yield "first", str(tmp_path / "first" / "adaptive_weights" / "journal.jsonl")
        hangs.wait(30)

    monkeypatch.setattr("keras_adaptive_weights.showing.dashboard.store.find_journals", find)
    assert RunStore({"": str(tmp_path)}, patience_seconds=0.2).names() == ["first"]
    hangs.set()


def test_a_log_directory_that_does_not_answer_does_not_hold_tensorboard_up(tmp_path, monkeypatch):
    import threading
    import time

    hangs = threading.Event()
    monkeypatch.setattr(
        "keras_adaptive_weights.showing.dashboard.store.find_journals", lambda path: hangs.wait(30) and []
    )
    store = RunStore({"": str(tmp_path)}, patience_seconds=0.1)
    begin = time.monotonic()
    assert store.names() == []
    assert time.monotonic() - begin < 5.0
    hangs.set()
