"""The loss of an XTTS-style model: mel, stop, attention, duration, pitch and energy, padding masked by the lengths."""

from __future__ import annotations

from typing import Any, Self

import keras
import tensorflow as tf

from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig, TrainingConfig, check_bool, check_number
from keras_adaptive_weights.deciding.state import adaptive_weight_metrics, stability_metrics
from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
from keras_adaptive_weights.losses.composite import CompositeLoss, LossTerm

_DEFAULTS = AdaptiveWeightConfig()
_GUIDED_ATTENTION_WIDTH = 0.2  # Tachibana, Uenoyama & Aihara 2017 (arXiv:1710.08969), section 4.1


@keras.saving.register_keras_serializable(package="keras_adaptive_weights")
class XTTSLoss(CompositeLoss):
    """Weighted sum of the losses of a text-to-speech model, with a mel weight that adapts itself.

    A term takes part when its keys are there; `mel_lengths` and `text_lengths` (`[batch]`, in frames and tokens) mask
    padding where they are there. B: batch, T: mel frames, M: mel bands, D: decoder steps, N: text tokens.

    | term | `y_true` | `y_pred` | per sample |
    |---|---|---|---|
    | `mel_loss` | `mel_target` [B, T, M] | `mel_output` [B, T, M] | mean Huber or absolute error |
    | `stop_loss` | `stop_target` [B, T] | `stop_tokens` [B, T] or [B, T, 1], logits | mean positive-weighted BCE |
    | `attention_loss` | | `attention_weights` [B, D, N] | guided + backward attention, see `attention_loss` |
    | `duration_loss` | `duration_target` [B, N], frames | `duration_pred` [B, N], log(1 + frames) | mean squared |
    | `pitch_loss` | `pitch_target` [B, T] | `pitch_output` [B, T] or [B, T, 1] | mean squared error |
    | `energy_loss` | `energy_target` [B, T] | `energy_output` [B, T] or [B, T, 1] | mean squared error |

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
        reduction: str | None = "sum_over_batch_size",
        name: str = "xtts_loss",
        dtype: Any = None,
    ) -> None:
        check_bool("XTTSLoss", "use_adaptive_weights", use_adaptive_weights)
        given: dict[str, Any] = {
            "enabled": use_adaptive_weights,
            "loss_smoothing_factor": loss_smoothing_factor,
            "max_loss_spike_threshold": max_loss_spike_threshold,
            "gradient_norm_threshold": gradient_norm_threshold,
        }
        if config is None:
            config = AdaptiveWeightConfig(**given)
        elif not isinstance(config, AdaptiveWeightConfig):
            raise TypeError(
                f"XTTSLoss: argument `config` must be an AdaptiveWeightConfig or None. Received: config={config!r}."
            )
        elif twice := sorted(name for name, value in given.items() if value != getattr(_DEFAULTS, name)):
            raise ValueError(f"XTTSLoss: argument `config` already holds {twice}: set them there. Received both.")
        if mel_loss not in ("huber", "l1"):
            raise ValueError(f"XTTSLoss: argument `mel_loss` must be 'huber' or 'l1'. Received: mel_loss={mel_loss!r}.")
        check_number("XTTSLoss", "huber_delta", huber_delta, low=0.0, open_low=True)
        check_number("XTTSLoss", "stop_positive_weight", stop_positive_weight, low=0.0, open_low=True)
        config.check_base_weight("XTTSLoss", "mel_loss_weight", mel_loss_weight)
        self.mel_weight = AdaptiveWeight(mel_loss_weight, config)
        self._own_config = {
            "mel_loss_weight": mel_loss_weight,
            "stop_loss_weight": stop_loss_weight,
            "attention_loss_weight": attention_loss_weight,
            "duration_loss_weight": duration_loss_weight,
            "pitch_loss_weight": pitch_loss_weight,
            "energy_loss_weight": energy_loss_weight,
            "mel_loss": mel_loss,
            "huber_delta": huber_delta,
            "stop_positive_weight": stop_positive_weight,
        }
        delta = huber_delta if mel_loss == "huber" else None
        super().__init__(
            {
                "mel_loss": _term(lambda t, p: mel_error(t, p, delta), self.mel_weight, "mel_target", "mel_output"),
                "stop_loss": _term(
                    lambda t, p: stop_loss(t, p, stop_positive_weight), stop_loss_weight, "stop_target", "stop_tokens"
                ),
                "attention_loss": _term(attention_loss, attention_loss_weight, "attention_weights"),
                "duration_loss": _term(duration_loss, duration_loss_weight, "duration_target", "duration_pred"),
                "pitch_loss": _term(pitch_loss, pitch_loss_weight, "pitch_target", "pitch_output"),
                "energy_loss": _term(energy_loss, energy_loss_weight, "energy_target", "energy_output"),
            },
            max_loss_spike_threshold=config.max_loss_spike_threshold,
            loss_smoothing_factor=config.loss_smoothing_factor,
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
        return {
            **self._own_config,
            "config": self.mel_weight.config.to_dict(),
            "name": self.name,
            "reduction": self.reduction,
            "dtype": self.dtype,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Build from what `get_config` returned."""
        return cls(**{**config, "config": AdaptiveWeightConfig.from_dict(config["config"])})


def mel_error(y_true: Any, y_pred: Any, delta: float | None) -> Any:
    """Per-sample mean Huber error (`delta` None: absolute error) over valid frames and all bands, shape `[batch]`."""
    lengths = y_true.get("mel_lengths")
    target, output = _pair(y_true, "mel_target", y_pred, "mel_output", flat=False)
    error = tf.abs(_masked(target - output, lengths))
    if delta is not None:
        error = tf.where(error <= delta, 0.5 * tf.square(error), delta * error - 0.5 * delta**2)
    return _masked_mean(tf.reduce_mean(error, axis=-1), lengths)


def stop_loss(y_true: Any, y_pred: Any, positive_weight: float) -> Any:
    """Per-sample mean positive-weighted binary cross-entropy of stop logits over valid frames, shape `[batch]`."""
    lengths = y_true.get("mel_lengths")
    labels, logits = _pair(y_true, "stop_target", y_pred, "stop_tokens")
    labels, logits = _masked(labels, lengths), _masked(logits, lengths)
    return _masked_mean(tf.nn.weighted_cross_entropy_with_logits(labels, logits, positive_weight), lengths)


def attention_loss(y_true: Any, y_pred: Any) -> Any:
    """Per-sample penalty on attention that is far from the diagonal or moves backwards, shape `[batch]`.

    The sum of two means over decoder steps. Guided attention (Tachibana et al. 2017): each weight times
    `1 - exp(-(n/N - d/D)^2 / (2 * 0.2^2))`. Backward movement: by how much the expected position in the text, as a
    fraction of its length, is behind that of the step before. With lengths given, D and N are each sample's own;
    `mel_lengths` counts mel frames, and is scaled where a decoder step stands for several.
    """
    weights = y_pred["attention_weights"]
    steps, tokens = tf.shape(weights)[1], tf.shape(weights)[2]
    decoder_lengths = _lengths(y_true.get("mel_lengths"), weights, 1)
    if "mel_lengths" in y_true and "mel_target" in y_true:
        frames = tf.cast(tf.shape(y_true["mel_target"])[1], weights.dtype)
        decoder_lengths = tf.math.ceil(decoder_lengths * tf.cast(steps, weights.dtype) / frames)
    text_lengths = _lengths(y_true.get("text_lengths"), weights, 2)
    step = tf.range(steps, dtype=weights.dtype)[None, :, None] / decoder_lengths[:, None, None]
    token = tf.range(tokens, dtype=weights.dtype)[None, None, :] / text_lengths[:, None, None]
    weights = tf.where(token < 1.0, weights, tf.zeros_like(weights))
    distant = 1.0 - tf.exp(-tf.square(token - step) / (2.0 * _GUIDED_ATTENTION_WIDTH**2))
    guided = tf.reduce_sum(weights * distant, axis=-1)
    position = tf.reduce_sum(weights * token, axis=-1)
    backward = tf.pad(tf.nn.relu(position[:, :-1] - position[:, 1:]), [[0, 0], [1, 0]])
    return _masked_mean(guided + backward, decoder_lengths)


def duration_loss(y_true: Any, y_pred: Any) -> Any:
    """Per-sample mean squared error of log(1 + frames) over valid tokens, shape `[batch]`."""
    lengths = y_true.get("text_lengths")
    frames, predicted = _pair(y_true, "duration_target", y_pred, "duration_pred")
    return _masked_mean(tf.square(_masked(tf.math.log1p(frames) - predicted, lengths)), lengths)


def pitch_loss(y_true: Any, y_pred: Any) -> Any:
    """Per-sample mean squared error of the pitch over valid frames, shape `[batch]`."""
    lengths = y_true.get("mel_lengths")
    return _masked_mean(
        tf.square(_masked(_difference(y_true, "pitch_target", y_pred, "pitch_output"), lengths)), lengths
    )


def energy_loss(y_true: Any, y_pred: Any) -> Any:
    """Per-sample mean squared error of the energy over valid frames, shape `[batch]`."""
    lengths = y_true.get("mel_lengths")
    difference = _difference(y_true, "energy_target", y_pred, "energy_output")
    return _masked_mean(tf.square(_masked(difference, lengths)), lengths)


def _term(fn: Any, weight: float | AdaptiveWeight, *requires: str) -> LossTerm:
    return LossTerm(fn, weight, requires)


def _difference(y_true: Any, target_key: str, y_pred: Any, output_key: str) -> Any:
    target, output = _pair(y_true, target_key, y_pred, output_key)
    return target - output


def _pair(y_true: Any, target_key: str, y_pred: Any, output_key: str, *, flat: bool = True) -> tuple[Any, Any]:
    """Return target and output, where `flat` without a last axis of one, after a look at their shapes.

    Raises:
        ValueError: A key in the wrong structure, or shapes that differ: TensorFlow would broadcast them.
    """
    for key, structure, name in ((target_key, y_true, "y_true"), (output_key, y_pred, "y_pred")):
        if key not in structure:
            raise ValueError(f"XTTSLoss: key {key!r} belongs in {name}. Received: {name} with {sorted(structure)}.")
    target, output = (
        tf.squeeze(values, -1) if flat and len(values.shape) == 3 and values.shape[-1] == 1 else values
        for values in (y_true[target_key], y_pred[output_key])
    )
    if not target.shape.is_compatible_with(output.shape):
        raise ValueError(
            f"XTTSLoss: {target_key!r} and {output_key!r} must have one shape. Received: {tuple(target.shape)} and "
            f"{tuple(output.shape)}."
        )
    return target, output


def _lengths(lengths: Any, values: Any, axis: int) -> Any:
    """Return the lengths as floats of shape `[batch]`, at least 1; without any, the whole axis."""
    if lengths is None:
        return tf.fill(tf.shape(values)[:1], tf.cast(tf.shape(values)[axis], values.dtype))
    return tf.maximum(tf.reshape(tf.cast(lengths, values.dtype), [-1]), 1.0)


def _masked(values: Any, lengths: Any) -> Any:
    """Return `values` [batch, positions, ...] with zeros in the padding.

    Applied before anything that is not linear: a NaN in the padding then reaches neither loss nor gradients.
    """
    if lengths is None:
        return values
    valid = tf.sequence_mask(tf.reshape(tf.cast(lengths, tf.int32), [-1]), tf.shape(values)[1])
    valid = tf.reshape(valid, tf.concat([tf.shape(valid), tf.ones([len(values.shape) - 2], tf.int32)], axis=0))
    return tf.where(valid, values, tf.zeros_like(values))


def _masked_mean(values: Any, lengths: Any) -> Any:
    """Return the mean of `values` [batch, positions] over the valid positions, shape `[batch]`."""
    if lengths is None:
        return tf.reduce_mean(values, axis=1)
    count = tf.clip_by_value(
        tf.reshape(tf.cast(lengths, values.dtype), [-1]), 1.0, tf.cast(tf.shape(values)[1], values.dtype)
    )
    return tf.reduce_sum(_masked(values, lengths), axis=1) / count
