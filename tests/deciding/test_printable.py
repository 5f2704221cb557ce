"""Text of others is shown, not obeyed."""

import pytest

from keras_adaptive_weights.deciding.decision import Action, Decision, Reason
from keras_adaptive_weights.deciding.printable import bounded, printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("operator heard clipping", "operator heard clipping"),
        ("\x1b]0;OWNED\x07\x1b[2J", r"\x1b]0;OWNED\x07\x1b[2J"),
        ("done\nprocess     training", r"done\nprocess     training"),
        ("a\rb\tc\x00\x7f\x9b31m", r"a\rb\tc\x00\x7f\x9b31m"),
        ("line\u2028and\u2029paragraph", r"line\u2028and\u2029paragraph"),
        ("\u202egnp.exe \u2066x\u2069\u200f\u061c", r"\u202egnp.exe \u2066x\u2069\u200f\u061c"),
        ("invisible\u200b\ufeff\U000e0041", r"invisible\u200b\ufeff\U000e0041"),
        ("half \ud83d a pair, no UTF-8 \udcff", r"half \ud83d a pair, no UTF-8 \udcff"),
        ("private \ue000", r"private \ue000"),
        ("می‌خواهم، «نیم‌فاصله» 1 ½ 日本 👩‍🚀", "می‌خواهم، «نیم‌فاصله» 1 ½ 日本 👩‍🚀"),
        ("no-break\xa0space", "no-break\xa0space"),
        (ValueError("x"), "x"),
        (None, "None"),
    ],
)
def test_what_a_terminal_would_obey_is_seen(text, shown):
    assert printable(text) == shown


def test_what_is_long_is_cut():
    assert printable("x" * 9, 8) == "x" * 7 + "…"
    assert printable("x" * 8, 8) == "x" * 8
    assert printable("\x1b" * 10**6, 8) == r"\x1b" * 7 + "…"
    assert bounded("n" * 2000) == "n" * 999 + "…"


def test_a_note_cannot_forge_a_second_decision():
    note = "\x1b[2J\nstep 9: increase"
    decision = Decision(5, Action.DISABLE, Reason.MANUAL, 2.6, 2.5, note=note)
    assert str(decision) == (r"step 5: disable 2.6 -> 2.5, manual (\x1b[2J\nstep 9: increase): asked for by hand.")
    assert decision.note == note, "the record keeps what was said"
