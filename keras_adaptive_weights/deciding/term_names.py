"""Names of the terms of a loss, and what else stands in the logs beside them."""

from __future__ import annotations

from collections.abc import Mapping

_TAKEN = frozenset(
    {"loss", "gradient_norm", "skipped_steps", "dampened_steps", "empty_steps", "total_average", "norm_schedule"}
)
_LONGEST = 100
REGULARIZATION = "regularization_loss"
"""The term of what a model adds to its loss by itself, `add_loss` and regularizers, with the weight 1."""


def weight_name(term: str) -> str:
    """Return the name under which the weight of a term is logged."""
    return term.removesuffix("_loss") + "_weight"


def check_names(owner: str, terms: Mapping[str, bool]) -> None:
    """Refuse names that the logs or a checkpoint cannot hold, and a name that would stand for two things in the logs.

    Args:
        owner: Class name of the loss, for the message.
        terms: Names of the terms, and whether the weight of each is adaptive and so in the logs, too.

    Raises:
        ValueError: There is one.
    """
    if taken := sorted(_TAKEN & set(terms)):
        raise ValueError(f"{owner}: the names {taken} are taken by other metrics: name these terms otherwise.")
    for name in terms:
        if not name.isprintable() or len(name) > _LONGEST or not name.strip(". "):
            raise ValueError(
                f"{owner}: the name of a term must have 1 to {_LONGEST} printable characters, and not only dots "
                f"and spaces. Received: {name[:200]!r}. Write a name such as 'mel_loss'."
            )
    shown = {name: f"term {name!r}" for name in terms}
    for name, adaptive in terms.items():
        if adaptive:
            weight, what = weight_name(name), f"the weight of term {name!r}"
            if weight in shown:
                raise ValueError(
                    f"{owner}: each name in the logs must stand for one thing. Received: {weight!r} for "
                    f"{shown[weight]} and {what}. Give one of the terms another name."
                )
            shown[weight] = what
    for name, what in shown.items():
        other = name.removeprefix("val_")
        if other != name and (other in shown or other in _TAKEN):
            raise ValueError(
                f"{owner}: each name in the logs must stand for one thing. Received: {name!r} for {what} and for "
                f"{other!r} of the validation. Give one of the terms another name."
            )
