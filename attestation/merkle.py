"""Merkle tree hashes of RFC 6962 section 2.1: a list of entries in, one SHA-256 root out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence


def root(entries: Sequence[bytes]) -> bytes:
    """Return the root over `entries` in their order; leaves and nodes are told apart."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\x00" + entries[0]).digest()
    split = 1 << ((len(entries) - 1).bit_length() - 1)  # the largest power of two below the count
    return hashlib.sha256(b"\x01" + root(entries[:split]) + root(entries[split:])).digest()
