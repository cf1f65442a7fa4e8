"""Open a sealed package: signature, listing, sizes and tag table, all without the key.

Order, each step before the next touches anything: 1. the manifest is the signer's; 2. the directory
holds exactly the files it names; 3. each is a regular file of the signed size; 4. the tag table is
the signed one. What is left is the ciphertext itself, which every chunk's tag decides on.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from attestation.codec import MAX_JSON
from attestation.confidential import DataKey
from attestation.errors import Malformed, NotAffirmed, NotAuthentic, Undecidable
from attestation.manifest import MANIFEST, TAGS, Manifest
from attestation.sealing import TAG, commitment
from attestation.types import Digest
from attestation.weights.unlocked import UnlockedModel, open_regular

_UNSEALED = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".json", ".jinja", ".py")


@dataclass(frozen=True, slots=True)
class SealedModel:
    """A package whose manifest, listing and tag table are authentic; its contents stay closed."""

    directory: Path
    manifest: Manifest
    tags: bytes

    @classmethod
    def open(cls, directory: Path, *, signer: Ed25519PublicKey) -> SealedModel:
        """Open the package in `directory`, whose manifest `signer` must have signed.

        Raises `Malformed`, `NotAuthentic` or `Undecidable` with a `weights-…` or `manifest-…` code.
        """
        manifest = Manifest.open(_read(directory, MANIFEST, limit=MAX_JSON), signer=signer)
        _check_listing(directory, manifest)
        for file in manifest.files:
            _check_size(directory, file.sealed_name, size=file.size)
        size = TAG * sum(file.chunks for file in manifest.files)
        _check_size(directory, TAGS, size=size)
        tags = _read(directory, TAGS, limit=size)  # once: what is checked is what is used
        if len(tags) != size:
            raise Malformed("weights-size", f"{TAGS} has {len(tags)} bytes, not {size}")
        for file in manifest.files:
            start, end = manifest.tags_span(file)
            found = hashlib.sha256(tags[start:end]).hexdigest()
            if not hmac.compare_digest(found, file.tags_sha256):
                raise NotAuthentic("weights-tags", f"the tags of file {file.id} hash to {found}")
        return cls(directory, manifest, tags)

    def unlock(
        self, dek: DataKey, *, manifest: Digest, minimum_version: int, workers: int = 2
    ) -> UnlockedModel:
        """Return the package with its key, if key, manifest and version belong together.

        `manifest` and `minimum_version` come with the key, never from the package. Raises
        `NotAffirmed` ("weights-other-manifest", "weights-rollback") or `NotAuthentic`
        ("weights-wrong-key").
        """
        if not self.manifest.digest.matches(manifest):
            why = f"the package is {self.manifest.digest}, the key is for {manifest}"
            raise NotAffirmed("weights-other-manifest", why)
        if self.manifest.version < minimum_version:
            why = f"version {self.manifest.version}, at least {minimum_version}"
            raise NotAffirmed("weights-rollback", why)
        found = commitment(dek, generation=self.manifest.generation)
        if not hmac.compare_digest(found, self.manifest.key_commitment):
            raise NotAuthentic("weights-wrong-key", "the key's commitment is not the manifest's")
        return UnlockedModel(self.directory, self.manifest, self.tags, dek=dek, workers=workers)


def _check_listing(directory: Path, manifest: Manifest) -> None:
    named = {MANIFEST, TAGS, *(file.sealed_name for file in manifest.files)}
    try:
        present = {path.name for path in directory.iterdir()}
    except OSError as error:
        raise Undecidable("weights-unreadable", f"{directory}: {error.strerror}") from None
    for name in sorted(present - named):
        if name.lower().endswith(_UNSEALED):
            raise NotAuthentic("weights-plaintext-beside", f"{name!r} is not sealed")
        raise NotAuthentic("weights-extra-file", f"{name!r} is not in the manifest")
    for name in sorted(named - present):
        raise Malformed("weights-missing-file", f"{name} is not there")


def _check_size(directory: Path, name: str, *, size: int) -> None:
    try:
        status = (directory / name).lstat()
    except OSError as error:
        raise Undecidable("weights-unreadable", f"{name}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise Malformed("weights-missing-file", f"{name} is not a regular file")
    if status.st_size != size:
        raise Malformed("weights-size", f"{name} has {status.st_size} bytes, not {size}")


def _read(directory: Path, name: str, *, limit: int) -> bytes:
    try:
        with os.fdopen(open_regular(directory / name, what=name), "rb") as stream:
            return stream.read(limit + 1)
    except OSError as error:
        raise Undecidable("weights-unreadable", f"{name}: {error.strerror}") from None
