"""Settings: one validated record for the controller, and the training configuration with the guide's names."""

from __future__ import annotations

import math
import numbers
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from typing import Any, Self

FLOAT32_MIN, FLOAT32_MAX = 1.1754944e-38, 3.4028235e38
"""What the shared weight can hold, above 0: it is a float32."""
_LARGEST = 1e300  # far beyond any setting, and safe to turn into a float


def check_number(
    owner: str,
    name: str,
    value: Any,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    open_low: bool = False,
    open_high: bool = False,
    integer: bool = False,
    optional: bool = False,
) -> Any:
    """Return `value` as a plain int or float, if it is a finite number (or integer) between the bounds.

    Numbers of NumPy are taken, too. Of an integer where any number will do, the integer is returned.

    Raises:
        TypeError: Not a number, or not an integer where one is needed.
        ValueError: NaN, infinite, or outside the bounds.
    """
    if value is None and optional:
        return None
    kind = "an integer" if integer else "a number"
    if isinstance(value, bool) or not isinstance(value, numbers.Integral if integer else numbers.Real):
        convertible = not isinstance(value, (bool, float)) and hasattr(value, "__float__")
        remedy = f" Write `{name}={'int' if integer else 'float'}(...)` for its value." if convertible else ""
        raise TypeError(
            f"{owner}: argument `{name}` must be {kind}{' or None' if optional else ''}. Received: {name}={value!r} "
            f"of type {type(value).__name__}.{remedy}"
        )
    plain = _plain(value)
    below = plain <= low if open_low else plain < low
    above = plain >= high if open_high else plain > high
    if not (isinstance(plain, int) or math.isfinite(plain)) or below or above or abs(plain) > _LARGEST:
        interval = f"{'(' if open_low else '['}{low:g}, {high:g}{')' if open_high or high == math.inf else ']'}"
        raise ValueError(f"{owner}: argument `{name}` must be {kind} in {interval}. Received: {name}={value!r}.")
    return plain


def keep_number(record: Any, name: str, **bounds: Any) -> None:
    """Check a field of a frozen record, and let it hold the plain number; see `check_number`."""
    object.__setattr__(record, name, check_number(type(record).__name__, name, getattr(record, name), **bounds))


def _plain(value: Any) -> int | float:
    """Return a number of whatever class as one of Python's own."""
    if isinstance(value, numbers.Integral):
        return int(value)
    try:
        return float(value)
    except OverflowError:  # a fraction that no float can hold
        return math.inf


def check_bool(owner: str, name: str, value: Any) -> None:
    """Refuse `value` unless it is `True` or `False`.

    Raises:
        TypeError: Anything else.
    """
    if not isinstance(value, bool):
        raise TypeError(f"{owner}: argument `{name}` must be True or False. Received: {name}={value!r}.")


_USUAL_BOUNDS = (0.4, 2.0)  # the guide's 1.0 and 5.0, in units of its base weight
_POSITIVE = {"low": 0.0, "open_low": True}
_WEIGHT = {"low": FLOAT32_MIN, "high": FLOAT32_MAX}
_BOUNDS: dict[str, dict[str, Any]] = {
    "min_weight": _WEIGHT,
    "max_weight": _WEIGHT,
    "max_change_percent": {"low": 0.0, "high": 1.0, "open_low": True},
    "warmup_steps": {"low": 0, "integer": True},
    "cooling_period": {"low": 1, "integer": True},
    "min_stable_steps": {"low": 1, "integer": True},
    "variance_threshold": _POSITIVE,
    "loss_smoothing_factor": {"low": 0.0002, "high": 1.0},  # every checkpoint holds 2 / factor losses
    "max_loss_spike_threshold": {"low": 1.0, "open_low": True},
    "gradient_norm_threshold": {"low": 0.0, "open_low": True, "optional": True},
    "loss_ratio_high": {"low": 1.0, "open_low": True},
    "loss_ratio_low": {"low": 0.0, "high": 1.0, "open_high": True},
    "gradient_growth_threshold": {"low": 1.0, "open_low": True},
    "reference_steps": {"low": 5, "high": 10_000, "integer": True},
    "significance": {"low": 0.0},
    "trial_tolerance": {"low": 0.0},
    "trial_significance": {"low": 0.0},
    "cooling_backoff": {"low": 1.0, "high": 1000.0},
    "max_cooling_factor": {"low": 1.0, "high": 1000.0},
    "absurd_loss_factor": {"low": 1.0, "open_low": True},
    "max_rollbacks": {"low": 1, "integer": True, "high": 100},
    "max_non_finite_steps": {"low": 1, "integer": True},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptiveWeightConfig:
    """Settings of the adaptive weight. Immutable and validated at construction.

    The first eleven defaults are those of the user's guide; the source of each of the others is beside it.

    Args:
        enabled: `False` records statistics but never changes the weight.
        min_weight: Lower bound of the weight, above 0; both bounds are numbers that float32 can hold.
        max_weight: Upper bound of the weight.
        max_change_percent: Largest change of one decision as a fraction: up is times `1 + p`, down is divided by it.
        warmup_steps: Finite, applied steps before the first change.
        cooling_period: Steps after a change in which no other is made; they are the change's trial.
        min_stable_steps: Consecutive steps without spike or skip that a change needs.
        variance_threshold: Highest variance of the recent losses, in units of their squared running average.
        loss_smoothing_factor: Smoothing of the current loss: it is the mean of the last `2 / factor - 1` losses (19 for
            0.1), the span over which a mean has the lag of an exponential average with this factor; at most 10,000
            losses, so at least 0.0002.
        max_loss_spike_threshold: A loss above this many times its average is a spike.
        gradient_norm_threshold: Recent norms significantly above it count as growing. `None`: no such limit.
        loss_ratio_high: Smoothed loss over running average from which the loss counts as high (the guide's 1.1).
        loss_ratio_low: Ratio below which the loss counts as low (the guide's 0.9).
        gradient_growth_threshold: Ratio of recent to earlier norms from which gradients count as growing (1.5).
        reference_steps: Number of earlier losses in the running average, the warmup's length by default.
        significance: Standard errors (normal quantile, corrected for few samples) that a difference must exceed to be
            taken for a signal. Calibrated: at most one false change in 10,000 steps of stationary noise.
        trial_tolerance: Relative rise of the loss that a trial always forgives.
        trial_significance: Standard errors by which a trial's newest losses must be worse, beyond the tolerance.
        cooling_backoff: Factor on the cooling after each rollback in a row.
        max_cooling_factor: Longest cooling, in cooling periods.
        absurd_loss_factor: A weighted loss above this many times its average is refused by the validation.
        max_rollbacks: Rollbacks in a row at which adaptation disables itself. One for a non-finite step does not count
            where such a step also came with no change on trial since the rollback before.
        max_non_finite_steps: Non-finite steps in a row at which adaptation disables itself; ten finite steps forgive
            one, so a lasting share above one in eleven gets there too.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: A value that is NaN, infinite or outside its bounds, or `min_weight` above `max_weight`.

    Example:

    >>> AdaptiveWeightConfig(warmup_steps=500, max_change_percent=0.02).smoothing_steps
    19
    >>> AdaptiveWeightConfig(max_change_percent=5)
    Traceback (most recent call last):
    ValueError: AdaptiveWeightConfig: argument `max_change_percent` must be a number in (0, 1]. Received:
    max_change_percent=5.
    """

    enabled: bool = True
    min_weight: float = 1.0
    max_weight: float = 5.0
    max_change_percent: float = 0.05
    warmup_steps: int = 100
    cooling_period: int = 50
    min_stable_steps: int = 10
    variance_threshold: float = 0.5
    loss_smoothing_factor: float = 0.1
    max_loss_spike_threshold: float = 2.0
    gradient_norm_threshold: float | None = 5.0
    loss_ratio_high: float = 1.1
    loss_ratio_low: float = 0.9
    gradient_growth_threshold: float = 1.5
    reference_steps: int = 100
    significance: float = 4.5
    trial_tolerance: float = 0.05
    trial_significance: float = 2.5
    cooling_backoff: float = 2.0
    max_cooling_factor: float = 8.0
    absurd_loss_factor: float = 10.0
    max_rollbacks: int = 3
    max_non_finite_steps: int = 5

    def __post_init__(self) -> None:
        """Validate every field."""
        owner = type(self).__name__
        check_bool(owner, "enabled", self.enabled)
        for name, bounds in _BOUNDS.items():
            keep_number(self, name, **bounds)
        if self.min_weight > self.max_weight:
            raise ValueError(
                f"{owner}: argument `min_weight` must not be above `max_weight`. Received: "
                f"min_weight={self.min_weight!r}, max_weight={self.max_weight!r}."
            )

    @property
    def smoothing_steps(self) -> int:
        """Number of losses in the smoothed current loss, at least 2."""
        return _smoothing_steps(self.loss_smoothing_factor)

    def check_base_weight(self, owner: str, name: str, value: Any) -> Any:
        """Return a base weight as a plain number, if it is a finite one within the bounds.

        Raises:
            TypeError: Not a number.
            ValueError: NaN, infinite, or outside `[min_weight, max_weight]`; the message says what to write instead.
        """
        try:
            return check_number(owner, name, value, low=self.min_weight, high=self.max_weight)
        except ValueError as outside:
            number = _plain(value)
            if not FLOAT32_MIN <= number <= FLOAT32_MAX:
                raise
            config = f"config={config_around(number)}"
            maker = "XTTSLoss" if owner == "TrainingConfig" else owner
            call = f"{maker}({number!r}, {config})" if maker[0].isupper() else config
            raise ValueError(
                f"{outside} These are `min_weight` and `max_weight` of its config: write `{call}` for a weight that "
                "moves around that value."
            ) from None

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as a dictionary that `from_dict` reads back."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Read what `to_dict` wrote.

        Raises:
            ValueError: A key that is no setting.
        """
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"{cls.__name__}: unknown settings {unknown}. Expected some of {sorted(known)}.")
        return cls(**values)


def config_around(weight: float) -> str:
    """Return the settings to write for a weight that is to move around a value above 0, as far as the guide's does."""
    low, high = (float(f"{weight * share:.3g}") for share in _USUAL_BOUNDS)
    return f"AdaptiveWeightConfig(min_weight={max(low, FLOAT32_MIN)!r}, max_weight={min(high, FLOAT32_MAX)!r})"


@lru_cache(maxsize=64)
def _smoothing_steps(factor: float) -> int:
    """Return the span of a mean with the lag of an exponential average; asked for several times on every step."""
    return max(2, round(2.0 / factor - 1.0))


_GUIDE_NAMES = {
    "use_adaptive_loss_weights": "enabled",
    "loss_smoothing_factor": "loss_smoothing_factor",
    "max_loss_spike_threshold": "max_loss_spike_threshold",
    "gradient_norm_threshold": "gradient_norm_threshold",
    "adaptive_weight_max_change_percent": "max_change_percent",
    "adaptive_weight_cooling_period": "cooling_period",
    "adaptive_weight_min_stable_steps": "min_stable_steps",
    "adaptive_weight_min_warmup_steps": "warmup_steps",
    "adaptive_weight_variance_threshold": "variance_threshold",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """The training part of `XTTSConfig`, under the guide's names and with its defaults.

    Args:
        mel_loss_weight: Base weight of the mel loss, within [1, 5].
        use_adaptive_loss_weights: Whether the mel weight adapts.
        loss_smoothing_factor: See `AdaptiveWeightConfig`, as for the remaining ones.
        max_loss_spike_threshold: Multiple of the average that counts as a spike.
        gradient_norm_threshold: Norm above which gradients count as growing. `None`: no such limit.
        adaptive_weight_max_change_percent: Largest change of one decision, as a fraction.
        adaptive_weight_cooling_period: Steps between changes.
        adaptive_weight_min_stable_steps: Consecutive stable steps that a change needs.
        adaptive_weight_min_warmup_steps: Steps before the first change.
        adaptive_weight_variance_threshold: Highest normalised variance at which a change is made.

    Raises:
        TypeError: A value of the wrong type.
        ValueError: A value outside its bounds.

    Example:

    >>> TrainingConfig(adaptive_weight_min_warmup_steps=500).adaptive_weight_config().warmup_steps
    500
    """

    mel_loss_weight: float = 2.5
    use_adaptive_loss_weights: bool = True
    loss_smoothing_factor: float = 0.1
    max_loss_spike_threshold: float = 2.0
    gradient_norm_threshold: float | None = 5.0
    adaptive_weight_max_change_percent: float = 0.05
    adaptive_weight_cooling_period: int = 50
    adaptive_weight_min_stable_steps: int = 10
    adaptive_weight_min_warmup_steps: int = 100
    adaptive_weight_variance_threshold: float = 0.5

    def __post_init__(self) -> None:
        """Validate every field."""
        owner = type(self).__name__
        check_bool(owner, "use_adaptive_loss_weights", self.use_adaptive_loss_weights)
        for name, theirs in _GUIDE_NAMES.items():
            if theirs in _BOUNDS:
                keep_number(self, name, **_BOUNDS[theirs])
        checked = self.adaptive_weight_config().check_base_weight(owner, "mel_loss_weight", self.mel_loss_weight)
        object.__setattr__(self, "mel_loss_weight", checked)

    def adaptive_weight_config(self) -> AdaptiveWeightConfig:
        """Return these values as the controller's settings."""
        return AdaptiveWeightConfig(**{theirs: getattr(self, name) for name, theirs in _GUIDE_NAMES.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class XTTSConfig:
    """Configuration of an XTTS-style training, as far as the loss weights are concerned.

    Args:
        training: The training settings.

    Example:

    >>> XTTSConfig().training.adaptive_weight_cooling_period
    50
    """

    training: TrainingConfig = field(default_factory=TrainingConfig)

    def __post_init__(self) -> None:
        """Refuse anything but a `TrainingConfig`."""
        if not isinstance(self.training, TrainingConfig):
            raise TypeError(
                f"XTTSConfig: argument `training` must be a TrainingConfig. Received: training={self.training!r}."
            )
