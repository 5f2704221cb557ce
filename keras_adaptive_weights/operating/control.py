"""The operator's switch: how a command asks a training process that runs somewhere to disable, enable or roll back.

The command writes `control.json` beside the journal, the process looks at it at most once a second, acts, and writes
`control-ack.json`. Both files are replaced as a whole, never changed in place. A request names the run it is meant for
and when it expires, so that no process acts on what was asked of another one, or long ago.

    {"format": 1, "run": "...", "requests": [{"id": "...", "action": "disable", "note": "...", "expires": 1.7e9}]}
    {"format": 1, "run": "...", "taken": ["..."]}
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
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
CONTROL = "control.json"
ACKNOWLEDGEMENT = "control-ack.json"
ACTIONS = ("disable", "enable", "rollback")
_LARGEST = 1 << 16
_REMEMBERED = 64
_logger = logging.getLogger("keras_adaptive_weights")


@dataclass(frozen=True, slots=True)
class Request:
    """What an operator asks for.

    Attributes:
        id: Unique id.
        action: "disable", "enable" or "rollback": the method of `AdaptiveWeight` to call.
        note: Who asked, and the reason given; goes into the decision's note.
        expires: Seconds since the epoch after which it must not be carried out any more.
    """

    id: str
    action: str
    note: str
    expires: float


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
        self._seen: tuple[int, int, int] | None = None
        self._warned: set[str] = set()
        self._taken: deque[str] = deque(_taken(self._path, run), maxlen=_REMEMBERED)

    def poll(self) -> list[Request]:
        """Return the requests that came since the last call, oldest first, and acknowledge them.

        Costs a look at the clock, and once per interval one `stat`. Never raises: a file that is malformed, not ours or
        meant for another run is ignored with one warning.
        """
        now = self._clock()
        if 0.0 <= now - self._looked < self._interval:
            return []
        self._looked = now
        try:
            status = self._path.stat()
        except OSError:
            self._seen = None
            return []
        signature = (status.st_mtime_ns, status.st_size, status.st_ino)
        if signature == self._seen:
            return []
        self._seen = signature
        try:
            requests = _read_requests(self._path, self._run)
        except (OSError, ValueError) as error:
            self._warn(str(error))
            return []
        new = [request for request in requests if request.id not in self._taken and request.expires >= now]
        if new:
            self._taken.extend(request.id for request in new)
            self._acknowledge()
        return new

    def _acknowledge(self) -> None:
        values = {"format": FORMAT, "run": self._run, "taken": list(self._taken)}
        try:
            _replace(self._path.with_name(ACKNOWLEDGEMENT), values)
        except OSError as error:
            self._warn(f"cannot acknowledge a request: {error}")

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            _logger.warning("The control file %s is ignored: %s", self._path, message)


class Switch:
    """The operator's side: ask, wait, withdraw.

    Args:
        folder: The folder of the journal, where the control file goes.
        run: Id of the run that is meant, from the journal's header.
        clock: Seconds since the epoch; for tests.
        sleep: Waits for so many seconds; for tests.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        run: str,
        *,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = Path(folder) / CONTROL
        self._run = run
        self._clock = clock
        self._sleep = sleep

    def ask(self, action: str, note: str, *, timeout: float = 30.0) -> bool:
        """Ask for an action and wait until the process takes it; withdraw the request where it does not.

        Args:
            action: "disable", "enable" or "rollback".
            note: Who asks, and why.
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
        request = Request(uuid.uuid4().hex, action, note, end)
        while True:
            self._put(request)
            if request.id in _taken(self._path, self._run):
                return True
            if self._clock() >= end:
                self._write([other for other in self._pending() if other.id != request.id])
                return request.id in _taken(self._path, self._run)
            self._sleep(0.2)

    def _put(self, request: Request) -> None:
        """Make sure the request is in the file, also after another operator's command replaced it."""
        pending = self._pending()
        if request.id not in [other.id for other in pending]:
            self._write([*pending, request])

    def _pending(self) -> list[Request]:
        """Return the requests in the file that nobody took yet and that have not expired."""
        try:
            requests = _read_requests(self._path, self._run)
        except (OSError, ValueError):
            return []
        taken = _taken(self._path, self._run)
        return [request for request in requests if request.id not in taken and request.expires >= self._clock()]

    def _write(self, requests: Sequence[Request]) -> None:
        values = {"format": FORMAT, "run": self._run, "requests": [asdict(request) for request in requests]}
        _replace(self._path, values)


def _read_requests(path: Path, run: str) -> list[Request]:
    """Read a control file.

    Raises:
        OSError: It cannot be read.
        ValueError: It is malformed, too large, of another format or for another run.
    """
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"it is larger than {_LARGEST} bytes.")
    try:
        values = json.loads(data)
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error}).") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT or not isinstance(values.get("requests"), list):
        raise ValueError(f"it is no control file of format {FORMAT}.")
    if values.get("run") != run:
        raise ValueError(f"it is for run {values.get('run')!r}, this is run {run!r}.")
    return [_read_request(request) for request in values["requests"]]


def _read_request(values: Any) -> Request:
    """Read one request.

    Raises:
        ValueError: A field is missing, of the wrong type, or unknown.
    """
    try:
        request = Request(**values)
    except TypeError as error:
        raise ValueError(f"it holds a malformed request ({error}).") from error
    texts = (request.id, request.action, request.note)
    if not all(isinstance(text, str) for text in texts) or not isinstance(request.expires, (int, float)):
        raise ValueError(f"it holds a malformed request {values!r}.")
    if request.action not in ACTIONS:
        raise ValueError(f"it asks for {request.action!r}, which is none of {ACTIONS}.")
    return request


def _taken(control: Path, run: str) -> list[str]:
    """Return the ids of the requests that the process says it took."""
    try:
        values = json.loads(control.with_name(ACKNOWLEDGEMENT).read_bytes())
        return [str(taken) for taken in values["taken"]] if values["run"] == run else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _replace(path: Path, values: dict[str, Any]) -> None:
    """Write a file so that a reader sees the old one or the new one, and nothing in between."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}")
    try:
        scratch.write_text(json.dumps(values), encoding="utf-8")
        scratch.replace(path)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()
