"""The TLS identity of one boot: a fresh P-256 key, its certificate, and a context of TLS 1.3 only.

The certificate proves nothing by itself. What clients trust is the SPKI digest, which the keyset
names and the quote binds.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from attestation.confidential import Confidential
from attestation.types import Digest

_LIFE = timedelta(days=90)
_SKEW = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class TlsIdentity:
    """Certificate and key of this boot; the key exists in this process's memory only."""

    certificate: bytes
    """PEM."""
    key: Confidential[bytes]
    """PEM, PKCS #8."""
    spki: Digest
    """SHA-256 of the DER SubjectPublicKeyInfo (RFC 7469 section 2.4)."""
    expires: datetime


def new_tls_identity(now: datetime, hostnames: tuple[str, ...]) -> TlsIdentity:
    """Make a key and a self-signed certificate for `hostnames`, `localhost` and 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tacit confidential inference")])
    names = dict.fromkeys((*hostnames, "localhost", "127.0.0.1"))
    expires = now + _LIFE
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(expires)
        .add_extension(x509.SubjectAlternativeName([_general(text) for text in names]), False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
        .sign(key, hashes.SHA256())
    )
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return TlsIdentity(
        certificate=certificate.public_bytes(serialization.Encoding.PEM),
        key=Confidential(pem),
        spki=Digest.sha256(spki),
        expires=expires,
    )


@dataclass(frozen=True, slots=True)
class ClientAuthority:
    """Who issues client certificates, and whether a client must have one."""

    pem: bytes
    required: bool


def server_context(identity: TlsIdentity, clients: ClientAuthority | None = None) -> ssl.SSLContext:
    """Return a TLS 1.3 server context; the key reaches OpenSSL through anonymous memory."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = 0  # no resumption: every connection shows the attested key
    # OpenSSL takes files only; a memfd has a path but no disk behind it
    handle = os.memfd_create("tls", os.MFD_CLOEXEC)
    with os.fdopen(handle, "wb") as memory:
        memory.write(identity.certificate + identity.key.reveal())
        memory.flush()
        context.load_cert_chain(f"/proc/self/fd/{handle}")
        memory.seek(0)
        memory.write(bytes(len(identity.certificate) + len(identity.key.reveal())))
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED if clients.required else ssl.CERT_OPTIONAL
        context.load_verify_locations(cadata=clients.pem.decode("ascii"))
    return context


def _general(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)
