"""A bucket of Google's storage on this machine, for TensorFlow's own `gs://`: as much of the interface as it asks for.

TensorFlow goes to Google's hosts by a proxy if the environment names one. This one answers in their place, with
certificates of an authority of its own.
"""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import re
import ssl
import threading
import urllib.parse
from pathlib import Path

import trustme

_HOSTS = ("www.googleapis.com", "storage.googleapis.com")


class Bucket:
    """Objects by name, each with its generation."""

    def __init__(self, name):
        self.name, self.objects = name, {}
        self._uploads, self._numbers, self._lock = {}, itertools.count(1), threading.Lock()

    def answer(self, method, host, target, headers, body):
        """Return status, headers and body."""
        with self._lock:
            return self._answer(method, host, target, headers, body)

    def _answer(self, method, host, target, headers, body):
        path, _, query = target.partition("?")
        query = dict(urllib.parse.parse_qsl(query))
        parts = [urllib.parse.unquote(part) for part in path.strip("/").split("/")]
        if parts[0] == "session":
            return self._uploaded(self._uploads[parts[1]], headers, body)
        reads = host == "storage.googleapis.com"
        if parts[0 if reads else parts.index("b") + 1] != self.name:
            return 404, {}, b"{}"
        if reads:
            return self._read("/".join(parts[1:]), headers)
        if parts[0] == "upload":
            if query["uploadType"] == "media":
                return self._put(query["name"], body)
            number = str(next(self._numbers))
            self._uploads[number] = query["name"]
            return 200, {"Location": f"https://www.googleapis.com/session/{number}"}, b""
        name = "/".join(parts[5:]) if len(parts) > 5 else None  # storage/v1/b/BUCKET/o/NAME
        if name and "/rewriteTo/" in f"/{name}":
            source, _, to = name.partition("/rewriteTo/b/")
            return self._put(to.partition("/o/")[2], self.objects[source][0], {"done": True})
        if name is None:
            return self._list(query) if parts[-1] == "o" else _json({"name": self.name})
        if name not in self.objects:
            return 404, {}, b"{}"
        if method == "DELETE":
            del self.objects[name]
            return 204, {}, b""
        content, generation = self.objects[name]
        return _json({"size": str(len(content)), "generation": str(generation), "updated": "2026-01-01T00:00:00.000Z"})

    def _uploaded(self, name, headers, body):
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", headers.get("Content-Range", ""))
        if found and (int(found[1]) != 0 or int(found[2]) + 1 != int(found[3]) or int(found[3]) != len(body)):
            raise AssertionError(headers["Content-Range"])
        return self._put(name, body)

    def _put(self, name, content, said=None):
        self.objects[name] = (content, next(self._numbers))
        return _json({"name": name, **(said or {})})

    def _read(self, name, headers):
        if name not in self.objects:
            return 404, {}, b""
        content = self.objects[name][0]
        first, last = re.fullmatch(r"bytes=(\d+)-(\d+)", headers["Range"]).groups()
        if int(first) >= len(content):
            return 416, {}, b""
        return 206, {}, content[int(first) : int(last) + 1]

    def _list(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        items, prefixes = [], set()
        for name in sorted(self.objects):
            if name.startswith(prefix):
                rest = name[len(prefix) :]
                if delimiter and delimiter in rest:
                    prefixes.add(prefix + rest.partition(delimiter)[0] + delimiter)
                else:
                    items.append({"name": name, "size": str(len(self.objects[name][0]))})
        return _json({"items": items, "prefixes": sorted(prefixes)})


def _json(value):
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@contextlib.contextmanager
def served(bucket, folder):
    """Serve a bucket; yield what the environment of a process has to hold that is to see it."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*_HOSTS).configure_cert(context)
    trusted = Path(folder) / "authority.pem"
    authority.cert_pem.write_to_path(str(trusted))

    class Answers(http.server.BaseHTTPRequestHandler):
        protocol_version, disable_nagle_algorithm = "HTTP/1.1", True

        def do_CONNECT(self):
            """Be the host that a proxy is asked for."""
            self.send_response(200)
            self.end_headers()
            with (
                contextlib.suppress(OSError, ssl.SSLError),
                context.wrap_socket(self.connection, server_side=True) as s,
            ):
                self.rfile, self.wfile = s.makefile("rb"), s.makefile("wb")
                self.close_connection = False
                while not self.close_connection:
                    self.handle_one_request()
            self.close_connection = True

        def handle_expect_100(self):
            super().handle_expect_100()
            self.wfile.flush()  # else it waits for a second
            return True

        def _answer(self):
            body = self._body()
            status, headers, content = bucket.answer(
                self.command, self.headers["Host"].partition(":")[0], self.path, self.headers, body
            )
            self.send_response(status)
            for name, value in {**headers, "Content-Length": len(content)}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
            self.wfile.flush()

        def _body(self):
            if "chunked" not in self.headers.get("Transfer-Encoding", ""):
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def log_message(self, *_):
            """Say nothing."""

    for method in ("GET", "PUT", "POST", "DELETE"):
        setattr(Answers, f"do_{method}", Answers._answer)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield {
            "https_proxy": f"http://127.0.0.1:{server.server_port}",
            "CURL_CA_BUNDLE": str(trusted),
            "GOOGLE_AUTH_TOKEN_FOR_TESTING": "token",
            "NO_GCE_CHECK": "true",
            "no_proxy": "",
        }
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
