"""The visual language: colours, markers and panels, the same in the dashboard, the report and every picture.

They are in one file, `dashboard/static/look.json`, which the dashboard's page reads as it is:

- `themes`: a colour for every role, light and dark;
- `phases`: the phases of a controller, whose colours have their names;
- `kinds`: each kind of marker: what it is called, and its shape: contours of polygons and circles in a box from -9 to
  9, downwards, filled where an odd number of them lie over each other. Shapes, not colours, tell kinds apart;
- `panels`: from the top, what is drawn over the same steps: lines, limits, share of the height, and kind of scale.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from keras_adaptive_weights.showing.explain import RECOVERIES

_FILE = Path(__file__).parent / "dashboard" / "static" / "look.json"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a panel: the journal's figure, what it is called, and its role, which has a colour.

    `raw` is every step, `main` what the controller looks at, `second` what it compares that with. An optional line is
    named only where there is one; one that is measured seldom goes on over the steps between.
    """

    figure: str
    label: str
    role: str
    optional: bool = False
    seldom: bool = False


@dataclass(frozen=True, slots=True)
class Limit:
    """A value that a panel's figures are held against, by the name of its setting."""

    label: str
    setting: str


@dataclass(frozen=True, slots=True)
class Panel:
    """What is drawn over the same steps in one panel; see `scales` for its kind of scale.

    `title` is for one term, `several` for a run with several, `balanced` for one with a balance, where that says more.
    `when`: shown only where the weights are "balanced" and the figure was measured, or each is decided on "alone".
    """

    id: str
    title: str
    several: str
    share: int
    scale: str
    lines: tuple[Line, ...]
    limits: tuple[Limit, ...]
    when: str = ""
    balanced: str = ""

    def is_shown(self, *, balanced: bool, measured: bool) -> bool:
        """Return whether it is, where weights are balanced or not, and the figure of its first line was measured."""
        return {"balanced": balanced and measured, "alone": not balanced}.get(self.when, True)


@cache
def _look() -> dict[str, Any]:
    return dict(json.loads(_FILE.read_text(encoding="utf-8")))


@cache
def panels() -> tuple[Panel, ...]:
    """Return the panels from the top."""
    return tuple(
        Panel(
            **{
                **panel,
                "lines": tuple(Line(**line) for line in panel["lines"]),
                "limits": tuple(Limit(**limit) for limit in panel["limits"]),
            }
        )
        for panel in _look()["panels"]
    )


def colours(theme: str = "light") -> Mapping[str, str]:
    """Return the colours of a theme, "light" or "dark", by role."""
    return dict(_look()["themes"][theme])


def phases() -> tuple[str, ...]:
    """Return the phases of a controller, in the order they are named in."""
    return tuple(_look()["phases"])


def dash_of(number: int) -> list[float]:
    """Return the lengths of dashes and gaps of a term's line, by its number; none: a whole line."""
    dashes = _look()["dashes"]
    return list(dashes[number % len(dashes)])


def in_order(kinds: Iterable[str]) -> list[str]:
    """Return kinds of markers in the order they are named in; those of a newer version last."""
    known = list(_look()["kinds"])
    return sorted(kinds, key=lambda kind: known.index(kind) if kind in known else len(known))


def known_kind(kind: str) -> str:
    """Return the kind, or "other" for one of a newer version: the name of its colour and shape."""
    return kind if kind in _look()["kinds"] else "other"


def kind_label(kind: str) -> str:
    """Return what a kind of marker is called."""
    return str(_look()["kinds"][kind]["label"]) if kind in _look()["kinds"] else kind.replace("_", " ")


def kind_shape(kind: str) -> list[dict[str, Any]]:
    """Return the contours of a kind's marker."""
    return list(_look()["kinds"][known_kind(kind)]["shape"])


def kind_of(event: Mapping[str, Any]) -> str:
    """Return what an event is shown as: its action, but the reset that goes with a recovery of the model as that."""
    return "recover" if event["reason"] in RECOVERIES else str(event["action"])


def limit_values(panel: Panel, header: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Return the limits of a panel that are set in a run, by what they are called.

    Args:
        panel: The panel.
        header: A term's, with its `base_weight` and `config`, and what a balance aims at: `intent` and `loss_limit`.
    """
    aims = {name: header.get(name) for name in ("base_weight", "intent", "loss_limit")}
    settings = {**header.get("config", {}), **aims}
    found = ((limit.label, settings.get(limit.setting)) for limit in panel.limits)
    return [(label, float(value)) for label, value in found if value is not None]
