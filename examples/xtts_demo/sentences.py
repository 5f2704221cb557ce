"""English sentences for the synthetic corpus, from a small template grammar."""

from __future__ import annotations

import random


def _split(words: str) -> tuple[str, ...]:
    return tuple(words.split("|"))


_PEOPLE = _split(
    "the baker|my neighbour|a quiet student|the old captain|our teacher|the young painter|her brother|a tall dancer|"
    "the night porter|my grandmother|the new doctor|a tired farmer|the chess player|his cousin|the road builder|"
    "a curious child|the library keeper|our guide|the violin maker|a passing cyclist"
)
_ACTIONS = _split(
    "carried|painted|forgot|borrowed|repaired|counted|opened|washed|described|measured|moved|sold|hid|noticed|wrapped|"
    "dropped|found|kept|ordered|polished"
)
_THINGS = _split(
    "seven green boxes|a heavy drum|the broken clock|two wool blankets|a jar of honey|the garden gate|some old maps|"
    "a wooden boat|the brass lamp|nine paper birds|a cup of tea|the kitchen chairs|a bag of flour|the third letter|"
    "a silver spoon|the yellow curtain|five ripe pears|a ball of string|the winter coats|a map of the moon"
)
_PLACES = _split(
    "near the harbour|behind the station|in the upper room|beside the river|under the bridge|at the market|"
    "on the north road|in a warm corner|across the valley|by the open window"
)
_TIMES = _split(
    "yesterday|before noon|last winter|every Friday|after the storm|at sunrise|for an hour|once again|"
    "in early spring|without a word"
)
_WEATHER = _split(
    "rain fell softly|the wind turned north|snow covered the path|fog filled the street|the sun came out|"
    "thunder shook the glass|the tide was low|frost held the field"
)
_WORK = _split(
    "wait here|try the other door|read it twice|speak more slowly|follow the river|ask for the key|leave the light on|"
    "take the left road"
)

LONGEST = 60

_SHAPES = (
    "{person} {action} {thing}.",
    "{person} {action} {thing} {place}.",
    "{time}, {person} {action} {thing}.",
    "{weather}, and {person} {action} {thing}.",
    "did {person} see {thing} {place}?",
    "{weather} {time}.",
    "please {work}, said {person}.",
    "who {action} {thing} {time}?",
    "{work}, or {person} will hide {thing}.",
    "{place}, {person} {action} {thing}.",
)


def make_sentences(count: int, seed: int) -> list[str]:
    """Return sentences that all differ, the same for the same arguments.

    Args:
        count: How many, 1 or more; the grammar holds several hundred thousand.
        seed: Seed of the choice.

    Returns:
        `count` sentences of letters, spaces and `, . ?`, about 20 to 60 characters each.
    """
    chooser = random.Random(seed)
    found: dict[str, None] = {}
    while len(found) < count:
        shape = _SHAPES[len(found) % len(_SHAPES)]
        sentence = shape.format(
            person=chooser.choice(_PEOPLE),
            action=chooser.choice(_ACTIONS),
            thing=chooser.choice(_THINGS),
            place=chooser.choice(_PLACES),
            time=chooser.choice(_TIMES),
            weather=chooser.choice(_WEATHER),
            work=chooser.choice(_WORK),
        )
        if len(sentence) <= LONGEST:
            found[sentence[0].upper() + sentence[1:]] = None
    return list(found)
