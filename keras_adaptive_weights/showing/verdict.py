"""What a person asks first of a run: is something wrong, and why is nothing changing right now?

The same answers in the dashboard's first lines, in the report and from `status`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from keras_adaptive_weights.deciding.decision import Action, Reason
from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.showing.explain import RECOVERIES, headline, meaning
from keras_adaptive_weights.showing.view import CHANGES, View, last_header

_RECENT_STEPS, _RECENT_SHARE = 200, 0.1
_LOOKED_BACK = 2
_LAST_CHANGES, _MANY_UNDONE = 6, 3
_TROUBLE = (
    Reason.HIGH_VARIANCE,
    Reason.NO_SCALE,
    Reason.UNSTABLE,
    Reason.NON_FINITE,
    Reason.GRADIENTS_BLOCK_INCREASE,
    Reason.AT_MAX,
    Reason.AT_MIN,
    Reason.TARGETS_OUT_OF_REACH,
    Reason.HOLDING,
)


@dataclass(frozen=True, slots=True)
class Concern:
    """Something that a person may want to do something about.

    Attributes:
        level: "bad": the run needs somebody now; "warn": have a look; "note": good to know.
        text: One line.
        step: The step it is about, if it is about one.
    """

    level: str
    text: str
    step: int | None = None


@dataclass(frozen=True, slots=True)
class Standing:
    """Why the weight is as it is: the reason of the latest decision.

    Attributes:
        action: Its action.
        reason: Its reason.
        since: First step from which on every decision had that reason, as far as was looked back.
        last: Step of the latest decision.
        exact: Whether the decision before `since` had another reason; else it may be so for longer.
        meaning: What the reason means, with the run's settings.
    """

    action: str
    reason: str
    since: int
    last: int
    exact: bool
    meaning: str


def standing(index: JournalIndex) -> Standing | None:
    """Return why the weight is as it is after the last step; None before the first decision.

    Args:
        index: A refreshed index.
    """
    decisions = _decisions_backwards(index)
    latest = next(decisions, None)
    if latest is None:
        return None
    last, action, reason = latest
    since, exact = last, False
    for step, *other in decisions:
        if other != [action, reason]:
            exact = True
            break
        since = step
    return Standing(action, reason, since, last, exact, meaning(reason, last_header(index)["config"]))


def standing_text(now: Standing) -> str:
    """Return why the weight is as it is, in a few words."""
    before = "" if now.exact else " or before"
    steps = "" if now.since == now.last else f", since step {now.since:,}{before}"
    return f"{now.action} at step {now.last:,}: {headline(now.reason)}{steps}"


def _decisions_backwards(index: JournalIndex) -> Iterator[tuple[int, str, str]]:
    """Yield step, action and reason of the decisions in the last blocks, newest first."""
    for span in reversed(index.spans[-_LOOKED_BACK:]):
        for row in reversed(index.rows(span)):
            if "reason" in row:
                yield int(row["step"]), str(row.get("action")), str(row["reason"])


def concerns(index: JournalIndex, seen: View, process: str, age: float | None = None) -> list[Concern]:
    """Return what may be wrong with a run, the worst first; an empty list where nothing stands out.

    Args:
        index: A refreshed index.
        seen: The whole run, see `view`.
        process: "alive", "ended" or "silent", or "" where nobody knows.
        age: Seconds since its last sign of life.
    """
    found = [
        *_about_the_process(process, age),
        *_about_switches(index),
        *_about_recoveries(index),
        *_about_skips(seen),
        *_about_changes(index),
    ]
    now = standing(index)
    if now is not None and now.reason in _TROUBLE:
        found.append(Concern("warn", f"{headline(now.reason)} since step {now.since:,}: {now.meaning}", now.since))
    if index.problems:
        found.append(Concern("warn", f"{_times(index.problems, 'line')} of the journal cannot be read"))
    return sorted(found, key=lambda concern: ("bad", "warn", "note").index(concern.level))


def _about_the_process(process: str, age: float | None) -> Iterator[Concern]:
    if process == "silent":
        since = "" if age is None else f" for {duration(age)}"
        yield Concern("bad", f"no sign of life{since}: killed or stuck")


def _about_switches(index: JournalIndex) -> Iterator[Concern]:
    if not last_header(index)["config"].get("enabled", True):
        yield Concern("warn", "adaptation is switched off in the configuration")
    if index.disabled:
        event = next((event for event in reversed(index.events) if event["action"] == Action.DISABLE), None)
        if event is None:
            yield Concern("warn", "adaptation is disabled")
        elif event["reason"] == Reason.MANUAL:
            yield Concern("warn", f"disabled by hand at step {event['step']:,}", event["step"])
        else:
            text = f"adaptation switched itself off at step {event['step']:,}: {headline(event['reason'])}"
            yield Concern("bad", text, event["step"])


def _about_recoveries(index: JournalIndex) -> Iterator[Concern]:
    steps = [event["step"] for event in index.events if event["reason"] in RECOVERIES]
    if steps:
        times = "once, at" if len(steps) == 1 else f"{len(steps):,} times, last at"
        yield Concern("warn", f"model restored {times} step {steps[-1]:,}", steps[-1])


def _about_skips(seen: View) -> Iterator[Concern]:
    skipped = [(step, what) for step, what, routine in seen.skipped if not routine]
    if skipped:
        step, what = skipped[-1]
        recent = step > seen.last - max(_RECENT_STEPS, _RECENT_SHARE * seen.steps)
        why = f": {printable(what, 60)} not finite" if what else ""
        text = f"{_times(len(skipped), 'step')} skipped, last {step:,}{why}"
        yield Concern("warn" if recent else "note", text, step)
    dampened = [step for step, _ in getattr(seen, "dampened", ())]
    if dampened:
        yield Concern("note", f"{_times(len(dampened), 'step')} dampened, last {dampened[-1]:,}", dampened[-1])


def _times(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def _about_changes(index: JournalIndex) -> Iterator[Concern]:
    changes = [event for event in index.events if event["action"] in (*CHANGES, Action.ROLLBACK)][-_LAST_CHANGES:]
    undone = [event for event in changes if event["action"] == Action.ROLLBACK and event["reason"] != Reason.MANUAL]
    if len(undone) >= _MANY_UNDONE:
        text = f"{len(undone)} of the last changes undone, last at step {undone[-1]['step']:,}"
        yield Concern("warn", text, undone[-1]["step"])


def duration(seconds: float) -> str:
    """Return a time in the unit that a person would use."""
    for size, name in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.0f} s"
