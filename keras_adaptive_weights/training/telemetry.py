"""What a train step leaves behind: a ring of rows for the callback.

The ring is a small float64 variable with a row per step of an execution, since callbacks run once per execution and
would see its last step only. Float64 holds float32 values and step counts exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_adaptive_weights.deciding.term_names import REGULARIZATION
from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.losses.keras_losses import OutputLosses
from keras_adaptive_weights.runtime.written_variables import FoundVariable
from keras_adaptive_weights.training.step_metrics import StepMetrics

REQUESTS = ("disable", "enable", "rollback", "reset")
"""What may be asked for by hand for each adaptive weight, in the order of its columns."""
_FIXED_COLUMNS = 6  # count, total, gradient norm, dampening, number of the outcome, skipped by loss scaling only


class StepRow(NamedTuple):
    """One train step as it was measured: numbers, not tensors.

    Attributes:
        number: Number of the step since the telemetry began.
        terms: Raw value of each term that took part; NaN where there was nothing of it to measure.
        total: Total loss, undampened and unscaled.
        gradient_norm: Global norm of the unscaled gradients.
        dampening: Factor on the total and its gradients.
        non_finite: Name of the first non-finite thing: a term, "total_loss", a variable's gradient. `None`: applied,
            or empty.
        empty: There was nothing to measure, so the step was left out whole.
        loss_scaling: The step was skipped only because the loss scale overflowed.
        requests: What any worker passed on with this step: term and one of `REQUESTS`, in the order to carry it out in.
        term_norms: Norm of the gradient of each raw term, without loss scale and dampening; infinite where it was not
            finite. A term that took no part, or had nothing to measure, is left out. `None`: not measured on this step.
    """

    number: int
    terms: dict[str, float]
    total: float
    gradient_norm: float
    dampening: float
    non_finite: str | None
    loss_scaling: bool
    requests: tuple[tuple[str, str], ...]
    empty: bool = False
    term_norms: dict[str, float] | None = None


class Outcome(NamedTuple):
    """What came of a step, for which one number stands in the telemetry: each trace of the step has its own numbers.

    Attributes:
        terms: Names of the terms that took part.
        non_finite: As in `StepRow`.
        empty: As in `StepRow`.
    """

    terms: tuple[str, ...]
    non_finite: str | None = None
    empty: bool = False


class Telemetry:
    """Ring buffer and metric of one model.

    Args:
        loss: The compiled loss; its terms are the columns.
        steps_per_execution: Rows of the ring.
        carries_requests: Whether what is asked for by hand travels with the steps: over several workers.

    Attributes:
        metrics: The metric that shows the terms in the logs.
        shown: Whether it is among the model's metrics. With a loss of Keras's own the logs are Keras's own.
        tells_skips: Whether the logs hold `skipped_steps`. Those of Keras's losses do not.
        names: Names of the terms, the last for what the model adds by itself: `add_loss` and regularizers.
        requests: Variable with an element per adaptive weight and request: 1 where this worker passes it on. `None`
            where none travels.
        terms: Terms of the batch whose loss was computed last: how `compute_loss`, which returns the total only, hands
            them to the step around it.
        measured: Of each of these, whether there was anything to measure; see `Evaluation`.
        logs_so_far: Logs of the step that was traced last, if they only show what the metrics hold after it: they can
            as well be made later.
        named: Whether the names in the logs were seen to stand for one thing each.
        built: Whether the model's variables were created before its first step, as far as that is possible.
        writes: Whether a train step was seen to leave rows.
        found: Variables that a step writes and the model does not tell of.
        results: What the metrics held when they were asked last.
        handed_out: Returns the ring, one row after the other, as it came along with the logs of the execution that just
            ended. `None` where it did not. Looking into the variable instead takes 50 microseconds.
    """

    def __init__(self, loss: Any, steps_per_execution: int, *, carries_requests: bool = True) -> None:
        self._loss = loss
        self._rows = int(steps_per_execution)
        terms = tuple(loss.terms) if isinstance(loss, CompositeLoss) else ()
        self.names = tuple(dict.fromkeys((*terms, REGULARIZATION))) if terms else ()
        self._columns = {name: column for column, name in enumerate(self.names, _FIXED_COLUMNS)}
        self.terms: dict[str, Any] = {}
        self.measured: dict[str, Any] = {}
        self._outcomes: list[Outcome] = []
        self._first_outcome: dict[tuple[Any, ...], int] = {}
        self.logs_so_far: dict[str, Any] = {}
        self.results: dict[str, Any] = {}
        self.found: list[FoundVariable] = []
        self.named = False
        self.built = False
        self.writes = False
        self.handed_out: Callable[[], list[float]] | None = None
        self.metrics = StepMetrics(loss)
        self.shown = isinstance(loss, CompositeLoss)
        self.tells_skips = self.shown and not isinstance(loss, OutputLosses)
        carries_requests = carries_requests and bool(self.names)
        self._slots = [(n, r) for n in loss.adaptive_weights for r in REQUESTS] if carries_requests else []
        self._asked = np.zeros(len(self._slots), "float32")
        measures_norms = isinstance(loss, CompositeLoss) and loss.norm_schedule is not None
        self._norms_of = tuple(loss.terms) if measures_norms else ()
        columns = _FIXED_COLUMNS + len(self.names) + len(self._slots) + len(self._norms_of)
        self._ring = tf.Variable(tf.zeros([self._rows, columns], tf.float64), trainable=False, name="telemetry")
        self.requests = tf.Variable(self._asked, trainable=False, name="requests") if self._slots else None
        # for whoever is shown no `skipped_steps`: how many since somebody asked, and the culprit of the first
        self._skips = None if self.tells_skips else tf.Variable([0, 0], trainable=False, name="skips")

    def fits(self, loss: Any, steps_per_execution: int) -> bool:
        """Whether this telemetry is for that loss and that many steps."""
        return self._loss is loss and self._rows == int(steps_per_execution)

    def check_terms(self, y_true: Any, y_pred: Any) -> None:
        """Refuse a batch in which the term of an adaptive weight takes no part.

        Raises:
            ValueError: Such a batch.
        """
        if not isinstance(self._loss, CompositeLoss):
            return
        for name in self._loss.adaptive_weights:
            if name not in self.terms:
                needed = self._loss.terms[name].requires
                keys = [sorted(part) if isinstance(part, dict) else type(part).__name__ for part in (y_true, y_pred)]
                raise ValueError(
                    f"The weight of term {name!r} is adaptive, but the term takes no part: it needs the keys "
                    f"{list(needed)}. Received: targets {keys[0]}, outputs {keys[1]}. Provide the keys, or give the "
                    "term a fixed weight."
                )

    def ask(self, term: str, request: str | None) -> None:
        """Pass a request for the weight of `term` on with the next steps; `None`: nothing any more."""
        asked = np.where([name == term for name, _ in self._slots], np.float32(0.0), self._asked)
        if request is not None:
            asked[self._slots.index((term, request))] = 1.0
        if self.requests is not None and not np.array_equal(asked, self._asked):
            self._asked = asked
            self.requests.assign(asked)

    def outcome(self, terms: Iterable[str], gradients_of: Iterable[str], bad: Any, present: Any) -> Any:
        """Return the number that stands for what came of a step, in the graph.

        Args:
            terms: Names of the terms that took part.
            gradients_of: Names of the variables that have gradients.
            bad: Index of what is not finite, among terms, total and gradients; -1: nothing.
            present: Whether there was anything to measure: True, or a scalar bool tensor.
        """
        terms = tuple(terms)
        culprits = (*terms, "total_loss", *(f"gradient of {name}" for name in gradients_of))
        first = self._first_outcome.setdefault((terms, culprits), len(self._outcomes))
        if first == len(self._outcomes):
            self._outcomes += [Outcome(terms), *(Outcome(terms, culprit) for culprit in culprits)]
            self._outcomes.append(Outcome(terms, empty=True))
        number = bad + (first + 1)
        return number if present is True else tf.where(present, number, first + 1 + len(culprits))

    def write(
        self,
        terms: dict[str, Any],
        total: Any,
        norm: Any,
        dampening: Any,
        outcome: Any,
        bad: Any,
        requests: Any,
        term_norms: Any = None,
    ) -> None:
        """Add the row of one step, in the graph.

        Args:
            terms: Values of the terms that took part.
            total: Total loss.
            norm: Gradient norm.
            dampening: Factor on the total.
            outcome: What `outcome` returned.
            bad: Two scalar bools: whether the step was skipped as not finite, and whether by loss scaling only.
            requests: See `requests`. `None`: there are none.
            term_norms: A vector with a norm per term of the loss, NaN where it was not measured. `None`: never is one.
        """
        skipped, routine = bad
        self.writes = True
        dtype = tf.float64 if total.dtype == tf.float64 else tf.float32
        values = [total, norm, dampening, outcome, routine, *(terms.get(name, np.nan) for name in self.names)]
        row = tf.cast(tf.stack([tf.cast(value, dtype) for value in values]), tf.float64)  # as few casts
        parts = [row, *(tf.cast(more, tf.float64) for more in (requests, term_norms) if more is not None)]
        ring = self._ring.read_value()
        newest = tf.concat([ring[-1, :1] + 1.0, *parts], axis=0)[None]
        self._ring.assign(newest if self._rows == 1 else tf.concat([ring[1:], newest], axis=0))
        if self._skips is not None:
            skips, _ = tf.unstack(self._skips)
            one_more = tf.stack([1, tf.where(skips == 0, outcome, 0)])
            self._skips.assign_add(tf.where(tf.logical_and(skipped, tf.logical_not(routine)), one_more, [0, 0]))

    def read(self, after: int = 0) -> list[StepRow]:
        """Return the steps whose number is above `after`, oldest first, at most as many as an execution has."""
        handed_out, self.handed_out = self.handed_out, None
        held = self._held() if handed_out is None else self._in_rows(handed_out())
        return [self._row(row) for row in held if row[0] > after]

    def take_skips(self) -> tuple[int, str]:
        """Return how many steps were skipped since this was asked last, and what was not finite in the first of them.

        Those that only loss scaling skipped do not count; nor does any where the logs say it, see `tells_skips`.
        """
        if self._skips is None or not (taken := self._skips.value().numpy())[0]:
            return 0, ""
        self._skips.assign([0, 0])
        return int(taken[0]), str(self._outcomes[int(taken[1])].non_finite)

    def ring_to_hand_out(self) -> Any:
        """Return the ring as a vector, for `handed_out`; in the graph."""
        return tf.reshape(self._ring, [-1])

    @property
    def count(self) -> int:
        """Steps measured so far."""
        return int(self._held()[-1][0])

    def _held(self) -> list[list[float]]:
        """Return the rows, oldest first; `value()`, since `Variable.numpy()` takes three times as long."""
        return self._ring.value().numpy().tolist()

    def _in_rows(self, numbers: list[float]) -> list[list[float]]:
        columns = len(numbers) // self._rows
        return [numbers[start : start + columns] for start in range(0, len(numbers), columns)]

    def _row(self, row: list[float]) -> StepRow:
        count, total, norm, dampening, number, routine = row[:_FIXED_COLUMNS]
        terms, non_finite, empty = self._outcomes[int(number)]
        return StepRow(
            int(count),
            {name: row[self._columns[name]] for name in terms},
            total,
            norm,
            dampening,
            non_finite,
            bool(routine) and non_finite is not None,
            self._requests_in(row) if self._slots else (),
            empty,
            self._norms_in(row) if self._norms_of else None,
        )

    def _requests_in(self, row: list[float]) -> tuple[tuple[str, str], ...]:
        first = _FIXED_COLUMNS + len(self.names)
        shares = row[first : first + len(self._slots)]
        return tuple(slot for slot, share in zip(self._slots, shares, strict=True) if share > 0)

    def _norms_in(self, row: list[float]) -> dict[str, float] | None:
        norms = zip(self._norms_of, row[-len(self._norms_of) :], strict=True)
        return {name: norm for name, norm in norms if not math.isnan(norm)} or None
