"""A run whose weights are balanced: in the index, the dashboard's routes, report and picture, on the command line."""

import json
import math
from types import SimpleNamespace

import pytest
from joint_run import JointRun
from several_terms import eventful
from werkzeug.test import Client
from werkzeug.wrappers import Response

from keras_adaptive_weights.deciding.constraint import Constraint
from keras_adaptive_weights.deciding.decision import Action, Reason
from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.operating.command_line import main
from keras_adaptive_weights.showing import picture, what_if_picture
from keras_adaptive_weights.showing.dashboard.plugin import AdaptiveWeightsPlugin
from keras_adaptive_weights.showing.report import make_report
from keras_adaptive_weights.showing.report_pages import to_html, to_text
from keras_adaptive_weights.showing.verdict import concerns
from keras_adaptive_weights.showing.view import parts_of_the_gradient, view

SHARE = GradientShare({"mel_loss": 0.4}, measure_every=5, calibrate_steps=10)
EQUAL = GradientShare(measure_every=5, calibrate_steps=10)


def index_of(run, term=None):
    index = JournalIndex(run.journal, term=term)
    index.refresh()
    return index


@pytest.fixture(scope="module")
def logdir(tmp_path_factory):
    return tmp_path_factory.mktemp("balance")


@pytest.fixture(scope="module")
def run(logdir):
    """Calibrated at step 50, back at the bases at 400, and on its way again at 5 % a step."""
    run = JointRun(logdir / "balanced", strategy=SHARE).observe(400).by_hand("disable").by_hand("enable").observe(300)
    return run.close()


@pytest.fixture(scope="module")
def guided(logdir):
    return eventful(logdir / "guided", steps=600)


@pytest.fixture(scope="module")
def ask(logdir, run, guided):
    apps = AdaptiveWeightsPlugin(SimpleNamespace(logdir=str(logdir), flags=None)).get_plugin_apps()
    return lambda route, **values: json.loads(Client(apps[route], Response).get("/", query_string=values).get_data())


def test_the_run_is_calibrated_once_and_then_balanced(run):
    actions = [event.action for event in run.events]
    assert actions[:3] == [Action.CALIBRATE, Action.DISABLE, Action.ENABLE]
    assert set(actions[3:]) == {Action.BALANCE}
    assert len(actions) > 10


# --- what is known of the terms -------------------------------------------------------------------------


def test_the_parts_of_the_gradient_are_those_under_the_weights_in_force(run):
    weights = {**run.state.core.weight, "energy_loss": 0.5}
    parts = {
        name: weights[name] * norm for name, norm in {"mel_loss": 0.02, "stop_loss": 1.0, "energy_loss": 0.5}.items()
    }
    expected = {name: part / sum(parts.values()) for name, part in parts.items()}
    assert parts_of_the_gradient(index_of(run)) == pytest.approx(expected, rel=0.1)
    assert sum(parts_of_the_gradient(index_of(run)).values()) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("strategy", "intents", "limits"),
    [
        (SHARE, {"mel_loss": 0.4}, {}),
        (EQUAL, {"mel_loss": 1 / 3, "stop_loss": 1 / 3}, {}),
        (Constraint("stop_loss", at_most=0.5), {}, {"stop_loss": 0.5}),
        (SqrtLoss(), {}, {}),
    ],
)
def test_what_a_balance_aims_at_is_known_from_the_first_measurement_on(tmp_path, strategy, intents, limits):
    index = index_of(JointRun(tmp_path, strategy=strategy).observe(30).close())
    assert index.together
    for name in (*index.terms, *index.fixed):
        one = index.of(name)
        assert not one.together
        assert one.intent == (None if name not in intents else pytest.approx(intents[name]))
        assert one.loss_limit == limits.get(name)


def test_what_a_strategy_of_ones_own_aims_at_is_as_its_decisions_say(tmp_path):
    class Own(GradientShare):
        """Known by no name to whom reads the journal."""

    index = index_of(
        JointRun(tmp_path, strategy=Own({"mel_loss": 0.4}, measure_every=5, calibrate_steps=10)).observe(60).close()
    )
    assert index.balance == {"strategy": "Own"}
    assert index.intent == 0.4
    assert index.of("stop_loss").intent is None


def test_a_weight_by_itself_aims_at_nothing(guided):
    index = index_of(guided)
    assert (index.intent, index.loss_limit, index.balance) == (None, None, None)
    assert index.together
    assert not index_of(guided, "mel_loss").together


def test_a_term_has_no_smoothed_loss_that_is_the_sum_s(run, guided):
    seen = view(index_of(run, "stop_loss"), 300, 400)
    assert all(map(math.isnan, [*seen.column("smoothed_loss"), *seen.column("running_average")]))
    assert not all(map(math.isnan, seen.column("loss_variance")))
    assert not all(map(math.isnan, view(index_of(guided, "stop_loss")).column("smoothed_loss")))


def test_the_cooling_after_a_calibration_and_a_balance_is_their_trial(run):
    bands = view(index_of(run)).bands
    assert [(band.kind, band.first) for band in bands][:2] == [("warmup", 1), ("trial", 51)]
    first = next(event.step for event in run.events if event.action is Action.BALANCE)
    assert ("trial", first + 1) in [(band.kind, band.first) for band in bands]


@pytest.mark.parametrize("reason", [Reason.HOLDING, Reason.TARGETS_OUT_OF_REACH])
def test_a_balance_that_cannot_go_on_is_a_concern(tmp_path, reason):
    far = GradientShare({"mel_loss": 0.9}, measure_every=5, calibrate_steps=10)
    maker = JointRun(tmp_path, strategy=far)
    if reason is Reason.HOLDING:
        maker.state = maker.state._replace(core=maker.state.core._replace(rollbacks=3))
        maker.writer.close()
        maker.begin()
    index = index_of(maker.observe(300).close())
    texts = [concern.text for concern in concerns(index, view(index, points=1), "ended")]
    assert any(text.startswith(reason.value.replace("_", " ")) for text in texts), texts


# --- the dashboard's routes -----------------------------------------------------------------------------


def test_the_routes_tell_of_the_balance(ask, run):
    listed = {one["run"]: one for one in ask("/runs")["runs"]}
    assert (listed["balanced"]["balance"], listed["guided"]["balance"]) == ("GradientShare", None)
    assert [one["intent"] for one in listed["balanced"]["terms"]] == [0.4, None]
    assert ask("/present", run="balanced")["share"] == parts_of_the_gradient(index_of(run))["mel_loss"]
    assert ask("/present", run="guided")["share"] is None
    events = ask("/events", run="balanced", term="stop_loss")["events"]
    assert len(events) == len(run.events)
    assert {event["mark"] for event in events} == {"calibrate", "disable", "enable", "balance"}


def test_the_scale_of_the_parts_begins_at_0_and_holds_the_intent(ask):
    whole = ask("/series", run="balanced")
    kind, low, high = whole["scales"]["share"]
    assert (kind, low) == ("linear", 0.0)
    shares = [share for share in whole["figures"]["share"]["last"] if share is not None]
    assert 0.4 < max(0.4, *shares) < high < 1.1
    assert ask("/series", run="balanced", term="energy_loss")["scales"]["share"][2] < 0.4


# --- report and picture ---------------------------------------------------------------------------------


def test_the_report_tells_of_balance_calibration_and_parts(run):
    report = make_report(run.journal)
    assert (report.balance, report.calibrated) == ("GradientShare", 50)
    assert [(term.term, term.intent) for term in report.terms] == [
        ("mel_loss", 0.4), ("stop_loss", None), ("energy_loss", None)
    ]  # fmt: skip
    assert sum(term.share for term in report.terms) == pytest.approx(1.0)
    assert report.largest_change == pytest.approx(0.05), "but for the calibration and the disable"
    text = to_text(report)
    assert "GradientShare decides on all weights together, calibrated at step 50" in text
    last = run.events[-1]
    old, new = last.old_weights["mel_loss"], last.new_weights["mel_loss"]
    assert f"  step {last.step:,}: balance mel_loss {old:.4g} → {new:.4g}, off target" in text, "and not what stayed"
    assert "<th>share</th>" in to_html(report, b"")


def test_a_rollback_of_the_calibration_is_no_change_of_its_own(tmp_path):
    run = JointRun(tmp_path, strategy=SHARE).observe(60).by_hand("rollback").close()
    assert [event.action for event in run.events] == [Action.CALIBRATE, Action.ROLLBACK]
    assert make_report(run.journal).largest_change == 0.0


@pytest.fixture
def drawn(monkeypatch):
    """The figure of a picture, before it becomes a PNG."""
    figures = []
    for module in (picture, what_if_picture):
        monkeypatch.setattr(module, "png", lambda figure: figures.append(figure) or b"")
    return figures


def titles(figure):
    return [axis.get_title(loc="left") for axis in figure.axes if axis.get_title(loc="left")]


def labels(figure, title):
    axis = next(axis for axis in figure.axes if axis.get_title(loc="left") == title)
    return [text.get_text() for text in axis.get_legend().get_texts()]


def test_the_picture_shows_all_weights_parts_and_losses(run, drawn):
    picture.draw_run(index_of(run))
    (figure,) = drawn
    relative = "Losses, each relative to its first average"
    assert titles(figure) == [
        "Weights", "Parts of the gradient", relative, "Variance of the weighted sum", "Gradient norm"
    ]  # fmt: skip
    assert labels(figure, "Weights")[:2] == ["mel_loss", "stop_loss"]
    assert labels(figure, "Parts of the gradient") == ["mel_loss", "stop_loss", "energy_loss"]
    assert labels(figure, relative) == ["mel_loss", "stop_loss", "energy_loss"]
    texts = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert {"calibrated", "intent 0.4"} <= set(texts)
    parts = next(axis for axis in figure.axes if axis.get_title(loc="left") == "Parts of the gradient")
    intent = next(line for line in parts.lines if list(line.get_ydata()) == [0.4, 0.4])
    assert intent.get_color() == parts.lines[0].get_color(), "the intent has the colour of its term"
    assert intent.get_linestyle() == "--"
    index = index_of(run)
    known = [share for share in view(index, points=1500).column("share") if not math.isnan(share)]
    assert list(parts.lines[0].get_ydata()) == known
    assert figure.legends[0].get_texts()[-1].get_text() == "calibration 1", "told once, not for each weight"


@pytest.mark.parametrize(
    ("strategy", "shown"),
    [(SqrtLoss(measure_every=5), 4), (Constraint("mel_loss", at_most=0.7), 4), (EQUAL, 5)],
)
def test_parts_are_shown_where_they_are_measured_and_the_loss_at_its_limit(tmp_path, drawn, strategy, shown):
    picture.draw_run(index_of(JointRun(tmp_path, strategy=strategy).observe(200).close()))
    (figure,) = drawn
    assert len(titles(figure)) == shown
    named = [text.get_text() for axis in figure.axes for text in axis.texts]
    assert any(text.startswith("at most 0.6") for text in named) is isinstance(strategy, Constraint)


def test_a_run_of_several_weights_is_drawn_together_or_one_of_them_alone(guided, drawn):
    picture.draw_run(index_of(guided))
    picture.draw_run(index_of(guided, "stop_loss"))
    together, alone = drawn
    assert titles(together)[:3] == ["Weights", "Losses, each relative to its first average", "Loss ratio of mel_loss"]
    assert labels(together, "Weights")[:3] == ["mel_loss", "stop_loss", "pitch_loss"]
    assert titles(alone)[:3] == ["Weight of stop_loss", "stop_loss, unweighted", "Loss ratio"]


def test_a_balanced_run_without_steps_and_a_shadow_run_are_drawn(tmp_path, drawn):
    picture.draw_run(index_of(JointRun(tmp_path / "none", strategy=SHARE).close()))
    shadow = JointRun(tmp_path / "shadow", strategy=SHARE)
    shadow.writer.close()
    shadow.state = shadow.envelope.set_shadow(shadow.state, shadow=True)
    index = index_of(shadow.begin().observe(200).close())
    picture.draw_run(index)
    assert index.proposed > 10.0 > index.weight
    assert "a shadow run proposes others" in drawn[1].texts[-1].get_text()


# --- the command line -----------------------------------------------------------------------------------


def said(capsys, *arguments):
    code = main(list(map(str, arguments)))
    streams = capsys.readouterr()
    return code, streams.out, streams.err


def test_status_tells_the_last_decision_on_all(run, capsys):
    code, out, _ = said(capsys, "status", run.journal)
    last = run.events[-1]
    assert code == 0
    assert f"step {last.step:,}: balance mel_loss {last.old_weights['mel_loss']:.4g} -> " in out
    assert "balance     GradientShare decides on all weights together, calibrated at step 50\n" in out
    code, out, _ = said(capsys, "status", run.journal, "--term", "stop_loss")
    assert f"step {last.step:,}: balance stop_loss 2 -> 2" in out, "of the one that was asked for"


def test_a_replay_decides_again_on_all_weights_or_by_another_balance(run, tmp_path, capsys):
    code, out, _ = said(capsys, "replay", run.journal)
    assert code == 0
    assert "reproduces the record exactly" in out
    code, out, _ = said(capsys, "replay", run.journal, "--balance", "share:mel_loss=0.2", "--json")
    values = json.loads(out)
    assert (code, values["same"]) == (0, False)
    target = values["decided"][0]["evidence"]["target.mel_loss"]
    assert target == pytest.approx(0.2 / 0.8 * 2.25 / 0.02, rel=0.1)
    code, out, _ = said(capsys, "replay", run.journal, "--balance", "share:mel_loss=0.2", "--png", tmp_path / "x.png")
    assert out.startswith("What if balance: share:mel_loss=0.2")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_a_balance_is_tried_on_the_record_of_the_guide_s_rule(guided, capsys):
    code, out, _ = said(capsys, "replay", guided.journal, "--balance", "sqrt", "--json")
    assert code == 0
    assert {event["action"] for event in json.loads(out)["decided"]} >= {"calibrate", "disable", "enable"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--balance", "guide"), "cannot be decided again term by term"),
        (("--term", "mel_loss"), "cannot be decided again for one"),
    ],
)
def test_what_cannot_be_replayed_is_said(run, capsys, arguments, message):
    code, _, err = said(capsys, "replay", run.journal, *arguments)
    assert code == 2
    assert message in err


def test_a_balance_that_there_is_not_is_wrong_usage(run, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["replay", str(run.journal), "--balance", "gide"])
    assert "a balance must be one of guide, auto" in capsys.readouterr().err


def test_the_picture_of_a_what_if_shows_all_weights(run, drawn, tmp_path, capsys):
    said(capsys, "replay", run.journal, "--balance", "auto", "--png", tmp_path / "x.png")
    (figure,) = drawn
    names = [f"{term} {path}" for term in ("mel_loss", "stop_loss") for path in ("recorded", "what if")]
    assert labels(figure, "Weights") == names
    assert figure.axes[0].get_yscale() == "log"
