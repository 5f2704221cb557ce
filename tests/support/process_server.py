"""The server that `processes.py` starts: it imports TensorFlow, and forks itself for each program it is asked for."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import types
from pathlib import Path


def serve(listener):
    """Fork for as long as the standard input is open; return what to run, in each process that is to be a program."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
        connection, _ = listener.accept()
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            listener.close()
            return keep(connection)
        connection.close()
    sys.exit()


def keep(connection):
    """Fork a program, say its number and at last its exit code, and end it when nobody listens any more."""
    message, files, *_ = socket.recv_fds(connection, 65536, 2)
    while not message.endswith(b"\n"):
        message += connection.recv(65536)
    program = os.fork()
    if not program:
        connection.close()
        for number, file in enumerate([os.open(os.devnull, os.O_RDONLY), *files]):
            os.dup2(file, number)
            os.close(file)
        return json.loads(message)
    for file in files:
        os.close(file)
    connection.sendall(f"{program}\n".encode())
    threading.Thread(target=_end_with, args=(connection, program), daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(program, 0)[1])
    connection.send(f"{code}\n".encode(), socket.MSG_NOSIGNAL)
    os._exit(0)


def _end_with(connection, program):
    """Kill the program once the other end of the connection is closed, if it has not ended."""
    with contextlib.suppress(ProcessLookupError):
        if not connection.recv(1):
            os.kill(program, signal.SIGKILL)


def become(*, command, environment, folder):
    """Be a program: its arguments, its environment, its folder, its lines written at once; then run it."""
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)
    first, *arguments = command
    found = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[0:1] = ["" if first == "-c" else str(Path(first).parent), *(path for path in found if path)]
    if first != "-c":
        sys.argv = [first, *arguments]
        runpy.run_path(first, run_name="__main__")
        return
    sys.argv = ["-c", *arguments[1:]]
    sys.modules["__main__"] = main = types.ModuleType("__main__")
    exec(compile(arguments[0], "<string>", "exec"), main.__dict__)


if __name__ == "__main__":
    import keras  # noqa: F401

    gc.freeze()
    become(**serve(socket.socket(fileno=int(sys.argv[1]))))
