"""Characters to tokens: lower-case letters, the space and a little punctuation."""

from __future__ import annotations

import unicodedata

ALPHABET = " abcdefghijklmnopqrstuvwxyz.,;:!?'-"
PADDING = 0
VOCABULARY_SIZE = len(ALPHABET) + 1

_TOKENS = {character: token for token, character in enumerate(ALPHABET, start=PADDING + 1)}


def encode(text: str) -> tuple[list[int], list[int]]:
    """Return the tokens of a text and where each came from.

    Accents are dropped (`é` reads as `e`); characters outside `ALPHABET`, such as digits, are left out: texts should
    come normalised, with numbers in words.

    Args:
        text: Any text.

    Returns:
        Tokens, each in [1, VOCABULARY_SIZE), and for each the 0-based index of its character in `text`.
    """
    tokens, positions = [], []
    for position, character in enumerate(text):
        for part in unicodedata.normalize("NFKD", character).lower():
            if part in _TOKENS:
                tokens.append(_TOKENS[part])
                positions.append(position)
    return tokens, positions


def decode(tokens: list[int]) -> str:
    """Return the text that tokens stand for; padding is left out."""
    return "".join(ALPHABET[token - 1] for token in tokens if token != PADDING)
