"""What the classes of stable models are made of, and which of them cannot work.

Keras makes a class functional when it is first called with inputs and outputs: it puts its functional model into the
bases of that class and of all classes that it inherits from. Of a class that is shared, as `StableModel` is, that
breaks every subclass with a `call` of its own, before and after. Here the object gets a class of its own instead, made
of the two, and no class is changed. (tensorflow/privacy makes its models' classes in the same way.)
"""

from __future__ import annotations

import types
from typing import Any

import keras

FUNCTIONAL: type = type(keras.Model.__new__(keras.Model, None, None))
"""The class that Keras gives a functional model; it has no public name."""
_functional_classes: dict[type, type] = {}


def is_functional_call(cls: type, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a model class is called with inputs and outputs, as Keras tells it."""
    if issubclass(cls, keras.Sequential):
        return False
    named = "outputs" in kwargs and ("inputs" in kwargs or len(args) == 1)
    return named or len(args) == 2


def functional_class(cls: type) -> type:
    """Return the class of the functional models of a model class, a subclass of it with the same names."""
    if issubclass(cls, FUNCTIONAL):
        return cls
    if cls not in _functional_classes:
        names = {name: getattr(cls, name) for name in ("__module__", "__qualname__", "__doc__")}
        made = types.new_class(cls.__name__, (cls, FUNCTIONAL), exec_body=lambda namespace: namespace.update(names))
        _functional_classes[cls] = made
    _register_as(_functional_classes[cls], cls)
    return _functional_classes[cls]


def refuse_keras_first(cls: type, mixin: type) -> None:
    """Refuse a class of models in which the mixin comes too late, at its definition.

    Raises:
        TypeError: Its train step would be Keras's.
    """
    if not issubclass(cls, keras.Model):
        return
    owner = _owner(cls.__mro__, "train_step")
    if owner is not None and _is_of_keras(owner):
        before = next(base for base in cls.__bases__ if issubclass(base, owner))
        raise TypeError(
            f"{cls.__name__}: {mixin.__name__} must come before {before.__name__}, or the train step is Keras's own. "
            f"Received: the bases {', '.join(base.__name__ for base in cls.__bases__)}. Write "
            f"`class {cls.__name__}({mixin.__name__}, {before.__name__})`."
        )


def refuse_no_model(instance: Any, mixin: type) -> None:
    """Refuse an object with the mixin that is no model, nor anything else that Keras trains.

    Raises:
        TypeError: It is none.
    """
    cls = type(instance)
    if _owner(cls.__mro__[cls.__mro__.index(mixin) + 1 :], "train_step") is None:
        name = "MyModel" if cls is mixin else cls.__name__
        raise TypeError(
            f"{cls.__name__}: {mixin.__name__} is for subclasses of keras.Model. Received: an object of the classes "
            f"{', '.join(base.__name__ for base in cls.__mro__[:-1])}. Write "
            f"`class {name}({mixin.__name__}, keras.Model)`."
        )


def refuse_shadowed(cls: type, mixin: type, *names: str) -> None:
    """Refuse a model in which methods of somebody stand behind the mixin's, which do not call them.

    Raises:
        ValueError: There is one.
    """
    behind = cls.__mro__[cls.__mro__.index(mixin) + 1 :]
    for name in names:
        owner = _owner(behind, name)
        if owner is not None and not _is_of_keras(owner) and _owner(cls.__mro__, name) is mixin:
            raise ValueError(
                f"{cls.__name__}: {owner.__name__}.{name} would never be called, as {mixin.__name__} comes before "
                f"{owner.__name__} and has one, too. Take {owner.__name__}.{name} out, or write a {name} in "
                f"{cls.__name__} of the pieces that {mixin.__name__} shows."
            )


def _owner(classes: tuple[type, ...], name: str) -> type | None:
    """Return the first of some classes that defines an attribute."""
    return next((cls for cls in classes if name in vars(cls)), None)


def _is_of_keras(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "keras"


def _register_as(made: type, cls: type) -> None:
    """Let a saved model name the class itself, where that is registered; a file names what it is loaded as."""
    name = keras.saving.get_registered_name(cls)
    if name == keras.saving.get_registered_name(made) or keras.saving.get_registered_object(name) is not cls:
        return
    package, _, short = name.rpartition(">")
    register = keras.saving.register_keras_serializable(package, short)
    register(made)
    register(cls)  # which the name goes on to stand for
