"""One visual language: every colour, shape and panel has one home, and every kind of mark a shape of its own."""

import json
import re
from pathlib import Path

import pytest

import keras_adaptive_weights.showing as wing
from keras_adaptive_weights.deciding.decision import Action, Reason
from keras_adaptive_weights.journal.blocks import FIGURES
from keras_adaptive_weights.showing.look import (
    colours,
    in_order,
    kind_label,
    kind_of,
    kind_shape,
    known_kind,
    limit_values,
    panels,
    phases,
)

_WING = Path(wing.__file__).parent
_STATIC = _WING / "dashboard" / "static"


def test_colours_are_nowhere_else():
    sources = [*_WING.rglob("*.py"), *_STATIC.glob("*.js"), *_STATIC.glob("*.css")]
    found = {
        path.name: re.findall(r"#[0-9a-fA-F]{6}\b|#[0-9a-fA-F]{3}\b(?=[;,)])", path.read_text()) for path in sources
    }
    assert {name: hits for name, hits in found.items() if hits} == {}


def test_what_the_styles_use_is_there_in_both_themes():
    text = "".join(path.read_text() for path in [*_STATIC.glob("*.css"), *_STATIC.glob("*.js")])
    used = set(re.findall(r"var\(--([a-z]+)\)", text))
    roles = {line.role for panel in panels() for line in panel.lines} - {"proposed"}
    for theme in ("light", "dark"):
        assert used | roles | set(phases()) <= set(colours(theme))
    assert set(colours("light")) == set(colours("dark"))


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_and_marks_can_be_told_from_the_ground(theme):
    look = colours(theme)
    ground = luminance(look["paper"])
    for role, least in [
        *((kind, 3.0) for kind in map(known_kind, Action) if kind != "other"),
        ("ink", 7.0),
        ("quiet", 4.5),
        ("main", 3.0),
        ("second", 3.0),
        ("bad", 4.5),
        ("warn", 4.5),
        ("good", 4.5),
    ]:
        brighter, darker = sorted((luminance(look[role]), ground), reverse=True)
        assert (brighter + 0.05) / (darker + 0.05) >= least, role


def test_every_action_but_hold_has_a_shape_of_its_own():
    kinds = [action.value for action in Action if action is not Action.HOLD]
    shapes = [json.dumps(kind_shape(kind)) for kind in [*kinds, "recover", "skipped", "routine", "dampened", "other"]]
    assert len(set(shapes)) == len(shapes)


def test_an_event_is_shown_as_its_action_and_a_recovery_as_that():
    assert kind_of({"action": "decrease", "reason": "loss_low"}) == "decrease"
    for reason in Reason:
        expected = "recover" if reason.value.startswith("recovered_") else "reset"
        assert kind_of({"action": "reset", "reason": reason.value}) == expected


def test_a_kind_of_a_newer_version_is_named_and_drawn():
    assert (known_kind("moon_shot"), kind_label("moon_shot")) == ("other", "moon shot")
    assert kind_shape("moon_shot") == kind_shape("other")
    assert in_order(["moon_shot", "rollback", "increase"]) == ["increase", "rollback", "moon_shot"]


def test_panels_draw_what_the_journal_holds_against_settings_that_there_are():
    from keras_adaptive_weights.deciding.config import AdaptiveWeightConfig

    header = {"config": AdaptiveWeightConfig(gradient_norm_threshold=None).to_dict(), "base_weight": 2.5}
    aims = {"intent": 0.6, "loss_limit": None}
    assert {line.figure for panel in panels() for line in panel.lines} <= set(FIGURES)
    assert {panel.id: dict(limit_values(panel, header | aims)) for panel in panels()} == {
        "weight": {"maximum": 5.0, "base": 2.5, "minimum": 1.0},
        "share": {"intent": 0.6},
        "loss": {},
        "ratio": {"high": 1.1, "low": 0.9},
        "variance": {"threshold": 0.5},
        "gradient": {},
    }
    settings = {limit.setting for panel in panels() for limit in panel.limits}
    assert settings <= {*header["config"], "base_weight", *aims}


def test_a_panel_is_shown_where_it_says_something():
    def shown(**about):
        return [panel.id for panel in panels() if panel.is_shown(**about)]

    assert shown(balanced=False, measured=False) == ["weight", "loss", "ratio", "variance", "gradient"]
    assert shown(balanced=True, measured=True) == ["weight", "share", "loss", "variance", "gradient"]
    assert shown(balanced=True, measured=False) == ["weight", "loss", "variance", "gradient"]
