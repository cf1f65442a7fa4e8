"""`tacit seal`, `unseal --verify-only`, `keygen`: make and check the sealed package of a model."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter, ValidationError

from attestation import dsse
from attestation.broker.kek import Kek
from attestation.codec import b64, unb64
from attestation.commands import files
from attestation.commands.files import Commands
from attestation.commands.sources import Source
from attestation.confidential import DataKey, data_key
from attestation.errors import ConfigError
from attestation.keyset import Line, Name
from attestation.manifest import Manifest
from attestation.model_signing import bundle, signing_key
from attestation.weights import Journal

_MAX_VERSION = 2**31


def register(commands: Commands) -> None:
    """Add the commands of whoever publishes a model."""
    seal = commands.add_parser("seal", help="encrypt and sign a model's directory")
    seal.add_argument("model", type=Path, metavar="MODEL_DIR", nargs="?")
    seal.add_argument("out", type=Path, metavar="OUT", help="new directory of the package")
    seal.add_argument("--key", required=True, metavar="URI", help="KEK, such as file:/path/kek")
    seal.add_argument("--resource", help="the key's name at the broker (default tacit/model/NAME)")
    seal.add_argument(
        "--sign",
        type=Path,
        metavar="KEY",
        help="Ed25519 key of `tacit keygen`; without it one is made, used once and forgotten",
    )
    seal.add_argument("--name", help="served name (default: the directory's)")
    seal.add_argument(
        "--version", type=_version, help="grows with releases (default 1, or one more than before)"
    )
    seal.add_argument("--source", help="where the weights are from; signed into the manifest")
    seal.add_argument(
        "--golden", type=Path, metavar="FILE", help="what the model must say, of scripts/golden"
    )
    seal.add_argument(
        "--resume", action="store_true", help="go on with a run that was interrupted, in OUT"
    )
    seal.add_argument(
        "--model-signing",
        type=Path,
        metavar="P256_KEY",
        help="also write OUT.model.sig, an OpenSSF Model Signing bundle of the plaintext files",
    )
    again = seal.add_argument_group("a new data key, instead of MODEL_DIR")
    again.add_argument("--from-sealed", type=Path, metavar="OLD", help="package to seal anew")
    again.add_argument("--signer", type=Path, metavar="PUB", help="who must have signed OLD")
    again.add_argument("--from-key", metavar="URI", help="KEK of OLD (default: that of --key)")
    again.add_argument("--key-file", type=Path, help="wrapped key of OLD (default OLD.key.json)")
    seal.add_argument("--workers", type=int, default=max(2, os.cpu_count() or 2))
    files.add_json(seal)
    seal.set_defaults(run=run_seal)

    unseal = commands.add_parser("unseal", help="check a sealed package to the last byte")
    unseal.add_argument("sealed", type=Path, metavar="OUT")
    unseal.add_argument(
        "--verify-only", action="store_true", required=True, help="write nothing; the only mode"
    )
    unseal.add_argument(
        "--signer", type=Path, required=True, metavar="PUB", help="who must have signed it"
    )
    unseal.add_argument("--key", required=True, metavar="URI", help="KEK, such as file:/path/kek")
    unseal.add_argument("--key-file", type=Path, help="the wrapped key (default OUT.key.json)")
    files.add_json(unseal)
    unseal.set_defaults(run=run_unseal)

    keygen = commands.add_parser("keygen", help="make an Ed25519 key that signs manifests")
    keygen.add_argument("path", type=Path, metavar="OUT")
    files.add_json(keygen)
    keygen.set_defaults(run=run_keygen)


def run_seal(args: argparse.Namespace) -> int:
    """Seal; keep the wrapped key, and the signer's public key if it was made here, before that."""
    from attestation.broker.kek import open_kek
    from attestation.commands import sources

    if args.sign:
        signer = dsse.private_key(files.read(args.sign), name=str(args.sign))
    else:
        signer = Ed25519PrivateKey.generate()
    with closing(open_kek(args.key)) as kek:
        kek.check()  # hours before the key is needed
        with sources.opened(args) as source:
            run = _SealingRun(args, source, kek=kek, signer=signer)
            manifest = run.seal()
    result = {
        "model": manifest.model,
        "version": manifest.version,
        "manifest": str(manifest.digest),
        "weights_root": f"sha256:{manifest.weights_root.hex()}",
        "files": len(manifest.files),
        "bytes": source.size,
        "key": str(run.paths["key"]),
        "signer": None if args.sign else str(run.paths["signer"]),
        "model_signing": str(run.paths["bundle"]) if args.model_signing else None,
    }
    _answer(args, result)
    return 0


class _SealingRun:
    """One `tacit seal`: what is kept beside OUT, and when."""

    def __init__(
        self, args: argparse.Namespace, source: Source, *, kek: Kek, signer: Ed25519PrivateKey
    ) -> None:
        from attestation.broker.protocol import resource_path

        self._args, self._source, self._kek, self._signer = args, source, kek, signer
        self.name = _name(args.name or source.name)
        given = args.resource or source.resource or f"tacit/model/{self.name.replace('/', '-')}"
        self.resource = resource_path(given)
        self.origin = _line(source.origin)
        self.version: int = args.version or source.version
        ends = {"key": ".key.json"}
        ends |= {} if args.sign else {"signer": ".signer.pub"}
        ends |= {"bundle": ".model.sig"} if args.model_signing else {}
        self.paths = {what: _beside(args.out, end) for what, end in ends.items()}
        for path in self.paths.values():
            if path.exists() and not args.resume:
                raise ConfigError("seal-output", f"{path} exists")
        self._bundle_key = (
            signing_key(files.read(args.model_signing), name=str(args.model_signing))
            if args.model_signing
            else None
        )

    def seal(self) -> Manifest:
        """Write the package, and everything beside it before it can be opened."""
        from attestation.weights import seal_files

        for skipped in self._source.skipped:
            print(f"tacit: left out {skipped!r}", file=sys.stderr)
        journal, self._dek = self._begun()
        with _bar("seal", total=self._source.size, quiet=self._args.json) as progress:
            return seal_files(
                self._args.out,
                self._source.files,
                journal=journal,
                dek=self._dek,
                name=self.name,
                version=self.version,
                key_uri=f"kbs:///{self.resource}",
                signer=self._signer,
                source=self.origin,
                workers=self._args.workers,
                progress=progress,
                golden=self._source.golden,
                deliver=self._deliver,
            )

    def _begun(self) -> tuple[Journal, DataKey]:
        """Begin, or resume what was begun; its data key is in the journal, wrapped."""
        from attestation.broker.keyfile import sealing_run_aad
        from attestation.weights import Journal, begin, check_apart, fingerprint

        out = self._args.out
        check_apart(out, sources=self._args.from_sealed or self._args.model)
        aad = sealing_run_aad(fingerprint(self._source.files))
        if self._args.resume:
            journal = Journal.resume(out)
            journal.head.matches(self._source.files)
            secret = self._kek.unwrap(unb64(journal.head.wrapped, what="wrapped"), aad=aad)
            return journal, data_key(secret.reveal())
        dek = data_key(secrets.token_bytes(32))
        wrapped = b64(self._kek.wrap(dek, aad=aad))  # proves the right to, before any work
        return begin(out, self._source.files, kek=self._kek.id, wrapped=wrapped), dek

    def _deliver(self, manifest: Manifest) -> None:
        from attestation.broker.keyfile import WrappedKey, model_key_aad

        digest = str(manifest.digest)
        aad = model_key_aad(self.resource, manifest=digest, minimum_version=self.version)
        wrapped = WrappedKey(
            version=1,
            resource=self.resource,
            model=self.name,
            manifest=digest,
            minimum_version=self.version,
            kek=self._kek.id,
            wrapped=b64(self._kek.wrap(self._dek, aad=aad)),
            created=files.now(),
        )
        files.write(self.paths["key"], wrapped.model_dump_json(indent=2).encode() + b"\n")
        if "signer" in self.paths:
            files.write(self.paths["signer"], _public_pem(self._signer))
        if self._bundle_key is not None:
            signed = bundle(manifest, ignored=self._source.skipped, signer=self._bundle_key)
            files.write(self.paths["bundle"], signed)


def run_unseal(args: argparse.Namespace) -> int:
    """Decrypt every chunk, compare every file with its signed digest, keep nothing."""
    from attestation.commands import sources

    key_file = args.key_file or _beside(args.sealed, ".key.json")
    with sources.unlocked(
        args.sealed, signer=args.signer, key=args.key, key_file=key_file
    ) as model:
        manifest = model.manifest
        size = sum(file.size for file in manifest.files)
        with _bar("verify", total=size, quiet=args.json) as progress:
            model.verify(progress=progress)
    result = {
        "verdict": "authentic",
        "model": manifest.model,
        "version": manifest.version,
        "manifest": str(manifest.digest),
        "weights_root": f"sha256:{manifest.weights_root.hex()}",
        "files": len(manifest.files),
        "bytes": size,
    }
    _answer(args, result)
    return 0


def run_keygen(args: argparse.Namespace) -> int:
    """Write a new private key for the owner alone, and its public half; replace nothing."""
    key = Ed25519PrivateKey.generate()
    bare = args.path.with_suffix("") if args.path.suffix == ".pem" else args.path
    public = _beside(bare, ".pub")
    private_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _create(args.path, private_pem, mode=0o600)
    _create(public, _public_pem(key), mode=0o644)
    result = {
        "private": str(args.path),
        "public": str(public),
        "key_id": dsse.key_id(key.public_key()),
    }
    _answer(args, result)
    return 0


def _public_pem(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def _create(path: Path, data: bytes, *, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
    except OSError as error:
        raise ConfigError("file-unwritable", f"{path}: {error.strerror}") from None


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _name(text: str) -> str:
    try:
        return TypeAdapter(Name).validate_python(text)
    except ValidationError:
        raise ConfigError("seal-argument", "the name is not one a model is served under") from None


def _line(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        return TypeAdapter(Line).validate_python(text)
    except ValidationError:
        raise ConfigError("seal-argument", "--source is one short line of text") from None


def _version(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= _MAX_VERSION:
        raise argparse.ArgumentTypeError("give a whole number from 1 on")
    return int(text)


@contextmanager
def _bar(what: str, *, total: int, quiet: bool) -> Iterator[Callable[[int], None]]:
    from tqdm import tqdm

    with tqdm(
        desc=what, total=total, unit="B", unit_scale=True, disable=quiet, file=sys.stderr
    ) as bar:

        def progress(done: int) -> None:
            bar.update(done)

        yield progress


def _answer(args: argparse.Namespace, result: Mapping[str, object]) -> None:
    if args.json:
        files.show(result)
    else:
        for name, value in result.items():
            if value is not None:
                print(f"{name.replace('_', ' ')}: {value}")
