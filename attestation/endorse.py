"""Where endorsements come from: files an operator keeps, never the network."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from attestation.errors import Undecidable
from attestation.tdx.collateral import MAX_COLLATERAL
from attestation.tdx.quote import collateral_key
from attestation.types import Endorsements


class Endorser(Protocol):
    """Finds what Intel says about the platform that a quote claims to come from."""

    def endorsements(self, quote: bytes) -> Endorsements:
        """Return endorsements for `quote`, or raise `Undecidable`."""


@dataclass(frozen=True, slots=True)
class FileEndorser:
    """One collateral file, or a directory of `<fmspc hex>-<platform|processor>.json`."""

    path: Path

    def endorsements(self, quote: bytes) -> Endorsements:
        """Return the file for the platform `quote` claims; nothing in either is verified yet.

        Raises `Undecidable` `endorsements-missing`, or `Malformed` for a quote without a PCK.
        """
        if not self.path.is_dir():
            return _read(self.path)
        return _read(self.path / f"{collateral_key(quote)}.json")


def _read(path: Path) -> Endorsements:
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_COLLATERAL + 1)
    except OSError as error:
        why = f"collateral {path.name}: {error.strerror}"
        raise Undecidable("endorsements-missing", why) from None
    if len(data) > MAX_COLLATERAL:
        raise Undecidable("endorsements-missing", f"{path.name} is over {MAX_COLLATERAL} bytes")
    return Endorsements(data)
