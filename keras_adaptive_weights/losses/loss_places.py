"""Where losses and their weights stand in what `compile` was given, and the names that Keras gives them in its logs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import keras

from keras_adaptive_weights.losses.adaptive_weight import AdaptiveWeight


class Place(NamedTuple):
    """Where a loss stands in what was given: the keys and indices that lead to it, its name, and itself."""

    path: tuple[Any, ...]
    name: str
    loss: Any


def places(loss: Any, outputs: Any) -> list[Place]:
    """Return where the losses are, in the order in which Keras goes through them, with Keras's names for them.

    Of several losses of one name, of which Keras's logs show the last, the ones before it are numbered.

    Args:
        loss: A loss, or a structure of losses.
        outputs: Names of the model's outputs in their structure, where it knows them.
    """
    if not is_structure(loss):
        names = [] if outputs is None else keras.tree.flatten(outputs)
        return [Place((), names[0] if len(names) == 1 else _loss_name(loss), loss)]
    found = [Place(path, _name_at(path, leaf, outputs), leaf) for path, leaf in _leaves(loss, ())]
    names = [place.name for place in found]
    last = {name: index for index, name in enumerate(names)}
    return [
        place if last[place.name] == i else place._replace(name=f"{place.name}_{names[: i + 1].count(place.name)}")
        for i, place in enumerate(found)
    ]


def arranged(loss: Any, loss_weights: Any, outputs: Any) -> tuple[Any, dict[tuple[Any, ...], Any] | None]:
    """Return losses in the structure of the model's outputs where Keras puts them there, and their weights by place.

    Args:
        loss: As `compile` takes it.
        loss_weights: As there: in a dictionary, what is left out counts 1; all else is in Keras's order.
        outputs: As in `places`.

    Returns:
        The losses, and the weight of each by its path. None in place of these where they do not fit.

    Raises:
        ValueError: A weight in a dictionary that no loss belongs to.
    """
    names = [] if outputs is None else keras.tree.flatten(outputs)
    in_order = isinstance(loss, Mapping) and isinstance(outputs, (list, tuple)) and set(names) == set(loss)
    if in_order and isinstance(loss_weights, Mapping):
        list(_by_path(loss_weights, loss, ()))  # to refuse what belongs to no loss
        loss_weights = [loss_weights.get(name) for name in names]
    if in_order:
        loss = [loss[name] for name in names]
    if isinstance(loss, (list, tuple)) and not any(map(is_structure, loss)) and len(loss) == len(names):
        loss = keras.tree.pack_sequence_as(outputs, list(loss))
    weights = _in_order(loss, loss_weights, outputs)
    if weights is None:
        return loss, None
    by_path = dict(zip(_paths(loss), weights, strict=True))
    without = [path for path, leaf in zip(by_path, keras.tree.flatten(loss), strict=True) if leaf is None]
    for path in without:
        if isinstance(by_path.pop(path), AdaptiveWeight):
            raise ValueError(
                "compile: argument `loss_weights` must hold an AdaptiveWeight only where there is a loss. Received: "
                f"one for {_name_at(path, None, outputs)!r}, whose loss is None. Give it a loss, or leave it out."
            )
    return loss, by_path


def mapped(structure: Any, change: Any) -> Any:
    """Return the same structure, of the same classes, with `change(path, loss)` in place of each loss."""
    leaves = zip(_paths(structure), keras.tree.flatten(structure), strict=True)
    changed = [None if leaf is None else change(path, leaf) for path, leaf in leaves]
    return keras.tree.pack_sequence_as(structure, changed)


def is_structure(value: Any) -> bool:
    """Whether it is a dictionary, list or tuple."""
    return isinstance(value, (Mapping, list, tuple))


def _in_order(loss: Any, loss_weights: Any, outputs: Any) -> Sequence[Any] | None:
    """Return the weights in the order of `keras.tree` of the losses; None where they do not fit."""
    leaves = keras.tree.flatten(loss)
    if isinstance(loss_weights, Mapping) and isinstance(loss, Mapping):
        by_path = dict(_by_path(loss_weights, loss, ()))
        return [by_path.get(path) for path in _paths(loss)]
    named = {place.name: place.path for place in places(loss, outputs)}
    if isinstance(loss_weights, Mapping) and set(loss_weights) <= set(named):
        by_path = {named[name]: weight for name, weight in loss_weights.items()}
        return [by_path.get(path) for path in _paths(loss)]
    weights = keras.tree.flatten(loss_weights)
    if len(weights) == len(leaves):
        return list(weights)
    if len(weights) == sum(leaf is not None for leaf in leaves):
        given = iter(weights)
        return [None if leaf is None else next(given) for leaf in leaves]
    return None


def _by_path(weights: Any, losses: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the weights of a dictionary by the path of their loss.

    Raises:
        ValueError: One that no loss belongs to.
    """
    keys = set(losses) if isinstance(losses, Mapping) else set(range(len(losses)))
    for key, weight in weights.items() if isinstance(weights, Mapping) else enumerate(weights):
        if key not in keys or (weight is not None and is_structure(losses[key]) != is_structure(weight)):
            among = f"there are {sorted(map(str, keys))}" if key not in keys else f"its loss is {losses[key]!r}"
            raise ValueError(
                f"compile: argument `loss_weights` must name outputs that have a loss. Received: {key!r}; {among}."
            )
        if is_structure(weight):
            yield from _by_path(weight, losses[key], (*path, key))
        else:
            yield (*path, key), weight


def _leaves(structure: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the losses with their paths, in the structure's own order."""
    for key, value in structure.items() if isinstance(structure, Mapping) else enumerate(structure):
        if is_structure(value):
            yield from _leaves(value, (*path, key))
        elif value is not None:
            yield (*path, key), value


def _paths(structure: Any) -> list[tuple[Any, ...]]:
    """Return the paths of all leaves, also of None, in the order of `keras.tree.flatten`."""
    return [tuple(path) for path, _ in keras.tree.flatten_with_path(structure)]


def _name_at(path: tuple[Any, ...], loss: Any, outputs: Any) -> str:
    if not isinstance(path[-1], int):
        return "/".join(map(str, path))
    try:
        for key in path:
            outputs = outputs[key]
    except (KeyError, IndexError, TypeError):  # a loss for an output that is not there, or none is known
        outputs = None
    return "/".join((*map(str, path[:-1]), outputs if isinstance(outputs, str) else _loss_name(loss)))


def _loss_name(loss: Any) -> str:
    """Return Keras's name for a loss whose output has none."""
    if isinstance(loss, str):
        return loss
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", type(loss).__name__))
