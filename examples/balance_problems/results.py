"""The results: one row for each run, in a CSV file that grows by one line at a time."""

from __future__ import annotations

import csv
import io
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from .grid import CONTESTANTS, PROBLEMS, Cell


class ResultsError(Exception):
    """A file that cannot be gone on with; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one run came to.

    Attributes:
        problem: Name in `PROBLEMS`.
        contestant: Name in `CONTESTANTS`.
        seed: Its seed.
        steps: Training steps.
        score: What the model is scored by, smaller is better; of a constraint, the deviation from the limit.
        weights: The adaptive weights at the end.
        decisions: How many decisions other than HOLD there were.
        seconds: How long it took.
    """

    problem: str
    contestant: str
    seed: int
    steps: int
    score: float
    weights: str
    decisions: int
    seconds: float

    @property
    def cell(self) -> Cell:
        """Which run it was."""
        return Cell(self.problem, self.contestant, self.seed)


_NAMES = [field.name for field in fields(Row)]
_READ = {"int": int, "float": float, "str": str}


def read(path: Path) -> list[Row]:
    """Return the rows of a file; none where there is no such file. A last line that was cut off does not count.

    Raises:
        ResultsError: Another header, or a line that is no row.
    """
    if not path.exists():
        return []
    text = path.read_text()
    lines = list(csv.reader(text[: text.rfind("\n") + 1].splitlines()))
    if lines and lines[0] != _NAMES:
        raise ResultsError("no results of this example: another header. Name another file with --csv.")
    return [_row(line, number) for number, line in enumerate(lines[1:], 2)]


def append(path: Path, row: Row) -> None:
    """Add a row; a line that was cut off before is taken out.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = path.read_text() if path.exists() else ""
    if not text.endswith("\n"):
        path.write_text(text[: text.rfind("\n") + 1])
    line = io.StringIO()
    writer = csv.writer(line, lineterminator="\n")
    if "\n" not in text:
        writer.writerow(_NAMES)
    writer.writerow(astuple(row))
    with path.open("a") as file:
        file.write(line.getvalue())


def _row(line: list[str], number: int) -> Row:
    try:
        values = [_READ[str(field.type)](text) for field, text in zip(fields(Row), line, strict=True)]
        row = Row(*values)
        known = row.problem in PROBLEMS and row.contestant in CONTESTANTS
    except ValueError as error:
        raise ResultsError(f"line {number} is no row: {error}. Name another file with --csv.") from None
    if not known:
        raise ResultsError(f"line {number}: unknown problem or contestant: {line[:2]}. Name another file with --csv.")
    return row
