"""Loss weights for Keras that adapt themselves, conservatively, and say why.

Importing the package imports neither TensorFlow nor Keras; that happens when the first name that needs them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from keras_adaptive_weights import former_names, registration
from keras_adaptive_weights.version import __version__

if TYPE_CHECKING:
    from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig, TrainingConfig, XTTSConfig
    from keras_adaptive_weights.deciding.constraint import Constraint
    from keras_adaptive_weights.deciding.decision import Action, Decision, Observation, Reason
    from keras_adaptive_weights.deciding.gradient_share import GradientShare
    from keras_adaptive_weights.deciding.joint import JointDecision, JointObservation, Term
    from keras_adaptive_weights.deciding.observers import DecisionLogger, DecisionObserver
    from keras_adaptive_weights.deciding.sqrt_loss import SqrtLoss
    from keras_adaptive_weights.deciding.strategy import Proposal, Strategy, Target
    from keras_adaptive_weights.journal.reader import Journal, read_journal
    from keras_adaptive_weights.journal.writer import JournalWriter
    from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight
    from keras_adaptive_weights.losses.composite import CompositeLoss
    from keras_adaptive_weights.losses.loss_term import LossTerm
    from keras_adaptive_weights.losses.xtts import XTTSLoss
    from keras_adaptive_weights.recording.replay import replay
    from keras_adaptive_weights.training.calibration import calibrate
    from keras_adaptive_weights.training.callback import AdaptiveMelWeightCallback, AdaptiveWeightCallback
    from keras_adaptive_weights.training.recovery import ModelRecovery, TrainingStopped
    from keras_adaptive_weights.training.stable import stable
    from keras_adaptive_weights.training.train_step import StableModel, StableTrainStepMixin

_HOME = {
    "Action": "deciding.decision",
    "AdaptiveMelWeightCallback": "training.callback",
    "AdaptiveWeight": "losses.adaptive_weight",
    "AdaptiveWeightCallback": "training.callback",
    "AdaptiveWeightConfig": "deciding.config",
    "CompositeLoss": "losses.composite",
    "Constraint": "deciding.constraint",
    "Decision": "deciding.decision",
    "DecisionLogger": "deciding.observers",
    "DecisionObserver": "deciding.observers",
    "GradientShare": "deciding.gradient_share",
    "JointDecision": "deciding.joint",
    "JointObservation": "deciding.joint",
    "Journal": "journal.reader",
    "JournalWriter": "journal.writer",
    "LossTerm": "losses.loss_term",
    "ModelRecovery": "training.recovery",
    "Observation": "deciding.decision",
    "Proposal": "deciding.strategy",
    "Reason": "deciding.decision",
    "SqrtLoss": "deciding.sqrt_loss",
    "StableModel": "training.train_step",
    "StableTrainStepMixin": "training.train_step",
    "Strategy": "deciding.strategy",
    "Target": "deciding.strategy",
    "Term": "deciding.joint",
    "TrainingConfig": "deciding.config",
    "TrainingStopped": "training.recovery",
    "XTTSConfig": "deciding.config",
    "XTTSLoss": "losses.xtts",
    "calibrate": "training.calibration",
    "read_journal": "journal.reader",
    "replay": "recording.replay",
    "stable": "training.stable",
}

__all__ = [
    "Action",
    "AdaptiveMelWeightCallback",
    "AdaptiveWeight",
    "AdaptiveWeightCallback",
    "AdaptiveWeightConfig",
    "CompositeLoss",
    "Constraint",
    "Decision",
    "DecisionLogger",
    "DecisionObserver",
    "GradientShare",
    "JointDecision",
    "JointObservation",
    "Journal",
    "JournalWriter",
    "LossTerm",
    "ModelRecovery",
    "Observation",
    "Proposal",
    "Reason",
    "SqrtLoss",
    "StableModel",
    "StableTrainStepMixin",
    "Strategy",
    "Target",
    "Term",
    "TrainingConfig",
    "TrainingStopped",
    "XTTSConfig",
    "XTTSLoss",
    "__version__",
    "calibrate",
    "read_journal",
    "replay",
    "stable",
]


def __getattr__(name: str) -> Any:
    """Import the file that a public name lives in, on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if _HOME[name].startswith(("losses.", "training.")):
        importlib.import_module("keras")  # first, and all classes along with it: see `registration`
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)


former_names.install()
registration.install()
