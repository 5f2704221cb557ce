"""The shared weight: a `tf.Variable` that the loss reads, the controller's state, and manual control from threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig, TrainingConfig, XTTSConfig
from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.deciding.guide_envelope import GuideEnvelope
from keras_adaptive_weights.deciding.observations import all_observations
from keras_adaptive_weights.deciding.state import ControllerState, initial_state
from keras_adaptive_weights.losses.controlled import LOCK, Controlled

_REACH = 100.0


class Leader(Protocol):
    """Whoever decides on several weights together."""

    @property
    def run(self) -> str:
        """Id of the training run."""

    def of(self, term: str) -> ControllerState:
        """Return the state with the weights of one term."""

    def ask(self, name: str, note: str, *more: Any) -> None:
        """Do what is asked for by hand."""

    def unchanged(self) -> AbstractContextManager[None]:
        """Keep all as it is within."""


class AdaptiveWeight(Controlled[ControllerState, Decision]):
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
        if as_usual := config is None:
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
        super().__init__(GuideEnvelope(config), initial_state(config, base_weight))
        self._config, self._as_usual = config, as_usual
        self._leader: Leader | None = None
        self.term = ""
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
        return self._config if self._leader is None else replace(self._config, **self.reach)

    @property
    def reach(self) -> dict[str, Any]:
        """The bounds of the weight in a balance: those of its `config`; without one, a hundredth and a hundredfold."""
        base, config = self._state.base_weight, self._config
        if self._as_usual:
            return {"min_weight": base / _REACH, "max_weight": base * _REACH}
        return {"min_weight": config.min_weight, "max_weight": config.max_weight}

    def follow(self, leader: Leader, term: str) -> None:
        """Let `leader` decide from now on, on this weight together with others."""
        self._leader, self.term = leader, term

    @property
    def state(self) -> ControllerState:
        """The controller's state, frozen."""
        return self._state if self._leader is None else self._leader.of(self.term)

    @property
    def run(self) -> str:
        """Id of the training run, kept in its checkpoints: a journal belongs to one run."""
        return self._run if self._leader is None else self._leader.run

    @property
    def base_weight(self) -> float:
        """The weight to start from and to return to."""
        return self.state.base_weight

    @property
    def weight(self) -> float:
        """The weight in force."""
        return self.state.weight_in_force

    @property
    def shadow(self) -> bool:
        """Whether decisions are only recorded: `state.weight` is then what they propose, and `variable` stays."""
        return self.state.held_weight is not None

    @property
    def enabled(self) -> bool:
        """Whether the controller may move the weight."""
        return self._config.enabled and not self.state.disabled

    @property
    def step_count(self) -> int:
        """Training steps seen over the whole life of the weight."""
        return self.state.step

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
        with LOCK:
            seen = Observation(self._state.step + 1, value, total, norm, applied=_flag("applied", applied))
            return self.observe((seen,))

    def observe(self, observations: Sequence[Observation]) -> Decision:
        """Take in the observations of one execution, oldest first, and decide once.

        Raises:
            TypeError: Something else among them.
            ValueError: No observations.
        """
        observations = all_observations("AdaptiveWeight.observe", "observations", observations)
        if self._leader is not None:
            raise ValueError(
                f"AdaptiveWeight: the weight of {self.term!r} is decided on together with others. Write "
                "`loss.balanced.observe([JointObservation(step, {...})])` for all of them."
            )
        return self._observe(observations)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        usual = {"as_usual": True} if self._as_usual else {}
        return {"base_weight": self.base_weight, "config": self._config.to_dict(), **usual}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> AdaptiveWeight:
        """Build from what `get_config` returned."""
        made = cls(config["base_weight"], AdaptiveWeightConfig.from_dict(config["config"]))
        made._as_usual = bool(config.get("as_usual"))
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle: the same state with a variable of its own; observers and requests stay behind."""
        return _revive, (self.get_config(), self._saved())

    @contextlib.contextmanager
    def unchanged(self) -> Iterator[None]:
        """Keep weight and state as they are, whatever checkpoint is loaded within; requests are served after it."""
        with super().unchanged() if self._leader is None else self._leader.unchanged():
            yield

    def _ask(self, name: str, note: str, *more: Any) -> None:
        if self._leader is None:
            super()._ask(name, note, *more)
        else:
            self._leader.ask(name, note, *more)

    def _saved(self) -> dict[str, Any]:
        return {"run": self.run, "state": self.state.to_dict()}

    def _weights(self, state: ControllerState) -> tuple[float, float]:
        return state.weight_in_force, state.weight

    def _write(self, in_force: float) -> None:
        self.variable.assign(in_force)

    def _told(self, decision: Decision) -> Decision:
        return decision._replace(term=self.term) if self.term else decision


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
