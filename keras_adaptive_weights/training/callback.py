"""The callbacks: they carry the train step's telemetry to the adaptive weight, and its decisions to the observers."""

from __future__ import annotations

import contextlib
import math
import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras

from keras_adaptive_weights.deciding.config import check_bool, check_number
from keras_adaptive_weights.deciding.decision import Decision, Observation, checked_note
from keras_adaptive_weights.deciding.observers import DecisionLogger, DecisionObserver, DecisionPrinter
from keras_adaptive_weights.deciding.state import adaptive_weight_metrics, stability_metrics
from keras_adaptive_weights.journal.lines import Header
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.operating.control import CONTROL, ControlFile
from keras_adaptive_weights.recording.record import RunRecord, open_record
from keras_adaptive_weights.recording.run_folder import FOLDER
from keras_adaptive_weights.runtime.distribution import is_chief, several_workers
from keras_adaptive_weights.training.checkpoints import callbacks_of_this_fit
from keras_adaptive_weights.training.fit_needs import find_weight, refuse_mute_step, refuse_twins
from keras_adaptive_weights.training.recovery import Guard, ModelRecovery
from keras_adaptive_weights.training.telemetry import StepRow
from keras_adaptive_weights.training.worker_requests import WorkerRequests


class AdaptiveWeightCallback(keras.callbacks.Callback):
    """Lets the adaptive weight of one loss term follow the training, and records every decision.

    Args:
        term: Name of the term in the compiled `CompositeLoss`.
        log_dir: Folder of the run. `<log_dir>/adaptive_weights` gets a TensorBoard event file and `journal.jsonl`.
            `None`: nothing is written. A folder of another run is refused. One that cannot be written, and a disk that
            is full, are warned about; training goes on.
        update_freq: Steps between two records of the scalars in TensorBoard; events are always recorded.
        observers: Further objects with `observe(observations, decision)`; one that raises is left out with a warning.
        verbose: 0: silent. 1: one line per decision other than HOLD, beside Keras's progress bar, and one after each
            epoch in which steps were dampened or empty.
        remote_control: Whether `keras-adaptive-weights disable RUN_DIR` and its like reach this process: the folder is
            looked at once a second at most.
        max_consecutive_skips: Skipped steps in a row after which training stops with `TrainingStopped`. Steps that only
            loss scaling skipped are routine and count from the 41st in a row on. `None`: never.
        recovery: When and how the model goes back to its last good snapshot; one callback of a `fit` at most should do
            it. `None`: never.
        shadow: Decide and record, and never write the weight: it stays as it was before this `fit`, whatever is
            decided, also by hand. The decisions are those that the controller would take if they had effect, on the
            losses there are. Checkpoints hold both weights; what a shadow run proposed is never put into force: a later
            `fit` without `shadow` goes on from the weight in force, after a full cooling period.

    Every method may be called from any thread and signal handler while `fit` runs, and before it. The order of the
    callbacks does not matter.

    With several workers each has its callback, and all take the same decisions. The chief alone writes the record. What
    is asked for on any one worker travels with its next execution, and is carried out after it on all of them; asked
    for when no `fit` runs, with the first execution of the next one.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument outside its bounds; at the start of `fit`: a model without the mixin, a loss without the
            term, a term with a fixed weight, a log dir of another run or callback, two callbacks for one term.
        TrainingStopped: From `fit`, see `max_consecutive_skips`.

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
        verbose: int = 0,
        remote_control: bool = True,
        max_consecutive_skips: int | None = 20,
        recovery: ModelRecovery | None = None,
        shadow: bool = False,
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
        check_number(owner, "verbose", verbose, low=0, high=1, integer=True)
        check_bool(owner, "remote_control", remote_control)
        check_bool(owner, "shadow", shadow)
        check_number(owner, "max_consecutive_skips", max_consecutive_skips, low=1, integer=True, optional=True)
        if recovery is not None and not isinstance(recovery, ModelRecovery):
            raise TypeError(
                f"{owner}: argument `recovery` must be a ModelRecovery or None. Received: recovery={recovery!r}."
            )
        if recovery and max_consecutive_skips is not None and recovery.after > max_consecutive_skips:
            raise ValueError(
                f"{owner}: argument `max_consecutive_skips` must be at least the `after` of `recovery`, which is tried "
                f"first. Received: max_consecutive_skips={max_consecutive_skips!r}, after={recovery.after!r}."
            )
        self.term = term
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.update_freq = update_freq
        self.max_consecutive_skips = max_consecutive_skips
        self.recovery = recovery
        self.shadow = shadow
        self.remote_control = remote_control
        self._observers = (*observers, *([DecisionPrinter()] if verbose else []))
        self._control: ControlFile | None = None
        self._weight: AdaptiveWeight | None = None
        self._guard: Guard | None = None
        self._read = 0
        self._unguarded: list[Observation] = []
        self._attached: list[DecisionObserver] = []
        self._record: RunRecord | None = None
        self._asked: deque[tuple[str, str]] = deque()
        self._workers: WorkerRequests | None = None
        self._begun = False
        self._counted: tuple[int, int] | None = None
        self._verbose = bool(verbose)

    @property
    def decisions(self) -> list[Decision]:
        """The decisions other than HOLD, oldest first, at most the last 1,000."""
        return [] if self._weight is None else self._weight.decisions

    def emergency_disable(self, note: str = "") -> None:
        """Return to the base weight from the next execution on, and stay there until `enable`.

        With `shadow=True` it is recorded, as everything else is, and the weight in force stays.

        Args:
            note: What the person who asks has to say; of a long one the first 1,000 characters are kept.

        Raises:
            TypeError: `note` is no text, here as in the methods below.
        """
        self._ask("disable", note)

    def enable(self, note: str = "") -> None:
        """Let the weight move again."""
        self._ask("enable", note)

    def rollback(self, note: str = "") -> None:
        """Undo the last change of the weight."""
        self._ask("rollback", note)

    def reset(self, note: str = "") -> None:
        """Forget the statistics; weight and a disable stay."""
        self._ask("reset", note)

    def get_adaptive_weight_metrics(self) -> dict[str, float | bool]:
        """Return the guide's adaptive-weight metrics; empty before `fit`."""
        return {} if self._weight is None else adaptive_weight_metrics(self._weight.config, self._weight.state)

    def get_stability_metrics(self) -> dict[str, float]:
        """Return the guide's stability metrics; empty before `fit`."""
        return {} if self._weight is None else stability_metrics(self._weight.state)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the weight. The other callbacks may not have restored it yet: see `on_train_batch_begin`."""
        del logs
        self._detach()  # an earlier fit may have ended by an exception, of which callbacks are not told
        self._begun = False
        weight = find_weight(type(self).__name__, self.model, self.term)
        callbacks = callbacks_of_this_fit()
        refuse_twins(self, [other for other in callbacks if isinstance(other, AdaptiveWeightCallback)])
        several = several_workers(self.model.distribute_strategy)
        self._workers = WorkerRequests(self.term, self._asked) if several else None
        self._guard = Guard(self.model, self.recovery, self.max_consecutive_skips, callbacks)
        self._weight = weight
        self._read = self.model.telemetry.count

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Before the first batch, when all is restored: open the record, and do what was asked for until now."""
        del batch, logs
        if self._weight is not None and not self._begun:
            self._begin(self._weight)
        if self._weight is not None and self._counted is None:  # all is restored
            self._counted = self._weight.state.dampened_steps, self._weight.state.empty_steps
        self._disable_again()
        if self._workers is not None:
            self._workers.pass_on(self.model.telemetry)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Take one decision on the steps of the execution that just ended, and look after the model."""
        del batch, logs
        refuse_mute_step(type(self).__name__, self.model)
        self._catch_up()
        for request in self._control.poll() if self._control else ():
            self._ask(request.action, request.note)
        seen, self._unguarded = self._unguarded, []
        if not seen or self._guard is None:
            return
        if (recovery := self._guard.look(seen)) is not None:
            for weight in self.model.loss.adaptive_weights.values():
                weight.model_recovered(*recovery)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the steps of the epoch from here on."""
        del epoch, logs
        self._counted = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put `empty_steps` into the logs where there were any, and say with `verbose=1` what was dampened or empty."""
        if self._weight is None or self._counted is None:
            return
        state = self._weight.state
        dampened, empty = state.dampened_steps - self._counted[0], state.empty_steps - self._counted[1]
        if empty and logs is not None:
            logs["empty_steps"] = float(empty)
        if self._verbose and (dampened or empty):
            what = [f"{count} steps {how}" for count, how in ((dampened, "dampened"), (empty, "empty")) if count]
            print(f"\n{self.term}: {' and '.join(what)} in epoch {epoch + 1}", flush=True)  # noqa: T201 - asked for

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the record."""
        del logs
        self._disable_again()
        self._detach()

    def on_train_interrupted(self) -> None:
        """Close the record where an exception ended `fit`: called by the mixin, as Keras does not."""
        with contextlib.suppress(Exception):  # the one that ended `fit` is the one to be seen
            self._detach(interrupted=True)

    def _begin(self, weight: AdaptiveWeight) -> None:
        weight.set_shadow(self.shadow)  # and the variable, where an interrupt came between it and the decision
        weight.before_saving(self._before_saving)
        observers: list[DecisionObserver] = [DecisionLogger(), *self._observers]
        if (folder := self._folder) is not None:
            header = Header(weight.run, self.term, weight.base_weight, weight.config, weight.state.to_dict())
            self._record = open_record(folder, header, update_freq=self.update_freq)
            observers.insert(0, self._record)
            self._control = ControlFile(folder / CONTROL, weight.run) if self.remote_control else None
        for observer in observers:
            self._attached.append(observer)
            weight.subscribe(observer)
        self._begun = True
        self._serve(weight)

    def _catch_up(self) -> None:
        """Take one decision on the steps that were not looked at yet."""
        weight = self._weight
        rows = self.model.telemetry.read(self._read)
        if not rows or weight is None:
            return
        self._read = rows[-1].number
        first = weight.step_count + 1
        seen = [_observation(first + i, row, self.term) for i, row in enumerate(rows)]
        self._unguarded += seen
        weight.observe(seen)
        if self._workers is not None:
            for name, note in self._workers.arrived(rows):
                getattr(weight, name)(note)

    def _before_saving(self) -> None:
        """Take in what the checkpoint will hold, so that neither weight nor record lags behind the parameters."""
        self._catch_up()
        if self._record is not None and self._weight is not None:
            self._record.note_save(self._weight.step_count)

    def _ask(self, name: str, note: str) -> None:
        self._asked.append((name, checked_note(type(self).__name__, note)))
        if self._begun and self._weight is not None:
            self._serve(self._weight)

    def _serve(self, weight: AdaptiveWeight) -> None:
        while self._asked and self._workers is None:
            with contextlib.suppress(IndexError):  # another thread was faster
                name, note = self._asked.popleft()
                getattr(weight, name)(note)

    def _disable_again(self) -> None:
        """Disable as by hand where the run before it was killed and resumed was, when that step has come again."""
        if self._record is None or self._weight is None:
            return
        ahead = self.model.steps_per_execution if self._workers is not None else 0  # it travels with an execution
        note = self._record.disable_due(self._weight.step_count + ahead)
        if note is not None and not self._weight.state.disabled:
            self._ask("disable", note)

    @property
    def _folder(self) -> Path | None:
        """Where this process keeps the record, if it does."""
        if self.log_dir is None or not is_chief(self.model.distribute_strategy):
            return None
        return self.log_dir / FOLDER

    def _detach(self, *, interrupted: bool = False) -> None:
        """End the record with the last step that was taken, and let the weight go."""
        if self._weight is not None and self._attached:
            with contextlib.suppress(AttributeError):  # the model was compiled anew: it has no telemetry
                self._catch_up()
            self._weight.before_saving(None)
        for observer in self._attached:
            if self._weight is not None:
                self._weight.unsubscribe(observer)
        if self._record is not None:
            self._record.close(interrupted=interrupted)
        if self._weight is not None and self._begun:
            self._weight.set_shadow(None)
        self._attached.clear()
        self._record = self._control = None


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
    finite = row.non_finite is None
    if row.empty:
        return Observation(step, math.nan, applied=False, empty=True)
    if finite and math.isnan(row.terms[term]):  # there was something to measure, but not of this term
        seen = _observation(step, row._replace(terms={term: 0.0}), term)
        return seen._replace(loss=math.nan, empty=True)
    return Observation(  # in the order of the fields: by name it takes twice as long, and this is every step
        step, row.terms[term], row.total, row.gradient_norm, finite, row.loss_scaling, row.dampening, row.non_finite
    )
