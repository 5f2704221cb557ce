"""The callbacks: they carry the train step's telemetry to the adaptive weight, and its decisions to the observers."""

from __future__ import annotations

import contextlib
import logging
import math
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_adaptive_weights.deciding.config import check_bool, check_number
from keras_adaptive_weights.deciding.decision import Observation, checked_note
from keras_adaptive_weights.deciding.described_strategy import describe
from keras_adaptive_weights.deciding.joint import JointObservation
from keras_adaptive_weights.deciding.observers import DecisionLogger, DecisionObserver, DecisionPrinter
from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.deciding.state import adaptive_weight_metrics, stability_metrics
from keras_adaptive_weights.journal.continuation import owner_of
from keras_adaptive_weights.journal.header import Header, TermStart
from keras_adaptive_weights.journal.places import Place, place
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.losses.controlled import in_order
from keras_adaptive_weights.operating.control import CONTROL, ControlFile
from keras_adaptive_weights.recording.record import RunRecord, open_record
from keras_adaptive_weights.recording.run_folder import FOLDER, JOURNAL
from keras_adaptive_weights.runtime.distribution import is_chief, several_workers
from keras_adaptive_weights.training.checkpoints import callbacks_of_this_fit
from keras_adaptive_weights.training.fit_needs import find_weights, refuse_mute_step, refuse_twins
from keras_adaptive_weights.training.recovery import Guard, ModelRecovery
from keras_adaptive_weights.training.telemetry import StepRow
from keras_adaptive_weights.training.worker_requests import WorkerRequests

_logger = logging.getLogger("keras_adaptive_weights")


class AdaptiveWeightCallback(keras.callbacks.Callback):
    """Lets the adaptive weights of the compiled loss follow the training, and records every decision.

    Args:
        term: Name of the only term whose weight is to move; the others stay where they are. `None`: all adaptive ones.
        log_dir: Folder of the run. `<log_dir>/adaptive_weights` gets a TensorBoard event file and `journal.jsonl`.
            `None`: nothing is written. A folder of another run is refused. One that cannot be written, and a disk that
            is full, are warned about; training goes on. A URL, as `gs://bucket/run`, is written to through TensorFlow's
            file layer, the journal in pieces, by threads that training never waits for: what a store does not hold when
            the process is killed is at most the last 10 seconds. One that fails is tried again for ten minutes.
        update_freq: Steps between two records of the scalars in TensorBoard; events are always recorded.
        observers: Further objects with `observe(observations, decision)`; one that raises is left out with a warning.
        verbose: 0: silent. 1: one line per decision other than HOLD, beside Keras's progress bar, and one after each
            epoch in which steps were dampened or empty.
        remote_control: Whether `keras-adaptive-weights disable RUN_DIR` and its like reach this process: the folder is
            looked at once a second at most. It needs a file system that both processes see, so not a URL.
        max_consecutive_skips: Skipped steps in a row after which training stops with `TrainingStopped`. Steps that only
            loss scaling skipped are routine and count from the 41st in a row on. `None`: never.
        recovery: When and how the model goes back to its last good snapshot. `None`: never.
        shadow: Decide and record, and never write a weight: each stays as it was before this `fit`, whatever is
            decided, also by hand. The decisions are those that the controller would take if they had effect, on the
            losses there are. Checkpoints hold both weights; what a shadow run proposed is never put into force: a later
            `fit` without `shadow` goes on from the weight in force, after a full cooling period.

    Every method may be called from any thread and signal handler while `fit` runs, and before it. The order of the
    callbacks does not matter.

    What is asked for by hand is asked of all these weights, or of that of one `term`.

    With several workers each has its callback, and all take the same decisions. The chief alone writes the record. What
    is asked for on any one worker travels with its next execution, and is carried out after it on all of them; asked
    for when no `fit` runs, with the first execution of the next one.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument outside its bounds, or a URL that TensorFlow has no file system for; at the start of
            `fit`: a model without the mixin, a loss without the term or without any adaptive weight, a log dir of
            another run, two callbacks.
        TrainingStopped: From `fit`, see `max_consecutive_skips`.

    Example:

    ```python
    callback = AdaptiveWeightCallback(log_dir="runs/1")
    model.fit(data, callbacks=[callback])
    ```
    """

    tells_skips = True  # so nobody else need: see `SkipWatch`

    def __init__(
        self,
        term: str | None = None,
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
        if term is not None and not isinstance(term, str):
            raise TypeError(
                f"{owner}: argument `term` must be the name of a loss term or None. Received: term={term!r}."
            )
        if log_dir is not None and not isinstance(log_dir, (str, os.PathLike)):
            raise TypeError(f"{owner}: argument `log_dir` must be a path or None. Received: log_dir={log_dir!r}.")
        update_freq = check_number(owner, "update_freq", update_freq, low=1, integer=True)
        for observer in observers if isinstance(observers, Sequence) else [observers]:
            if not isinstance(observers, Sequence) or not callable(getattr(observer, "observe", None)):
                raise TypeError(
                    f"{owner}: argument `observers` must be a sequence of objects with a method `observe`. Received: "
                    f"{observer!r}. Write `observers=[...]`."
                )
        check_number(owner, "verbose", verbose, low=0, high=1, integer=True)
        check_bool(owner, "remote_control", remote_control)
        check_bool(owner, "shadow", shadow)
        skips = max_consecutive_skips
        max_consecutive_skips = check_number(owner, "max_consecutive_skips", skips, low=1, integer=True, optional=True)
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
        self.log_dir = None if log_dir is None else place(log_dir, owner, "log_dir")
        self.update_freq = update_freq
        self.max_consecutive_skips = max_consecutive_skips
        self.recovery = recovery
        self.shadow = shadow
        self.remote_control = remote_control
        self._observers = (*observers, *([DecisionPrinter()] if verbose else []))
        self._control: ControlFile | None = None
        self._weights: dict[str, AdaptiveWeight] = {}
        self._deciding: dict[str, Any] = {}  # weights by term or, under no name, all that are balanced
        self._guard: Guard | None = None
        self._read = 0
        self._unguarded: list[Observation] = []
        self._attached: list[tuple[Any, DecisionObserver]] = []
        self._record: RunRecord | None = None
        self._asked: deque[tuple[str, str, str | None]] = deque()
        self._passed_on: dict[str, WorkerRequests] = {}
        self._workers: dict[str, WorkerRequests] | None = None
        self._begun = False
        self._counted: dict[str, tuple[int, int, int]] | None = None
        self._verbose = bool(verbose)

    @property
    def decisions(self) -> list[Any]:
        """The decisions other than HOLD of all its weights, oldest first, at most the last 1,000.

        Each is a `Decision` with its `term`; of balanced weights, a `JointDecision` on all of them.
        """
        return in_order(self._deciding.values())

    def emergency_disable(self, note: str = "", term: str | None = None) -> None:
        """Return to the base weight from the next execution on, and stay there until `enable`.

        With `shadow=True` it is recorded, as everything else is, and the weight in force stays.

        Args:
            note: What the person who asks has to say; of a long one the first 1,000 characters are kept.
            term: Name of the term whose weight is meant. `None`: all.

        Raises:
            TypeError: `note` is no text, here as in the methods below.
            ValueError: There is no such term; asked for before the first `fit`, that `fit` raises it.
        """
        self._ask("disable", note, term)

    def enable(self, note: str = "", term: str | None = None) -> None:
        """Let the weight move again."""
        self._ask("enable", note, term)

    def rollback(self, note: str = "", term: str | None = None) -> None:
        """Undo the last change of the weight."""
        self._ask("rollback", note, term)

    def reset(self, note: str = "", term: str | None = None) -> None:
        """Forget the statistics; weight and a disable stay."""
        self._ask("reset", note, term)

    def get_adaptive_weight_metrics(self, term: str | None = None) -> dict[str, Any]:
        """Return the guide's adaptive-weight metrics; empty before `fit`.

        Args:
            term: Name of the term. `None`: the only one; of several, the metrics of each by its name.
        """
        return self._metrics(term, lambda weight: adaptive_weight_metrics(weight.config, weight.state))

    def get_stability_metrics(self, term: str | None = None) -> dict[str, Any]:
        """Return the guide's stability metrics; empty before `fit`.

        Args:
            term: As above.
        """
        return self._metrics(term, lambda weight: stability_metrics(weight.state))

    def _metrics(self, term: str | None, of: Callable[[AdaptiveWeight], dict[str, Any]]) -> dict[str, Any]:
        metrics = {name: of(weight) for name, weight in self._meant(term).items()}
        return metrics if term is None and len(metrics) > 1 else next(iter(metrics.values()), {})

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Find the weights. The other callbacks may not have restored them yet: see `on_train_batch_begin`."""
        del logs
        self._detach()  # an earlier fit may have ended by an exception, of which callbacks are not told
        self._begun = False
        weights = find_weights(type(self).__name__, self.model, self.term)
        callbacks = callbacks_of_this_fit()
        refuse_twins(self, [other for other in callbacks if isinstance(other, AdaptiveWeightCallback)])
        balanced = self.model.loss.balanced
        self._deciding = dict(weights) if balanced is None else {"": balanced}
        self._workers = None
        if several_workers(self.model.distribute_strategy):
            first = next(iter(weights))  # under its name travels what is asked of balanced weights
            self._workers = {t: self._passed_on.setdefault(t, WorkerRequests(t or first)) for t in self._deciding}
        self._guard = Guard(self.model, self.recovery, self.max_consecutive_skips, callbacks)
        self._weights = weights
        for term, weight in weights.items():
            weight.term = term
        self._read = self.model.telemetry.count

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Before the first batch, when all is restored: open the record, and do what was asked for until now."""
        del batch, logs
        if self._weights and not self._begun:
            self._begin()
        if self._counted is None:  # all is restored
            self._counted = self._counts()
        self._disable_again()
        for requests in (self._workers or {}).values():
            requests.pass_on(self.model.telemetry)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Take one decision for each weight on the steps of the execution that just ended, and look after the model."""
        del batch, logs
        refuse_mute_step(type(self).__name__, self.model)
        self._catch_up()
        for request in self._control.poll() if self._control else ():
            try:
                self._ask(request.action, request.note, request.term)
            except ValueError as error:  # of a term that is none of ours
                _logger.warning("A request is ignored: %s", printable(error))
        seen, self._unguarded = self._unguarded, []
        if not seen or self._guard is None:
            return
        if (recovery := self._guard.look(seen)) is not None:
            loss = self.model.loss
            for decider in loss.adaptive_weights.values() if loss.balanced is None else (loss.balanced,):
                decider.model_recovered(*recovery)

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Count the steps of the epoch from here on."""
        del epoch, logs
        self._counted = None

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put `empty_steps` into the logs where there were any, and say with `verbose=1` what was dampened or empty.

        With Keras's losses, whose logs do not say it, `skipped_steps` too.
        """
        if not self._counted:
            return
        before = self._counted
        counts = {t: [a - b for a, b in zip(now, before[t], strict=True)] for t, now in self._counts().items()}
        if (most := max(empty for _, empty, _ in counts.values())) and logs is not None:
            logs["empty_steps"] = float(most)
        if logs is not None and not self.model.telemetry.tells_skips:
            logs.setdefault("skipped_steps", float(max(skipped for *_, skipped in counts.values())))
        for term, (dampened, empty, _) in counts.items() if self._verbose else ():
            if dampened or empty:
                what = [f"{count} steps {how}" for count, how in ((dampened, "dampened"), (empty, "empty")) if count]
                print(f"\n{term}: {' and '.join(what)} in epoch {epoch + 1}", flush=True)  # noqa: T201 - asked for

    def _counts(self) -> dict[str, tuple[int, int, int]]:
        """Return how many dampened, empty and skipped steps each weight has seen."""
        states = {term: weight.state for term, weight in self._weights.items()}
        return {term: (s.dampened_steps, s.empty_steps, s.skipped_steps) for term, s in states.items()}

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Close the record."""
        del logs
        self._disable_again()
        self._detach()

    def on_train_interrupted(self) -> None:
        """Close the record where an exception ended `fit`: called by the mixin, as Keras does not."""
        with contextlib.suppress(Exception):  # the one that ended `fit` is the one to be seen
            self._detach(interrupted=True)

    def _begin(self) -> None:
        for number, decider in enumerate(self._deciding.values()):
            decider.set_shadow(self.shadow)  # and the variable, where an interrupt came between it and the decision
            decider.before_saving(self._catch_up if number else self._before_saving)
        observers: list[DecisionObserver] = [DecisionLogger(), *self._observers]
        if (folder := self._folder) is not None:
            header = self._header(owner_of(folder / JOURNAL))
            self._record = open_record(folder, header, update_freq=self.update_freq)
            observers.insert(0, _ByHand(self._record))
            if self.remote_control and self._record.writes and isinstance(folder, Path):  # no store every second
                self._control = ControlFile(folder / CONTROL, header.run)
        for decider in self._deciding.values():
            for observer in observers:
                self._attached.append((decider, observer))
                decider.subscribe(observer)
        self._begun = True
        self._serve()

    def _header(self, owner: str | None) -> Header:
        """Say what the record is about; a journal that is there may be of any of the weights' runs."""
        runs = [weight.run for weight in self._weights.values()]
        terms = {name: TermStart(self._fixed_weight(name)) for name in self.model.telemetry.names}
        for name, weight in self._weights.items():
            terms[name] = TermStart(weight.base_weight, weight.config, weight.state.to_dict())
        balanced = self.model.loss.balanced
        balance = balanced and {"strategy": describe(balanced.strategy), "state": balanced.state_values}
        return Header(owner if owner in runs else runs[0], terms, self._step, balance=balance)

    def _fixed_weight(self, name: str) -> float:
        term = self.model.loss.terms.get(name)
        weight = 1.0 if term is None else term.weight
        return weight.weight if isinstance(weight, AdaptiveWeight) else float(weight)

    @property
    def _step(self) -> int:
        """Number of the last step; a weight that joins the others later goes on with their numbers."""
        return max(decider.step_count for decider in self._deciding.values())

    def _catch_up(self) -> None:
        """Take one decision for each weight on the steps that were not looked at yet."""
        rows = self.model.telemetry.read(self._read)
        if not rows or not self._weights:
            return
        self._read = rows[-1].number
        steps = [_seen(number, row) for number, row in enumerate(rows, self._step + 1)]
        self._unguarded += map(_of_all, steps)
        with contextlib.ExitStack() as together:
            for decider in self._deciding.values():
                together.enter_context(decider.uninterrupted())
            decisions = [
                decider.observe([seen.of(term) for seen in steps] if term else steps)
                for term, decider in self._deciding.items()
            ]
            if self._record is not None:
                self._record.note(steps, decisions)
        for term, requests in (self._workers or {}).items():
            for name, note in requests.arrived(rows):
                getattr(self._deciding[term], name)(note)

    def _before_saving(self) -> None:
        """Take in what the checkpoint will hold, so that neither weights nor record lag behind the parameters."""
        self._catch_up()
        if self._record is not None:
            self._record.note_save(self._step)

    def _ask(self, name: str, note: str, term: str | None = None) -> None:
        note = checked_note(type(self).__name__, note)
        self._meant(term)
        self._asked.append((name, note, term))
        if self._begun:
            self._serve()

    def _meant(self, term: str | None) -> dict[str, AdaptiveWeight]:
        """Return the weights that are meant, as far as they are known.

        Raises:
            ValueError: There is no such term.
        """
        if term is None or not self._weights:
            return self._weights
        if term not in self._weights:
            raise ValueError(
                f"{type(self).__name__}: argument `term` must name a term with an adaptive weight. Received: "
                f"term={term!r}; there are {list(self._weights)}."
            )
        return {term: self._weights[term]}

    def _serve(self) -> None:
        while self._asked:
            try:
                name, note, term = self._asked.popleft()
            except IndexError:  # another thread was faster
                return
            meant = self._meant(term)
            for of, decider in (meant if "" not in self._deciding else self._deciding).items():
                if self._workers is None:
                    getattr(decider, name)(note)
                else:
                    self._workers[of].asked.append((name, note))

    def _disable_again(self) -> None:
        """Disable as by hand where the run before it was killed and resumed was, when that step has come again."""
        if self._record is None:
            return
        ahead = self.model.steps_per_execution if self._workers is not None else 0  # it travels with an execution
        for term, note in self._record.disables_due(self._step + ahead).items():
            weight = self._weights.get(term or next(iter(self._weights)))
            if weight is not None and not weight.state.disabled:
                self._ask("disable", note, term or None)

    @property
    def _folder(self) -> Place | None:
        """Where this process keeps the record, if it does."""
        if self.log_dir is None or not is_chief(self.model.distribute_strategy):
            return None
        return self.log_dir.absolute() / FOLDER  # `fit` may change the working directory

    def _detach(self, *, interrupted: bool = False) -> None:
        """End the record with the last step that was taken, and let the weights go."""
        if self._attached:
            with contextlib.suppress(AttributeError):  # the model was compiled anew: it has no telemetry
                self._catch_up()
            for decider in self._deciding.values():
                decider.before_saving(None)
        for decider, observer in self._attached:
            decider.unsubscribe(observer)
        if self._record is not None:
            self._record.close(interrupted=interrupted)
        for decider in self._deciding.values() if self._begun else ():
            decider.set_shadow(None)
        self._attached.clear()
        self._record = self._control = None


class _ByHand:
    """Tells the record what was asked for by hand; of the decisions on steps it is told of all weights at once."""

    def __init__(self, record: RunRecord) -> None:
        self._record = record

    def observe(self, observations: Sequence[Any], decision: Any) -> None:
        if not observations:
            self._record.note((), (decision,))


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


def _seen(step: int, row: StepRow) -> JointObservation:
    if row.empty:
        return JointObservation(step, {}, applied=False)
    finite = row.non_finite is None  # a NaN then: there was something to measure, but not of this term
    losses = {name: loss for name, loss in row.terms.items() if not (finite and math.isnan(loss))}
    return JointObservation(  # in the order of the fields: by name it takes twice as long, and this is every step
        step,
        losses,
        row.total,
        row.gradient_norm,
        row.term_norms or {},
        finite,
        row.loss_scaling,
        row.dampening,
        row.non_finite,
    )


def _of_all(seen: JointObservation) -> Observation:
    """Return the step as the guard sees it, which looks at the total."""
    total = math.nan if seen.total_loss is None else seen.total_loss
    return seen.of("")._replace(loss=total, empty=not seen.losses)
