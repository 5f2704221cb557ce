"""The dashboard in a real Chromium, driven by Playwright, against a real TensorBoard on journals of the controller."""

import collections
import re
import shutil
import time
from pathlib import Path

import pytest
from dashboard_runs import MARKUP, RunMaker, eventful_run, hostile_run
from joint_run import JointRun
from several_terms import eventful
from tensorboard_page import FLAGS, tensorboard

from keras_adaptive_weights.deciding.gradient_share import GradientShare
from keras_adaptive_weights.journal.index import JournalIndex

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(300)]
BEFORE_THE_WINGS = Path(__file__).parents[1] / "data" / "before_the_wings" / "run"
NOTE = "operator heard clipping"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    try:
        from playwright import sync_api
    except ModuleNotFoundError:
        pytest.fail("The browser tests need Playwright: pip install playwright (its own browsers are not needed).")
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.fail(
            "The browser tests need Chromium: apt-get install chromium (or deselect them with -m 'not browser')."
        )
    with sync_api.sync_playwright() as engine:
        context = engine.chromium.launch_persistent_context(
            tmp_path_factory.mktemp("profile"),
            executable_path=path,
            headless=True,
            args=FLAGS,
            viewport={"width": 1440, "height": 1100},
        )
        yield context
        context.close()


class Dashboard:
    """The page as a person sees it; collects console errors and the hosts that were asked.

    Within TensorBoard's own page, or the same frame by itself, which opens ten times as fast.
    """

    def __init__(self, context, address, *, inside=False):
        self.page = context.new_page()
        self.address, self.errors, self.hosts = address, [], set()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(re.sub(r"^(\w+://[^/]*/?).*", r"\1", request.url)))
        if inside:
            self.page.goto(f"{address}#adaptive_weights")
            self.frame = self.page.frame_locator("iframe[src*='adaptive_weights']")
        else:
            self.page.goto(f"{address}data/plugin_entry.html?name=adaptive_weights")
            self.frame = self.page

    def _hear(self, message):
        if message.type == "error" and not message.location["url"].endswith("/favicon.ico"):
            self.errors.append(message.text)

    def ready(self):
        self.frame.locator("#panel-weight .weight-line").first.wait_for(state="attached", timeout=60_000)
        return self

    def counts(self):
        """Events by action, as the markers say: a marker may stand for several."""
        script = "nodes => nodes.map(n => [n.dataset.kind, Number(n.dataset.count)])"
        total = {}
        for action, number in self.frame.locator(".marker").evaluate_all(script):
            total[action] = total.get(action, 0) + number
        return total

    def until(self, what, wanted, seconds=40.0):
        """Wait until `what()` equals `wanted`."""
        end = time.monotonic() + seconds
        while (seen := what()) != wanted and time.monotonic() < end:
            time.sleep(0.1)
        assert seen == wanted

    def close(self):
        self.page.close()
        assert self.errors == []
        assert self.hosts <= {self.address, "data:", "blob:"} | {
            h for h in self.hosts if h.startswith(("data:", "blob:"))
        }


def actions_of(maker):
    total = {}
    for event in maker.events:
        kind = "recover" if event.reason.value.startswith("recovered") else event.action.value
        total[kind] = total.get(kind, 0) + 1
    if maker.skipped:
        total["skipped"] = len(maker.skipped)
    return total


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return eventful_run(tmp_path_factory.mktemp("one") / "speech", steps=1500, note=NOTE)


@pytest.fixture(scope="module")
def server(run):
    with tensorboard(run.journal.parents[2]) as address:
        yield address


@pytest.fixture(scope="module")
def growing(tmp_path_factory):
    """A log dir where nothing is yet, and the address of a TensorBoard on it."""
    folder = tmp_path_factory.mktemp("growing")
    with tensorboard(folder, with_tensorflow=False) as address:
        yield folder, address


@pytest.fixture
def dashboard(chromium, server):
    opened = Dashboard(chromium, server).ready()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def seen(chromium, server):
    """The page for those who look, or hover, and leave it as it is."""
    opened = Dashboard(chromium, server).ready()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def tab(chromium, server):
    opened = Dashboard(chromium, server, inside=True).ready()
    yield opened
    opened.close()


def test_the_tab_is_there(tab, run):
    assert tab.page.get_by_role("tab", name="Adaptive Weights").is_visible()
    assert tab.counts() == actions_of(run)


def test_every_event_has_its_marker(seen, run):
    assert seen.counts() == actions_of(run)
    shapes = seen.frame.locator(".marker").evaluate_all(
        "nodes => [...new Set(nodes.map(n => `${n.dataset.kind} ${n.querySelector('path').getAttribute('d')}`))]"
    )
    assert len(shapes) == len(actions_of(run)), "one shape for each kind"
    assert len({shape.split(" ", 1)[1] for shape in shapes}) == len(shapes), "and no two alike"


def test_hovering_tells_step_weights_reason_evidence_and_advice(seen, run):
    event = next(event for event in run.events if event.action == "decrease")
    at = run.events.index(event)
    seen.frame.locator(f'.marker[data-index="{at}"]').hover(force=True)
    text = seen.frame.locator(".tooltip").inner_text()
    assert f"decrease at step {event.step:,}" in text
    assert "→" in text
    assert event.reason.value.replace("_", " ") in text
    assert event.advice in text
    assert "running average" in text


def test_hovering_between_markers_tells_the_figures_of_the_step(seen):
    seen.frame.locator("#panel-loss .plot").hover(position={"x": 300, "y": 60})
    text = seen.frame.locator(".tooltip").inner_text()
    assert re.search(r"steps? [\d,]+", text)
    assert "loss ratio" in text
    cursors = seen.frame.locator(".cursor[visibility=visible]")
    assert cursors.count() == 5, "the same step is marked in every panel"
    assert "smoothed loss" in text


def test_a_marker_selects_its_row_and_a_row_its_marker(dashboard, run):
    frame = dashboard.frame
    disable = next(i for i, event in enumerate(run.events) if event.action == "disable")
    frame.locator(f'.marker[data-index="{disable}"]').click(force=True)
    row = frame.locator('tr[aria-selected="true"]')
    assert row.get_attribute("data-index") == str(disable)
    assert NOTE in frame.locator(".details").inner_text()
    frame.locator('.decisions tr[data-index="0"]').click()
    assert frame.locator(".marker.selected").get_attribute("data-index") == "0"
    assert frame.locator(".marker.selected .halo").count() == 1


def test_the_table_is_filtered_by_action_and_reason(dashboard, run):
    frame = dashboard.frame
    rows = frame.locator(".decisions tbody tr")
    assert rows.count() == len(run.events)
    frame.locator("#filter-kind").select_option("decrease")
    reasons = [event.reason.value for event in run.events if event.action == "decrease"]
    assert rows.count() == len(reasons)
    assert frame.locator(".marker.dim").count() == len(run.events) - len(reasons)
    frame.locator("#filter-reason").select_option(reasons[0])
    assert rows.count() == reasons.count(reasons[0])
    other = next(i for i, event in enumerate(run.events) if event.action == "reset")
    frame.locator(f'.marker[data-index="{other}"]').click(force=True)
    assert frame.locator('tr[aria-selected="true"]').get_attribute("data-index") == str(other), "the filter gives way"


def test_zooming_narrows_markers_reasons_and_table_to_the_window(dashboard, run):
    frame = dashboard.frame
    box = frame.locator("#panel-loss .plot").bounding_box()
    mouse = dashboard.page.mouse
    mouse.move(box["x"] + 200, box["y"] + 50)
    mouse.down()
    mouse.move(box["x"] + 420, box["y"] + 60, steps=4)
    mouse.up()
    first, last = (int(n.replace(",", "")) for n in re.findall(r"[\d,]+", frame.locator(".range-text").inner_text()))
    assert 1 < first < last < run.step
    inside = [event for event in run.events if first - 1 <= event.step <= last]
    events = {action: n for action, n in dashboard.counts().items() if action != "skipped"}
    assert sum(events.values()) == len(inside)
    expected = f"Steps {first:,} to {last:,}"
    dashboard.until(lambda: frame.locator("aside p[role=status]").inner_text().startswith(expected), wanted=True)
    frame.locator("#only-view").check()
    dashboard.until(lambda: abs(frame.locator(".decisions tbody tr").count() - len(inside)) <= 1, wanted=True)
    frame.locator("#whole").click()
    dashboard.until(lambda: frame.locator(".range-text").inner_text(), f"steps 1 to {run.step:,}")


def test_the_keyboard_is_enough(dashboard, run):
    frame = dashboard.frame
    frame.locator(".charts").focus()
    dashboard.page.keyboard.press("n")
    assert frame.locator(".marker.selected").get_attribute("data-index") == "0", "from the first on"
    dashboard.page.keyboard.press("n")
    assert frame.locator('tr[aria-selected="true"]').get_attribute("data-index") == "1"
    dashboard.page.keyboard.press("+")
    assert frame.locator(".range-text").inner_text() != f"steps 1 to {run.step:,}"
    dashboard.page.keyboard.press("0")
    assert frame.locator(".range-text").inner_text() == f"steps 1 to {run.step:,}"
    dashboard.page.keyboard.press("Escape")
    assert frame.locator(".marker.selected").count() == 0


def test_why_is_nothing_changing_counts_the_holds(seen, run):
    items = seen.frame.locator(".reasons li")
    shown = dict(items.evaluate_all("nodes => nodes.map(n => [n.dataset.reason, n.innerText])"))
    automatic = len([event for event in run.events if not event.by_hand])
    numbers = [int(re.search(r"([\d,]+) ·", text)[1].replace(",", "")) for text in shown.values()]
    assert sum(numbers) == run.step - automatic
    assert "At least 30 steps lie between two changes" in shown["cooling"]


def test_bounds_base_thresholds_and_bands_are_there(seen):
    frame = seen.frame
    said = " ".join(frame.locator(".limits text").all_text_contents())
    for label in ("↑ maximum 5", "base 2.5", "↓ minimum 1", "high 1.1", "low 0.9", "threshold 0.5", "threshold 6"):
        assert label in said
    for kind in ("warmup", "trial", "cooling", "disabled"):
        assert frame.locator(f"#panel-weight .band.band-{kind}").count() == 1
        assert frame.locator(f"#panel-weight .phase-bar.band-{kind}").count() == 1
    lines = frame.locator("#panel-loss .line").evaluate_all("nodes => nodes.map(n => n.getAttribute('class'))")
    assert lines == ["line raw", "line main", "line second"], "every step, smoothed, running average"


def test_the_weights_scale_fits_what_moved_and_shows_the_bounds_on_demand(dashboard):
    frame = dashboard.frame
    ticks = "nodes => nodes.map(n => n.textContent)"
    fitted = frame.locator("#panel-weight .grid text").evaluate_all(ticks)
    assert not {"1", "4", "5"} & set(fitted)
    frame.locator("#bounds").click()
    assert (
        frame.locator("#panel-weight .limit-minimum").count()
        == frame.locator("#panel-weight .limit-maximum").count()
        == 1
    )
    assert {"2", "4"} <= set(frame.locator("#panel-weight .grid text").evaluate_all(ticks))
    frame.locator("#bounds").click()
    assert frame.locator("#panel-weight .grid text").evaluate_all(ticks) == fitted


def test_the_first_screen_answers_what_a_person_asks_first(chromium, server, run):
    """At 1,280 x 800, of which TensorBoard's own bar takes 64."""
    opened = Dashboard(chromium, server)
    opened.page.set_viewport_size({"width": 1280, "height": 736})
    opened.ready()
    frame, newest = opened.frame, run.events[-1]
    answer = {name: frame.locator(f"#answer-{name}").inner_text() for name in ("weight", "last", "wrong", "standing")}
    assert f"{run.state.weight:.4g}" in answer["weight"]
    assert "mel_loss" in answer["weight"]
    assert f"{newest.old_weight:.4g} → {newest.new_weight:.4g}" in answer["last"]
    assert newest.reason.value.replace("_", " ") in answer["last"]
    assert "4 steps skipped, last 1,388: mel_loss not finite" in answer["wrong"]
    assert "ended" in answer["wrong"]
    index = JournalIndex(run.journal)
    index.refresh()
    last = next(row for row in reversed(index.rows(index.spans[-1])) if "reason" in row)
    assert last["reason"].replace("_", " ") in answer["standing"]
    assert frame.locator('tr[aria-selected="true"]').get_attribute("data-index") == str(len(run.events) - 1)
    assert newest.advice in frame.locator(".details").inner_text(), "the newest decision is explained without a click"
    bottom = "node => node.getBoundingClientRect().bottom"
    for part in (*(f"#answer-{name}" for name in answer), ".charts", "#panel-gradient .plot"):
        assert frame.locator(part).evaluate(bottom) <= 736, part
    steps = frame.locator("#panel-gradient .grid text[text-anchor=middle]").evaluate_all(
        "n => n.map(t => t.textContent)"
    )
    assert "1,000" in steps, "the steps are numbered in the first screen"
    frame.locator("#answer-wrong button").last.click()
    opened.until(lambda: frame.locator(".range-text").inner_text(), "steps 1,328 to 1,448")
    opened.close()


def test_what_lies_beyond_a_scale_is_marked_with_its_value(chromium, tmp_path):
    maker = RunMaker(tmp_path / "spiky").observe(200)
    maker.observe_loss(58.25).observe(100).close()
    with tensorboard(tmp_path, with_tensorflow=False) as address:
        opened = Dashboard(chromium, address).ready()
        peak = opened.frame.locator("#panel-loss .peak")
        assert peak.get_attribute("aria-label") == "loss 58.25 at step 201, beyond the scale"
        assert opened.frame.locator("#panel-loss .peak-value").text_content() == "58.3"
        peak.hover(force=True)
        assert "beyond the scale at step 201" in opened.frame.locator(".tooltip").inner_text()
        opened.close()


def test_a_journal_that_breaks_is_named_and_the_others_are_shown(chromium, tmp_path):
    good = RunMaker(tmp_path / "good").observe(100).close()
    bad = RunMaker(tmp_path / "bad", run="b", seed=2).observe(100).close()
    hostile_run(tmp_path / "hostile")
    (tmp_path / "never" / "adaptive_weights").mkdir(parents=True)
    (tmp_path / "never" / "adaptive_weights" / "journal.jsonl").write_text("no journal\n")
    with tensorboard(tmp_path, with_tensorflow=False) as address:
        opened = Dashboard(chromium, address).ready()
        frame = opened.frame
        assert "does not begin with the header" in frame.locator(".runs li", has_text="never").inner_text()
        opened.until(frame.locator("#panel-weight .weight-line").count, 3)
        bad.journal.write_text("overwritten\n")
        opened.until(frame.locator("#panel-weight .weight-line").count, 2)
        assert "header" in frame.locator(".runs li", has_text="bad").inner_text()
        assert frame.locator(".banner").is_hidden()
        frame.locator(".runs li", has_text="hostile").locator(".focus").click()
        text = frame.locator("body").inner_text()
        assert r"\x1b]0;OWNED\x07" in text
        assert not re.search("[\x00-\x08\x0b-\x1f\u202e\u2066]", text)
        assert frame.locator("img, b").count() == 0
        assert good.events == []
        opened.close()


def test_parts_are_named_for_those_who_do_not_see_them(seen, run):
    names = seen.frame.locator(".marker").evaluate_all("nodes => nodes.map(n => n.getAttribute('aria-label'))")
    event = run.events[0]
    assert any(name.startswith(f"{event.action} at step {event.step}, 2.5 to ") for name in names)
    unnamed = seen.frame.locator("body").evaluate(
        "body => [...body.querySelectorAll('button, select, input')].filter(n => !(n.innerText || n.ariaLabel ||"
        " n.labels?.length)).length"
    )
    assert unnamed == 0


def test_the_theme_is_tensorboards_and_follows_it(tab):
    root = tab.frame.locator("html")
    background = "getComputedStyle(document.body).backgroundColor"
    assert root.get_attribute("data-theme") == "light"
    light = root.evaluate(f"() => {background}")
    tab.page.locator("app-header-dark-mode-toggle button").click()
    tab.page.get_by_role("menuitem").filter(has_text="Dark").click()
    tab.until(lambda: root.get_attribute("data-theme"), "dark")
    assert root.evaluate(f"() => {background}") != light


def test_by_itself_the_page_follows_the_systems_theme(dashboard):
    root = dashboard.frame.locator("html")
    for scheme in ("dark", "light"):
        dashboard.page.emulate_media(color_scheme=scheme)
        dashboard.until(lambda: root.get_attribute("data-theme"), scheme)


@pytest.mark.parametrize("width", [1024, 2560])
def test_nothing_overflows_at_any_width(chromium, server, width):
    opened = Dashboard(chromium, server)
    opened.page.set_viewport_size({"width": width, "height": 1000})
    opened.ready()
    overflow = "() => document.documentElement.scrollWidth - document.documentElement.clientWidth"
    opened.until(lambda: opened.frame.locator("html").evaluate(overflow), 0)
    widths = opened.frame.locator(".panel:not([hidden]) .plot").evaluate_all(
        "nodes => nodes.map(n => n.getBoundingClientRect().width)"
    )
    assert min(widths) > 0.5 * width
    opened.close()


def test_an_empty_log_directory_says_what_to_do_and_runs_lie_over_each_other(chromium, growing):
    folder, address = growing
    opened = Dashboard(chromium, address)
    opened.frame.get_by_text("No journal below this log directory yet").wait_for(timeout=60_000)
    makers = [RunMaker(folder / name, run=name, seed=seed).observe(400).close() for seed, name in enumerate("abc", 3)]
    lines = opened.frame.locator("#panel-weight .weight-line")
    opened.until(lines.count, 3)
    total = {}
    for maker in makers:
        for action, number in actions_of(maker).items():
            total[action] = total.get(action, 0) + number
    opened.until(opened.counts, total)
    opened.frame.get_by_label("b", exact=True).uncheck()
    opened.until(lines.count, 2)
    assert opened.frame.locator('.marker[data-run="b"]').count() == 0
    opened.close()


def test_a_growing_run_is_followed_paused_and_resumed_and_markup_is_text(chromium, growing):
    folder, address = growing
    maker = RunMaker(folder / "live").observe(300).flush()
    time.sleep(5.0)  # the list of runs may be five seconds old
    opened = Dashboard(chromium, address).ready()
    frame = opened.frame
    for name in "abc":  # of the test before, if it ran
        if frame.get_by_label(name, exact=True).count():
            frame.get_by_label(name, exact=True).uncheck()
    state = frame.locator(".runs li", has_text="live").locator(".state")
    assert frame.locator(".looked").inner_text().startswith("checked")
    assert "training" in state.inner_text()
    maker.observe(200).by_hand("disable", MARKUP)
    opened.until(opened.counts, actions_of(maker))
    opened.until(frame.locator(".range-text").inner_text, "steps 1 to 500")
    row = frame.locator("tr", has_text="manual").first
    assert row.locator(".note-cell").inner_text() == MARKUP
    row.click()
    assert MARKUP in frame.locator(".details").inner_text()
    assert frame.locator("img, b").count() == 0
    assert opened.page.title() == "Adaptive Weights"
    frame.locator("#pause").click()
    assert frame.locator(".looked").get_attribute("data-state") == "paused"
    maker.by_hand("enable", "better").flush()
    time.sleep(2.5)
    assert "enable" not in opened.counts()
    frame.locator("#pause").click()
    opened.until(opened.counts, actions_of(maker))
    maker.close()
    opened.until(lambda: "ended" in state.inner_text(), wanted=True)
    opened.close()


@pytest.fixture(scope="module")
def three(chromium, tmp_path_factory):
    """The page on a run of three adaptive terms and a fixed one, one of format 1 with a single term, a balanced one."""
    folder = tmp_path_factory.mktemp("three")
    run = eventful(folder / "three", steps=900)
    balance = GradientShare({"mel_loss": 0.4}, measure_every=5, calibrate_steps=10)
    balanced = JointRun(folder / "balanced", strategy=balance).observe(200).by_hand("disable").by_hand("enable")
    balanced.observe(300).close()
    shutil.copytree(BEFORE_THE_WINGS, folder / "before")
    with tensorboard(folder, with_tensorflow=False) as address:
        opened = Dashboard(chromium, address).ready()
        yield opened, run, balanced
        opened.close()


def choose_runs(frame, *names):
    for name in ("three", "before", "balanced"):
        frame.locator(".runs li", has_text=name).locator("input").set_checked(name in names)


def test_several_weights_are_in_one_panel_and_a_term_is_chosen_for_the_others(three):
    opened, run, _ = three
    frame = opened.frame
    choose_runs(frame, "three")
    opened.until(lambda: frame.locator("#panel-weight .weight-line").count(), 3)
    wanted = dict(collections.Counter(event.action.value for event in run.events)) | {"skipped": 900 // 347}
    opened.until(opened.counts, wanted)
    dashes = frame.locator("#panel-weight .weight-line").evaluate_all(
        "ns => ns.map(n => n.getAttribute('stroke-dasharray'))"
    )
    assert len(set(dashes)) == 3
    assert frame.locator("#panel-loss h3").inner_text() == "Losses, each relative to its first average"
    assert frame.locator("#panel-loss .line.main").count() == 4
    frame.locator("#relative").click()
    assert frame.locator("#panel-loss h3").inner_text() == "Losses, unweighted"
    assert frame.locator("#panel-ratio .line").count() == 1
    frame.locator("button[data-term=stop_loss]").click()
    assert frame.locator("#panel-ratio h3").inner_text() == "Loss ratio of stop_loss"
    assert "Weight of stop_loss" in frame.locator("#answer-weight").inner_text()
    frame.locator("button[data-term=mel_loss]").click()
    frame.locator("#relative").click()


def test_a_run_of_several_terms_and_one_of_format_1_lie_over_each_other(three):
    opened, _, _ = three
    frame = opened.frame
    choose_runs(frame, "three", "before")
    opened.until(lambda: frame.locator("#panel-weight .weight-line").count(), 4)
    assert frame.locator("#panel-ratio .line").count() == 2


def test_a_balance_is_shown_with_its_parts_against_their_intents_and_its_calibration(three):
    opened, _, run = three
    frame = opened.frame
    choose_runs(frame, "balanced")
    opened.until(lambda: frame.locator("#panel-share .line").count(), 3)
    assert frame.locator("#panel-share h3").inner_text() == "Parts of the gradient"
    assert frame.locator("#panel-ratio").is_hidden()
    stroke = "node => getComputedStyle(node).stroke"
    intent = frame.locator("#panel-share .limit-intent")
    assert intent.evaluate(stroke) == frame.locator("#panel-share .line").first.evaluate(stroke)
    assert "7px" in intent.evaluate("node => getComputedStyle(node).strokeDasharray")
    assert frame.locator("#panel-share .limits text").all_text_contents() == ["intent 0.4"]
    assert frame.locator("#panel-weight .calibration text").text_content() == "calibrated"
    assert frame.locator(".kinds [data-kind=calibrate]").get_attribute("data-count") == "1", "told once"
    assert frame.locator(".marker[data-kind=calibrate]").count() == 1, "stop_loss did not move"
    assert frame.locator(".decisions tbody tr").count() == len(run.events)
    answer = frame.locator("#answer-weight").inner_text()
    assert re.search(r"\d+ % of the gradient, intent 40 %, calibrated at step 50 by GradientShare", answer)
    frame.locator("#panel-share .plot").hover(position={"x": 300, "y": 30})
    said = frame.locator(".tooltip").inner_text()
    assert re.search(r"share\s+0\.\d+", said), "of the step, or of the last one in which it was measured"
    assert re.search(r"energy_loss\s+fixed 0.5 . [\d.]+, share 0\.\d+", said)
    frame.locator(".marker[data-kind=calibrate]").click(force=True)
    details = frame.locator(".details").inner_text()
    assert "the weights are now what was measured over the first steps" in details
    assert "intent of mel loss" in details
    choose_runs(frame, "three")
    opened.until(lambda: frame.locator("#panel-ratio").is_visible(), wanted=True)
    assert frame.locator("#panel-share").is_hidden()


def test_a_balanced_run_and_one_of_the_guide_s_rule_lie_over_each_other(three):
    opened, _, _ = three
    frame = opened.frame
    choose_runs(frame, "three", "balanced")
    opened.until(lambda: frame.locator("#panel-weight .weight-line").count(), 5)
    frame.locator(".runs li", has_text="balanced").locator(".focus").click()
    opened.until(lambda: frame.locator("#panel-share .line").count(), 1)
