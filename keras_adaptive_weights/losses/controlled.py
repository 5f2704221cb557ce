"""What an envelope decides on while a training runs: its state, requests by hand from any thread, and its observers."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import uuid
import warnings
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from keras_adaptive_weights.deciding.config import check_bool
from keras_adaptive_weights.deciding.decision import Decision, Reason, checked_note
from keras_adaptive_weights.deciding.joint import JointDecision
from keras_adaptive_weights.deciding.observers import DecisionObserver

KEPT_DECISIONS = 1000
_MOST_RUN_LETTERS = 128
_logger = logging.getLogger("keras_adaptive_weights")
LOCK = threading.RLock()  # one for all: an observer of one weight may ask something of another
_order = itertools.count()
_T = TypeVar("_T")
S = TypeVar("S")
D = TypeVar("D", Decision, JointDecision)
D_co = TypeVar("D_co", covariant=True)


class Envelope(Protocol[S, D_co]):
    """The envelope of one weight (`GuideEnvelope`) or of several (`JointEnvelope`): pure functions of a state."""

    def step(self, state: S, observations: Sequence[Any]) -> tuple[S, D_co]:
        """Take in the observations of one execution, oldest first, and decide once."""

    def disable(self, state: S, note: str = "") -> tuple[S, D_co]:
        """Go to the base at once and stay there."""

    def enable(self, state: S, note: str = "") -> tuple[S, D_co]:
        """Move again, after a full cooling period."""

    def rollback(self, state: S, note: str = "") -> tuple[S, D_co]:
        """Undo the last change."""

    def reset(
        self, state: S, note: str = "", reason: Reason = Reason.MANUAL, evidence: Mapping[str, float] | None = None
    ) -> tuple[S, D_co]:
        """Forget the statistics."""

    def set_shadow(self, state: S, *, shadow: bool) -> S:
        """Let decisions only be recorded, or take effect."""

    def to_dict(self, state: S) -> dict[str, Any]:
        """Return a state as plain values."""

    def restored(self, values: Mapping[str, Any]) -> S:
        """Read what `to_dict` wrote."""


class Saved(NamedTuple):
    """What a checkpoint holds: the id of the run, and the envelope's state."""

    run: str
    state: Any


class Controlled(Generic[S, D]):
    """Holds the state of an envelope. Every method may be called from any thread and from a signal handler.

    Args:
        envelope: What decides.
        state: Its state.
    """

    def __init__(self, envelope: Envelope[S, D], state: S) -> None:
        self._envelope: Envelope[S, D] = envelope
        self._state = state
        self._run = uuid.uuid4().hex
        self._decisions: deque[tuple[int, D]] = deque(maxlen=KEPT_DECISIONS)
        self._observers: list[DecisionObserver] = []
        self._requests: deque[Callable[[S], tuple[S, D]]] = deque()
        self._busy = False
        self._catch_up: Callable[[], None] | None = None
        self._shadow: bool | None = None

    @property
    @abstractmethod
    def step_count(self) -> int:
        """Training steps seen over the whole life."""

    @property
    @abstractmethod
    def shadow(self) -> bool:
        """Whether decisions are only recorded, and what is in force stays."""

    @abstractmethod
    def _weights(self, state: S) -> tuple[Any, Any]:
        """Return what is in force in a state, and what was decided: in a shadow run, something else."""

    @abstractmethod
    def _write(self, in_force: Any) -> None:
        """Put it into what the loss reads."""

    def _told(self, decision: D) -> D:
        """Return a decision as it is told to observers."""
        return decision

    @property
    def run(self) -> str:
        """Id of the training run, kept in its checkpoints: a journal belongs to one run."""
        return self._run

    @property
    def decisions(self) -> list[D]:
        """The last decisions other than HOLD, oldest first, at most 1,000."""
        return in_order([self])

    def disable(self, note: str = "") -> None:
        """Return to the base weight at once and stay there until `enable`.

        Args:
            note: What the person who asks has to say; of a long one the first 1,000 characters are kept.

        Raises:
            TypeError: `note` is no text, here as in the methods below.
        """
        self._ask("disable", note)

    def enable(self, note: str = "") -> None:
        """Let the weight move again, after a full cooling period."""
        self._ask("enable", note)

    def rollback(self, note: str = "") -> None:
        """Undo the last change. Where there is none, a REJECT is recorded."""
        self._ask("rollback", note)

    def reset(self, note: str = "") -> None:
        """Forget the statistics and begin the warmup again; weight and a disable stay."""
        self._ask("reset", note)

    def model_recovered(self, reason: Reason, evidence: Mapping[str, float], note: str = "") -> None:
        """Begin the statistics again, because the model went back to a snapshot; weight and a disable stay.

        Args:
            reason: One of the `Reason.RECOVERED_FROM_...`.
            evidence: The recovery's numbers by name.
            note: What else is known.
        """
        self._ask("reset", note, reason, evidence)

    def set_shadow(self, shadow: bool | None) -> None:
        """Let decisions only be recorded (`True`) or take effect (`False`), whatever checkpoint is loaded from now on.

        The weight in force stays at either change. What was proposed is not put into force: the controller goes on from
        the weight in force, after a full cooling period; a disable stays.

        Args:
            shadow: `None`: as it is, and as the checkpoint says that is loaded next.

        Raises:
            TypeError: It is none of these.
        """
        if shadow is not None:
            check_bool(f"{type(self).__name__}.set_shadow", "shadow", shadow)
        with LOCK:
            self._exclusively(lambda: self._set_shadow(shadow))

    def _set_shadow(self, shadow: bool | None) -> None:
        self._shadow, (held, proposed) = shadow, self._weights(self._state)
        if shadow is None:
            return
        was = self.shadow
        self._go_on_from(Saved(self._run, self._state))
        if was and not self.shadow:
            _logger.info(
                "Decisions take effect from step %d on. What is in force stays (%s); what was proposed in shadow is "
                "dropped (%s).",
                self.step_count + 1,
                _said(held),
                _said(proposed),
            )

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Keep weight and state as they are, whatever checkpoint is loaded within; requests are served after it."""
        with self.uninterrupted():
            before = Saved(self._run, self._state)
            try:
                yield
            finally:
                self._go_on_from(before)

    @contextlib.contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Let what is asked for by hand wait until the end, as between decisions on several weights of one step."""
        with LOCK:
            busy = self._busy
            try:
                self._busy = True
                yield
            finally:
                self._busy = busy
                self._serve()

    def before_saving(self, catch_up: Callable[[], None] | None) -> None:
        """Let `catch_up` be called before the state is read for a checkpoint; `None`: nothing any more.

        A checkpoint may be written after a step and before that step was observed here.
        """
        self._catch_up = catch_up

    def subscribe(self, observer: DecisionObserver) -> None:
        """Let `observer` know of every decision from now on.

        Raises:
            TypeError: It has no method `observe`.
        """
        if not callable(getattr(observer, "observe", None)):
            raise TypeError(
                f"{type(self).__name__}.subscribe: argument `observer` must have a method `observe(observations, "
                f"decision)`. Received: observer={observer!r}."
            )
        with LOCK:
            self._observers.append(observer)

    def unsubscribe(self, observer: DecisionObserver) -> None:
        """Undo `subscribe`; harmless where there is nothing to undo."""
        with LOCK, contextlib.suppress(ValueError):
            self._observers.remove(observer)

    def to_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs, as plain values."""
        if self._catch_up is not None:
            self._catch_up()
        return self._saved()

    def _saved(self) -> dict[str, Any]:
        return {"run": self._run, "state": self._envelope.to_dict(self._state)}

    def read(self, values: Any) -> Saved:
        """Read what `to_dict` returned, without going on from it.

        Raises:
            ValueError: It cannot be read, is of a newer version, or holds what no state may.
        """
        if not isinstance(values, Mapping) or set(values) != set(Saved._fields):
            keys = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(f"expected `run` and `state`, all that this version knows. Received: {keys!s:.200}.")
        run = values["run"]
        if not isinstance(run, str) or not 0 < len(run) <= _MOST_RUN_LETTERS:
            raise ValueError(f"field `run` must be the id of a run. Received: {run!r:.200}.")
        return Saved(run, self._envelope.restored(values["state"]))

    def restore(self, values: Mapping[str, Any] | Saved) -> None:
        """Go on from what `to_dict` or `read` returned; what is outside today's bounds is moved to the nearer one.

        A checkpoint of a shadow run brings back what was in force, never what was proposed.

        Raises:
            ValueError: As `read`. Then nothing is changed.
        """
        saved = values if isinstance(values, Saved) else self.read(values)
        with LOCK:
            self._go_on_from(saved)

    def ask(self, name: str, note: str, *more: Any) -> None:
        """Do what a method of the envelope does, asked for by hand."""
        self._ask(name, note, *more)

    def _ask(self, name: str, note: str, *more: Any) -> None:
        """Do what is asked for now or, asked from within a step (by an observer or a signal), right after it."""
        note = checked_note(f"{type(self).__name__}.{name}", note)
        request = getattr(self._envelope, name)
        self._requests.append(lambda state: request(state, note, *more))
        with LOCK:
            self._serve()

    def _serve(self) -> None:
        """Carry out what was asked for; also what a signal asked for in the last moment of a step."""
        while self._requests and not self._busy:
            self._exclusively(lambda: None)

    def _exclusively(self, work: Callable[[], _T]) -> _T:
        """Do `work` as the only one who changes the state, and serve the requests that came meanwhile before the end.

        A request that an interrupt meets is served at the next occasion.
        """
        outermost = not self._busy
        try:
            self._busy = True
            result = work()
            while outermost and self._requests:
                self._take(self._requests[0], ())
                self._requests.popleft()
            return result
        finally:
            self._busy = not outermost

    def _observe(self, observations: Sequence[Any]) -> D:
        with LOCK:
            decision = self._exclusively(
                lambda: self._take(lambda state: self._envelope.step(state, observations), observations)
            )
            self._serve()
            return decision

    def _go_on_from(self, saved: Saved) -> None:
        """Take over a state that was not decided on here."""
        run, state = saved
        if self._shadow is not None:
            state = self._envelope.set_shadow(state, shadow=self._shadow)
        self._put_in_force(run, state)

    def _put_in_force(self, run: str, state: S) -> None:
        """Change run, state and what the loss reads, all or none of them; the only place where that is written."""
        try:
            self._write(self._weights(state)[0])
            self._run, self._state = run, state
        except BaseException:  # an interrupt perhaps, and nobody knows how far it came
            self._write(self._weights(self._state)[0])
            raise

    def _take(self, take_step: Callable[[S], tuple[S, D]], observations: Sequence[Any]) -> D:
        state, decision = take_step(self._state)
        if self._weights(state)[0] == self._weights(self._state)[0]:
            self._state = state
        else:
            self._put_in_force(self._run, state)
        decision = self._told(decision)
        told: Any = decision
        if decision.is_event:
            self._decisions.append((next(_order), decision))
        for observer in tuple(self._observers):
            try:
                observer.observe(observations, told)
            except Exception as error:  # noqa: BLE001 - a broken observer must not end a training run
                self.unsubscribe(observer)
                warnings.warn(
                    f"{type(observer).__name__} failed and is left out from step {decision.step} on; training goes "
                    f"on. {type(error).__name__}: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return decision


def in_order(controlled: Iterable[Controlled[Any, Any]]) -> list[Any]:
    """Return the decisions of several in the order in which they were taken, the last 1,000 at most."""
    together = sorted(numbered for one in controlled for numbered in one._decisions)  # noqa: SLF001 - of this file
    return [decision for _, decision in together[-KEPT_DECISIONS:]]


def _said(weights: Any) -> str:
    if isinstance(weights, Mapping):
        return ", ".join(f"{name} {weight:.4g}" for name, weight in weights.items())
    return f"{weights:.4g}"
