"""Model rollback: back to the last good snapshot when the parameters have gone bad; a stop before skipping for ever."""

from __future__ import annotations

import logging
import math
import os
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras

from keras_adaptive_weights.deciding.config import keep_number
from keras_adaptive_weights.deciding.decision import Observation, Reason
from keras_adaptive_weights.deciding.health import CALM_STEPS, Health, feed, recovered
from keras_adaptive_weights.journal.places import local_folder
from keras_adaptive_weights.runtime.distribution import on_any_worker
from keras_adaptive_weights.training.checkpoints import last_checkpoint
from keras_adaptive_weights.training.snapshots import Snapshot, all_finite, has_schedule, make_store

_HORIZON = 200
_logger = logging.getLogger("keras_adaptive_weights")


class TrainingStopped(RuntimeError):  # noqa: N818 - what happened, as KeyboardInterrupt and StopIteration say it
    """Too many steps in a row were skipped. The message says what was seen, what to do, and what to go back to.

    Example:

    >>> inputs = keras.Input((4,))
    >>> model = StableModel(inputs, keras.layers.Dense(1)(inputs))
    >>> terms = {"price_loss": LossTerm(keras.losses.MeanSquaredError(), weight=AdaptiveWeight(1.0))}
    >>> model.compile("sgd", CompositeLoss(terms), run_eagerly=True)
    >>> callback = AdaptiveWeightCallback("price_loss", max_consecutive_skips=3)
    >>> try:
    ...     model.fit(np.full((8, 4), np.nan), np.ones((8, 1)), batch_size=1, verbose=0, callbacks=[callback])
    ... except TrainingStopped as stopped:
    ...     print(stopped)
    3 steps in a row were skipped...
    """


@dataclass(frozen=True, slots=True)
class ModelRecovery:
    """Settings of the model's rollback: give it to a callback as `recovery=ModelRecovery()`.

    Snapshots hold parameters, non-trainable state and optimizer. One is taken only after ten calm steps (finite, the
    loss no more than 1.5 times its average), only if every number in it is finite, and is trusted only after ten more.
    When the parameters have gone bad, the newest trusted one is restored; if trouble comes back before another one is
    trusted, the one before it. The learning rate in force stays, times `learning_rate_factor`. Adaptive weights stay,
    their statistics begin again, and their steps count on.

    Args:
        every: Steps between two snapshots. Each costs a copy of the variables to the host, and with `directory` a file.
        keep: Trusted snapshots that are kept; one that is not yet trusted comes on top.
        after: Skipped steps in a row that count as bad parameters.
        loss_factor: An average of the total loss above this many times its level at the snapshots, for `loss_steps`
            steps in a row, counts as bad parameters, too. `None`: never.
        loss_steps: See `loss_factor`.
        learning_rate_factor: Factor on the learning rate at each recovery, in (0, 1]. 1.0: unchanged. A learning rate
            schedule cannot be changed.
        max_recoveries: Recoveries in one `fit`; after them a run of skipped steps ends in `TrainingStopped`.
        directory: Folder for snapshots as weights files, instead of host memory; no URL of a store. With several
            workers each keeps and restores its own in memory nevertheless, so that none is set apart by a disk, and the
            chief writes the files for whoever starts again. `None`: in host memory only.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument outside its bounds.

    Example:

    >>> callback = AdaptiveMelWeightCallback(recovery=ModelRecovery(every=500, learning_rate_factor=0.5))
    """

    every: int = 200
    keep: int = 2
    after: int = 5
    loss_factor: float | None = 5.0
    loss_steps: int = 50
    learning_rate_factor: float = 1.0
    max_recoveries: int = 3
    directory: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Validate the arguments."""
        owner = type(self).__name__
        for name in ("every", "keep", "after", "loss_steps", "max_recoveries"):
            keep_number(self, name, low=1, integer=True)
        keep_number(self, "loss_factor", low=1.5, open_low=True, optional=True)
        keep_number(self, "learning_rate_factor", low=0.0, high=1.0, open_low=True)
        if self.directory is not None and not isinstance(self.directory, (str, os.PathLike)):
            raise TypeError(
                f"{owner}: argument `directory` must be a path or None. Received: directory={self.directory!r}."
            )
        if self.directory is not None:
            local_folder(self.directory, owner, "directory", "Leave it out: snapshots are then kept in memory.")


class Recovery(NamedTuple):
    """A recovery that took place: why, and its numbers for the record."""

    reason: Reason
    evidence: dict[str, float]
    note: str


class Guard:
    """Looks after the model of one `fit`: takes snapshots, restores them, stops the training.

    Args:
        model: The compiled model.
        settings: When to recover. `None`: never.
        max_consecutive_skips: Skipped steps in a row after which training stops. `None`: never.
        callbacks: The callbacks of this `fit`, to find the last checkpoint.
        clock: Seconds since the epoch; for tests.

    Raises:
        ValueError: A learning rate factor for a learning rate that cannot be set.
    """

    def __init__(
        self,
        model: Any,
        settings: ModelRecovery | None,
        max_consecutive_skips: int | None,
        callbacks: Sequence[Any] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        if settings is not None and settings.learning_rate_factor != 1.0 and has_schedule(model.optimizer):
            raise ValueError(
                "ModelRecovery: argument `learning_rate_factor` must be 1.0 where the optimizer has a learning rate "
                f"schedule, which cannot be changed. Received: learning_rate_factor={settings.learning_rate_factor!r}."
            )
        self._model = model
        self._settings = settings
        self._max_skips = max_consecutive_skips
        self._callbacks = callbacks
        self._clock = clock
        self._horizon = settings.every if settings else _HORIZON
        self._health = Health()
        self._snapshots: list[Snapshot] = []
        self._store = make_store(settings.directory if settings else None, model.distribute_strategy)
        self._recoveries = 0
        self._trouble_began = math.inf
        self._warned: set[str] = set()

    def look(self, observations: Sequence[Observation]) -> Recovery | None:
        """Take in the steps of one execution, and do what is due after them.

        Returns:
            The recovery that took place, if one did.

        Raises:
            TrainingStopped: Too many steps in a row were skipped, and there is nothing to recover from.
        """
        too_high = self._too_high()
        for seen in observations:
            self._health = feed(self._health, seen, horizon=self._horizon, too_high=too_high)
        if self._health.skips == 0:
            self._trouble_began = math.inf
        elif self._trouble_began == math.inf:
            self._trouble_began = self._clock()
        if self._settings is not None:
            self._drop_surplus(self._settings)
            due = self._snapshot_due(self._settings)
            reason = self._reason_to_recover(self._settings, look_closely=due)
            if reason is not None and (recovery := self._recover(self._settings, reason)):
                return recovery
            if due and reason is None:
                self._save()
        if self._max_skips is not None and self._health.skips >= self._max_skips:
            raise TrainingStopped(self._last_words())
        return None

    def _too_high(self) -> float | None:
        if self._settings is None or self._settings.loss_factor is None or not self._snapshots:
            return None
        level = min(snapshot.level for snapshot in self._snapshots)
        return self._settings.loss_factor * level if level > 0.0 else None

    def _trusted(self) -> list[Snapshot]:
        return [s for s in self._snapshots if s.step + CALM_STEPS <= self._health.last_calm]

    def _snapshot_due(self, settings: ModelRecovery) -> bool:
        """Whether it is time for a snapshot, the last one is trusted, and all is calm."""
        if self._snapshots and self._health.step - self._snapshots[-1].step < settings.every:
            return False
        return self._health.settled and self._health.skips == 0 and len(self._snapshots) == len(self._trusted())

    def _save(self) -> None:
        step = self._health.step
        try:
            self._store.save(self._model, step)
        except (OSError, RuntimeError) as error:  # h5py reports some failures as RuntimeError
            self._warn_once("save", f"ModelRecovery: no snapshot at step {step}, training goes on. {error}")
            return
        self._snapshots.append(Snapshot(step, self._health.level))

    def _reason_to_recover(self, settings: ModelRecovery, *, look_closely: bool) -> Reason | None:
        if self._health.skips >= settings.after:
            return Reason.RECOVERED_FROM_SKIPS
        if self._health.high >= settings.loss_steps:
            return Reason.RECOVERED_FROM_HIGH_LOSS
        if look_closely and self._bad_variables():
            return Reason.RECOVERED_FROM_BAD_VARIABLES
        return None

    def _bad_variables(self) -> bool:
        """Whether any worker has a number that is not finite: a ReLU may turn a NaN into a zero."""
        return on_any_worker(self._model.distribute_strategy, not all_finite(self._model))

    def _recover(self, settings: ModelRecovery, reason: Reason) -> Recovery | None:
        """Go back to the newest trusted snapshot, if there is one and the number of recoveries allows it."""
        trusted, health = self._trusted(), self._health
        if not trusted or self._recoveries >= settings.max_recoveries:
            why = "none is trusted yet" if not trusted else f"{self._recoveries} recoveries were made, the most allowed"
            self._warn_once("recover", f"ModelRecovery: trouble at step {health.step}, but no snapshot is used: {why}.")
            return None
        lowest = min(snapshot.level for snapshot in trusted)
        chosen = [s for s in trusted if lowest <= 0.0 or s.level <= 2.0 * lowest][-1]
        try:
            self._store.restore(self._model, chosen.step)
        except (OSError, RuntimeError, ValueError) as error:  # what h5py and Keras raise; the next look tries another
            self._warn_once(f"restore {chosen.step}", f"ModelRecovery: step {chosen.step} cannot be restored. {error}")
            self._let_go(chosen)
            return None
        if settings.learning_rate_factor != 1.0:
            rate = float(keras.ops.convert_to_numpy(self._model.optimizer.learning_rate))
            self._model.optimizer.learning_rate = rate * settings.learning_rate_factor
        self._recoveries += 1
        recovery = Recovery(reason, self._evidence(settings, chosen), self._note())
        self._health = recovered(health, chosen.level, self._horizon)
        for younger in [s for s in self._snapshots if s.step > chosen.step]:
            self._let_go(younger)
        if len(self._snapshots) > 1:  # if this one leads into the same trouble, the one before it is next
            self._let_go(chosen)
        _logger.warning("The model was restored to step %d: %s. %s", chosen.step, reason.value, recovery.note)
        return recovery

    def _drop_surplus(self, settings: ModelRecovery) -> None:
        for surplus in self._trusted()[: -settings.keep]:
            self._let_go(surplus)

    def _evidence(self, settings: ModelRecovery, chosen: Snapshot) -> dict[str, float]:
        return {
            "snapshot_step": float(chosen.step),
            "snapshot_loss": chosen.level,
            "total_loss_average": self._health.fast,
            "consecutive_skips": float(self._health.skips),
            "high_loss_steps": float(self._health.high),
            "recoveries": float(self._recoveries),
            "max_recoveries": float(settings.max_recoveries),
            "learning_rate": float(keras.ops.convert_to_numpy(self._model.optimizer.learning_rate)),
        }

    def _note(self) -> str:
        health = self._health
        return f"{health.culprit} not finite from step {health.first_skip} on" if health.skips else ""

    def _let_go(self, snapshot: Snapshot) -> None:
        self._store.drop(snapshot.step)
        self._snapshots.remove(snapshot)

    def _warn_once(self, about: str, message: str) -> None:
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(message, RuntimeWarning, stacklevel=2)

    def _last_words(self) -> str:
        """Say what was seen, what to do, and what to go back to."""
        health = self._health
        state = "are finite: look at the batches" if all_finite(self._model) else "are not finite: they are lost"
        places = [last_checkpoint(self._callbacks, before=self._trouble_began)]
        if trusted := self._trusted():
            places.append(f"last good snapshot of ModelRecovery: {self._store.where(trusted[-1].step)}")
        tried = f" ModelRecovery went back {self._recoveries} times, and it came back." if self._recoveries else ""
        return (
            f"{health.skips} steps in a row were skipped (steps {health.first_skip} to {health.step}; "
            f"max_consecutive_skips={self._max_skips}). First seen: {health.culprit} was not finite.{tried} "
            f"The model's variables {state}. Look for bad data from step {health.first_skip} on, "
            "for divisions, logarithms and roots in the model, and lower the learning rate; then start again. "
            f"To go back to: {'; '.join(places)}."
        )
