"""Where endorsements come from: files an operator keeps, never the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attestation.errors import Undecidable
from attestation.gpu.evidence import MAX_STORE
from attestation.regular import read_regular
from attestation.tdx.collateral import MAX_COLLATERAL
from attestation.tdx.quote import collateral_key
from attestation.types import Endorsements

_NVIDIA = "nvidia.json"
"""A guest with GPUs is undecidable where this file is absent, never accepted without it."""


class Endorser(Protocol):
    """Finds what Intel says about the platform that a quote claims to come from."""

    def endorsements(self, quote: bytes) -> Endorsements:
        """Return endorsements for `quote`, or raise `Undecidable`."""

    def gpu(self) -> bytes:
        """Return NVIDIA's statements, nothing where there are none."""


@dataclass(frozen=True, slots=True)
class FileEndorser:
    """One collateral file, or a directory of `<fmspc hex>-<platform|processor>.json`.

    A directory may hold `nvidia.json` too: manifests and OCSP responses for guests with GPUs.
    """

    path: Path

    def endorsements(self, quote: bytes) -> Endorsements:
        """Return the file for the platform `quote` claims; nothing in either is verified yet.

        Raises `Undecidable` `endorsements-missing`, or `Malformed` for a quote without a PCK.
        """
        if not self.path.is_dir():
            return Endorsements(_read(self.path, limit=MAX_COLLATERAL))
        collateral = _read(self.path / f"{collateral_key(quote)}.json", limit=MAX_COLLATERAL)
        return Endorsements(collateral, self.gpu())

    def gpu(self) -> bytes:
        """Return NVIDIA's statements as stored, nothing where the directory holds none."""
        store = self.path / _NVIDIA
        return _read(store, limit=MAX_STORE) if store.exists() else b""


def _read(path: Path, *, limit: int) -> bytes:
    try:
        data = read_regular(path, limit=limit)
    except OSError as error:
        why = f"collateral {path.name}: {error.strerror}"
        raise Undecidable("endorsements-missing", why) from None
    if len(data) > limit:
        raise Undecidable("endorsements-missing", f"{path.name} is over {limit} bytes")
    return data
