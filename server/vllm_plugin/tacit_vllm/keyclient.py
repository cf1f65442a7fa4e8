"""Ask the key agent over its Unix socket: one line there, one line back."""

from __future__ import annotations

import socket

from attestation.errors import Malformed, NotAffirmed, Undecidable
from attestation.keywire import (
    MAX_LINE,
    Ask,
    Grant,
    LoaderSettings,
    Noted,
    Refused,
    decode_answer,
    encode,
)

_TIMEOUT_S = 30.0


def fetch(settings: LoaderSettings) -> Grant:
    """Return the data key of the model and what it may open.

    Raises `NotAffirmed` with the agent's code, `Undecidable` ("key-agent-unreachable") or
    `Malformed`.
    """
    match _exchange(settings.key_socket, Ask(settings.model)):
        case Grant() as grant:
            return grant
        case Refused(code):
            raise NotAffirmed(code, "the key agent gave no key")
        case Noted():
            raise Malformed("keywire-line", "the key agent answered another question")


def report(settings: LoaderSettings, code: str) -> None:
    """Tell the agent why nothing was loaded."""
    _exchange(settings.key_socket, Refused(code))


def _exchange(path: str, question: Ask | Refused) -> Grant | Refused | Noted:
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_TIMEOUT_S)
            connection.connect(path)
            connection.sendall(encode(question))
            line = b""
            while not line.endswith(b"\n") and len(line) <= MAX_LINE:
                part = connection.recv(MAX_LINE)
                if not part:
                    break
                line += part
    except OSError as error:
        why = error.strerror or type(error).__name__
        raise Undecidable("key-agent-unreachable", f"key agent: {why}") from None
    return decode_answer(line)
