"""The runs below a log directory: found anew every few seconds, each with an index of its journal."""

from __future__ import annotations

import itertools
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.recording.run_folder import liveliness
from keras_adaptive_weights.showing.dashboard.files import find_journals
from keras_adaptive_weights.showing.view import last_header

UNEXPECTED = "the journal holds what this version does not expect"
_logger = logging.getLogger("keras_adaptive_weights")
_NAMED_PATH = re.compile(r"^([^:/\\]{2,}):(?!//)(.+)$")


def parse_roots(logdir: str | None, logdir_spec: str | None) -> dict[str, str]:
    """Return the log directories by name, from TensorBoard's `--logdir` or `--logdir_spec`; the name may be empty."""
    if logdir and not (logdir_spec and logdir == logdir_spec):
        return {"": _expanded(logdir)}
    roots = {}
    for number, part in enumerate(filter(None, (logdir_spec or "").split(","))):
        named = _NAMED_PATH.match(part)
        name, path = named.groups() if named else (str(number), part)
        roots[name] = _expanded(path)
    return roots


class RunStore:
    """Finds journals and keeps an index of each. Every method may be called from any thread.

    Args:
        roots: Log directories by name.
        rescan_seconds: How old the list of runs may be.
        patience_seconds: How long to wait for a slow log directory before answering with what was known.
        clock: Seconds since the epoch; for tests.
    """

    def __init__(
        self,
        roots: Mapping[str, str],
        *,
        rescan_seconds: float = 5.0,
        patience_seconds: float = 2.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._roots = dict(roots)
        self._rescan_seconds = rescan_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._scanned = -float("inf")
        self._scan: threading.Thread | None = None
        self._indices: dict[str, JournalIndex] = {}

    def names(self) -> list[str]:
        """Return the names of the runs that have a journal, sorted."""
        with self._lock:
            if self._scan is None and self._clock() - self._scanned >= self._rescan_seconds:
                self._scan = threading.Thread(target=self._rescan, daemon=True)
                self._scan.start()
            scan = self._scan
        if scan is not None:
            scan.join(self._patience_seconds)
        with self._lock:
            return sorted(self._indices)

    def index(self, name: str) -> JournalIndex | None:
        """Return the refreshed index of a run; None where there is no such run.

        Raises:
            OSError: The journal cannot be read.
            ValueError: It is no journal.
        """
        index = self._indices.get(name) or (self._indices.get(name) if name in self.names() else None)
        if index is not None:
            index.refresh()
        return index

    def summary(self, name: str) -> dict[str, Any]:
        """Return what the list of runs says about one; with `error` where its journal cannot be read."""
        try:
            index = self.index(name)
            if index is None or not index.headers:
                return {"run": name, "error": "the journal has no header yet"}
            process, age = self.process(index)
            return {"run": name, **_about(index), "process": process, "age": age}
        except (OSError, ValueError) as error:
            return {"run": name, "error": printable(error)}
        except Exception as error:  # whatever one journal holds, the other runs are shown
            _logger.debug("The journal of run %r cannot be summed up.", name, exc_info=True)
            return {"run": name, "error": printable(f"{UNEXPECTED}: {error!r}")}

    def process(self, index: JournalIndex) -> tuple[str, float | None]:
        """Return what is known of the process that writes a journal, see `liveliness`; "" where nothing is."""
        try:
            return liveliness(index.path, ended=index.ended, clock=self._clock)
        except OSError:  # it is gone
            return "ended" if index.ended else "", None

    def _rescan(self) -> None:
        found: set[str] = set()
        try:
            for root, path in self._roots.items():
                for run, journal in find_journals(path):
                    name = _unlike(found, run if not root else f"{root}/{run}" if run != "." else root)
                    found.add(name)
                    self._note(name, journal)
        finally:
            with self._lock:
                self._indices = {name: index for name, index in self._indices.items() if name in found}
                self._scanned = self._clock()
                self._scan = None

    def _note(self, name: str, journal: str) -> None:
        """Take in a journal that was found: at once, since the search for others may take long."""
        known = self._indices.get(name)
        if known is None or known.path != journal:
            with self._lock:
                self._indices[name] = JournalIndex(journal)


def _about(index: JournalIndex) -> dict[str, Any]:
    """Return what there is to say of a run and, in `terms`, of each of its weights; beside them the first of these."""
    header, spans = index.headers[-1], index.spans
    terms = [_about_weight(index.of(term)) for term in index.terms]
    return {
        "id": header["run"],
        **_about_weight(index),
        "terms": terms,
        "fixed": index.fixed,
        "balance": None if index.balance is None else str(index.balance.get("strategy", "")),
        "version": header["version"],
        "resumed": len(index.headers) - 1,
        "first": spans[0].first if spans else 0,
        "last": spans[-1].last if spans else 0,
        "shadow": index.shadow,
        "superseded": index.superseded,
        "problems": index.problems,
        "generation": index.generation,
        "bytes": index.size,
        "ended": index.ended,
    }


def _about_weight(index: JournalIndex) -> dict[str, Any]:
    header = last_header(index)
    return {
        "term": header["term"],
        "base_weight": header["base_weight"],
        "config": header["config"],
        "weight": index.weight,
        "proposed": index.proposed,
        "enabled": bool(header["config"].get("enabled", True)) and not index.disabled,
        "events": len(index.events),
        "intent": index.intent,
        "loss_limit": index.loss_limit,
    }


def _unlike(names: Container[str], name: str) -> str:
    """Return a name for a run that no other has: two log directories may have runs of one name."""
    numbered = (f"{name} ({number})" for number in itertools.count(2))
    return name if name not in names else next(other for other in numbered if other not in names)


def _expanded(path: str) -> str:
    return path if "://" in path else os.path.realpath(Path(path).expanduser())
