"""Journals that a disk, a kill or a person damaged: every command and every route answers, and says what is wrong.

40 damages in the suite; `pytest tests/showing/test_damaged_journals.py --many` tries 4,000.
"""

import json
import signal
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from dashboard_runs import RunMaker, eventful_run
from mutations import mutated
from werkzeug.test import Client

from keras_adaptive_weights.operating.command_line import main
from keras_adaptive_weights.showing.dashboard.plugin import AdaptiveWeightsPlugin
from keras_adaptive_weights.showing.dashboard.store import UNEXPECTED

_SECONDS = 30


@contextmanager
def in_time(what):
    """Fail where something takes longer than any damage may cost."""

    def fail(*_):
        raise AssertionError(f"{what} hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def journals(tmp_path_factory):
    """A short one without blocks, one with every kind of event, and one that was resumed and killed."""
    folder = tmp_path_factory.mktemp("whole")
    short = RunMaker(folder / "short").observe(70).by_hand("disable", "fire drill").close()
    eventful = eventful_run(folder / "eventful", steps=330)
    resumed = RunMaker(folder / "resumed").observe(300)
    state = resumed.state
    resumed.observe(40).by_hand("rollback", "x").resume(state).observe(60).close()
    return [maker.journal.read_bytes() for maker in (short, eventful, resumed)]


@pytest.fixture
def damaged(tmp_path, journals):
    """Put a damaged journal into the place of a run, beside a healthy one; return the folder of both."""
    RunMaker(tmp_path / "good").observe(30).close()
    path = tmp_path / "bad" / "adaptive_weights" / "journal.jsonl"
    path.parent.mkdir(parents=True)

    def damage(seed):
        path.unlink(missing_ok=True)
        path.write_bytes(mutated(journals[seed % len(journals)], seed))
        return tmp_path

    return damage


@pytest.mark.timeout(3600)
def test_every_command_answers(damaged, seeds, capsys):
    for seed in seeds:
        bad = damaged(seed) / "bad"
        for command in (("report",), ("status",), ("replay",), ("report", "--json"), ("status", "--json")):
            with in_time(f"{command}, seed {seed}"):
                code = main([command[0], str(bad), *command[1:]])
            out, err = capsys.readouterr()
            assert code in (0, 1), (seed, command)
            assert bool(out) or err.count("\n") == 1, (seed, command, err)
            assert not (code == 0 and err), (seed, command, err)
            if "--json" in command and out:
                json.loads(out)
        for action in ("disable", "enable", "rollback"):
            with in_time(f"{action}, seed {seed}"):
                code = main([action, str(bad), "--reason", "x", "--timeout", "0"])
            out, err = capsys.readouterr()
            assert (code, out, err.count("\n")) == (1, "", 1), (seed, action)


@pytest.mark.timeout(3600)
def test_every_route_answers_and_the_healthy_run_is_shown(damaged, seeds):
    plugin = AdaptiveWeightsPlugin(SimpleNamespace(logdir=str(damaged(0)), flags=None))
    apps = plugin.get_plugin_apps()
    healthy = Client(apps["/series"]).get("/series", query_string={"run": "good"}).get_data()
    for seed in seeds:
        damaged(seed)
        window = {"from": seed % 200, "to": seed % 200 + 150, "points": 16}
        for route, parameters in (("/runs", {}), ("/series", {}), ("/series", window), ("/events", {})):
            with in_time(f"{route}, seed {seed}"):
                response = Client(apps[route]).get(route, query_string={"run": "bad", **parameters})
            assert response.status_code in (200, 404, 422), (seed, route)
            assert UNEXPECTED not in response.get_data(as_text=True), (seed, route, response.json)
            assert "error" in response.json or response.status_code == 200, (seed, route)
            json.loads(response.get_data(as_text=True), parse_constant=pytest.fail)
        runs = {run["run"]: run for run in Client(apps["/runs"]).get("/runs").json["runs"]}
        assert runs["good"]["last"] == 30
        assert set(runs) == {"good", "bad"}
    assert Client(apps["/series"]).get("/series", query_string={"run": "good"}).get_data() == healthy


def test_a_picture_of_what_can_be_read(damaged, seeds, capsys):
    """Drawing takes a second, so of fewer of them; the first picture of all also looks for the fonts there are."""
    good = damaged(0) / "good"
    assert main(["report", str(good), "--png", str(good / "x.png")]) == 0
    begin = time.monotonic()
    for seed in seeds[:: max(1, len(seeds) // 4)]:
        bad = damaged(seed) / "bad"
        with in_time(f"picture, seed {seed}"):
            code = main(["report", str(bad), "--png", str(bad / "x.png")])
        assert code in (0, 1), seed
        assert code == 1 or (bad / "x.png").read_bytes().startswith(b"\x89PNG"), seed
        capsys.readouterr()
    assert time.monotonic() - begin < 10 * _SECONDS
