"""What a service was asked and where it could have kept it in; a sink for every such place out.

A sink that cannot be searched from here is `NotSearched`, with what it would need; it never counts
as one that holds nothing.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from server.retention.answers import search_answers
from server.retention.asking import Asked
from server.retention.canary import Canaries
from server.retention.places import (
    MACHINE,
    CoreDumps,
    search_machine,
    search_own_mounts,
    search_processes,
    search_swap,
)
from server.retention.search import Search, Searched, joined
from server.settings import SettingsFile

_LATEST_SECONDS = 2
"""How long a line may take from the service to the file of its log."""
_SAME_MACHINE = "give --pid, on the machine of the service"


@dataclass(frozen=True, slots=True)
class Sink:
    """A place that was within reach, and how to search it."""

    name: str
    look: Callable[[Search], Searched]


@dataclass(frozen=True, slots=True)
class NotSearched:
    """A place that was out of reach."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Absent:
    """A place that the attested settings say does not exist."""

    name: str
    why: str


Place: TypeAlias = Sink | NotSearched | Absent


@dataclass(frozen=True, slots=True)
class Local:
    """What of this machine belongs to the service; nothing of it where that is elsewhere."""

    pids: tuple[int, ...] = ()
    logs: tuple[Path, ...] = ()
    """Files that hold everything its processes print, the audit lines among it."""
    telemetry: tuple[Path, ...] = ()
    """Files a collector wrote, as JSON or protobuf and not packed; or their directories."""
    run_directory: Path | None = None
    directories: tuple[Path, ...] = ()
    """Further places that are its own: configuration, databases, volumes."""
    settings: SettingsFile | None = None
    """Its attested settings, where they are at hand."""


def sinks(
    asked: Asked, canaries: Canaries, *, local: Local, dumps: CoreDumps, since: int
) -> tuple[Place, ...]:
    """Return every place, in the order of a report. `since` is when the first canary was sent."""
    return (
        *lasting(asked, canaries, local=local, dumps=dumps, since=since),
        _metrics(asked, local),
        _engine_metrics(asked),
        _of_processes(
            "mounts of the engine",
            local,
            lambda search: search_own_mounts(search, local.pids, since=since),
        ),
        _of_processes("processes", local, lambda search: search_processes(search, local.pids)),
    )


def lasting(
    asked: Asked, canaries: Canaries, *, local: Local, dumps: CoreDumps, since: int
) -> tuple[Place, ...]:
    """Return the places that outlive the processes of an engine."""
    return (
        Sink("answers", lambda search: search_answers(search, asked, canaries)),
        _log(asked, local),
        _telemetry(local),
        _run_directory(local),
        _paths("directories", local.directories, "--directory DIR: configuration, databases"),
        _of_processes("this machine", local, lambda search: _machine(search, since=since)),
        _of_processes("core dumps", local, lambda search: dumps.search(search, since=since)),
        _of_processes("swap", local, search_swap),
    )


def _log(asked: Asked, local: Local) -> Place:
    name = "log and audit"
    if not local.logs:
        return NotSearched(name, "give --log FILE: all that the processes of the service print")
    ids = {answer.request_id for answer in asked.answers} - {""}
    return Sink(name, lambda search: _noted(search, local.logs, ids))


def _noted(search: Search, logs: Iterable[Path], ids: set[str]) -> Searched:
    """Search logs that demonstrably are those of the service: each request is in them."""
    paths = tuple(logs)
    requests = Search({identity: identity.encode() for identity in ids})
    ends = time.monotonic() + _LATEST_SECONDS
    missing = ids
    while missing:
        missing = ids - {found.needle for path in paths for found in requests.file(path).found}
        if not ids or not missing or time.monotonic() > ends:
            break
        time.sleep(0.2)
    searched = joined(search.file(path) for path in paths)
    if missing or not ids:
        words = f"{len(missing)} of {len(ids)} requests are not in the log: it is another's or cut"
        searched += Searched(unread=(words,))
    return searched


def _telemetry(local: Local) -> Place:
    name = "telemetry"
    settings = local.settings
    if settings is not None and (settings.telemetry is None or settings.telemetry.otlp is None):
        return Absent(name, "by its settings the service pushes none")
    return _paths(name, local.telemetry, "--telemetry FILE: what a collector received")


def _metrics(asked: Asked, local: Local) -> Place:
    name = "metrics"
    page = asked.metrics
    if page is None and local.settings is not None and local.settings.operator is None:
        return Absent(name, "by its settings the service has no listener for operators")
    if page is None:
        return NotSearched(name, "give --operator-url and a login with role metrics")
    if not page.expected or not page.body:
        failed = Searched(unread=(f"/metrics of the operator listener: {page.status}",))
        return Sink(name, lambda _: failed)
    return Sink(name, lambda search: search.text("/metrics", page.body + page.headers.encode()))


def _engine_metrics(asked: Asked) -> Place:
    name = "metrics of the engine"
    pages = [a for a in asked.by_engine if a.sent.path == "/metrics" and b"vllm:" in a.body]
    if not pages:
        return NotSearched(name, "give --config, on the machine of the service")
    return Sink(name, lambda search: joined(search.text("/metrics", page.body) for page in pages))


def _run_directory(local: Local) -> Place:
    name = "run directory"
    directory = local.run_directory
    if directory is None:
        return NotSearched(name, "give --config, on the machine of the service")
    return Sink(name, lambda search: search.tree(directory))


def _paths(name: str, paths: tuple[Path, ...], need: str) -> Place:
    if not paths:
        return NotSearched(name, f"give {need}")
    return Sink(name, lambda search: joined(_file_or_tree(search, path) for path in paths))


def _file_or_tree(search: Search, path: Path) -> Searched:
    searched = search.tree(path) if path.is_dir() else search.file(path)
    return searched if searched.places else searched + Searched(unread=(f"{path}: nothing there",))


def _of_processes(name: str, local: Local, look: Callable[[Search], Searched]) -> Place:
    return Sink(name, look) if local.pids else NotSearched(name, _SAME_MACHINE)


def _machine(search: Search, *, since: int) -> Searched:
    home = Path.home()
    caches = (home / ".cache", home / ".config", home / ".local")
    places = (*map(Path, MACHINE), Path(tempfile.gettempdir()), *caches)
    return search_machine(search, {path.resolve() for path in places}, since=since)
