"""Texts that occur nowhere else: random bytes in, canaries and every spelling of theirs out.

A canary is `head + position + tail`. All canaries of a run share head and tail, so two needles in a
few spellings find each of them, whole, cut off at either end, or broken in the middle. What was
compressed or encrypted is not found; a sink that does either has to be opened first.
"""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

RANDOM_BYTES = 16
_FEWEST_TOKENS = 6
"""Fewer ids could stand in a row by chance."""


@dataclass(frozen=True, slots=True)
class Canaries:
    """The canaries of one run, in lower case letters and digits: names and words may be made of it.

    Head and tail have 12 characters, as little as a log line may be cut to. Each begins and ends
    with a digit: Qwen3's tokenizers take digits apart, so whatever stands beside changes no token.
    """

    head: str
    tail: str

    @classmethod
    def of(cls, random: bytes) -> Canaries:
        """Make canaries from 16 random bytes."""
        if len(random) != RANDOM_BYTES:
            raise ValueError(f"{len(random)} random bytes instead of {RANDOM_BYTES}")
        head, tail = (
            f"7{base64.b32encode(half).decode()[:10].lower()}3" for half in (random[:8], random[8:])
        )
        return cls(head, tail)

    def at(self, position: str) -> str:
        """Return the canary for this position of a request; another position has another."""
        return f"{self.head}{hashlib.sha256(position.encode()).hexdigest()[:8]}{self.tail}"

    def needles(self, *, tokens: Mapping[str, Sequence[int]] | None = None) -> dict[str, bytes]:
        """Return what to search for, by name. `tokens` holds the ids of head and of tail, if known.

        Each name is the part and its spelling, such as `head in base64 at 1`.
        """
        parts = {"head": self.head, "tail": self.tail}
        found = {
            f"{part} {how}": needle
            for part, text in parts.items()
            for how, needle in spellings(text).items()
        }
        for part, ids in (tokens or {}).items():
            found |= {f"{part} {how}": needle for how, needle in token_spellings(ids).items()}
        return found


def spellings(text: str) -> dict[str, bytes]:
    """Return how ASCII `text` is written by loggers, URLs, JSON, dumps and wide-character APIs."""
    data = text.encode("ascii")
    written = {
        "as is": data,
        "in capitals": data.upper(),
        "in JSON escapes": _each(data, r"\u00{:02x}"),
        "in JSON escapes, capitals": _each(data, r"\u00{:02X}"),
        "in byte escapes": _each(data, r"\x{:02x}"),
        "in percent": _each(data, "%{:02x}"),
        "in percent, capitals": _each(data, "%{:02X}"),
        "in entities": _each(data, "&#{};"),
        "in hex": data.hex().encode(),
        "in hex, capitals": data.hex().upper().encode(),
        "in hex, spaced": data.hex(" ").encode(),
        # without the outer zero bytes, so that either byte order is found
        "in UTF-16": text.encode("utf-16-le")[:-1],
        "in UTF-32": text.encode("utf-32-le")[:-3],
    }
    for before in range(3):
        written[f"in base64 at {before}"] = _base64_core(data, before)
        written[f"in base64url at {before}"] = _base64_core(data, before, b"-_")
    return written


def token_spellings(ids: Sequence[int]) -> dict[str, bytes]:
    """Return how a list of token ids is written by loggers, arrays and MessagePack."""
    if len(ids) < _FEWEST_TOKENS:
        raise ValueError(f"{len(ids)} tokens are too few to be a canary")
    words = [str(number) for number in ids]
    return {
        "in ids": ", ".join(words).encode(),
        "in ids, dense": ",".join(words).encode(),
        "in ids, spaced": " ".join(words).encode(),
        "in 32-bit ids": struct.pack(f"<{len(ids)}i", *ids),
        "in 64-bit ids": struct.pack(f"<{len(ids)}q", *ids),
        "in MessagePack ids": b"".join(map(_message_pack, ids)),
    }


def _each(data: bytes, form: str) -> bytes:
    return "".join(form.format(byte) for byte in data).encode()


def _base64_core(data: bytes, before: int, others: bytes = b"+/") -> bytes:
    """Return the characters that depend on nothing but `data`, with `before` bytes ahead mod 3."""
    encoded = base64.b64encode(bytes(before) + data, others)
    first = -(-before * 8 // 6)
    last = (before + len(data)) * 8 // 6
    return encoded[first:last]


def _message_pack(number: int) -> bytes:
    if number < 0x80:
        return struct.pack("B", number)
    if number < 0x100:
        return struct.pack("BB", 0xCC, number)
    if number < 0x1_0000:
        return struct.pack(">BH", 0xCD, number)
    return struct.pack(">BI", 0xCE, number)
