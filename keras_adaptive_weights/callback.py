"""The callbacks: they carry the train step's telemetry to the adaptive weight, and its decisions to the observers."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_adaptive_weights.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.config import check_number
from keras_adaptive_weights.controller_state import adaptive_weight_metrics, stability_metrics
from keras_adaptive_weights.decision import Decision, Observation
from keras_adaptive_weights.journal import DecisionLogger, DecisionObserver, Header, JournalWriter
from keras_adaptive_weights.losses import CompositeLoss
from keras_adaptive_weights.summaries import TensorBoardObserver
from keras_adaptive_weights.telemetry import StepRow
from keras_adaptive_weights.train_step import StableTrainStepMixin

SUBFOLDER = "adaptive_weights"


class AdaptiveWeightCallback(keras.callbacks.Callback):
    """Lets the adaptive weight of one loss term follow the training, and records every decision.

    Args:
        term: Name of the term in the compiled `CompositeLoss`.
        log_dir: Folder of the run. `<log_dir>/adaptive_weights` gets a TensorBoard event file and `journal.jsonl`.
            `None`: nothing is written. A folder of another run is refused.
        update_freq: Steps between two records of the scalars in TensorBoard; events are always recorded.
        observers: Further objects with `observe(observations, decision)`; one that raises is left out with a warning.

    Every method may be called from any thread while `fit` runs, and before it.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument outside its bounds; at the start of `fit`: a model without the mixin, a loss without the
            term, a term with a fixed weight, a log dir of another run.

    Example:

    ```python
    callback = AdaptiveWeightCallback(term="stop_loss", log_dir="runs/1")
    model.fit(data, callbacks=[callback])
    ```
    """

    def __init__(
        self,
        term: str,
        *,
        log_dir: str | os.PathLike[str] | None = None,
        update_freq: int = 10,
        observers: Sequence[DecisionObserver] = (),
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        if not isinstance(term, str):
            raise TypeError(f"{owner}: argument `term` must be the name of a loss term. Received: term={term!r}.")
        if log_dir is not None and not isinstance(log_dir, (str, os.PathLike)):
            raise TypeError(f"{owner}: argument `log_dir` must be a path or None. Received: log_dir={log_dir!r}.")
        check_number(owner, "update_freq", update_freq, low=1, integer=True)
        for observer in observers:
            if not callable(getattr(observer, "observe", None)):
                raise TypeError(f"{owner}: each of `observers` needs a method `observe`. Received: {observer!r}.")
        self.term = term
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.update_freq = update_freq
        self._observers = tuple(observers)
        self._weight: AdaptiveWeight | None = None
        self._read = 0
        self._attached: list[DecisionObserver] = []
        self._asked_before: list[Callable[[AdaptiveWeight], None]] = []

    @property
    def decisions(self) -> list[Decision]:
        """The decisions other than HOLD, oldest first, at most the last 1,000."""
        return [] if self._weight is None else self._weight.decisions

    def emergency_disable(self, note: str = "") -> None:
        """Return to the base weight from the next execution on, and stay there until `enable`."""
        self._ask(lambda weight: weight.disable(note))

    def enable(self, note: str = "") -> None:
        """Let the weight move again."""
        self._ask(lambda weight: weight.enable(note))

    def rollback(self, note: str = "") -> None:
        """Undo the last change of the weight."""
        self._ask(lambda weight: weight.rollback(note))

    def reset(self, note: str = "") -> None:
        """Forget the statistics; weight and a disable stay."""
        self._ask(lambda weight: weight.reset(note))

    def get_adaptive_weight_metrics(self) -> dict[str, float | bool]:
        """Return the guide's adaptive-weight metrics; empty before `fit`."""
        return {} if self._weight is None else adaptive_weight_metrics(self._weight.config, self._weight.state)

    def get_stability_metrics(self) -> dict[str, float]:
        """Return the guide's stability metrics; empty before `fit`."""
        return {} if self._weight is None else stability_metrics(self._weight.state)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the weight and open the record."""
        del logs
        self._detach()  # an earlier fit may have ended by an exception, of which callbacks are not told
        weight = self._find_weight()
        self._weight = weight
        self._read = self.model.telemetry.count
        for observer in self._open_observers(weight):
            self._attached.append(observer)
            weight.subscribe(observer)
        while self._asked_before:
            self._asked_before.pop(0)(weight)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Take one decision on the steps of the execution that just ended."""
        del batch, logs
        rows = self.model.telemetry.read(self._read)
        if rows and self._weight is not None:
            self._read = rows[-1].number
            first = self._weight.step_count + 1
            self._weight.observe([_observation(first + i, row, self.term) for i, row in enumerate(rows)])

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the record."""
        del logs
        self._detach()

    def _ask(self, request: Callable[[AdaptiveWeight], None]) -> None:
        if self._weight is None:
            self._asked_before.append(request)
        else:
            request(self._weight)

    def _find_weight(self) -> AdaptiveWeight:
        owner, model = type(self).__name__, self.model
        if not isinstance(model, StableTrainStepMixin):
            raise ValueError(
                f"{owner} needs a model with StableTrainStepMixin, which measures losses and gradients. Received: "
                f"{type(model).__name__}. Write `class MyModel(StableTrainStepMixin, keras.Model)`, or use StableModel."
            )
        loss = self.model.loss
        if not isinstance(loss, CompositeLoss):
            raise ValueError(
                f"{owner} needs a model compiled with a CompositeLoss or XTTSLoss. Received: loss={loss!r}. Write "
                "`model.compile(..., loss=XTTSLoss())`."
            )
        if self.term not in loss.terms:
            raise ValueError(
                f"{owner}: argument `term` must name a term of the loss. Received: term={self.term!r}; there are "
                f"{sorted(loss.terms)}."
            )
        weight = loss.terms[self.term].weight
        if not isinstance(weight, AdaptiveWeight):
            raise ValueError(
                f"{owner}: the weight of term {self.term!r} is fixed ({weight!r}). Write "
                f"`LossTerm(fn, weight=AdaptiveWeight({weight!r}))` to let it adapt."
            )
        return weight

    def _open_observers(self, weight: AdaptiveWeight) -> list[DecisionObserver]:
        observers: list[DecisionObserver] = [DecisionLogger(), *self._observers]
        if self.log_dir is None:
            return observers
        folder = self.log_dir / SUBFOLDER
        header = Header(weight.run, self.term, weight.base_weight, weight.config, weight.state.to_dict())
        journal = JournalWriter(folder / "journal.jsonl", header)
        summaries = TensorBoardObserver(
            folder,
            term=self.term,
            config=weight.config,
            base_weight=weight.base_weight,
            update_freq=self.update_freq,
        )
        return [journal, summaries, *observers]

    def _detach(self) -> None:
        for observer in self._attached:
            if self._weight is not None:
                self._weight.unsubscribe(observer)
            if isinstance(observer, (JournalWriter, TensorBoardObserver)):
                observer.close()
        self._attached.clear()


class AdaptiveMelWeightCallback(AdaptiveWeightCallback):
    """`AdaptiveWeightCallback` for the mel weight of an `XTTSLoss`, or any term named `mel_loss`.

    Args:
        log_dir: As there.
        update_freq: As there.
        observers: As there.

    Example:

    ```python
    callback = AdaptiveMelWeightCallback(log_dir="runs/1")
    model.fit(data, validation_data=validation, callbacks=[callback])
    ```
    """

    def __init__(self, log_dir: str | os.PathLike[str] | None = None, **kwargs: Any) -> None:
        super().__init__("mel_loss", log_dir=log_dir, **kwargs)


def _observation(step: int, row: StepRow, term: str) -> Observation:
    return Observation(
        step=step,
        loss=row.terms[term],
        total_loss=row.total,
        gradient_norm=row.gradient_norm,
        applied=row.non_finite is None,
        loss_scaling=row.loss_scaling,
        dampening=row.dampening,
        non_finite=row.non_finite,
    )
