"""The record of a run: its journal and event file as one observer, which a full disk silences but does not break."""

from __future__ import annotations

import atexit
import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from typing import Protocol

from keras_adaptive_weights.deciding.decision import Decision
from keras_adaptive_weights.deciding.joint import JointDecision, JointObservation
from keras_adaptive_weights.journal.header import Header
from keras_adaptive_weights.journal.places import place
from keras_adaptive_weights.journal.writer import JournalWriter
from keras_adaptive_weights.recording.lost_disable import LostDisable, lost_disables
from keras_adaptive_weights.recording.run_folder import JOURNAL
from keras_adaptive_weights.recording.summaries import TensorBoardObserver


class Writer(Protocol):
    """Whoever keeps a file of what was decided."""

    def note(self, steps: Sequence[JointObservation], decisions: Sequence[Decision | JointDecision]) -> None:
        """Write the steps of an execution and the decisions after it; no steps: asked for by hand."""

    def note_save(self, step: int) -> None:
        """Write what is pending: the model is being saved."""

    def close(self, *, interrupted: bool = False) -> None:
        """Write what is pending and close the file; `interrupted` where an exception ended the training."""


def open_record(folder: str | os.PathLike[str], header: Header, *, update_freq: int) -> RunRecord:
    """Open the record of a run from the step on that the header's state has.

    Args:
        folder: Where journal and event file go; it is made.
        header: What is recorded.
        update_freq: Steps between two records of the scalars in TensorBoard.

    Raises:
        ValueError: The folder holds the record of another run, or another process writes to it.
    """
    journal = place(folder, "open_record", "folder") / JOURNAL
    record = RunRecord(
        folder,
        [
            lambda: JournalWriter(journal, header),
            lambda: TensorBoardObserver(folder, header, update_freq=update_freq),
        ],
    )
    record.lost = lost_disables(journal, header.step)
    return record


class RunRecord:
    """Passes everything on to its writers. A writer that fails is left out; the first failure is a warning.

    Until it is closed it is closed at the end of the process, whose `fit` may have been ended by an exception.

    Args:
        folder: Where they write, for the warning.
        openers: Functions that open the writers.

    Attributes:
        lost: The operator's disables that the run, killed and resumed, has yet to repeat, by term.

    Raises:
        ValueError: The folder holds the record of another run.
    """

    def __init__(self, folder: str | os.PathLike[str], openers: Sequence[Callable[[], Writer]]) -> None:
        self._folder = os.fspath(folder)
        self._writers: list[Writer] = []
        self._warned = False
        self.lost: dict[str, LostDisable] = {}
        atexit.register(self.close)
        for opener in openers:
            try:
                self._writers.append(opener())
            except ValueError:
                self.close()
                raise
            except Exception as error:  # noqa: BLE001 - TensorFlow's file system has errors of its own
                self._warn("from the start", error)

    @property
    def writes(self) -> bool:
        """Whether anything is written: not all of the writers failed."""
        return bool(self._writers)

    def note(self, steps: Sequence[JointObservation], decisions: Sequence[Decision | JointDecision]) -> None:
        """Pass on the steps and the decisions."""
        for writer in tuple(self._writers):
            try:
                writer.note(steps, decisions)
            except Exception as error:  # noqa: BLE001 - as above
                self._writers.remove(writer)
                self._warn(f"from step {decisions[0].step} on", error)
                with contextlib.suppress(Exception):
                    writer.close()

    def note_save(self, step: int) -> None:
        """Write what is pending: the model is being saved, and no checkpoint may be ahead of the record."""
        for writer in self._writers:
            with contextlib.suppress(Exception):  # the next `note` fails too, and says so
                writer.note_save(step)

    def disables_due(self, step: int) -> dict[str, str]:
        """Return the notes of the operator's lost disables whose step has come, by term; each once."""
        due = {term: lost.note for term, lost in self.lost.items() if step >= lost.step}
        for term in due:
            del self.lost[term]
        return due

    def close(self, *, interrupted: bool = False) -> None:
        """Close the writers; `interrupted` where an exception ended the training. Harmless if called twice."""
        atexit.unregister(self.close)
        while self._writers:
            try:
                self._writers.pop().close(interrupted=interrupted)
            except Exception as error:  # noqa: BLE001 - as above
                self._warn("at its end", error)

    def _warn(self, since: str, error: Exception) -> None:
        if self._warned:
            return
        self._warned = True
        warnings.warn(
            f"The record in {self._folder!r} is incomplete {since}; training goes on, and decisions and "
            f"metrics are kept in memory. Free the disk or make the folder writable before the next fit. "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
