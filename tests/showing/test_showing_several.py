"""A run of several adaptive terms in the dashboard's routes, the report and on the command line."""

import json
import math
from types import SimpleNamespace

import pytest
from dashboard_runs import RunMaker
from several_terms import eventful
from werkzeug.test import Client
from werkzeug.wrappers import Response

from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.operating.command_line import main
from keras_adaptive_weights.showing.dashboard.plugin import AdaptiveWeightsPlugin
from keras_adaptive_weights.showing.report import make_report
from keras_adaptive_weights.showing.report_pages import to_html, to_text
from keras_adaptive_weights.showing.view import first_average, view

TERMS = ["mel_loss", "stop_loss", "pitch_loss"]


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def run(logdir):
    RunMaker(logdir / "old").observe(300)
    return eventful(logdir / "new", steps=900)


@pytest.fixture(scope="module")
def ask(logdir, run):
    """Ask a route of the plugin: the status code and what it answers."""
    apps = AdaptiveWeightsPlugin(SimpleNamespace(logdir=str(logdir), flags=None)).get_plugin_apps()

    def get(route, **arguments):
        answer = Client(apps[route], Response).get("/", query_string=arguments)
        return answer.status_code, json.loads(answer.get_data())

    return get


def test_the_list_of_runs_says_each_weight(ask, run):
    new, old = ask("/runs")[1]["runs"]
    assert [one["term"] for one in new["terms"]] == TERMS
    assert [one["weight"] for one in new["terms"]] == [run.states[term].weight for term in TERMS]
    assert [one["events"] for one in new["terms"]] == [sum(e.term == term for e in run.events) for term in TERMS]
    assert (new["term"], new["fixed"]) == ("mel_loss", {"duration_loss": 0.1})
    assert ([one["term"] for one in old["terms"]], old["fixed"]) == (["mel_loss"], {})


@pytest.mark.parametrize("term", TERMS)
def test_each_term_has_its_own_figures_events_and_answers(ask, run, term):
    events = ask("/events", run="new", term=term)[1]["events"]
    assert [(e["step"], e["action"]) for e in events] == [(e.step, e.action) for e in run.events if e.term == term]
    assert [event["index"] for event in events] == list(range(len(events)))
    series = ask("/series", run="new", term=term, points=4000)[1]
    assert series["figures"]["weight"]["last"][-1] == pytest.approx(run.states[term].weight, rel=1e-5)
    assert ask("/present", run="new", term=term)[1]["standing"]["last"] == 900


def test_without_a_term_it_is_the_first_adaptive_one(ask):
    assert ask("/series", run="new") == ask("/series", run="new", term="mel_loss")
    assert ask("/events", run="new") == ask("/events", run="new", term="mel_loss")


def test_of_a_fixed_term_there_are_losses_and_nothing_else(ask):
    code, series = ask("/series", run="new", term="duration_loss")
    assert code == 200
    assert set(series["figures"]["weight"]["last"]) == {0.1}
    assert (series["bands"], series["meanings"]) == ([], {})
    assert [ask(route, run="new", term="duration_loss")[0] for route in ("/events", "/present")] == [404, 404]


@pytest.mark.parametrize("route", ["/series", "/events", "/present"])
def test_a_term_that_is_not_there_is_named_with_those_that_are(ask, route):
    code, values = ask(route, run="new", term="nix")
    assert code == 404
    assert "'nix'; there are ['mel_loss', 'stop_loss', 'pitch_loss'" in values["error"]


def test_losses_are_relative_to_the_mean_of_their_first_steps(ask, run):
    index = JournalIndex(run.journal)
    index.refresh()
    for term in (*TERMS, "duration_loss"):
        of_term = index.of(term)
        losses = [loss for loss in view(of_term, 1, 80, 4000).column("loss") if math.isfinite(loss)][:50]
        assert first_average(of_term) == pytest.approx(sum(losses) / 50)
        answer = ask("/series", run="new", term=term, **{"from": 500, "to": 600})[1]
        assert answer["first_average"] == first_average(of_term)
    assert math.isnan(first_average(JournalIndex(run.journal)))  # nothing was read yet


def test_the_report_is_of_one_term_and_names_all(run):
    report = make_report(run.journal)
    assert (report.term, [term.term for term in report.terms]) == ("mel_loss", [*TERMS, "duration_loss"])
    assert [term.events for term in report.terms] == [sum(e.term == t for e in run.events) for t in TERMS] + [0]
    last = run.events[-1]
    assert f"  step {last.step:,}: {last.action} {last.term} " in to_text(report)
    assert "<h2>All terms</h2>" in to_html(report, b"")
    other = make_report(run.journal, "stop_loss")
    assert {event["term"] for event in other.latest} == {"stop_loss"}
    assert other.base == 1.5


def test_a_report_of_one_term_is_as_it_was(logdir):
    assert "All terms" not in to_text(make_report(logdir / "old"))


def test_the_command_line_takes_a_term(run, capsys):
    assert main(["status", str(run.journal), "--term", "stop_loss"]) == 0
    assert "(stop_loss)" in capsys.readouterr().out
    assert main(["report", str(run.journal), "--term", "stop_loss", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["term"] == "stop_loss"
    assert main(["status", str(run.journal), "--term", "duration_loss"]) == 1
    assert "no adaptive weight of a term 'duration_loss'; there are ['mel_loss'" in capsys.readouterr().err


def test_a_replay_is_of_all_terms_or_of_the_one_asked_for(run, capsys):
    assert main(["replay", str(run.journal), "--json"]) == 0
    replayed = json.loads(capsys.readouterr().out)["terms"]
    assert {term: values["same"] for term, values in replayed.items()} == dict.fromkeys(TERMS, True)
    assert main(["replay", str(run.journal), "--term", "pitch_loss", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == replayed["pitch_loss"]
    assert main(["replay", str(run.journal), "--png", "x.png"]) == 2
    assert "--term" in capsys.readouterr().err
