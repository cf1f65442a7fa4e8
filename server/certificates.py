"""Client certificates: what TLS verified in, the names that a listing may use out."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from attestation.errors import ConfigError, NotAuthentic
from attestation.x509 import UNREADABLE

T = TypeVar("T")

CLIENT_CERTIFICATE = "tacit.client_certificate"
"""Key of the ASGI scope under which the listener puts the peer's certificate, DER or None."""


def authority(pem: bytes, *, name: str) -> None:
    """Refuse a file that holds no PEM certificate with `ConfigError` `login-ca`."""
    try:
        x509.load_pem_x509_certificates(pem.decode("ascii").encode())
    except UNREADABLE:
        raise ConfigError("login-ca", f"{name} is no PEM certificate") from None


def presented(scope: Mapping[str, Any]) -> bytes | None:
    """Return the DER certificate that the peer of this connection proved to hold, if any."""
    found: bytes | None = scope.get(CLIENT_CERTIFICATE)
    return found


def listing(certificate: bytes, listed: Mapping[str, T], now: datetime) -> tuple[str, T]:
    """Return the one entry of `listed` that names `certificate`.

    Raises `NotAuthentic` `certificate` when there is none, more than one, or when the certificate
    ended since the handshake, which a connection that stays open would outlive.
    """
    try:
        parsed = x509.load_der_x509_certificate(certificate)
        names = _names(parsed)
    except UNREADABLE:
        raise NotAuthentic("certificate", "the client certificate cannot be read") from None
    if not parsed.not_valid_before_utc <= now < parsed.not_valid_after_utc:
        raise NotAuthentic("certificate", "the client certificate is not valid at this time")
    found = sorted(names & listed.keys())
    if len(found) != 1:
        raise NotAuthentic("certificate", f"the certificate names {len(found)} who are listed")
    return found[0], listed[found[0]]


def _names(certificate: x509.Certificate) -> frozenset[str]:
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    names = {f"sha256:{sha256(spki).hexdigest()}"}
    try:
        general = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return frozenset(names)
    names |= {f"dns:{name.lower()}" for name in general.get_values_for_type(x509.DNSName)}
    names |= {f"uri:{name}" for name in general.get_values_for_type(x509.UniformResourceIdentifier)}
    return frozenset(names)
