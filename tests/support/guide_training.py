"""For each of the guide's settings, a training on which it makes a difference."""

import math

from keras_adaptive_weights import Observation, TrainingConfig

NAN = math.nan


def zigzag(steps, level=1.0, noise=0.0):
    """Losses that alternate around a level."""
    return [level * (1.0 + noise * (-1) ** i) for i in range(steps)]


def observations(losses, norms=()):
    """Steps with these losses; a norm of 1.0 where none is given. A NaN loss was skipped."""
    norms = [*norms, *[1.0] * (len(losses) - len(norms))]
    return [
        Observation(i, loss, 2.0 * loss, norm, applied=math.isfinite(loss))
        for i, (loss, norm) in enumerate(zip(losses, norms, strict=True), 1)
    ]


FLAT = zigzag(40, noise=0.001)
RISE = FLAT + zigzag(40, 1.5)


QUICK_TRAINING = TrainingConfig(
    adaptive_weight_min_warmup_steps=20,
    adaptive_weight_cooling_period=12,
    adaptive_weight_min_stable_steps=5,
    loss_smoothing_factor=0.4,
)


TRAINING_EFFECT = {
    "mel_loss_weight": (3.0, RISE, ()),
    "use_adaptive_loss_weights": (False, RISE, ()),
    "loss_smoothing_factor": (0.2, RISE, ()),
    "max_loss_spike_threshold": (1.2, RISE, ()),
    "gradient_norm_threshold": (None, FLAT, [6.0] * 40),
    "adaptive_weight_max_change_percent": (0.02, RISE, ()),
    "adaptive_weight_cooling_period": (15, zigzag(40) + zigzag(30, 0.8) + zigzag(60, 0.5), ()),
    "adaptive_weight_min_stable_steps": (9, [*FLAT, NAN, *zigzag(30, 1.5)], ()),
    "adaptive_weight_min_warmup_steps": (45, RISE, ()),
    "adaptive_weight_variance_threshold": (1e-3, zigzag(40, noise=0.05), ()),
}
