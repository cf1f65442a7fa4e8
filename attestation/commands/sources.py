"""What `tacit seal` seals: a model's directory, or a package whose data key is to be replaced."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from attestation import dsse
from attestation.codec import parse_document, unb64
from attestation.commands import files
from attestation.confidential import data_key
from attestation.errors import ConfigError, Malformed
from attestation.golden import Golden
from attestation.types import Digest
from attestation.weights import Plaintext, SealedModel, SealedSource, UnlockedModel, inventory


@dataclass(frozen=True, slots=True)
class Source:
    """Files to seal, and what is said of them where the command line does not say it."""

    files: tuple[Plaintext, ...]
    skipped: tuple[str, ...]
    name: str
    resource: str | None
    version: int
    origin: str | None
    golden: Golden | None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@contextmanager
def opened(args: argparse.Namespace) -> Iterator[Source]:
    """Open what the arguments of `tacit seal` name, for as long as it is sealed."""
    golden = _golden(args.golden) if args.golden else None
    if args.from_sealed is None:
        if args.model is None:
            raise ConfigError("seal-argument", "give MODEL_DIR, or --from-sealed and OUT alone")
        listed = inventory(args.model)
        name = args.model.resolve().name
        yield Source(listed.files, listed.skipped, name, None, 1, args.source, golden)
        return
    if args.model is not None or args.signer is None:
        raise ConfigError("seal-argument", "--from-sealed takes --signer and OUT, no MODEL_DIR")
    key_file = args.key_file or beside(args.from_sealed, ".key.json")
    with unlocked(
        args.from_sealed, signer=args.signer, key=args.from_key or args.key, key_file=key_file
    ) as model:
        old = model.manifest
        if args.version is not None and args.version <= old.version:
            raise ConfigError("seal-argument", f"--version is over {old.version}, the package's")
        yield Source(
            tuple(SealedSource(model, file) for file in old.files),
            (),
            old.model,
            old.key.removeprefix("kbs:///"),
            old.version + 1,
            args.source or old.source,
            golden or old.golden,
        )


@contextmanager
def unlocked(package: Path, *, signer: Path, key: str, key_file: Path) -> Iterator[UnlockedModel]:
    """Open a package with the wrapped key that lies beside it, as its owner."""
    from attestation.broker.kek import open_kek
    from attestation.broker.keyfile import WrappedKey, parse_wrapped

    wrapped = parse_wrapped(files.read(key_file), name=key_file.name)
    if not isinstance(wrapped, WrappedKey):
        raise ConfigError("wrapped-key", f"{key_file.name} is not the key of a model")
    public = dsse.public_key(files.read(signer), name=str(signer))
    opened_package = SealedModel.open(package, signer=public)
    with closing(open_kek(key)) as kek:
        secret = kek.unwrap(unb64(wrapped.wrapped, what="wrapped"), aad=wrapped.aad)
    with opened_package.unlock(
        data_key(secret.reveal()),
        manifest=Digest.parse(wrapped.manifest),
        minimum_version=wrapped.minimum_version,
    ) as model:
        yield model


def beside(path: Path, ending: str) -> Path:
    """Return the file next to `path` whose name has `ending` more."""
    return path.with_name(path.name + ending)


def _golden(path: Path) -> Golden:
    try:
        return parse_document(Golden, files.read(path))
    except Malformed as refusal:
        raise ConfigError("golden-file", f"{path.name}: {refusal.why}") from None
