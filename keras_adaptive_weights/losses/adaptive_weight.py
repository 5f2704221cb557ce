"""The shared weight: a `tf.Variable` that the loss reads, the controller's state, and manual control from threads."""

from __future__ import annotations

import contextlib
import itertools
import logging
import threading
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
import tensorflow as tf

from keras_adaptive_weights.deciding import envelope, guide_rule, safeguards
from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig, TrainingConfig, XTTSConfig, check_bool
from keras_adaptive_weights.deciding.decision import Decision, Observation, Reason, checked_note
from keras_adaptive_weights.deciding.observers import DecisionObserver
from keras_adaptive_weights.deciding.state import ControllerState, initial_state

KEPT_DECISIONS = 1000
_logger = logging.getLogger("keras_adaptive_weights")
_MOST_RUN_LETTERS = 128
_Step = Callable[[ControllerState], tuple[ControllerState, Decision]]
_T = TypeVar("_T")
_lock = threading.RLock()  # one for all: an observer of one weight may ask something of another
_order = itertools.count()


class SavedWeight(NamedTuple):
    """What a checkpoint holds of an adaptive weight: the id of its run, and the controller's state."""

    run: str
    state: ControllerState

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `from_dict` reads back."""
        return {"run": self.run, "state": self.state.to_dict()}

    @classmethod
    def from_dict(cls, values: Any) -> SavedWeight:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: Something is missing, unknown (of a newer version), or is not what it should be.
        """
        if not isinstance(values, Mapping) or set(values) != set(cls._fields):
            keys = sorted(map(str, values)) if isinstance(values, Mapping) else type(values).__name__
            raise ValueError(f"expected `run` and `state`, all that this version knows. Received: {keys!s:.200}.")
        run = values["run"]
        if not isinstance(run, str) or not 0 < len(run) <= _MOST_RUN_LETTERS:
            raise ValueError(f"field `run` must be the id of a run. Received: {run!r:.200}.")
        return cls(run, ControllerState.from_dict(values["state"]))


class AdaptiveWeight:
    """A loss weight that a controller moves, one bounded and reasoned decision at a time.

    Args:
        base_weight: Weight to start from and to return to in an emergency. Default: the guide's 2.5.
        config: Settings of the controller. `None`: the defaults.

    Attributes:
        variable: Scalar float32 `tf.Variable` with the weight in force; read it in a loss, never assign to it.
        decisions: The last 1,000 decisions other than HOLD, oldest first.
        term: Name of the loss term that it weighs, for its decisions; empty as long as nobody said.

    Every method may be called from any thread and from a signal handler.

    Raises:
        TypeError: `base_weight` is no number, or `config` no `AdaptiveWeightConfig`.
        ValueError: `base_weight` is outside the bounds of `config`.

    Example:

    >>> weight = AdaptiveWeight(2.5)
    >>> decision = weight.update(0.8, gradient_norm=3.0, total_loss=2.1)
    >>> decision.reason
    <Reason.WARMUP: 'warmup'>
    """

    def __init__(self, base_weight: float = 2.5, config: AdaptiveWeightConfig | None = None) -> None:
        if config is None:
            config = AdaptiveWeightConfig()
        if isinstance(config, (TrainingConfig, XTTSConfig)):
            training = "config" if isinstance(config, TrainingConfig) else "config.training"
            raise TypeError(
                f"AdaptiveWeight: argument `config` must be an AdaptiveWeightConfig or None. Received: "
                f"config={config!r}. Write `config={training}.adaptive_weight_config()`."
            )
        if not isinstance(config, AdaptiveWeightConfig):
            raise TypeError(
                "AdaptiveWeight: argument `config` must be an AdaptiveWeightConfig or None. Received: "
                f"config={config!r}."
            )
        config.check_base_weight("AdaptiveWeight", "base_weight", base_weight)
        self._config = config
        self._state = initial_state(config, base_weight)
        self._run = uuid.uuid4().hex
        self.term = ""
        self._decisions: deque[tuple[int, Decision]] = deque(maxlen=KEPT_DECISIONS)
        self._observers: list[DecisionObserver] = []
        self._requests: deque[_Step] = deque()
        self._busy = False
        self._catch_up: Callable[[], None] | None = None
        self._shadow: bool | None = None
        with tf.init_scope():
            self.variable = tf.Variable(self._state.weight, trainable=False, dtype=tf.float32, name="adaptive_weight")

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        """Refuse to be a number: somebody would compute with it, and nobody would move it.

        Raises:
            TypeError: Always.
        """
        del dtype, name
        raise TypeError(
            f"AdaptiveWeight: the weight {self.weight!r} is no tensor. In `loss_weights` it needs a stable model: "
            "write `model = kaw.stable(model)` before `compile`. In a loss of your own read `weight.variable`."
        )

    @property
    def config(self) -> AdaptiveWeightConfig:
        """Settings of the controller."""
        return self._config

    @property
    def state(self) -> ControllerState:
        """The controller's state, frozen."""
        return self._state

    @property
    def run(self) -> str:
        """Id of the training run, kept in its checkpoints: a journal belongs to one run."""
        return self._run

    @property
    def base_weight(self) -> float:
        """The weight to start from and to return to."""
        return self._state.base_weight

    @property
    def weight(self) -> float:
        """The weight in force."""
        return self._state.weight_in_force

    @property
    def shadow(self) -> bool:
        """Whether decisions are only recorded: `state.weight` is then what they propose, and `variable` stays."""
        return self._state.held_weight is not None

    @property
    def enabled(self) -> bool:
        """Whether the controller may move the weight."""
        return self._config.enabled and not self._state.disabled

    @property
    def step_count(self) -> int:
        """Training steps seen over the whole life of the weight."""
        return self._state.step

    @property
    def decisions(self) -> list[Decision]:
        """The last decisions other than HOLD, oldest first, at most 1,000."""
        return in_order([self])

    def update(
        self,
        loss: Any,
        *,
        gradient_norm: Any = None,
        total_loss: Any = None,
        applied: bool = True,
    ) -> Decision:
        """Tell the controller about one training step of your own loop, and let it decide.

        A batch without a sample is no step: leave it out.

        Args:
            loss: Raw, unweighted loss of the term: a number or scalar tensor.
            gradient_norm: Global norm of the gradients. `None`: not measured.
            total_loss: Weighted sum of all terms. `None`: the weight times `loss`.
            applied: Whether the optimizer took the step.

        Returns:
            The decision; a changed weight is already in `variable`.

        Raises:
            TypeError: An argument that is no real scalar, or `applied` no truth value.
        """
        value = _scalar("loss", loss)
        total = self.weight * value if total_loss is None else _scalar("total_loss", total_loss)
        norm = None if gradient_norm is None else _scalar("gradient_norm", gradient_norm)
        with _lock:
            seen = Observation(self._state.step + 1, value, total, norm, applied=_flag("applied", applied))
            return self.observe((seen,))

    def observe(self, observations: Sequence[Observation]) -> Decision:
        """Take in the observations of one execution, oldest first, and decide once.

        Raises:
            TypeError: Something else among them.
            ValueError: No observations.
        """
        if isinstance(observations, Observation) or not all(isinstance(seen, Observation) for seen in observations):
            raise TypeError(
                "AdaptiveWeight.observe: argument `observations` must be a sequence of Observations. Received: "
                f"observations={observations!r}. Write `observe([observation])` for a single one."
            )
        with _lock:
            decision = self._exclusively(
                lambda: self._take(lambda state: guide_rule.step(self._config, state, observations), observations)
            )
            self._serve()
            return decision

    def disable(self, note: str = "") -> None:
        """Return to the base weight at once and stay there until `enable`.

        Args:
            note: What the person who asks has to say; of a long one the first 1,000 characters are kept.

        Raises:
            TypeError: `note` is no text, here as in the methods below.
        """
        note = checked_note("AdaptiveWeight.disable", note)
        self._request(lambda state: envelope.disable(state, note))

    def enable(self, note: str = "") -> None:
        """Let the weight move again, after a full cooling period."""
        note = checked_note("AdaptiveWeight.enable", note)
        self._request(lambda state: envelope.enable(self._config, state, note))

    def rollback(self, note: str = "") -> None:
        """Undo the last change. Where there is none, a REJECT is recorded."""
        note = checked_note("AdaptiveWeight.rollback", note)
        self._request(lambda state: envelope.rollback(self._config, state, note))

    def reset(self, note: str = "") -> None:
        """Forget the statistics and begin the warmup again; weight and a disable stay."""
        note = checked_note("AdaptiveWeight.reset", note)
        self._request(lambda state: envelope.reset(state, note))

    def model_recovered(self, reason: Reason, evidence: Mapping[str, float], note: str = "") -> None:
        """Begin the statistics again, because the model went back to a snapshot; weight and a disable stay.

        Args:
            reason: One of the `Reason.RECOVERED_FROM_...`.
            evidence: The recovery's numbers by name.
            note: What else is known.
        """
        note = checked_note("AdaptiveWeight.model_recovered", note)
        self._request(lambda state: envelope.reset(state, note, reason, evidence))

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
            check_bool("AdaptiveWeight.set_shadow", "shadow", shadow)
        with _lock:
            self._exclusively(lambda: self._set_shadow(shadow))

    def _set_shadow(self, shadow: bool | None) -> None:
        self._shadow, before = shadow, self._state
        if shadow is None:
            return
        self._go_on_from(SavedWeight(self._run, before))
        if before.held_weight is not None and not self.shadow:
            _logger.info(
                "Decisions take effect from step %d on. The weight in force stays %.4g; the %.4g that was proposed in "
                "shadow is dropped.",
                before.step + 1,
                self.weight,
                before.weight,
            )

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Keep weight and state as they are, whatever checkpoint is loaded within; requests are served after it."""
        with self.uninterrupted():
            before = SavedWeight(self._run, self._state)
            try:
                yield
            finally:
                self._go_on_from(before)

    @contextlib.contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Let what is asked for by hand wait until the end, as between decisions on several weights of one step."""
        with _lock:
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
                "AdaptiveWeight.subscribe: argument `observer` must have a method `observe(observations, decision)`. "
                f"Received: observer={observer!r}."
            )
        with _lock:
            self._observers.append(observer)

    def unsubscribe(self, observer: DecisionObserver) -> None:
        """Undo `subscribe`; harmless where there is nothing to undo."""
        with _lock, contextlib.suppress(ValueError):
            self._observers.remove(observer)

    def to_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs, as plain values."""
        if self._catch_up is not None:
            self._catch_up()
        return SavedWeight(self._run, self._state).to_dict()

    def restore(self, values: Mapping[str, Any] | SavedWeight) -> None:
        """Go on from what `to_dict` returned; a weight outside today's bounds is moved to the nearer one.

        A checkpoint of a shadow run brings back the weight that was in force, never the proposed one.

        Raises:
            ValueError: They cannot be read, are of a newer version, or hold what no state may. Then nothing is changed.
        """
        saved = values if isinstance(values, SavedWeight) else SavedWeight.from_dict(values)
        with _lock:
            self._go_on_from(saved._replace(state=saved.state.within(self._config)))

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        return {"base_weight": self.base_weight, "config": self._config.to_dict()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AdaptiveWeight:
        """Build from what `get_config` returned."""
        return cls(config["base_weight"], AdaptiveWeightConfig.from_dict(config["config"]))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle: the same state with a variable of its own; observers and requests stay behind."""
        return _revive, (self.get_config(), SavedWeight(self._run, self._state).to_dict())

    def _request(self, request: _Step) -> None:
        """Carry the request out now or, asked from within a step (by an observer or a signal), right after it."""
        self._requests.append(request)
        with _lock:
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

    def _go_on_from(self, saved: SavedWeight) -> None:
        """Take over a state that was not decided on here."""
        run, state = saved
        if self._shadow is not None:
            state = safeguards.set_shadow(self._config, state, shadow=self._shadow)
        self._put_in_force(run, state)

    def _put_in_force(self, run: str, state: ControllerState) -> None:
        """Change run, state and variable, all or none of them; the only place where the variable is written."""
        try:
            self.variable.assign(state.weight_in_force)
            self._run, self._state = run, state
        except BaseException:  # an interrupt perhaps, and nobody knows how far the variable came
            self.variable.assign(self._state.weight_in_force)
            raise

    def _take(self, take_step: _Step, observations: Sequence[Observation]) -> Decision:
        state, decision = take_step(self._state)
        if state.weight_in_force == self._state.weight_in_force:
            self._state = state
        else:
            self._put_in_force(self._run, state)
        if self.term:
            decision = decision._replace(term=self.term)
        if decision.is_event:
            self._decisions.append((next(_order), decision))
        for observer in tuple(self._observers):
            try:
                observer.observe(observations, decision)
            except Exception as error:  # noqa: BLE001 - a broken observer must not end a training run
                self.unsubscribe(observer)
                warnings.warn(
                    f"{type(observer).__name__} failed and is left out from step {decision.step} on; training goes "
                    f"on. {type(error).__name__}: {error}",
                    RuntimeWarning,
                    stacklevel=2,
                )
        return decision


def in_order(weights: Iterable[AdaptiveWeight]) -> list[Decision]:
    """Return the decisions of several weights in the order in which they were taken, the last 1,000 at most."""
    together = sorted(numbered for weight in weights for numbered in weight._decisions)  # noqa: SLF001 - of this file
    return [decision for _, decision in together[-KEPT_DECISIONS:]]


def _revive(config: dict[str, Any], values: dict[str, Any]) -> AdaptiveWeight:
    weight = AdaptiveWeight.from_config(config)
    weight.restore(values)
    return weight


def _flag(name: str, value: Any) -> bool:
    """Return a truth value, also of NumPy or a tensor.

    Raises:
        TypeError: Anything else.
    """
    if isinstance(value, bool):
        return value
    array = None if tf.is_symbolic_tensor(value) else np.asarray(value.numpy() if hasattr(value, "numpy") else value)
    if array is None or array.ndim or array.dtype.kind != "b":
        raise TypeError(
            f"AdaptiveWeight.update: argument `{name}` must be True or False. Received: {name}={value!r}. Write "
            f"`{name}=bool(...)`."
        )
    return bool(array)


def _scalar(name: str, value: Any) -> float:
    """Return a real scalar as a float.

    Raises:
        TypeError: Anything else.
    """
    received = f"Received: {name}={value!r}."
    if tf.is_symbolic_tensor(value):
        raise TypeError(
            f"AdaptiveWeight.update: argument `{name}` must have a value. {received} Inside a tf.function there "
            "is none: return the loss from the function and call `update` outside."
        )
    try:
        array = np.asarray(value.numpy() if hasattr(value, "numpy") else value)
        if array.ndim == 0 and array.dtype.kind in "iufV":  # V: bfloat16 and its like
            return float(array)
    except (TypeError, ValueError):
        pass
    raise TypeError(f"AdaptiveWeight.update: argument `{name}` must be a number or a scalar tensor. {received}")
