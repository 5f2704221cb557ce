"""Tables for the guides."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def publish(text: str, output: Path | None) -> None:
    """Print the text, and write it to a file where one is given."""
    sys.stdout.write(text)
    if output is not None:
        output.write_text(text, encoding="utf-8")
