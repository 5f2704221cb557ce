"""Damage to the bytes of a file of JSON, as disks, kills and people cause it; the same seed gives the same damage.

`MANY` mutations are what a person asks for with `pytest ... --many`; a run of the suite takes `FEW`.
"""

from __future__ import annotations

import random
import re

FEW, MANY = 40, 4000

_NUMBER = re.compile(rb"(?<=[:\[ ])-?\d+(?:\.\d+)?(?:e[+-]?\d+)?(?=[,}\]])")
_VALUE = re.compile(rb'(?<=": )(?:"[^"]*"|-?[\d.e+-]+|true|false|null|\[[^\[\]]*\]|\{[^{}]*\})(?=[,}])')
_KEY = re.compile(rb'"\w+"(?=: )')
_TEXT = re.compile(rb'(?<=": )"[^"]*"')
_NUMBERS = (b"0", b"-1", b"1e999", b"-1e308", b"1e-320", b"9" * 30, b"9" * 400, b"9" * 5000, b"NaN", b"2.5", b"1e17")
_WORDS = (b"hold", b"increase", b"moonlight", b"nan", b"-inf", b"", b"\\u001b[2J\\n", b"\\ud800", b"x" * 70_000)
_VALUES = (
    *(b"null", b"true", b"[]", b"{}", b'"x"', b"[[]]", b'{"a": 1}', b"[" * 50_000, b'[1, "a", null]', b"[null, null]"),
    *(b'"%s"' % word for word in _WORDS),
    *_NUMBERS,
)


def mutated(data: bytes, seed: int) -> bytes:
    """Return `data` with one to three damages."""
    draw = random.Random(seed)
    for _ in range(draw.choice((1, 1, 2, 3))):
        data = draw.choice(_DAMAGES)(data, draw)
    return data


def _flip(data, draw):
    if not data:
        return data
    at = draw.randrange(len(data))
    return data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]


def _cut_off(data, draw):
    return data[: draw.randrange(len(data) + 1)]


def _take_out(data, draw):
    at = draw.randrange(len(data) + 1)
    return data[:at] + data[at + draw.choice((1, 7, 300, 5000)) :]


def _put_in(data, draw):
    at = draw.randrange(len(data) + 1)
    junk = draw.choice((b"\0" * 600, b"\n", b"\xff", b"\xe2\x80", draw.randbytes(40), b"\r\n", b"{", b'"', b"}\n{"))
    return data[:at] + junk + data[at:]


def _change_lines(data, draw):
    lines = data.splitlines(keepends=True)
    if len(lines) < 2:
        return data
    one, other = sorted(draw.sample(range(len(lines)), 2))
    change = draw.randrange(5)
    if change == 0:
        lines[one], lines[other] = lines[other], lines[one]
    elif change == 1:
        lines.insert(other, lines[one])
    elif change == 2:
        lines.insert(other, lines[0])
    elif change == 3:
        del lines[one:other]
    else:
        lines[one] = lines[one].rstrip(b"\n")
    return b"".join(lines)


def _replace(pattern, substitutes):
    def damage(data, draw):
        # of every kind of line alike: most lines are steps
        lines = data.splitlines(keepends=True)
        kinds = {line[:14]: [] for line in lines}
        for number, line in enumerate(lines):
            kinds[line[:14]].append(number)
        if not kinds:
            return data
        number = draw.choice(kinds[draw.choice(sorted(kinds))])
        found = list(pattern.finditer(lines[number]))
        if not found:
            return data
        spot = draw.choice(found)
        lines[number] = lines[number][: spot.start()] + draw.choice(substitutes) + lines[number][spot.end() :]
        return b"".join(lines)

    return damage


_KEYS = (b'"kind"', b'"step"', b'"run"', b'"moon"', b'""', b'"format"', b"{", b"1")
_DAMAGES = (
    *(_flip, _cut_off, _take_out, _put_in, _change_lines),
    *(_replace(_NUMBER, _NUMBERS), _replace(_VALUE, _VALUES), _replace(_VALUE, _VALUES)),
    *(_replace(_KEY, _KEYS), _replace(_TEXT, tuple(b'"%s"' % word for word in _WORDS))),
)
