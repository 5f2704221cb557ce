"""Lets Keras load what it saved of this package, after `import keras_adaptive_weights` and nothing else.

Keras finds the class that a file names if somebody has imported it. The package imports its classes when they are first
used, as that imports Keras. So they are imported as soon as Keras is: at once, or together with it.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_HOMES = ("losses.keras_losses", "losses.xtts", "training.stable")
"""Files that import all the others with classes which a saved model may name."""


class _AlongWithKeras:
    """Finds Keras as Python does, and loads it with the classes after it; see `importlib.abc.MetaPathFinder`."""

    def find_spec(self, name: str, path: Sequence[str] | None = None, target: object = None) -> ModuleSpec | None:
        if name != "keras":
            return None
        spec = PathFinder.find_spec(name, path, target)  # type: ignore[arg-type]
        if spec is not None and spec.loader is not None:
            spec.loader = _LoadsClasses(spec.loader)  # type: ignore[assignment] # `Loader` is slow to import
        return spec


class _LoadsClasses:
    """A loader that does what another does, and imports the classes when that is done."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        made: ModuleType | None = self._loader.create_module(spec)
        return made

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _import_classes()


def _import_classes() -> None:
    with contextlib.suppress(Exception):  # said where one of them is used, and no reason for Keras not to be imported
        for home in _HOMES:
            importlib.import_module(f"keras_adaptive_weights.{home}")


def install() -> None:
    """Import the classes, now or when Keras is imported. Harmless if called twice."""
    if "keras" in sys.modules:
        _import_classes()
    elif not any(isinstance(finder, _AlongWithKeras) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AlongWithKeras())
