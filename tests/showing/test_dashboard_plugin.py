"""The plugin behind the page: runs are found, followed and served through TensorBoard's own layers."""

import json
import shutil
import subprocess
import sys
from importlib import metadata
from types import SimpleNamespace

import pytest
from dashboard_runs import MARKUP, RunMaker, eventful_run
from werkzeug.test import Client

from keras_adaptive_weights.showing.dashboard.files import TensorBoardFiles
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


def test_the_stub_of_the_file_layer_reads_ranges(logdir, monkeypatch):
    """What remote file systems are read with where TensorFlow is not installed."""
    from tensorboard.compat.tensorflow_stub.io import gfile

    monkeypatch.setattr("keras_adaptive_weights.showing.dashboard.files._gfile", lambda: gfile)
    monkeypatch.setattr("keras_adaptive_weights.showing.dashboard.files._is_remote", lambda path: True)
    path = logdir / "a" / "adaptive_weights" / "journal.jsonl"
    files = TensorBoardFiles()
    assert files.size(str(path)) == path.stat().st_size
    assert files.read(str(path), 1000, 500) == path.read_bytes()[1000:1500]
    assert files.age(str(path), 0.0) is None
    with pytest.raises(OSError, match="nowhere"):
        files.size(str(logdir / "nowhere"))
    with pytest.raises(OSError, match="nowhere"):
        files.read(str(logdir / "nowhere"), 0, 10)


def test_tensorflows_file_layer_reads_ranges(logdir, monkeypatch):
    tf = pytest.importorskip("tensorflow")
    monkeypatch.setattr("keras_adaptive_weights.showing.dashboard.files._gfile", lambda: tf.io.gfile)
    monkeypatch.setattr("keras_adaptive_weights.showing.dashboard.files._is_remote", lambda path: True)
    path = logdir / "a" / "adaptive_weights" / "journal.jsonl"
    files = TensorBoardFiles()
    assert files.size(str(path)) == path.stat().st_size
    assert files.read(str(path), 1000, 500) == path.read_bytes()[1000:1500]
    with pytest.raises(OSError, match="nowhere"):
        files.size(str(logdir / "nowhere"))


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


def test_a_window_comes_in_at_most_as_many_points_as_asked_for(get):
    columns = get("/series", run="a", points=50, **{"from": 100, "to": 800}).json
    assert (columns["first"], columns["last"], columns["steps"]) == (100, 800, 701)
    assert len(columns["to"]) <= 50
    assert len(columns["figures"]["loss"]["least"]) == len(columns["to"])
    assert set(columns["meanings"]) == set(columns["reasons"])
    exact = get("/series", run="a", **{"from": 100, "to": 120}).json
    assert exact["exact"] is True
    assert exact["to"] == list(range(100, 121))


@pytest.mark.parametrize(
    ("route", "parameters", "code"),
    [
        ("/series", {"run": "nowhere"}, 404),
        ("/series", {"run": "a", "from": "x"}, 400),
        ("/events", {"run": "a", "after": "1.5"}, 400),
        ("/events", {}, 404),
        ("/series", {"run": "../../etc"}, 404),
        ("/series", {"run": "c"}, 500),
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

    for route in ("/series", "/events", "/runs"):
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
