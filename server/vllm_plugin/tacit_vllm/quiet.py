"""Log records that cannot hold content: literals of the source, numbers and names of types only.

vLLM and its libraries log request parts as arguments, inside f-strings and in tracebacks. A message
is kept only if it is a string literal of the very function that logs it; arguments that are not
numbers become the name of their type; a traceback becomes the name of its exception.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

Factory = Callable[..., logging.LogRecord]

_PROBE = "tacit-probe"


class QuietRecords:
    """A log record factory around the one that was there before."""

    def __init__(self, make: Factory) -> None:
        self._make = make

    def __call__(  # noqa: PLR0917 - the signature of logging.setLogRecordFactory
        self,
        name: str,
        level: int,
        fn: str,
        lno: int,
        msg: object,
        args: Any,
        exc_info: Any,
        func: str | None = None,
        *_: object,
    ) -> logging.LogRecord:
        """Make the record of one log call, with its content removed."""
        text = _template(msg, file=fn, line=lno)
        if args:
            try:
                text = text % _quiet(args)
            except (TypeError, ValueError, KeyError):
                text = f"{text} <{len(args)} arguments>"
        if exc_info and exc_info[0] is not None:
            text = f"{text} [{exc_info[0].__name__}]"
        return self._make(name, level, fn, lno, text, (), None, func, None)


def install() -> None:
    """Make every record of this process quiet; doing it again changes nothing."""
    if not installed():
        logging.setLogRecordFactory(QuietRecords(logging.getLogRecordFactory()))


def installed() -> bool:
    """Tell whether records are quiet, by making one: vLLM may have wrapped our factory since."""
    make = logging.getLogRecordFactory()
    return _PROBE not in make("tacit", logging.INFO, "", 0, "%s", (_PROBE,), None).getMessage()


def _template(msg: object, *, file: str, line: int) -> str:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - as logging finds its caller
    while frame and (frame.f_code.co_filename, frame.f_lineno) != (file, line):
        frame = frame.f_back
    literals = frame.f_code.co_consts if frame else ()
    if isinstance(msg, str) and any(type(text) is str and text == msg for text in literals):
        return msg
    return f"<{type(msg).__name__}>"


def _quiet(args: Any) -> Any:
    if isinstance(args, Mapping):  # logging unpacks a lone mapping; it fills %(name)s
        return {name: _number(value) for name, value in args.items()}
    if len(args) == 1 and isinstance(args[0], Mapping) and args[0]:
        return {name: _number(value) for name, value in args[0].items()}
    return tuple(_number(value) for value in args)


def _number(value: object) -> object:
    if value is None or type(value) in {bool, int, float}:
        return value
    return f"<{type(value).__name__}>"
