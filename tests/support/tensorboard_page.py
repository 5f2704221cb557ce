"""A real TensorBoard process, and how to start the browser that looks at it."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from processes import Program

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


PROGRAM = "from tensorboard.main import run_main; run_main()"
WITHOUT_TENSORFLOW = "import sys, types; sys.modules['tensorboard.compat.notf'] = types.ModuleType('notf');" + PROGRAM


@contextlib.contextmanager
def tensorboard(logdir, *, with_tensorflow=True):
    """A TensorBoard process on a free port, with TensorFlow or as where it is not installed; yields its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}/"
    start, program = (Program, PROGRAM) if with_tensorflow else (subprocess.Popen, WITHOUT_TENSORFLOW)
    command = [sys.executable, "-c", program, "--logdir", str(logdir), "--host", "127.0.0.1", "--port", str(port)]
    with start(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 150
            while True:
                try:
                    plugins = json.load(urllib.request.urlopen(f"{address}data/plugins_listing", timeout=30))
                    break
                except OSError:
                    if process.poll() is not None or time.monotonic() > end:
                        process.kill()
                        pytest.fail(f"TensorBoard did not start: {process.communicate()[1]}")
                    time.sleep(0.1)
            assert "adaptive_weights" in plugins, (
                "the package is not installed: its entry point tells TensorBoard of the tab"
            )
            yield address
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
