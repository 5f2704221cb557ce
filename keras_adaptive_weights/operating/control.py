"""The operator's switch: how a command asks a training process that runs somewhere to disable, enable or roll back.

The command writes `control.json` beside the journal, the process looks at it at most once a second, acts, and writes
`control-ack.json`. Both files are replaced as a whole, never changed in place. A request names the run it is meant for
and when it expires, so that no process acts on what was asked of another one, or long ago.

    {"format": 1, "run": "...", "requests": [{"id": "...", "action": "disable", "note": "...", "expires": 1.7e9}]}
    {"format": 1, "run": "...", "taken": ["..."]}

Both processes must see the folder as one of their own file system: a store is not asked every second, and a run whose
`log_dir` is a URL is switched from its own process only.

Anybody may have put anything in their place. What is no small regular file of this format is left alone, with a
warning, and so is a request that is not understood; those beside it are carried out.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from keras_adaptive_weights.deciding.printable import bounded, printable
from keras_adaptive_weights.journal.places import local_folder
from keras_adaptive_weights.journal.regular_files import parse_json, read_regular

FORMAT = 1
CONTROL = "control.json"
ACKNOWLEDGEMENT = "control-ack.json"
ACTIONS = ("disable", "enable", "rollback")
_LARGEST = 1 << 16
_REMEMBERED = 64
_MOST_REQUESTS = 32
_LONGEST_ID = 64
_LATEST = 1e11  # seconds since the epoch: the year 5138
_MOST_WARNINGS = 5
IN_A_STORE = (
    "The switch needs a file system that the process that trains sees, too. Call `callback.emergency_disable(...)`, "
    "`enable` or `rollback` in that process, or give its callback a `log_dir` that is a folder."
)
_logger = logging.getLogger("keras_adaptive_weights")


@dataclass(frozen=True, slots=True)
class Request:
    """What an operator asks for.

    Attributes:
        id: Unique id.
        action: "disable", "enable" or "rollback": the method of `AdaptiveWeight` to call.
        note: Who asked, and the reason given; goes into the decision's note, at most 1,000 characters of it.
        expires: Seconds since the epoch after which it must not be carried out any more.
        term: Name of the loss term whose weight is meant. `None`: all.
    """

    id: str
    action: str
    note: str
    expires: float
    term: str | None = None


class ControlFile:
    """The training process's side: `poll` after each execution, and carry out what it returns.

    Args:
        path: The `control.json` beside the journal; it need not exist.
        run: Id of this run; requests for another are ignored.
        clock: Seconds since the epoch; for tests.
        interval: Least number of seconds between two looks at the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        run: str,
        *,
        clock: Callable[[], float] = time.time,
        interval: float = 1.0,
    ) -> None:
        self._path = Path(path)
        self._run = run
        self._clock = clock
        self._interval = interval
        self._looked = -float("inf")
        self._seen: tuple[int, ...] | None = None
        self._warned: set[str] = set()
        self._taken: deque[str] = deque(maxlen=_REMEMBERED)
        try:
            self._taken.extend(_read_taken(self._path, run))
        except (OSError, ValueError) as error:
            self._warn(f"The file {self._path.with_name(ACKNOWLEDGEMENT)} is ignored", error)

    def poll(self) -> list[Request]:
        """Return the requests that came since the last call, oldest first, and acknowledge them.

        Costs a look at the clock, and once per interval one `stat`. Never raises: what is malformed, not ours or meant
        for another run is ignored. Each such fault is a warning once, and five of them at most.
        """
        now = self._clock()
        if 0.0 <= now - self._looked < self._interval:
            return []
        self._looked = now
        try:
            status = self._path.stat()
            signature = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino)
            if signature == self._seen:
                return []
            self._seen = signature
            found = _read_requests(self._path, self._run)
        except FileNotFoundError:
            self._seen = None
            return []
        except (OSError, ValueError) as error:
            if isinstance(error, OSError):
                self._seen = None  # it may be readable a second later, and look the same
            self._warn(f"The file {self._path} is ignored", error)
            return []
        for problem in found.problems:
            self._warn(f"A request in {self._path} is ignored", problem)
        new = {
            request.id: request
            for request in found.requests
            if request.id not in self._taken and request.expires >= now
        }
        if new:
            self._taken.extend(new)
            self._acknowledge()
        return list(new.values())

    def _acknowledge(self) -> None:
        values = {"format": FORMAT, "run": self._run, "taken": list(self._taken)}
        path = self._path.with_name(ACKNOWLEDGEMENT)
        try:
            _replace(path, values)
        except OSError as error:
            self._warn(f"Taking a request cannot be acknowledged in {path}", error)

    def _warn(self, what: str, problem: object) -> None:
        message = f"{printable(what)}: {printable(problem)}"
        if message not in self._warned and len(self._warned) < _MOST_WARNINGS:
            self._warned.add(message)
            _logger.warning("%s", message)


class Switch:
    """The operator's side: ask, wait, withdraw.

    Args:
        folder: The folder of the journal, where the control file goes; both processes see it.
        run: Id of the run that is meant, from the journal's header.
        clock: Seconds since the epoch; for tests.
        sleep: Waits for so many seconds; for tests.

    Raises:
        ValueError: The folder is in a store.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run: str,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = local_folder(folder, "Switch", "folder", IN_A_STORE) / CONTROL
        self._run = run
        self._clock = clock
        self._sleep = sleep

    def ask(self, action: str, note: str, *, term: str | None = None, timeout: float = 30.0) -> bool:
        """Ask for an action and wait until the process takes it; withdraw the request where it does not.

        Args:
            action: "disable", "enable" or "rollback".
            note: Who asks, and why.
            term: Name of the loss term whose weight is meant. `None`: all.
            timeout: Seconds to wait.

        Returns:
            Whether the process took the request.

        Raises:
            ValueError: An unknown action.
            OSError: The control file cannot be written.
        """
        if action not in ACTIONS:
            raise ValueError(f"Switch.ask: argument `action` must be one of {ACTIONS}. Received: action={action!r}.")
        end = self._clock() + timeout
        request = Request(uuid.uuid4().hex, action, bounded(note), end, term)
        while True:
            self._put(request)
            if request.id in self._taken():
                return True
            if self._clock() >= end:
                self._write([other for other in self._pending() if other.id != request.id])
                return request.id in self._taken()
            self._sleep(0.2)

    def _put(self, request: Request) -> None:
        """Make sure the request is in the file, also after another operator's command replaced it."""
        pending = self._pending()
        if request.id not in [other.id for other in pending]:
            self._write([*pending, request])

    def _pending(self) -> list[Request]:
        """Return the requests in the file that nobody took yet and that have not expired."""
        try:
            requests = _read_requests(self._path, self._run).requests
        except (OSError, ValueError):
            return []
        taken = self._taken()
        return [request for request in requests if request.id not in taken and request.expires >= self._clock()]

    def _taken(self) -> list[str]:
        """Return what the process says it took; nothing where its answer cannot be read."""
        try:
            return _read_taken(self._path, self._run)
        except (OSError, ValueError):
            return []

    def _write(self, requests: Sequence[Request]) -> None:
        values = {"format": FORMAT, "run": self._run, "requests": [_values(request) for request in requests]}
        _replace(self._path, values)


def _values(request: Request) -> dict[str, Any]:
    """Return what is written of a request; an older version knows no `term`."""
    return {name: value for name, value in asdict(request).items() if name != "term" or value is not None}


class _Found(NamedTuple):
    """What a control file asks for, and what is wrong with the requests that are not among it."""

    requests: list[Request]
    problems: list[str]


def _read_requests(path: Path, run: str) -> _Found:
    """Read a control file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is malformed, too large, of another format or for another run.
    """
    values = _read(path, run, "requests")
    found = _Found([], [])
    for value in values[:_MOST_REQUESTS]:
        try:
            found.requests.append(_read_request(value))
        except ValueError as error:
            found.problems.append(str(error))
    if len(values) > _MOST_REQUESTS:
        found.problems.append(f"there are more than {_MOST_REQUESTS}, and only the first of them count.")
    return found


def _read_request(values: Any) -> Request:
    """Read one request.

    Raises:
        ValueError: A field is missing, of the wrong type, or unknown.
    """
    try:
        request = Request(**values)
    except TypeError as error:
        raise ValueError(f"it is malformed ({error}).") from error
    texts, expires = (
        (request.id, request.action, request.note, "" if request.term is None else request.term),
        request.expires,
    )
    if not all(isinstance(text, str) for text in texts) or len(request.id) > _LONGEST_ID:
        raise ValueError(f"it is malformed: {values!r}.")
    if isinstance(expires, bool) or not isinstance(expires, (int, float)) or not 0.0 <= expires <= _LATEST:
        raise ValueError(f"it expires at no time of a clock: {expires!r}.")
    if request.action not in ACTIONS:
        raise ValueError(f"it asks for {request.action!r}, which is none of {ACTIONS}.")
    return replace(request, note=bounded(request.note))


def _read_taken(control: Path, run: str) -> list[str]:
    """Return the ids of the requests that the process says it took, the latest of them; none of another run.

    Raises:
        OSError: The answer cannot be read.
        ValueError: It is malformed or too large.
    """
    try:
        taken = _read(control.with_name(ACKNOWLEDGEMENT), run, "taken")
    except (FileNotFoundError, _AnotherRunError):
        return []
    return [text for text in taken[-_REMEMBERED:] if isinstance(text, str) and len(text) <= _LONGEST_ID]


class _AnotherRunError(ValueError):
    """The file is for another run."""


def _read(path: Path, run: str, name: str) -> list[Any]:
    """Return the list `name` that a file of ours holds.

    Raises:
        OSError: It cannot be read.
        ValueError: It is malformed, too large, of another format or for another run.
    """
    data = read_regular(path, _LARGEST)
    try:
        values = parse_json(data)
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error}).") from error
    found, of = (values.get(name), values.get("format")) if isinstance(values, dict) else (None, None)
    if of not in (None, FORMAT):
        raise ValueError(f"it has format {of!r}, this package reads and writes format {FORMAT}.")
    if of is None or not isinstance(found, list):
        raise ValueError(f"it is no file of ours with {name!r}.")
    if values.get("run") != run:
        raise _AnotherRunError(f"it is for run {values.get('run')!r}, this is run {run!r}.")
    return found


def _replace(path: Path, values: dict[str, Any]) -> None:
    """Write a file so that a reader sees the old one or the new one, and nothing in between."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        scratch.write_text(json.dumps(values), encoding="utf-8")
        scratch.replace(path)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
