"""What a sealing run reads: a file's name, role, size and bytes in order, wherever they are.

A file of a model's directory is one such thing (`attestation.weights.source`); a file of a package
that is unlocked is another, so that a new data key costs no plaintext on any disk.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from attestation.errors import NotAuthentic
from attestation.manifest import Role, SealedFile
from attestation.weights.unlocked import UnlockedModel


class Reading(Protocol):
    """An open file, read once from its beginning to its end."""

    def read_into(self, buffer: memoryview, *, offset: int) -> None:
        """Fill `buffer` from byte `offset`; raise if the file does not hold that many any more."""

    def settle(self, *, sha256: str) -> None:
        """Raise if what was read, with this SHA-256 in hex, is not what was listed."""


class Plaintext(Protocol):
    """One file to seal."""

    @property
    def path(self) -> str:
        """Name in the manifest."""

    @property
    def role(self) -> Role:
        """What it is for."""

    @property
    def size(self) -> int:
        """Length in bytes."""

    @property
    def stamp(self) -> str:
        """What changes when the content does: a resumed run asks whether it is the same."""

    def open(self) -> AbstractContextManager[Reading]:
        """Open it for one reader."""


@dataclass(frozen=True, slots=True)
class SealedSource:
    """A file of an unlocked package; every chunk of it authenticates before it is sealed again."""

    model: UnlockedModel
    file: SealedFile

    @property
    def path(self) -> str:
        """Name in both manifests."""
        return self.file.path

    @property
    def role(self) -> Role:
        """What the signed manifest says it is for."""
        return self.file.role

    @property
    def size(self) -> int:
        """Length in bytes, as signed."""
        return self.file.size

    @property
    def stamp(self) -> str:
        """SHA-256 of the content, as signed."""
        return self.file.sha256

    @contextmanager
    def open(self) -> Iterator[SealedSource]:
        """Return itself: the package holds its files open."""
        yield self

    def read_into(self, buffer: memoryview, *, offset: int) -> None:
        """Unseal; raises what `UnlockedModel.unseal_into` raises."""
        self.model.unseal_into(self.file, buffer, offset=offset)

    def settle(self, *, sha256: str) -> None:
        """Compare with the signed digest, or raise `NotAuthentic` ("weights-content")."""
        if not hmac.compare_digest(sha256, self.file.sha256):
            why = f"the content of file {self.file.id} hashes to {sha256}"
            raise NotAuthentic("weights-content", why)
