"""The TensorBoard observer: scalars every few steps, every event at its step with a text that explains it.

Written as event records rather than with `tf.summary`: one record holds all scalars of a step, which costs microseconds
where a `tf.summary.scalar` costs 0.4 ms, and no `record_if` of another callback can drop it.

TensorBoard keeps one record per tag and step, so each action has a text tag of its own.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tensorboard.compat.proto.summary_pb2 import Summary, SummaryMetadata
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layout_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig
from keras_adaptive_weights.deciding.decision import Action, Decision, Observation, Reason
from keras_adaptive_weights.deciding.printable import LONGEST_NOTE, printable
from keras_adaptive_weights.deciding.term_names import weight_name
from keras_adaptive_weights.journal.appended_file import let_go, take_over
from keras_adaptive_weights.journal.backlog import Backlog, Note
from keras_adaptive_weights.recording.event_files import EventFile

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


class TensorBoardObserver:
    """Writes what was decided to an event file.

    Args:
        log_dir: Folder of the event file.
        term: Name of the loss term.
        config: Settings of the controller, for the bounds.
        base_weight: The weight's base.
        update_freq: Steps between two records of the scalars. Events are always written.
        step: Step that the run goes on from: what the folder's event files hold of later steps is moved to
            `abandoned/`. `None`: the folder is new.
        run: Id of the run.

    No tag is written twice at one step: TensorBoard keeps only one of such records. A weight that a person changed
    after the scalars of a step were written is written with the next step.

    Raises:
        OSError: The folder or file cannot be written.
    """

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        *,
        term: str,
        config: AdaptiveWeightConfig,
        base_weight: float,
        update_freq: int = 10,
        step: int | None = None,
        run: str = "",
    ) -> None:
        self.run = run
        self._weight_tag = weight_name(term)
        self._config = config
        self._base_weight = base_weight
        self._update_freq = update_freq
        self._written: int | None = None
        self._described: dict[str, Summary.Value] = {}
        self._about = {
            self._weight_tag: "Weight in force from the next step on.",
            f"{self._weight_tag}/proposed": "What a shadow run proposes; it is not in force.",
            f"{self._weight_tag}/minimum": "Lower bound of the weight.",
            f"{self._weight_tag}/maximum": "Upper bound of the weight.",
            f"{self._weight_tag}/base": "Base weight, which an emergency disable returns to.",
            **_OUTCOME_SCALARS,
            **_EVIDENCE_SCALARS,
        }
        self._key = Path(log_dir) / "events"
        take_over(self._key, self)
        self._events = EventFile(Path(log_dir), step)
        if layout_metadata.CONFIG_SUMMARY_TAG not in self._events.tags:
            self._events.add(step or 0, time.time(), [_layout(self._weight_tag)])
        self._backlog = Backlog(self._write_notes)

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Write the scalars when they are due, and an event always. After `close`, nothing.

        Raises:
            OSError: An earlier write failed, or this one. TensorFlow's file system has errors of its own.
        """
        self._backlog.add(observations, decision)

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
        decision = note.decision
        due = self._written is None or decision.step - self._written >= self._update_freq
        if not due and not decision.is_event:
            return False
        values = [self._scalar(tag, value) for tag, value in self._scalars(decision)]
        if decision.is_event:
            values.append(_text(f"decisions/{decision.action.value}", _markdown(decision)))
        complete = self._events.add(decision.step, note.wall_time, values)
        if note.observations or not complete:
            self._written = decision.step if complete else None
        return True

    def _scalars(self, decision: Decision) -> Iterator[tuple[str, float]]:
        weight = self._weight_tag
        yield weight, decision.weight_in_force
        if decision.held_weight is not None:
            yield f"{weight}/proposed", decision.new_weight
        yield f"{weight}/minimum", self._config.min_weight
        yield f"{weight}/maximum", self._config.max_weight
        yield f"{weight}/base", self._base_weight
        yield "action", decision.action.code
        yield "reason", decision.reason.code
        evidence = decision.evidence
        for tag in _EVIDENCE_SCALARS:
            if math.isfinite(evidence.get(tag, math.nan)):
                yield tag, evidence[tag]
        if "loss_variance" in evidence:
            yield "stability_score", 1.0 / (1.0 + evidence["loss_variance"])
            yield "cooling_left", max(0.0, evidence["cooling"] - evidence["steps_since_change"])

    def _scalar(self, tag: str, value: float) -> Summary.Value:
        """Return the record of a scalar, which holds until the next one with this tag: making it takes much longer."""
        if (record := self._described.get(tag)) is not None:
            record.tensor.float_val[0] = value
            return record
        tensor = TensorProto(dtype=DT_FLOAT, float_val=[value])
        self._described[tag] = Summary.Value(tag=tag, tensor=tensor)
        metadata = scalar_metadata.create_summary_metadata(display_name="", description=self._about[tag])
        return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


def _layout(weight_tag: str) -> Summary.Value:
    """Return a custom-scalars layout: the weight inside its bounds, then the evidence."""
    margin = layout_pb2.MarginChartContent(
        series=[
            layout_pb2.MarginChartContent.Series(
                value=weight_tag, lower=f"{weight_tag}/minimum", upper=f"{weight_tag}/maximum"
            )
        ]
    )
    charts = [
        layout_pb2.Chart(title=f"{weight_tag} within its bounds", margin=margin),
        _lines("loss and its running average", "loss$", "running_average$"),
        _lines("loss ratio", "loss_ratio$"),
        _lines("gradient norm and its average", "(^|/)gradient_norm$", "average_gradient_norm$"),
        _lines("loss variance", "loss_variance$"),
    ]
    layout = layout_pb2.Layout(category=[layout_pb2.Category(title="adaptive weight", chart=charts)])
    tensor = TensorProto(dtype=DT_STRING, string_val=[layout.SerializeToString()])
    return Summary.Value(
        tag=layout_metadata.CONFIG_SUMMARY_TAG, tensor=tensor, metadata=layout_metadata.create_summary_metadata()
    )


def _lines(title: str, *tags: str) -> layout_pb2.Chart:
    return layout_pb2.Chart(title=title, multiline=layout_pb2.MultilineChartContent(tag=list(tags)))


def _text(tag: str, markdown: str) -> Summary.Value:
    metadata: SummaryMetadata = text_metadata.create_summary_metadata(display_name="", description="")
    tensor = TensorProto(dtype=DT_STRING, string_val=[markdown.encode()])
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


def _markdown(decision: Decision) -> str:
    """Return the decision as a paragraph and a table of its evidence."""
    headline = f"**{decision.action.value}** {decision.old_weight:.6g} → {decision.new_weight:.6g}"
    if decision.held_weight is not None:
        headline += f" (shadow run: {decision.held_weight:.6g} stays in force)"
    lines = [f"{headline} at step {decision.step}, reason **{decision.reason.value}**: {decision.advice}"]
    if decision.note:
        lines += ["", "Note:", "", f"    {printable(decision.note, LONGEST_NOTE)}"]  # indented: a literal, no markup
    known = {name: value for name, value in decision.evidence.items() if not math.isnan(value)}
    if known:
        lines += ["", "| evidence | value |", "|---|---|"]
        lines += [f"| {name} | {value:.6g} |" for name, value in known.items()]
    return "\n".join(lines)
