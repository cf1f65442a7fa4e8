"""A real HAProxy with the configuration we ship, before two replicas on this machine."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

CONFIG = Path(__file__).parents[1] / "configs" / "balancer.cfg"
_PLACES = ("/usr/sbin", "/usr/local/sbin", *os.environ.get("PATH", "").split(":"))


@contextlib.contextmanager
def balancing(replicas: Sequence[int], *, port: int) -> Iterator[str]:
    """Balance two local ports; yields the URL once a replica answers through it."""
    program = shutil.which("haproxy", path=":".join(_PLACES))
    if program is None:
        pytest.skip("haproxy is not installed (scripts/test-services)")
    first, second = replicas
    environment = {
        "TACIT_LISTEN": f"127.0.0.1:{port}",
        "TACIT_REPLICA_A": f"127.0.0.1:{first}",
        "TACIT_REPLICA_B": f"127.0.0.1:{second}",
    }
    command = [program, "-f", str(CONFIG), "-db"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            _wait(process, port)
            yield f"https://127.0.0.1:{port}"
        finally:
            process.terminate()


def _wait(process: subprocess.Popen[str], port: int) -> None:
    ends = time.monotonic() + 20
    while time.monotonic() < ends:
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise AssertionError("haproxy did not listen")
