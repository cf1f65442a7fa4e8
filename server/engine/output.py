"""What an engine wrote to its terminal in, levels and places in its code out; never its words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Level = Literal["INFO", "WARNING", "ERROR", "CRITICAL"]

LONGEST_LINE = 16 * 1024
"""Bytes of a line that are looked at."""

_LOG_LINE = re.compile(
    rb"^(?:\([A-Za-z0-9_]{1,40} pid=\d{1,10}\) )?(INFO|WARNING|ERROR|CRITICAL) "
    rb"\d\d-\d\d \d\d:\d\d:\d\d \[(?:[\w./-]{0,200}/)?([a-z0-9_]{1,60}\.py):(\d{1,6})\]"
)
_FRAME = re.compile(
    rb'^(?:\([A-Za-z0-9_]{1,40} pid=\d{1,10}\) )?(?:ERROR [^\]]{1,120}\] )? {1,8}File "[^"]{0,400}?'
    rb'([a-z0-9_]{1,60}\.py)", line (\d{1,6}), in '
)


@dataclass(frozen=True, slots=True)
class Site:
    """A place in the engine's code that had something to say."""

    level: Level
    place: str
    """File name and line, such as `core.py:129`."""


class Lines:
    """Cuts a byte stream into lines and passes on what is in the closed vocabulary.

    A prompt can hold line feeds, and so can a message that quotes it. Whatever looks like a place
    is passed on only if a file of that name belongs to the engine.
    """

    def __init__(self, files: frozenset[str]) -> None:
        self._files = files
        self._rest = b""
        self.unread = 0
        """Lines that were withheld."""

    def feed(self, data: bytes) -> Iterator[Site]:
        """Take the next bytes and yield the sites in every line that they complete."""
        *lines, rest = (self._rest + data).split(b"\n")
        self._rest = rest[:LONGEST_LINE]
        for line in lines:
            site = self._site(line[:LONGEST_LINE])
            if site is None:
                self.unread += 1
            else:
                yield site

    def _site(self, line: bytes) -> Site | None:
        if (frame := _FRAME.match(line)) is not None:
            return self._known("ERROR", frame[1], frame[2])
        if (found := _LOG_LINE.match(line)) is not None:
            levels: dict[bytes, Level] = {
                b"INFO": "INFO",
                b"WARNING": "WARNING",
                b"ERROR": "ERROR",
                b"CRITICAL": "CRITICAL",
            }
            return self._known(levels[found[1]], found[2], found[3])
        return None

    def _known(self, level: Level, file: bytes, line: bytes) -> Site | None:
        name = file.decode("ascii")
        return Site(level, f"{name}:{int(line)}") if name in self._files else None


def engine_files(python: Path) -> frozenset[str]:
    """Return the names of the Python files that may speak: vLLM's, our plug-in's, the bootstrap's.

    `python` is the interpreter of the engine's environment. Empty if vLLM is not in there.
    """
    names: set[str] = set()
    for package in ("vllm", "tacit_vllm"):
        for root in python.parent.parent.glob(f"lib/python3*/site-packages/{package}"):
            names.update(path.name for path in root.rglob("*.py"))
    return frozenset(names | {"enter.py"}) if names else frozenset()
