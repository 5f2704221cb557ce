"""Private names of Keras, TensorFlow and others are used in `runtime` alone."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

import keras
import pytest

import keras_adaptive_weights as kaw

PACKAGE = Path(kaw.__file__).parent
EXAMPLES = Path(__file__).parents[2] / "examples"
FILES = [path for folder in (PACKAGE, EXAMPLES) for path in sorted(folder.rglob("*.py"))]
OTHERS = [path for path in FILES if path.parent != PACKAGE / "runtime"]
EXEMPT = {
    "_replace": "a method of every NamedTuple, documented; the underscore keeps it apart from the fields",
    "_asdict": "as `_replace`",
    "_make": "as `_replace`",
    "_fields": "as `_replace`, an attribute",
    "_field_defaults": "as `_fields`",
    "_exit": "`os._exit`, which Python documents: a process ends without what it took over from its parent",
}
BY_STRING = ("getattr", "setattr", "hasattr", "delattr", "import_module", "__import__")
PRIVATE_MODULES = ("tensorflow.python", "keras.src")


def is_private(name):
    return (name.startswith("_") and not name.startswith("__")) or name == "__internal__"


def own_names(tree):
    """Names that the classes of a file define, in their body or on `self`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield from (statement.name for statement in node.body if hasattr(statement, "name"))
            for statement in node.body:
                targets = getattr(statement, "targets", [getattr(statement, "target", None)])
                yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield from [node.attr] if ast.unparse(node.value) in ("self", "cls") else []


def inherited_names(tree):
    """Names of the files of ours that the bases of a file's classes are imported from."""
    bases = {ast.unparse(b).partition("[")[0] for n in ast.walk(tree) if isinstance(n, ast.ClassDef) for b in n.bases}
    for node in ast.walk(tree):
        ours = isinstance(node, ast.ImportFrom) and (node.module or "").startswith(f"{kaw.__name__}.")
        if ours and bases & {alias.name for alias in node.names}:
            path = PACKAGE.parent.joinpath(*node.module.split(".")).with_suffix(".py")
            yield from own_names(ast.parse(path.read_text(encoding="utf-8"))) if path.exists() else ()


def uses(tree):
    """Yield each use of something private: its line, and what it is."""
    own = {*own_names(tree), *inherited_names(tree), *EXEMPT}
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            found = [ast.unparse(node)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in BY_STRING:
            texts = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
            found = [t for t in texts if (is_private(t) and t not in own) or t.startswith(PRIVATE_MODULES)]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            ours = node.level or (node.module or "").startswith(kaw.__name__)
            private = not ours and any(is_private(alias.name) for alias in node.names)
            found = [name for name in names if private or name.startswith(PRIVATE_MODULES)]
        elif isinstance(node, ast.Import):
            found = [alias.name for alias in node.names if alias.name.startswith(PRIVATE_MODULES)]
        yield from ((node.lineno, what) for what in found)


@functools.cache
def private_names_of_keras():
    """The private names of objects whose classes ours come from, by the name of the class."""
    inputs = keras.Input((1,))
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    model.compile(optimizer="sgd", loss="mse", metrics=["mae"])
    bases = {
        "Model": model,
        "Loss": keras.losses.Loss(),
        "Metric": keras.metrics.Mean(),
        "Callback": keras.callbacks.Callback(),
    }
    return {name: {n for n in {*dir(base), *vars(base)} if is_private(n)} for name, base in bases.items()}


def overridden(tree):
    """Yield each private name of Keras that a class which comes from Keras defines anew: its line, and the name."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef):
            continue
        bases = " ".join([node.name, *map(ast.unparse, node.bases)])
        for kind, names in private_names_of_keras().items():
            if kind in bases or (kind == "Model" and "Mixin" in bases):
                yield from ((node.lineno, name) for name in own_names(node) if name in names)


def found_in(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [*uses(tree), *overridden(tree)]


def test_no_private_name_outside_runtime():
    assert {str(path): found for path in OTHERS if (found := found_in(path))} == {}


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("model._make_function(step)", "model._make_function"),
        ("self._loss_tracker.update_state(1.0)", "self._loss_tracker"),
        ("super()._symbolic_build()", "super()._symbolic_build"),
        ("optimizer._learning_rate = 1.0", "optimizer._learning_rate"),
        ("getattr(model, '_compile_metrics', None)", "_compile_metrics"),
        ("from tensorflow.python.ops import control_flow_util", "tensorflow.python.ops.control_flow_util"),
        ("from tensorflow import python", "tensorflow.python"),
        ("import keras.src.trainers", "keras.src.trainers"),
        ("tf.__internal__.eager_context()", "tf.__internal__"),
        ("importlib.import_module('keras.src')", "keras.src"),
        ("from keras.losses import _private", "keras.losses._private"),
        ("class C:\n def _own(self):\n  self._other = 1\n  return self._own(), self._other", None),
        ("row._replace(a=1)", None),
    ],
)
def test_what_is_found(line, found):
    assert [what for _, what in uses(ast.parse(line))] == ([] if found is None else [found])


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("class StepMixin:\n def _maybe_symbolic_build(self): ...", ["_maybe_symbolic_build"]),
        ("class M(kaw.StableModel):\n def make(self):\n  self._compile_loss = None", ["_compile_loss"]),
        ("class C(keras.callbacks.Callback):\n def __init__(self):\n  self._model = None", ["_model"]),
        ("class C(keras.callbacks.Callback):\n def __init__(self):\n  self._own = None", []),
        ("class C:\n def _maybe_symbolic_build(self): ...", []),
    ],
)
def test_what_is_found_overridden(line, found):
    assert [name for _, name in overridden(ast.parse(line))] == found


def test_what_runtime_uses_is_in_its_table():
    """Name by name: what it is for, what it gains, and what happens where it is gone."""
    table = ast.get_docstring(ast.parse((PACKAGE / "runtime" / "__init__.py").read_text(encoding="utf-8")))
    found = [what for path in (PACKAGE / "runtime").glob("*.py") for _, what in found_in(path)]
    used = {name.rpartition(".")[2] for name in found}
    assert used
    assert {name for name in used if f"{name}`" not in table} == set()
