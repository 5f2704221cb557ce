"""Python programs in processes of their own that need not import TensorFlow, which would take seconds for each.

`Program` starts what `subprocess.Popen([sys.executable, ...])` would, forked from a server that has imported TensorFlow
and done nothing with it: devices can still be split, clusters joined and environment variables set. A program may start
others by the same server. It ends as any interpreter does, and at the latest with the process that started it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

ADDRESS = "PROGRAMS_ARE_FORKED_AT"  # environment variable: path of the server's socket
SERVER = Path(__file__).with_name("process_server.py")


class Program:
    """As much of `subprocess.Popen` as is needed to start, read, signal and end a program.

    Args:
        command: `sys.executable`, perhaps `-u`, then a script or `-c` and a program, then arguments. Lines are written
            at once, with or without `-u`.
        env: The environment. `None`: that of this process.
        stderr: `subprocess.STDOUT`, or anything else for a pipe. The standard output always is a pipe.
        usual: What `Popen` needs to be told for pipes of text.

    Attributes:
        pid: Number of the process.
        returncode: The exit code; negative: the signal; None as long as nobody looked.
        stdout: What it prints, a text file.
        stderr: What it prints as errors, a text file; `None` with `STDOUT`.
    """

    def __init__(self, command, *, env=None, stderr=subprocess.PIPE, **usual):
        assert set(usual) <= {"stdout", "text"}, usual
        first, *rest = map(os.fspath, command)
        assert first == sys.executable, command
        self._keeper = _connected()
        environment = {**(env or os.environ), ADDRESS: os.environ[ADDRESS]}
        request = {"command": rest[rest[0] == "-u" :], "environment": environment, "folder": str(Path.cwd())}
        pipes = [os.pipe() for _ in range(1 if stderr == subprocess.STDOUT else 2)]
        socket.send_fds(self._keeper, [json.dumps(request).encode() + b"\n"], [pipes[0][1], pipes[-1][1]])
        for _, written in pipes:
            os.close(written)
        self.stdout, self.stderr, *_ = [*(os.fdopen(read, encoding="utf-8") for read, _ in pipes), None]
        self._said = self._keeper.makefile()
        self.pid, self.returncode = int(self._said.readline()), None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()
        self.wait()
        for file in (self.stdout, self.stderr, self._said, self._keeper):
            if file:
                file.close()

    def wait(self, timeout=None):
        if self.returncode is None:
            if not select.select([self._keeper], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired("the program", timeout)
            self.returncode = int(self._said.readline())
        return self.returncode

    def poll(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def communicate(self, timeout=None):
        """Read to the end, wait for it, and return what was printed, and what was printed as errors."""
        texts, files = {}, [file for file in (self.stdout, self.stderr) if file]
        readers = [threading.Thread(target=lambda f=f: texts.update({f: f.read()}), daemon=True) for f in files]
        for reader in readers:
            reader.start()
        self.wait(timeout)
        for reader in readers:
            reader.join()
        return texts[self.stdout], texts.get(self.stderr)

    def send_signal(self, number):
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self):
        self.send_signal(signal.SIGKILL)


def run(command, *, timeout=240.0, **kwargs):
    """Run a program to its end, as `subprocess.run` does: `returncode`, `stdout` and `stderr` as text."""
    with Program(command, **kwargs) as program:
        out, err = program.communicate(timeout)
        return subprocess.CompletedProcess(command, program.returncode, out, err)


def _connected():
    """Return a connection with the server; the first one starts it."""
    if ADDRESS not in os.environ:
        os.environ[ADDRESS] = f"{tempfile.mkdtemp()}/socket"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(os.environ[ADDRESS])
            listener.listen()
            number = listener.fileno()
            command = [sys.executable, SERVER, str(number)]
            # it ends with this process: its standard input, which nobody writes to, is closed then
            _connected.server = subprocess.Popen(
                command, stdin=subprocess.PIPE, pass_fds=[number], start_new_session=True
            )
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(os.environ[ADDRESS])
    return connection
