"""A real PostgreSQL on a Unix socket, started once for the tests that need it."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

USER = "postgres"


def _binaries() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if found:
        return found[-1].parent
    named = shutil.which("initdb")
    return Path(named).parent if named else None


def _run(*command: str) -> None:
    """Run as an ordinary user: PostgreSQL refuses to run as root."""
    prefix = ["runuser", "-u", USER, "--"] if os.geteuid() == 0 else []
    quiet = subprocess.DEVNULL  # not a pipe: the server would hold it open
    subprocess.run([*prefix, *command], check=True, cwd="/", stdout=quiet, stderr=quiet)


@functools.cache
def _started() -> Path | None:
    binaries = _binaries()
    if binaries is None:
        return None
    directory = Path(tempfile.mkdtemp(prefix="tacit-pg-", dir="/tmp"))  # a socket path is short
    if os.geteuid() == 0:
        shutil.chown(directory, USER)
    data = str(directory / "data")
    initdb = (str(binaries / "initdb"), "-D", data, "-A", "trust", "-U", USER, "--no-sync")
    _run(*initdb)
    control = (str(binaries / "pg_ctl"), "-D", data, "-w")
    options = f"-c listen_addresses='' -c unix_socket_directories={directory} -c fsync=off"
    log = str(directory / "log")
    _run(*control, "start", "-l", log, "-o", options)

    def stop() -> None:
        _run(*control, "stop", "-m", "immediate")
        shutil.rmtree(directory, ignore_errors=True)

    atexit.register(stop)
    return directory


def new_database() -> str:
    """Make an empty database and return its URL, or skip where there is no PostgreSQL."""
    psycopg = pytest.importorskip("psycopg", reason="psycopg is not installed")
    directory = _started()
    if directory is None:
        pytest.skip("PostgreSQL is not installed (Debian package postgresql)")
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(host=str(directory), user=USER, dbname=USER, autocommit=True) as db:
        db.execute(f"CREATE DATABASE {name}")
    return f"postgresql://{USER}@/{name}?host={directory}"
