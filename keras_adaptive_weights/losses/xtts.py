"""The loss of an XTTS-style model: mel, stop, attention, duration, pitch and energy, padding masked by the lengths."""

from __future__ import annotations

from typing import Any, Self

import keras

from keras_adaptive_weights.deciding.config import (
    FLOAT32_MAX,
    AdaptiveWeightConfig,
    TrainingConfig,
    XTTSConfig,
    check_bool,
    check_number,
)
from keras_adaptive_weights.deciding.state import adaptive_weight_metrics, stability_metrics
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.losses.balance import balance_config, balance_from_config
from keras_adaptive_weights.losses.composite import CompositeLoss
from keras_adaptive_weights.losses.loss_term import LossTerm, checked_weight
from keras_adaptive_weights.losses.xtts_terms import (
    attention_loss,
    duration_loss,
    energy_loss,
    has_frames,
    has_frames_and_tokens,
    has_tokens,
    mel_error,
    pitch_loss,
    stop_loss,
)

_DEFAULTS = AdaptiveWeightConfig()


@keras.saving.register_keras_serializable(package="keras_adaptive_weights")
class XTTSLoss(CompositeLoss):
    """Weighted sum of the losses of a text-to-speech model, with a mel weight that adapts itself.

    A term takes part when its keys are there; `mel_lengths` and `text_lengths` (`[batch]`, in frames and tokens) in
    `y_true` mask padding where they are there. A sample of length 0 is left out of the means: it measures nothing.
    B: batch, T: mel frames, M: mel bands, D: decoder steps, N: text tokens, H: attention heads.

    | term | `y_true` | `y_pred` | per sample |
    |---|---|---|---|
    | `mel_loss` | `mel_target` [B, T, M] | `mel_output` [B, T, M] | mean Huber or absolute error |
    | `stop_loss` | `stop_target` [B, T] or [B, D] | `stop_tokens`, alike | mean positive-weighted BCE |
    | `attention_loss` | | `attention_weights` [B, D, N] or [B, H, D, N] | see `attention_loss` |
    | `duration_loss` | `duration_target` [B, N], frames | `duration_pred` [B, N], log(1 + frames) | mean squared |
    | `pitch_loss` | `pitch_target` [B, T] or [B, N] | `pitch_output`, alike | mean squared error |
    | `energy_loss` | `energy_target` [B, T] or [B, N] | `energy_output`, alike | mean squared error |

    Each may have one more axis of length 1 at its end. Targets and lengths may be integers or bools. Where there are
    as many decoder steps as frames, or tokens as frames, they are taken for frames.

    Args:
        mel_loss_weight: Base weight of the mel loss, within the bounds of the settings. Default: the guide's 2.5.
        use_adaptive_weights: Whether the mel weight adapts.
        loss_smoothing_factor: See `AdaptiveWeightConfig`; also that of the spike dampening.
        max_loss_spike_threshold: See `AdaptiveWeightConfig`; also that of the spike dampening.
        gradient_norm_threshold: See `AdaptiveWeightConfig`.
        config: All settings of the controller at once, instead of the four before it.
        stop_loss_weight: Weight of the stop loss.
        attention_loss_weight: Weight of the attention loss.
        duration_loss_weight: Weight of the duration loss.
        pitch_loss_weight: Weight of the pitch loss.
        energy_loss_weight: Weight of the energy loss.
        mel_loss: "huber" or "l1".
        huber_delta: Error at which the Huber loss turns linear, in the units of the mel.
        stop_positive_weight: Weight of the positive frames in the stop loss, which are few.
        stop_from_logits: Whether `stop_tokens` are logits, as of a layer without an activation. `False`: they are
            probabilities, as of one with a sigmoid.
        balance: See `CompositeLoss`. With one, and without `config`, the mel weight moves between a hundredth of its
            base and a hundred times that.
        reduction: As in `keras.losses.Loss`.
        name: Name of the loss.
        dtype: As in `keras.losses.Loss`.

    Raises:
        TypeError: An argument of the wrong type.
        ValueError: An argument outside its bounds, or `config` together with one of the four it replaces.

    Example:

    >>> loss = XTTSLoss(mel_loss_weight=2.5)
    >>> loss.mel_weight.weight
    2.5
    """

    def __init__(
        self,
        mel_loss_weight: float = 2.5,
        use_adaptive_weights: bool = True,
        loss_smoothing_factor: float = 0.1,
        max_loss_spike_threshold: float = 2.0,
        gradient_norm_threshold: float | None = 5.0,
        *,
        config: AdaptiveWeightConfig | None = None,
        stop_loss_weight: float = 1.0,
        attention_loss_weight: float = 0.5,
        duration_loss_weight: float = 0.1,
        pitch_loss_weight: float = 0.1,
        energy_loss_weight: float = 0.1,
        mel_loss: str = "huber",
        huber_delta: float = 1.0,
        stop_positive_weight: float = 5.0,
        stop_from_logits: bool = True,
        balance: Any = None,
        reduction: str | None = "sum_over_batch_size",
        name: str = "xtts_loss",
        dtype: Any = None,
    ) -> None:
        check_bool("XTTSLoss", "use_adaptive_weights", use_adaptive_weights)
        check_bool("XTTSLoss", "stop_from_logits", stop_from_logits)
        _refuse_guide_config("mel_loss_weight", mel_loss_weight)
        given: dict[str, Any] = {
            "enabled": use_adaptive_weights,
            "loss_smoothing_factor": loss_smoothing_factor,
            "max_loss_spike_threshold": max_loss_spike_threshold,
            "gradient_norm_threshold": gradient_norm_threshold,
        }
        if config is None:
            config = AdaptiveWeightConfig(**given, **({} if balance is None else _reach(mel_loss_weight)))
        elif not isinstance(config, AdaptiveWeightConfig):
            _refuse_guide_config("config", config)
            raise TypeError(
                f"XTTSLoss: argument `config` must be an AdaptiveWeightConfig or None. Received: config={config!r}."
            )
        elif twice := sorted(name for name, value in given.items() if value != getattr(_DEFAULTS, name)):
            raise ValueError(f"XTTSLoss: argument `config` already holds {twice}: set them there. Received both.")
        if mel_loss not in ("huber", "l1"):
            raise ValueError(f"XTTSLoss: argument `mel_loss` must be 'huber' or 'l1'. Received: mel_loss={mel_loss!r}.")
        delta = check_number("XTTSLoss", "huber_delta", huber_delta, low=0.0, open_low=True)
        positive = check_number("XTTSLoss", "stop_positive_weight", stop_positive_weight, low=0.0, open_low=True)
        base = config.check_base_weight("XTTSLoss", "mel_loss_weight", mel_loss_weight)
        self.mel_weight = AdaptiveWeight(base, config)
        weights = {
            name: checked_weight("XTTSLoss", name, weight)
            for name, weight in (
                ("stop_loss_weight", stop_loss_weight),
                ("attention_loss_weight", attention_loss_weight),
                ("duration_loss_weight", duration_loss_weight),
                ("pitch_loss_weight", pitch_loss_weight),
                ("energy_loss_weight", energy_loss_weight),
            )
        }
        self._own_config = {
            "mel_loss_weight": base,
            **weights,
            "mel_loss": mel_loss,
            "huber_delta": delta,
            "stop_positive_weight": positive,
            "stop_from_logits": stop_from_logits,
        }
        huber = delta if mel_loss == "huber" else None
        super().__init__(
            {
                "mel_loss": LossTerm(
                    lambda t, p: mel_error(t, p, huber), self.mel_weight, ("mel_target", "mel_output"), has_frames
                ),
                "stop_loss": LossTerm(
                    lambda t, p: stop_loss(t, p, positive, from_logits=stop_from_logits),
                    weights["stop_loss_weight"],
                    ("stop_target", "stop_tokens"),
                    has_frames,
                ),
                "attention_loss": LossTerm(
                    attention_loss, weights["attention_loss_weight"], ("attention_weights",), has_frames_and_tokens
                ),
                "duration_loss": LossTerm(
                    duration_loss,
                    weights["duration_loss_weight"],
                    ("duration_target", "duration_pred"),
                    has_tokens,
                ),
                "pitch_loss": LossTerm(
                    pitch_loss, weights["pitch_loss_weight"], ("pitch_target", "pitch_output"), has_frames
                ),
                "energy_loss": LossTerm(
                    energy_loss, weights["energy_loss_weight"], ("energy_target", "energy_output"), has_frames
                ),
            },
            max_loss_spike_threshold=config.max_loss_spike_threshold,
            loss_smoothing_factor=config.loss_smoothing_factor,
            balance=balance,
            reduction=reduction,
            name=name,
            dtype=dtype,
        )

    @classmethod
    def from_training_config(cls, training: TrainingConfig, **kwargs: Any) -> Self:
        """Build from `XTTSConfig().training`; further arguments as in the constructor.

        Raises:
            TypeError: `training` is no `TrainingConfig`.
        """
        if not isinstance(training, TrainingConfig):
            raise TypeError(
                "XTTSLoss.from_training_config: argument `training` must be a TrainingConfig, as in "
                f"XTTSConfig().training. Received: training={training!r}."
            )
        return cls(training.mel_loss_weight, config=training.adaptive_weight_config(), **kwargs)

    @property
    def step_count(self) -> int:
        """Training steps the mel weight has seen."""
        return self.mel_weight.step_count

    def get_stability_metrics(self) -> dict[str, float]:
        """Return `running_mel_loss`, `running_total_loss`, `loss_variance`, `loss_stability_score`, `step_count`."""
        return stability_metrics(self.mel_weight.state)

    def get_adaptive_weight_metrics(self) -> dict[str, float | bool]:
        """Return the current, previous and base mel weight and the state of their adaptation, by the guide's keys."""
        return adaptive_weight_metrics(self.mel_weight.config, self.mel_weight.state)

    def disable_adaptive_weights(self, note: str = "") -> None:
        """Return to the base weight at once and stay there."""
        self.mel_weight.disable(note)

    def enable_adaptive_weights(self, note: str = "") -> None:
        """Let the mel weight move again."""
        self.mel_weight.enable(note)

    def reset_stability_state(self, note: str = "") -> None:
        """Forget the statistics; a disable stays."""
        self.mel_weight.reset(note)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as plain values."""
        plain = {n: v.get_config() if isinstance(v, AdaptiveWeight) else v for n, v in self._own_config.items()}
        return {
            **plain,
            "config": self.mel_weight.config.to_dict(),
            "balance": balance_config(self.balance),
            "name": self.name,
            "reduction": self.reduction,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build from what `get_config` returned."""
        plain = {n: v for n, v in config.items() if n not in ("config", "balance")}
        weights = {n: AdaptiveWeight.from_config(v) for n, v in plain.items() if isinstance(v, dict)}
        settings = AdaptiveWeightConfig.from_dict(config["config"])
        return cls(**{**plain, **weights, "config": settings, "balance": balance_from_config(config.get("balance"))})


def _reach(base: Any) -> dict[str, Any]:
    """Return the bounds of a balanced weight; what is no positive number is refused later."""
    try:
        low, high = 0.01 * base, 100.0 * base
    except TypeError:
        return {}
    return {"min_weight": low, "max_weight": high} if 0.0 < low < high <= FLOAT32_MAX else {}


def _refuse_guide_config(name: str, value: Any) -> None:
    """Refuse the guide's configuration where one of its values, or our own settings, are wanted.

    Raises:
        TypeError: It is one.
    """
    if isinstance(value, (XTTSConfig, TrainingConfig)):
        training = "config.training" if isinstance(value, XTTSConfig) else "training"
        raise TypeError(
            f"XTTSLoss: argument `{name}` must not be a whole {type(value).__name__}. Received: {name}={value!r}. "
            f"Write `XTTSLoss.from_training_config({training})`."
        )
