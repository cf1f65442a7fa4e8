"""The release log: entries in, one hash chain out; what a chain states can be checked by anyone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from attestation.broker.protocol import Short
from attestation.codec import Document, canonical_json, length_prefixed, parse_document
from attestation.errors import NotAuthentic
from attestation.keyset import DigestText
from attestation.types import Digest

_LABEL = b"tacit/v1/release-log"
GENESIS = Digest("sha256", bytes(32))
"""What stands before the first entry."""


class Entry(Document):
    """One act of the broker. Ids, codes, digests and times; never a key, never evidence."""

    at: Short
    """RFC 3339, UTC."""
    event: Literal["imported", "attested", "refused", "asked", "released", "admin"]
    code: Short
    """`ok`, or the code of the refusal."""
    session: DigestText | None
    """SHA-256 of the session id, which is a bearer token while the session lives."""
    resource: Short | None
    policy: DigestText | None
    evidence: DigestText | None
    """SHA-256 of REPORT_DATA, which commits to nonce, guest key and GPU evidence."""
    manifest: DigestText | None
    minimum_version: Annotated[int, Field(ge=1)] | None
    simulated: bool | None
    tenant: Short | None = None
    rules: DigestText | None = None
    """Digest of the key's rules; with `policy`, everything the release was decided by."""
    key: DigestText | None = None
    """Names one version of a key, whichever KEK wraps it."""
    guest: DigestText | None = None
    """What a guest is counted and approved by."""
    recipient: DigestText | None = None
    """SHA-256 of the public key that was sealed to."""
    actor: Short | None = None
    """Who acted on the admin listener."""
    act: Short | None = None
    """What they did, such as `keys.revoke`."""
    request: Short | None = None
    """A request for approval, by the name people approve it by."""

    def canonical(self) -> bytes:
        """Return the RFC 8785 bytes that are hashed and stored."""
        return canonical_json(self.model_dump(mode="json"))


@dataclass(frozen=True, slots=True)
class Link:
    """An entry as stored: its place, the hash before it, its bytes and its hash."""

    index: int
    previous: Digest
    entry: bytes
    hash: Digest


@dataclass(frozen=True, slots=True)
class Head:
    """The state of a chain: how many entries, and the hash that commits to all of them."""

    size: int
    hash: Digest


EMPTY = Head(0, GENESIS)


def link(head: Head, entry: bytes) -> Link:
    """Return the link that follows `head`."""
    place = head.size.to_bytes(8, "big")
    digest = Digest.sha256(_LABEL + length_prefixed(place, head.hash.value, entry))
    return Link(head.size, head.hash, entry, digest)


def verify_chain(links: Iterable[Link], *, known: Digest | None = None) -> Head:
    """Return the head if every link follows the one before it, or raise `NotAuthentic`.

    `known` is a head somebody noted earlier: it must still be part of the chain. Without one, a
    chain that lost its end cannot be told from a shorter chain.
    """
    head = EMPTY
    found = known is None or known.matches(GENESIS)
    for item in links:
        expected = link(head, item.entry)
        same = item.previous.matches(head.hash) and item.hash.matches(expected.hash)
        if item.index != head.size or not same:
            raise NotAuthentic("release-log-broken", f"entry {head.size} does not follow")
        parse_document(Entry, item.entry)
        head = Head(head.size + 1, expected.hash)
        found = found or (known is not None and known.matches(head.hash))
    if not found:
        raise NotAuthentic("release-log-cut", f"{head.size} entries do not contain the known head")
    return head
