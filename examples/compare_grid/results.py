"""The results: one row for each run, in a CSV file that grows by one line at a time."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

from .grid import CONTESTANTS, SCENARIOS, Cell


class ResultsError(Exception):
    """A file that cannot be gone on with; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Row:
    """What one run came to.

    Attributes:
        settings: `Settings.label` of the grid.
        scenario: Name in `SCENARIOS`.
        contestant: Name in `CONTESTANTS`.
        seed: Its seed.
        steps_done: Steps begun before it ended.
        finite: Whether every parameter is finite at the end.
        val_mel_l1: Mean absolute error of the validation mel, in units of the normalised log-mel.
        val_total: Validation total at the guide's weights.
        end_weight: Mel weight at the end.
        largest_change: Largest change of the weight from one step to the next, as a fraction; NaN with a NaN weight.
        changes: How often the weight moved.
        rollbacks: How many of these were rollbacks.
        skipped: Skipped steps.
        step_cpu_ms: CPU time of a step in milliseconds; NaN where the run was too short.
        mel_share: Part of the mel loss in the gradient at the end, measured by `kaw.calibrate`; NaN without a balance.
    """

    settings: str
    scenario: str
    contestant: str
    seed: int
    steps_done: int
    finite: bool
    val_mel_l1: float
    val_total: float
    end_weight: float
    largest_change: float
    changes: int
    rollbacks: int
    skipped: int
    step_cpu_ms: float
    mel_share: float

    @property
    def cell(self) -> Cell:
        """Which run it was."""
        return Cell(self.scenario, self.contestant, self.seed)


_NAMES = [field.name for field in fields(Row)]
_READ: dict[str, Any] = {
    "int": int,
    "float": float,
    "str": str,
    "bool": lambda text: {"True": True, "False": False}[text],
}


def read(path: Path) -> list[Row]:
    """Return the rows of a file; none where there is no such file. A last line that was cut off does not count.

    Raises:
        ResultsError: Another header, or a line that is no row.
    """
    whole, _ = _lines(path)
    if not whole:
        return []
    header, *lines = csv.reader(whole)
    if header != _NAMES:
        raise ResultsError(f"{path} is no file of results: expected the columns {', '.join(_NAMES)}.")
    rows = []
    for number, line in enumerate(lines, 2):
        try:
            rows.append(_row(line))
        except (KeyError, ValueError):
            raise ResultsError(f"{path}, line {number} is no row of results: {','.join(line)!r}. Remove it.") from None
    return rows


def append(path: Path, row: Row) -> None:
    """Add a row, so that it is whole on the disk when this returns. A last line that was cut off gives way.

    Raises:
        OSError: The file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole, size = _lines(path)
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(size)
        file.seek(size)
        file.write((_line(asdict(row).values()) if whole else _line(_NAMES) + _line(astuple(row))).encode())
        file.flush()
        os.fsync(file.fileno())


def missing(cells: Iterable[Cell], rows: Iterable[Row], settings: str) -> list[Cell]:
    """Return the runs that have no row yet.

    Raises:
        ResultsError: Rows of a grid with other settings.
    """
    rows = list(rows)
    if other := sorted({row.settings for row in rows} - {settings}):
        raise ResultsError(f"it holds runs of other settings ({'; '.join(other)}). Give another file with --csv.")
    done = {row.cell for row in rows}
    return [cell for cell in cells if cell not in done]


def _lines(path: Path) -> tuple[list[str], int]:
    """Return the whole lines of a file and the number of bytes they take."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return [], 0
    size = content.rfind(b"\n") + 1
    return content[:size].decode(errors="replace").splitlines(), size


def _line(values: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(f"{v:.7g}" if isinstance(v, float) else v for v in values)
    return text.getvalue()


def _row(line: list[str]) -> Row:
    """Return the row that a line of the file holds."""
    values = {f.name: _READ[str(f.type)](text) for f, text in zip(fields(Row), line, strict=True)}
    if values["scenario"] not in SCENARIOS or values["contestant"] not in CONTESTANTS:
        raise KeyError
    return Row(**values)
