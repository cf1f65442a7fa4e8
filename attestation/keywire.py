"""The key agent's wire: one JSON line asks or reports over a Unix socket, one line answers.

A worker of the engine connects, sends one line and reads one line:

    {"v":1,"want":"data-key","model":"qwen3"}      -> {"v":1,"dek":"…","manifest":"sha256:…",
                                                       "minimum_version":3}
                                                   or {"v":1,"refused":"<code>"}
    {"v":1,"refused":"<code>"}   (why it stopped)  -> {"v":1}
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from attestation.codec import Document, b64, canonical_json, parse_document, parse_json, unb64
from attestation.codes import CODES
from attestation.confidential import DataKey, data_key
from attestation.errors import Malformed
from attestation.keyset import DigestText, Name
from attestation.types import Digest

MAX_LINE = 4096
"""Longest line either side reads, in bytes, with its line feed."""


def _known(code: str) -> str:
    if code not in CODES:
        raise ValueError("no such code")
    return code


Code = Annotated[str, AfterValidator(_known)]
HexKey = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Location = Annotated[str, StringConstraints(pattern=r"^/[^\x00]{1,1023}$")]


class LoaderSettings(Document):
    """What the engine's command line tells the sealed loader; it is logged, so it has no secret."""

    key_socket: Location
    """Absolute path of the key agent's socket."""
    sealed_dir: Location
    """Absolute path of the sealed package."""
    signer: HexKey
    """The 32 raw bytes of the Ed25519 key that must have signed the manifest."""
    model: Name
    """Served name, by which the agent knows which key to hand out."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A worker wants the data key of the model with this served name."""

    model: str


@dataclass(frozen=True, slots=True)
class Grant:
    """The data key and the only manifest, at the least version, that it may be used with."""

    key: DataKey
    manifest: Digest
    minimum_version: int


@dataclass(frozen=True, slots=True)
class Refused:
    """No key, or no load, for the reason with this code of `attestation.codes`."""

    code: str


@dataclass(frozen=True, slots=True)
class Noted:
    """The agent heard the report."""


class _AskLine(Document):
    v: Literal[1]
    want: Literal["data-key"]
    model: Name


class _GrantLine(Document):
    v: Literal[1]
    dek: str
    manifest: DigestText
    minimum_version: Annotated[int, Field(ge=1, le=2**31)]


class _RefusedLine(Document):
    v: Literal[1]
    refused: Code


class _NotedLine(Document):
    v: Literal[1]


def encode(message: Ask | Grant | Refused | Noted) -> bytes:
    """Return `message` as one line; a `Grant` line is as secret as the key in it."""
    line: Document
    match message:
        case Ask():
            line = _AskLine(v=1, want="data-key", model=message.model)
        case Grant():
            line = _GrantLine(
                v=1,
                dek=b64(message.key.reveal()),
                manifest=str(message.manifest),
                minimum_version=message.minimum_version,
            )
        case Refused():
            line = _RefusedLine(v=1, refused=message.code)
        case Noted():
            line = _NotedLine(v=1)
    return canonical_json(line.model_dump(mode="json")) + b"\n"


def decode_question(line: bytes) -> Ask | Refused:
    """Parse what a worker sent, or raise `Malformed`."""
    if "want" in _names(line):
        return Ask(parse_document(_AskLine, line).model)
    return Refused(parse_document(_RefusedLine, line).refused)


def decode_answer(line: bytes) -> Grant | Refused | Noted:
    """Parse what the agent sent, or raise `Malformed`."""
    names = _names(line)
    if "refused" in names:
        return Refused(parse_document(_RefusedLine, line).refused)
    if names == {"v"}:
        parse_document(_NotedLine, line)
        return Noted()
    grant = parse_document(_GrantLine, line)
    secret = unb64(grant.dek, what="dek")
    if len(secret) != 32:
        raise Malformed("field-invalid", f"dek of {len(secret)} bytes, not 32")
    return Grant(data_key(secret), Digest.parse(grant.manifest), grant.minimum_version)


def _names(line: bytes) -> set[str]:
    if not line.endswith(b"\n"):
        raise Malformed("keywire-line", f"{len(line)} bytes without a line feed")
    value = parse_json(line, limit=MAX_LINE)
    if not isinstance(value, dict):
        raise Malformed("keywire-line", "a line that is not an object")
    return set(value)
