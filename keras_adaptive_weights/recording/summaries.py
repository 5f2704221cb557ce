"""The TensorBoard observer: scalars every few steps, every event at its step with a text that explains it.

Written as event records rather than with `tf.summary`: one record holds all scalars of a step, which costs microseconds
where a `tf.summary.scalar` costs 0.4 ms, and no `record_if` of another callback can drop it.

TensorBoard keeps one record per tag and step, so each action has a text tag of its own.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata

from keras_adaptive_weights.deciding.decision import Action, Decision, Reason
from keras_adaptive_weights.deciding.described_strategy import loss_limits_of
from keras_adaptive_weights.deciding.joint import JointDecision, JointObservation, by_term
from keras_adaptive_weights.deciding.printable import LONGEST_NOTE, printable
from keras_adaptive_weights.deciding.term_names import weight_name
from keras_adaptive_weights.journal.appended_file import let_go, take_over
from keras_adaptive_weights.journal.backlog import Backlog, Note
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.places import place
from keras_adaptive_weights.recording.event_files import EventFile

_PREFIX = "adaptive_weights"
_BALANCE = "balance"
_WEIGHT_SCALARS = {
    "weight": "Weight in force from the next step on.",
    "proposed": "What a shadow run proposes; it is not in force.",
    "minimum": "Lower bound of the weight.",
    "maximum": "Upper bound of the weight.",
    "base": "Base weight, which an emergency disable returns to.",
    "share": "Part of the term in the gradient.",
    "intent": "Part that a balance wants it to have.",
    "target": "Weight with which it would have it.",
}
_OUTCOME_SCALARS = {
    "action": "What was decided: " + ", ".join(f"{action.code} {action.value}" for action in Action) + ".",
    "reason": "Why: " + ", ".join(f"{reason.code} {reason.value}" for reason in Reason) + ".",
    "stability_score": "1 / (1 + loss variance).",
    "cooling_left": "Steps until cooling ends.",
}
_EVIDENCE_SCALARS = {
    "loss": "Raw, unweighted loss of the term.",
    "running_average": "Mean of the losses that the recent ones are compared with.",
    "loss_ratio": "Mean of the recent losses over the running average.",
    "loss_variance": "Variance of the recent losses in units of the squared running average.",
    "gradient_norm": "Mean of the recent global gradient norms.",
    "average_gradient_norm": "Mean of the gradient norms before the recent ones.",
    "stable_steps": "Consecutive steps without spike or skip.",
    "skipped_steps": "Steps skipped so far.",
    "dampened_steps": "Steps so far whose total loss was a spike and was scaled down, its gradients with it.",
    "empty_steps": "Steps so far on which there was nothing to measure.",
}
_ABOUT = {**_WEIGHT_SCALARS, **_OUTCOME_SCALARS, **_EVIDENCE_SCALARS}


class TensorBoardObserver:
    """Writes what was decided to an event file: `adaptive_weights/<term>/...`, and the layout of the custom scalars.

    Args:
        log_dir: Folder of the event file. What its files hold of later steps than the header's is moved to
            `abandoned/`.
        header: The terms, and the step that the run goes on from.
        update_freq: Steps between two records of the scalars. Events are always written.

    No tag is written twice at one step: TensorBoard keeps only one of such records. A weight that a person changed
    after the scalars of a step were written is written with the next step.

    Raises:
        OSError: The folder or file cannot be written.
    """

    def __init__(self, log_dir: str | os.PathLike[str], header: Header, *, update_freq: int = 10) -> None:
        self.run = header.run
        self._header = header
        self._update_freq = update_freq
        self._written: int | None = None
        self._described: dict[str, Summary.Value] = {}
        folder = place(log_dir, "TensorBoardObserver", "log_dir")
        self._key = folder / "events"
        take_over(self._key, self)
        with contextlib.ExitStack() as opened:
            opened.callback(let_go, self._key, self)
            self._events = EventFile(folder, header.step)
            opened.pop_all()
        if not all(f"{_PREFIX}/{name}/weight" in self._events.tags for name in header.adaptive):
            self._events.add(header.step, time.time(), [_layout(header)])
        self._backlog = Backlog(self._write_notes)

    def note(self, steps: Sequence[JointObservation], decisions: Sequence[Decision | JointDecision]) -> None:
        """Write the scalars when they are due, and an event always. After `close`, nothing.

        Args:
            steps: The steps; none: something was asked for by hand.
            decisions: Those of all terms, or what was asked for, each with its `term`.

        Raises:
            OSError: An earlier write failed, or this one. TensorFlow's file system has errors of its own.
        """
        self._backlog.add(steps, decisions)

    def note_save(self, step: int) -> None:
        """Write what is pending: no checkpoint is ever ahead of the event file."""
        del step
        self._backlog.flush_or_fail_later()

    def close(self, *, interrupted: bool = False) -> None:
        """Write what is pending and close the file. Harmless if called twice."""
        del interrupted
        if self._backlog.closed:
            return
        let_go(self._key, self)
        try:
            self._backlog.close()
            self._events.flush_records()
        finally:
            self._events.close()

    def _write_notes(self, notes: Iterator[Note], last: None) -> None:
        del last
        written = [self._write_note(note) for note in notes]
        if any(written):
            self._events.flush_records()

    def _write_note(self, note: Note) -> bool:
        """Write what is due of it; return whether anything was."""
        step = note.decisions[0].step
        due = self._written is None or step - self._written >= self._update_freq
        events = [decision for decision in note.decisions if decision.is_event]
        if not due and not events:
            return False
        values = [self._scalar(*scalar) for decision in note.decisions for scalar in self._scalars(decision)]
        values += [self._scalar(*scalar) for scalar in self._measured(note)]
        for event in events:
            place = f"{_PREFIX}/{event.term or _BALANCE}"
            values.append(_text(f"{place}/decisions/{event.action.value}", _markdown(event)))
        complete = self._events.add(step, note.wall_time, values)
        if note.steps or not complete:
            self._written = step if complete else None
        return True

    def _scalars(self, decision: Decision | JointDecision) -> Iterator[tuple[str, str, float]]:
        for of_term in by_term(decision):
            term, start = of_term.term, self._header.terms[of_term.term]
            yield term, "weight", of_term.weight_in_force
            if of_term.held_weight is not None:
                yield term, "proposed", of_term.new_weight
            if start.config is not None:
                yield term, "minimum", start.config.min_weight
                yield term, "maximum", start.config.max_weight
            yield term, "base", start.weight
        term, evidence = decision.term or _BALANCE, decision.evidence
        yield term, "action", decision.action.code
        yield term, "reason", decision.reason.code
        for name in _EVIDENCE_SCALARS:
            if math.isfinite(evidence.get(name, math.nan)):
                yield term, name, evidence[name]
        if "loss_variance" in evidence:
            yield term, "stability_score", 1.0 / (1.0 + evidence["loss_variance"])
            yield term, "cooling_left", max(0.0, evidence["cooling"] - evidence["steps_since_change"])

    def _measured(self, note: Note) -> Iterator[tuple[str, str, float]]:
        """Yield the share of each term, and what it is to be, where a balance knows them; and the loss of each."""
        if self._header.balance is not None and note.steps:
            for term, loss in note.steps[-1].losses.items():
                if term in self._header.terms and math.isfinite(loss):
                    yield term, "loss", loss
        for decision in note.decisions:
            for name, value in decision.evidence.items():
                kind, _, term = name.partition(".")
                if term in self._header.terms and kind in ("share", "intent", "target") and math.isfinite(value):
                    yield term, kind, value

    def _scalar(self, term: str, name: str, value: float) -> Summary.Value:
        """Return the record of a scalar, which holds until the next one with this tag: making it takes much longer."""
        tag = f"{_PREFIX}/{term}/{name}"
        if (record := self._described.get(tag)) is not None:
            record.tensor.float_val[0] = value
            return record
        tensor = TensorProto(dtype=DT_FLOAT, float_val=[value])
        self._described[tag] = Summary.Value(tag=tag, tensor=tensor)
        metadata = scalar_metadata.create_summary_metadata(display_name="", description=_ABOUT[name])
        return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


def _layout(header: Header) -> Summary.Value:
    """Return a custom-scalars layout: of each term the weight inside its bounds, then the evidence.

    With a balance this is on all weights together, which have a category of their own before those of the terms.
    """
    categories = {term: [_within_bounds(term), *_evidence(term)] for term in header.adaptive}
    if header.balance is not None:
        shares = not loss_limits_of(header.balance["strategy"])  # a limit of a loss is no part of a gradient
        parts = [_lines("parts of the gradient", *_tags(header.taking_part, "share"))] if shares else []
        together = [_lines("weights", *_tags(header.adaptive, "weight")), *parts, *_evidence(_BALANCE)]
        categories = {_BALANCE: together} | {term: _of_balanced(term, shares=shares) for term in header.adaptive}
    layout = layout_pb2.Layout(
        category=[layout_pb2.Category(title=name, chart=categories[name]) for name in categories]
    )
    tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()])
    return Summary.Value(
        tag=layout_metadata.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=layout_metadata.create_summary_metadata()
    )


def _tags(terms: Iterable[str], *names: str) -> list[str]:
    """Return patterns for scalars of terms."""
    return [f"{re.escape(f'{_PREFIX}/{term}/')}{name}$" for term in terms for name in names]


def _within_bounds(term: str) -> layout_pb2.Chart:
    tag = f"{_PREFIX}/{term}/"
    bounds = layout_pb2.MarginChartContent.Series(value=f"{tag}weight", lower=f"{tag}minimum", upper=f"{tag}maximum")
    margin = layout_pb2.MarginChartContent(series=[bounds])
    return layout_pb2.Chart(title=f"{weight_name(term)} within its bounds", margin=margin)


def _of_balanced(term: str, *, shares: bool) -> list[layout_pb2.Chart]:
    parts = [_lines("part of the gradient and its intent", *_tags([term], "share", "intent"))] if shares else []
    return [_within_bounds(term), *parts, _lines("loss", *_tags([term], "loss"))]


def _evidence(term: str) -> list[layout_pb2.Chart]:
    return [
        _lines("loss and its running average", *_tags([term], "loss", "running_average")),
        _lines("loss ratio", *_tags([term], "loss_ratio")),
        _lines("gradient norm and its average", *_tags([term], "gradient_norm", "average_gradient_norm")),
        _lines("loss variance", *_tags([term], "loss_variance")),
    ]


def _lines(title: str, *tags: str) -> layout_pb2.Chart:
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=list(tags)))


def _text(tag: str, markdown: str) -> Summary.Value:
    metadata: SummaryMetadata = text_metadata.create_summary_metadata(display_name="", description="")
    tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


def _markdown(decision: Decision | JointDecision) -> str:
    """Return the decision as a paragraph and a table of its evidence."""
    moves = []
    for one in by_term(decision):
        name = "" if isinstance(decision, Decision) else f"{printable(one.term)} "
        held = "" if one.held_weight is None else f" (shadow run: {one.held_weight:.6g} stays in force)"
        moves.append(f"{name}{one.old_weight:.6g} → {one.new_weight:.6g}{held}")
    headline = f"**{decision.action.value}** {', '.join(moves)}"
    lines = [f"{headline} at step {decision.step}, reason **{decision.reason.value}**: {decision.advice}"]
    if decision.note:
        lines += ["", "Note:", "", f"    {printable(decision.note, LONGEST_NOTE)}"]  # indented: a literal, no markup
    known = {name: value for name, value in decision.evidence.items() if not math.isnan(value)}
    if known:
        lines += ["", "| evidence | value |", "|---|---|"]
        lines += [f"| {name} | {value:.6g} |" for name, value in known.items()]
    return "\n".join(lines)
