"""Log records in, JSON lines of closed fields out: no arguments, no exception texts, no prompts."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import threading
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from traceback import walk_tb
from types import TracebackType
from typing import Any, TextIO

from server.audit import AUDIT_FIELDS

FIELDS = frozenset(
    {
        "code",
        "count",
        "engine",
        "engine_level",
        "error",
        "in_flight",
        "keys",
        "pid",
        "place",
        "request",
        "serial",
        "statement",
        "status",
        "withheld",
    }
)
"""Names of `extra` that are written; any other is dropped."""

_EVENT = re.compile(r"[a-z][a-z0-9 -]{0,63}")
_TOKEN = re.compile(r"[A-Za-z0-9_.:/+<>-]{1,128}")
_OUR_LOGGERS = "tacit."
_NO_FRAME = "unknown"


class ClosedFormatter(logging.Formatter):
    """Writes one JSON object a record.

    Our own loggers name an event: a constant phrase, and fields of `FIELDS` whose values are
    numbers or tokens without spaces. Other libraries format what they were given into their
    messages, so of theirs only level, logger and place remain.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without a line feed."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"at": at, "level": record.levelname, "logger": record.name}
        ours = record.name.startswith(_OUR_LOGGERS)
        if ours and isinstance(record.msg, str) and _EVENT.fullmatch(record.msg):
            line["event"] = record.msg
            line |= _closed(record.__dict__, FIELDS)
            audit = record.__dict__.get("audit")
            if isinstance(audit, Mapping):
                line["audit"] = _closed(audit, frozenset(AUDIT_FIELDS))
        else:
            line["place"] = f"{record.filename}:{record.lineno}"
        if record.exc_info is not None and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["place"] = place(record.exc_info[2])
        return json.dumps(line, separators=(",", ":"))


def place(traceback: TracebackType | None) -> str:
    """Return `file.py:line` of the innermost frame."""
    found = _NO_FRAME
    for frame, number in walk_tb(traceback):
        found = f"{frame.f_code.co_filename.rpartition('/')[2]}:{number}"
    return found


def configure(stream: TextIO) -> None:
    """Send every record, warning and unhandled exception of this process through the formatter."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(ClosedFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger(_OUR_LOGGERS.rstrip(".")).setLevel(logging.INFO)
    logging.raiseExceptions = False  # its report of a failed record would print the record
    warnings.showwarning = _warned
    sys.excepthook = _raised
    sys.unraisablehook = _unraisable
    threading.excepthook = _raised_in_thread


def is_closed() -> bool:
    """Tell whether `configure` still holds: every record and exception goes through it."""
    handlers = logging.getLogger().handlers
    hooks = (
        sys.excepthook is _raised,
        sys.unraisablehook is _unraisable,
        threading.excepthook is _raised_in_thread,
        warnings.showwarning is _warned,
    )
    closed = [isinstance(handler.formatter, ClosedFormatter) for handler in handlers]
    return all((*hooks, *closed, bool(handlers), not logging.raiseExceptions))


def quiet_loop(loop: asyncio.AbstractEventLoop) -> None:
    """Make `loop` report what nobody awaited by class and place; its own words quote values."""
    loop.set_debug(False)
    loop.set_exception_handler(_raised_in_loop)


def _closed(values: Mapping[str, Any], names: frozenset[str]) -> dict[str, Any]:
    kept = {name: values[name] for name in sorted(names & values.keys())}
    return {name: value for name, value in kept.items() if _is_closed(value)}


def _is_closed(value: object) -> bool:
    if isinstance(value, str):
        return _TOKEN.fullmatch(value) is not None
    return value is None or isinstance(value, bool | int | float)


def _report(kind: type[BaseException] | None, traceback: TracebackType | None) -> None:
    name = kind.__name__ if kind is not None else _NO_FRAME
    logging.getLogger("tacit.process").error(
        "unhandled", extra={"error": name, "place": place(traceback)}
    )


def _raised(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    del error
    _report(kind, traceback)


def _raised_in_thread(arguments: threading.ExceptHookArgs) -> None:
    _report(arguments.exc_type, arguments.exc_traceback)


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    _report(found.exc_type, found.exc_traceback)


def _raised_in_loop(loop: asyncio.AbstractEventLoop, found: dict[str, Any]) -> None:
    del loop
    error = found.get("exception")
    if isinstance(error, BaseException):
        _report(type(error), error.__traceback__)
    else:
        _report(None, None)


def _warned(  # noqa: PLR0917 - the signature of warnings.showwarning
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    del message, file, line
    logging.getLogger("tacit.process").warning(
        "warning",
        extra={"error": category.__name__, "place": f"{filename.rpartition('/')[2]}:{lineno}"},
    )
