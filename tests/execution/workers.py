"""Several workers on this machine: start them, wait for them, and leave none behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time


def free_ports(count):
    """Ports on loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def started(command, count=2, start=subprocess.Popen):
    """Start `python *command` as each of several workers, and end at the latest with the block those that still run.

    Args:
        command: A script and its arguments.
        count: Number of workers.
        start: Starts a process: `subprocess.Popen`, or what is called and behaves as it does.
    """
    cluster = {"worker": [f"127.0.0.1:{port}" for port in free_ports(count)]}
    processes = []
    with contextlib.ExitStack() as stack:
        for index in range(count):
            config = json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}})
            environment = {**os.environ, "TF_CONFIG": config, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
            processes.append(stack.enter_context(start([sys.executable, *command], env=environment, **pipes)))
            stack.callback(processes[-1].kill)
        yield processes


def outputs(processes, timeout):
    """Wait for all to end and return exit codes and outputs.

    Raises:
        subprocess.TimeoutExpired: One of them does not end.
    """
    end = time.monotonic() + timeout
    texts = [process.communicate(timeout=max(1.0, end - time.monotonic()))[0] for process in processes]
    return [process.returncode for process in processes], texts
