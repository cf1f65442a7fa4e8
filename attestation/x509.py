"""Canonical PEM chains and DER revocation lists in, certificates and their dates out; no I/O."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.x509.oid import NameOID

from attestation.errors import Malformed, Undecidable

_BEGIN = b"-----BEGIN CERTIFICATE-----\n"
_END = b"\n-----END CERTIFICATE-----\n"
_COLUMNS = 64


@dataclass(frozen=True, slots=True)
class RevocationList:
    """When a CRL was issued and when its successor is due (RFC 5280 section 5.1.2)."""

    this_update: datetime
    next_update: datetime

    @classmethod
    def parse(cls, der: bytes, *, what: str, now: datetime) -> RevocationList:
        """Read the dates of a CRL that holds at `now`.

        Raises `Undecidable` `crl-future` or `crl-expired` outside its window, `Malformed`
        `crl-malformed` for anything but one DER CRL with both dates. Does not check the signature.
        """
        try:
            crl = x509.load_der_x509_crl(der)
            this_update, next_update = crl.last_update_utc, crl.next_update_utc
        except ValueError:
            raise Malformed("crl-malformed", f"{what} of {len(der)} bytes is not a CRL") from None
        if next_update is None:
            raise Malformed("crl-malformed", f"{what} does not say when its successor is due")
        if now < this_update:  # a list from the future would hide that it is not today's
            raise Undecidable("crl-future", f"{what} is issued {this_update:%Y-%m-%dT%H:%M:%SZ}")
        if next_update <= now:
            raise Undecidable("crl-expired", f"{what} ended {next_update:%Y-%m-%dT%H:%M:%SZ}")
        return cls(this_update, next_update)


def parse_pem_chain(pem: bytes, *, what: str, longest: int) -> tuple[bytes, ...]:
    """Return the DER of 2 to `longest` certificates, leaf first, from canonical PEM.

    Canonical is RFC 7468's strict form: 64 columns, line feeds, nothing between or after the
    certificates. Other text would be unsigned bytes that two parsers may read differently.
    """
    count = pem.count(_BEGIN)
    if not 2 <= count <= longest:
        raise Malformed("certificate-malformed", f"{what} holds {count} certificates")
    before, *blocks = pem.split(_BEGIN)
    if before:
        raise Malformed("certificate-malformed", f"{what} has text before its certificates")
    return tuple(_decode(block, what=what) for block in blocks)


def parse_certificate(der: bytes, *, what: str) -> x509.Certificate:
    """Parse one DER certificate; raises `Malformed` `certificate-malformed`."""
    try:
        return x509.load_der_x509_certificate(der)
    except ValueError:
        raise Malformed(
            "certificate-malformed", f"{what} of {len(der)} bytes is not a certificate"
        ) from None


def common_name(name: x509.Name) -> str:
    """Return the single common name of `name`; raises `Malformed` when there is not exactly one."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(found) != 1 or not isinstance(found[0].value, str):
        raise Malformed("certificate-malformed", f"a name has {len(found)} common names, not 1")
    return found[0].value


def _decode(block: bytes, *, what: str) -> bytes:
    lines = block.removesuffix(_END).split(b"\n")
    full = all(len(line) == _COLUMNS for line in lines[:-1]) and 0 < len(lines[-1]) <= _COLUMNS
    body = b"".join(lines)
    try:
        der = base64.b64decode(body, validate=True)
    except binascii.Error:
        raise Malformed("certificate-malformed", f"{what} is not PEM") from None
    if not full or not block.endswith(_END) or base64.b64encode(der) != body:
        raise Malformed("certificate-malformed", f"{what} is not canonical PEM")
    return der
