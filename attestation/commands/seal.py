"""`tacit seal`, `unseal --verify-only`, `keygen`: make and check the sealed package of a model."""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import TypeAdapter, ValidationError

from attestation import dsse
from attestation.codec import b64, parse_document, unb64
from attestation.commands import files
from attestation.commands.files import Commands
from attestation.confidential import data_key
from attestation.errors import ConfigError, Malformed
from attestation.golden import Golden
from attestation.keyset import Name
from attestation.types import Digest

_MAX_VERSION = 2**31


def register(commands: Commands) -> None:
    """Add the commands of whoever publishes a model."""
    seal = commands.add_parser("seal", help="encrypt and sign a model's directory")
    seal.add_argument("model", type=Path, metavar="MODEL_DIR")
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
    seal.add_argument("--version", type=_version, default=1, help="grows with releases (default 1)")
    seal.add_argument("--source", help="where the weights are from; signed into the manifest")
    seal.add_argument(
        "--golden", type=Path, metavar="FILE", help="what the model must say, of scripts/golden"
    )
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
    """Seal, then write the wrapped key, and the signer's public key if it was made here."""
    from attestation.broker.kek import open_kek
    from attestation.broker.keyfile import WrappedKey, model_key_aad
    from attestation.broker.protocol import resource_path
    from attestation.weights import inventory, seal

    name = _name(args.name or args.model.resolve().name)
    resource = resource_path(args.resource or f"tacit/model/{name.replace('/', '-')}")
    wrapped_path, public_path = _beside(args.out, ".key.json"), _beside(args.out, ".signer.pub")
    for path in (wrapped_path, *(() if args.sign else (public_path,))):
        if path.exists():
            raise ConfigError("seal-output", f"{path} exists")
    kek = open_kek(args.key)
    if args.sign:
        signer = dsse.private_key(files.read(args.sign), name=str(args.sign))
    else:
        signer = Ed25519PrivateKey.generate()
    golden = _golden(args.golden) if args.golden else None
    dek = data_key(secrets.token_bytes(32))
    listed = inventory(args.model)
    for skipped in listed.skipped:
        print(f"tacit: left out {skipped!r}", file=sys.stderr)
    with _bar("seal", total=listed.size, quiet=args.json) as progress:
        manifest = seal(
            args.model,
            args.out,
            dek=dek,
            name=name,
            version=args.version,
            key_uri=f"kbs:///{resource}",
            signer=signer,
            source=args.source,
            workers=args.workers,
            progress=progress,
            listed=listed,
            golden=golden,
        )
    aad = model_key_aad(resource, manifest=str(manifest.digest), minimum_version=args.version)
    wrapped = WrappedKey(
        version=1,
        resource=resource,
        model=name,
        manifest=str(manifest.digest),
        minimum_version=args.version,
        kek=kek.id,
        wrapped=b64(kek.wrap(dek, aad=aad)),
        created=files.now(),
    )
    files.write(wrapped_path, wrapped.model_dump_json(indent=2).encode() + b"\n")
    if not args.sign:
        files.write(public_path, _public_pem(signer))
    result = {
        "model": name,
        "version": manifest.version,
        "manifest": str(manifest.digest),
        "weights_root": f"sha256:{manifest.weights_root.hex()}",
        "files": len(manifest.files),
        "bytes": listed.size,
        "key": str(wrapped_path),
        "signer": None if args.sign else str(public_path),
    }
    _answer(args, result)
    return 0


def run_unseal(args: argparse.Namespace) -> int:
    """Decrypt every chunk, compare every file with its signed digest, keep nothing."""
    from attestation.broker.kek import open_kek
    from attestation.broker.keyfile import WrappedKey, parse_wrapped
    from attestation.weights import SealedModel

    path = args.key_file or _beside(args.sealed, ".key.json")
    wrapped = parse_wrapped(files.read(path), name=path.name)
    if not isinstance(wrapped, WrappedKey):
        raise ConfigError("wrapped-key", f"{path.name} is not the key of a model")
    signer = dsse.public_key(files.read(args.signer), name=str(args.signer))
    package = SealedModel.open(args.sealed, signer=signer)
    kek = open_kek(args.key)
    dek = data_key(kek.unwrap(unb64(wrapped.wrapped, what="wrapped"), aad=wrapped.aad).reveal())
    size = sum(file.size for file in package.manifest.files)
    with (
        package.unlock(
            dek,
            manifest=Digest.parse(wrapped.manifest),
            minimum_version=wrapped.minimum_version,
        ) as model,
        _bar("verify", total=size, quiet=args.json) as progress,
    ):
        model.verify(progress=progress)
    result = {
        "verdict": "authentic",
        "model": package.manifest.model,
        "version": package.manifest.version,
        "manifest": str(package.manifest.digest),
        "weights_root": f"sha256:{package.manifest.weights_root.hex()}",
        "files": len(package.manifest.files),
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


def _golden(path: Path) -> Golden:
    try:
        return parse_document(Golden, files.read(path))
    except Malformed as refusal:
        raise ConfigError("golden-file", f"{path.name}: {refusal.why}") from None


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
