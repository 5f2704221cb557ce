"""The record of a run: its journal and event file as one observer, which a full disk silences but does not break."""

from __future__ import annotations

import atexit
import contextlib
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from keras_adaptive_weights.deciding.decision import Decision, Observation
from keras_adaptive_weights.deciding.observers import DecisionObserver
from keras_adaptive_weights.journal.lines import Header
from keras_adaptive_weights.journal.writer import JournalWriter
from keras_adaptive_weights.recording.lost_disable import LostDisable, lost_disable
from keras_adaptive_weights.recording.run_folder import JOURNAL
from keras_adaptive_weights.recording.summaries import TensorBoardObserver


class Writer(DecisionObserver, Protocol):
    """An observer with a file."""

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
    journal, step = Path(folder) / JOURNAL, int(header.state["step"])

    def open_event_file() -> Writer:
        about: dict[str, Any] = {"term": header.term, "config": header.config, "base_weight": header.base_weight}
        return TensorBoardObserver(folder, **about, run=header.run, update_freq=update_freq, step=step)

    record = RunRecord(folder, [lambda: JournalWriter(journal, header), open_event_file])
    record.lost = lost_disable(journal, step)
    return record


class RunRecord:
    """Passes everything on to its writers. A writer that fails is left out; the first failure is a warning.

    Until it is closed it is closed at the end of the process, whose `fit` may have been ended by an exception.

    Args:
        folder: Where they write, for the warning.
        openers: Functions that open the writers.

    Attributes:
        lost: The operator's disable that the run, killed and resumed, has yet to repeat. `None`: there is none.

    Raises:
        ValueError: The folder holds the record of another run.
    """

    def __init__(self, folder: str | os.PathLike[str], openers: Sequence[Callable[[], Writer]]) -> None:
        self._folder = Path(folder)
        self._writers: list[Writer] = []
        self._warned = False
        self.lost: LostDisable | None = None
        atexit.register(self.close)
        for opener in openers:
            try:
                self._writers.append(opener())
            except ValueError:
                self.close()
                raise
            except Exception as error:  # noqa: BLE001 - TensorFlow's file system has errors of its own
                self._warn("from the start", error)

    def observe(self, observations: Sequence[Observation], decision: Decision) -> None:
        """Pass on the steps and the decision."""
        for writer in tuple(self._writers):
            try:
                writer.observe(observations, decision)
            except Exception as error:  # noqa: BLE001 - as above
                self._writers.remove(writer)
                self._warn(f"from step {decision.step} on", error)
                with contextlib.suppress(Exception):
                    writer.close()

    def note_save(self, step: int) -> None:
        """Write what is pending: the model is being saved, and no checkpoint may be ahead of the record."""
        for writer in self._writers:
            with contextlib.suppress(Exception):  # the next `observe` fails too, and says so
                writer.note_save(step)

    def disable_due(self, step: int) -> str | None:
        """Return the note of the operator's lost disable when its step has come, once; otherwise None."""
        if self.lost is None or step < self.lost.step:
            return None
        note, self.lost = self.lost.note, None
        return note

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
            f"The record in {os.fspath(self._folder)!r} is incomplete {since}; training goes on, and decisions and "
            f"metrics are kept in memory. Free the disk or make the folder writable before the next fit. "
            f"{type(error).__name__}: {error}",
            RuntimeWarning,
            stacklevel=2,
        )
