"""Where the files were before the package had wings: pickles and saved models of that time name their classes so.

Importing `keras_adaptive_weights.decision`, say, gives a stand-in that holds what `deciding.decision` holds.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

_PACKAGE = "keras_adaptive_weights"
_NOW = {
    "adaptive_weight": "losses.adaptive_weight",
    "callback": "training.callback",
    "config": "deciding.config",
    "controller_state": "deciding.state",
    "decision": "deciding.decision",
    "health": "deciding.health",
    "observers": "deciding.observers",
    "recovery": "training.recovery",
    "statistics": "deciding.statistics",
    "train_step": "training.train_step",
    "xtts_loss": "losses.xtts",
}
"""Files whose classes or functions a pickle or a saved model may name. `losses` answers for itself."""


class _FormerNames:
    """Finds and loads the stand-ins; see `importlib.abc.MetaPathFinder` and `Loader`."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        del path, target
        package, _, file = name.rpartition(".")
        return ModuleSpec(name, self) if package == _PACKAGE and file in _NOW else None  # type: ignore[arg-type]

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        del spec
        return None  # an ordinary one

    def exec_module(self, module: ModuleType) -> None:
        now = importlib.import_module(f"{_PACKAGE}.{_NOW[module.__name__.rpartition('.')[2]]}")
        vars(module).update((name, value) for name, value in vars(now).items() if not name.startswith("__"))


def install() -> None:
    """Let the former names be imported. Harmless if called twice."""
    if not any(isinstance(finder, _FormerNames) for finder in sys.meta_path):
        sys.meta_path.append(_FormerNames())
