"""The URI of a KEK taken apart: its location and its attributes, each known and given once."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Mapping
from pathlib import Path
from urllib.parse import unquote

from attestation.errors import ConfigError
from attestation.regular import open_regular

_MAX_SECRET = 64 * 1024


def attributes(text: str, *, separator: str, known: Collection[str]) -> Mapping[str, str]:
    """Parse `name=value` pairs with percent-encoded values; refuse unknown, double and empty."""
    found: dict[str, str] = {}
    for part in text.split(separator) if text else ():
        name, equals, value = part.partition("=")
        if name not in known or name in found or not equals or not value:
            names = ", ".join(sorted(known))
            raise ConfigError("kek-uri", f"attributes are {names}, each once and not empty")
        found[name] = unquote(value, errors="strict")
    return found


def required(given: Mapping[str, str], *names: str) -> tuple[str, ...]:
    """Return the values of `names`, or say which one is missing."""
    missing = [name for name in names if name not in given]
    if missing:
        raise ConfigError("kek-uri", f"the attribute {missing[0]} is missing")
    return tuple(given[name] for name in names)


def read_credential(path: Path) -> str:
    """Return the one line of a credential file that no stranger can read.

    A group may read it, as mounted secrets of a cluster need; others may not, and nobody but the
    owner may write it. It is read again at every login, so a rotated one is used.
    """
    try:
        with open_regular(path) as stream:
            mode = os.fstat(stream.fileno()).st_mode
            data = stream.read(_MAX_SECRET + 1)
    except OSError as error:
        raise ConfigError("kek-credential", f"{path}: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o037:
        raise ConfigError("kek-permissions", f"{path} has mode {stat.S_IMODE(mode):o}")
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        text = ""
    if not text or len(data) > _MAX_SECRET or not text.isprintable():
        raise ConfigError("kek-credential", f"{path} is not one line of ASCII")
    return text
