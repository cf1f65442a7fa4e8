"""A broker's first run: make the KEK, token key and TLS identity its settings name and lack."""

from __future__ import annotations

import ipaddress
import os
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.broker.ear import TokenKey
from attestation.broker.kek import create_file_kek
from attestation.broker.settings import BrokerSettings
from attestation.codec import MAX_JSON
from attestation.errors import ConfigError
from attestation.regular import read_regular

_LIFE = timedelta(days=365)


def provision(settings: BrokerSettings, *, now: datetime) -> tuple[Path, ...]:
    """Make what is missing and return it; what exists is never replaced."""
    file, made = settings.file, []
    scheme, _, location = file.kek.partition(":")
    kek = settings.path(location)
    if scheme == "file" and not kek.exists():
        kek.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        create_file_kek(kek)
        made.append(kek)
    token_key = settings.path(file.token_key)
    if not token_key.exists():
        made.append(write_new(token_key, new_key()[1], mode=0o600))
    public = token_key.with_suffix(".pub")
    if not public.exists():  # what guests pin; `tacit serve` measures it
        made.append(write_new(public, _public_half(token_key), mode=0o644))
    certificate, key = settings.path(file.tls.certificate), settings.path(file.tls.key)
    if not certificate.exists() and not key.exists():
        private, pem = new_key()
        made.append(write_new(key, pem, mode=0o600))
        signed = self_signed(private, file.listen.host, now=now)
        made.append(write_new(certificate, signed, mode=0o644))
    return tuple(made)


def write_new(path: Path, data: bytes, *, mode: int) -> Path:
    """Write a file that must not exist yet, or raise `ConfigError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(data)
    except OSError as error:
        raise ConfigError("file-unwritable", f"{path}: {error.strerror}") from None
    return path


def _public_half(path: Path) -> bytes:
    try:
        key = TokenKey.load(read_regular(path, limit=MAX_JSON), name=path.name).private.public_key()
    except OSError as error:
        raise ConfigError("token-key", f"{path}: {error.strerror}") from None
    return key.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def new_key() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """Return a new P-256 key, and the same as unencrypted PKCS #8 PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return key, pem


def self_signed(key: ec.EllipticCurvePrivateKey, host: str, *, now: datetime) -> bytes:
    """Return a PEM certificate of one year; guests trust this very key, through their config."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tacit key broker")])
    try:
        alternative: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        alternative = x509.DNSName(host)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=10))
        .not_valid_after(now + _LIFE)
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM)
