"""Loss weights for Keras that adapt themselves, conservatively, and say why.

Importing the package imports neither TensorFlow nor Keras; that happens when the first name that needs them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_adaptive_weights.version import __version__

if TYPE_CHECKING:
    from keras_adaptive_weights.adaptive_weight import AdaptiveWeight
    from keras_adaptive_weights.callback import AdaptiveMelWeightCallback, AdaptiveWeightCallback
    from keras_adaptive_weights.config import AdaptiveWeightConfig, TrainingConfig, XTTSConfig
    from keras_adaptive_weights.decision import Action, Decision, Observation, Reason
    from keras_adaptive_weights.journal.reader import Journal, read_journal
    from keras_adaptive_weights.journal.writer import JournalWriter
    from keras_adaptive_weights.losses import CompositeLoss, LossTerm
    from keras_adaptive_weights.observers import DecisionLogger, DecisionObserver
    from keras_adaptive_weights.recovery import ModelRecovery, TrainingStopped
    from keras_adaptive_weights.replaying import replay
    from keras_adaptive_weights.train_step import StableModel, StableTrainStepMixin
    from keras_adaptive_weights.xtts_loss import XTTSLoss

_HOME = {
    "Action": "decision",
    "AdaptiveMelWeightCallback": "callback",
    "AdaptiveWeight": "adaptive_weight",
    "AdaptiveWeightCallback": "callback",
    "AdaptiveWeightConfig": "config",
    "CompositeLoss": "losses",
    "Decision": "decision",
    "DecisionLogger": "observers",
    "DecisionObserver": "observers",
    "Journal": "journal.reader",
    "JournalWriter": "journal.writer",
    "LossTerm": "losses",
    "ModelRecovery": "recovery",
    "Observation": "decision",
    "Reason": "decision",
    "StableModel": "train_step",
    "StableTrainStepMixin": "train_step",
    "TrainingConfig": "config",
    "TrainingStopped": "recovery",
    "XTTSConfig": "config",
    "XTTSLoss": "xtts_loss",
    "read_journal": "journal.reader",
    "replay": "replaying",
}

__all__ = [
    "Action",
    "AdaptiveMelWeightCallback",
    "AdaptiveWeight",
    "AdaptiveWeightCallback",
    "AdaptiveWeightConfig",
    "CompositeLoss",
    "Decision",
    "DecisionLogger",
    "DecisionObserver",
    "Journal",
    "JournalWriter",
    "LossTerm",
    "ModelRecovery",
    "Observation",
    "Reason",
    "StableModel",
    "StableTrainStepMixin",
    "TrainingConfig",
    "TrainingStopped",
    "XTTSConfig",
    "XTTSLoss",
    "__version__",
    "read_journal",
    "replay",
]


def __getattr__(name: str) -> Any:
    """Import the room that a public name lives in, on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
