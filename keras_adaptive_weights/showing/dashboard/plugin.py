"""The TensorBoard plugin: routes, and nothing but translation between requests and the journals' indices."""

from __future__ import annotations

import functools
import logging
import math
import mimetypes
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tensorboard.backend import http_util
from tensorboard.plugins import base_plugin
from werkzeug import wrappers

from keras_adaptive_weights.deciding.printable import printable
from keras_adaptive_weights.journal.index import JournalIndex
from keras_adaptive_weights.journal.lines import encode, plain
from keras_adaptive_weights.showing.dashboard.store import UNEXPECTED, RunStore, parse_roots
from keras_adaptive_weights.showing.explain import meaning
from keras_adaptive_weights.showing.look import kind_of, panels
from keras_adaptive_weights.showing.scales import scale_of
from keras_adaptive_weights.showing.verdict import concerns, standing, standing_text
from keras_adaptive_weights.showing.view import first_average, last_header, parts_of_the_gradient, to_columns, view

_STATIC = Path(__file__).parent / "static"
_UNREADABLE = 422
_LEAST_POINTS, _MOST_POINTS = 16, 4000
_logger = logging.getLogger("keras_adaptive_weights")
_Handler = Callable[[wrappers.Request], dict[str, Any]]


class _RequestError(Exception):
    """A request that cannot be answered: status code and one sentence."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class AdaptiveWeightsPlugin(base_plugin.TBPlugin):  # type: ignore[misc]
    """Serves the Adaptive Weights tab.

    Routes, all below `data/plugin/adaptive_weights`:

    - `/runs`: every run that has a journal;
    - `/series?run=R&term=T&from=S&to=S&points=N`: the figures of a window, each panel's scale (kind, lower and upper
      edge), its bands, HOLD reasons and skipped steps, and the average of the run's first losses;
    - `/events?run=R&term=T&after=N`: the events from number N on, each with the `mark` that it is shown as;
    - `/present?run=R&term=T`: why the weight is as it is now, the part of the gradient that the term makes, and what
      may be wrong with the run;
    - `/static/...`: the page's own modules and style.

    Each of these is about one loss term; without `term` the first whose weight is adaptive. Of a fixed term there are
    series only.

    Answers are JSON with status 200, or `error` and 400 (a wrong argument), 404 (no such run or term) or 422 (a journal
    that cannot be read).

    Args:
        context: What TensorBoard knows; only the log directory is used.
    """

    plugin_name = "adaptive_weights"

    def __init__(self, context: base_plugin.TBContext) -> None:
        spec = getattr(context.flags, "logdir_spec", None) if context.flags else None
        self._store = RunStore(parse_roots(context.logdir, spec))

    def get_plugin_apps(self) -> dict[str, Any]:
        """Return the routes."""
        apps: dict[str, Any] = {
            "/runs": self._json(self._runs),
            "/series": self._json(self._series),
            "/events": self._json(self._events),
            "/present": self._json(self._present),
        }
        for path in sorted(_STATIC.iterdir()):
            apps[f"/static/{path.name}"] = functools.partial(_serve_file, path)
        return apps

    def is_active(self) -> bool:
        """Return whether any run has a journal."""
        return bool(self._store.names())

    def frontend_metadata(self) -> base_plugin.FrontendMetadata:
        """Return the tab's name and its entry module."""
        return base_plugin.FrontendMetadata(
            es_module_path="/static/index.js", tab_name="Adaptive Weights", disable_reload=True
        )

    def _json(self, handler: _Handler) -> Any:
        @wrappers.Request.application
        def serve(request: wrappers.Request) -> Any:
            try:
                code, values = 200, handler(request)
            except _RequestError as error:
                code, values = error.code, {"error": str(error)}
            except (OSError, ValueError) as error:
                code, values = _UNREADABLE, {"error": printable(error)}
            except Exception as error:  # a journal's fault is no fault of the server
                _logger.debug("%s cannot be answered.", request.url, exc_info=True)
                code, values = _UNREADABLE, {"error": printable(f"{UNEXPECTED}: {error!r}")}
            return http_util.Respond(request, encode(values), "application/json", code=code)

        return serve

    def _runs(self, request: wrappers.Request) -> dict[str, Any]:
        del request
        return {"runs": [self._store.summary(name) for name in self._store.names()]}

    def _events(self, request: wrappers.Request) -> dict[str, Any]:
        index = self._index(request, adaptive=True)
        after = _integer(request, "after", 0) or 0
        events = [{**event, "mark": kind_of(event)} for event in index.events[max(0, after) :]]
        return {"generation": index.generation, "events": plain(events)}

    def _present(self, request: wrappers.Request) -> dict[str, Any]:
        index = self._index(request, adaptive=True)
        process, age = self._store.process(index)
        now = standing(index)
        return {
            "process": process,
            "share": parts_of_the_gradient(index).get(index.term),
            "standing": None if now is None else {**asdict(now), "text": standing_text(now)},
            "concerns": [asdict(concern) for concern in concerns(index, view(index, points=1), process, age)],
        }

    def _series(self, request: wrappers.Request) -> dict[str, Any]:
        index = self._index(request)
        points = min(max(_integer(request, "points", 1000) or 0, _LEAST_POINTS), _MOST_POINTS)
        seen = view(index, _integer(request, "from"), _integer(request, "to"), points)
        columns = to_columns(seen)
        columns["scales"] = {panel.id: scale_of(panel, seen, index) for panel in panels()}
        config = last_header(index).get("config", {})
        columns["meanings"] = {reason: meaning(reason, config) for reason in columns["reasons"]}
        average = first_average(index)
        columns["first_average"] = average if math.isfinite(average) else None
        return columns

    def _index(self, request: wrappers.Request, *, adaptive: bool = False) -> JournalIndex:
        name, term = request.args.get("run", ""), request.args.get("term") or None
        index = self._store.index(name)
        if index is None or not index.headers:
            raise _RequestError(404, f"no journal of a run {name!r}")
        known = index.terms if adaptive else [*index.terms, *index.fixed]
        if term is not None and term not in known:
            raise _RequestError(404, f"run {name!r} has no term {term!r}; there are {known}")
        return index if term is None else index.of(term)


def _integer(request: wrappers.Request, name: str, default: int | None = None) -> int | None:
    text = request.args.get(name)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise _RequestError(400, f"argument {name!r} must be an integer, received {text!r}") from None


@wrappers.Request.application
def _not_found(request: wrappers.Request) -> Any:
    return http_util.Respond(request, "Not found", "text/plain", code=404)


def _serve_file(path: Path, environ: Any, start_response: Any) -> Any:
    """Answer with one of the page's own files."""
    if not path.is_file():
        return _not_found(environ, start_response)
    kind = {".js": "text/javascript", ".css": "text/css", ".json": "application/json"}.get(
        path.suffix
    ) or mimetypes.guess_type(path.name)[0]
    request = wrappers.Request(environ)
    return http_util.Respond(request, path.read_bytes(), kind or "text/plain")(environ, start_response)
