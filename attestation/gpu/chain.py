"""DER certificates and a pinned root in; a chain that is valid at a time out (RFC 5280)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, SignatureAlgorithmOID

from attestation.errors import Malformed, NotAuthentic, Undecidable
from attestation.x509 import UNREADABLE, whole_bytes

_Extension = TypeVar("_Extension", bound=x509.ExtensionType)

_UNDERSTOOD = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
}
"""Critical extensions that are checked here; any other critical one refuses the chain."""


@dataclass(frozen=True, slots=True)
class Codes:
    """Which refusal a chain of one kind causes."""

    broken: str
    time: str


DEVICE_CODES = Codes("gpu-chain", "gpu-certificate-time")
RIM_CODES = Codes("rim-chain", "rim-expired")


@dataclass(frozen=True, slots=True)
class Link:
    """One certificate, read whole, so that nothing of it fails to parse later."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePublicKey
    authority: bool
    path_length: int | None
    usage: x509.KeyUsage | None
    extensions: x509.Extensions

    @classmethod
    def read(cls, der: bytes, *, what: str) -> Link:
        """Read a certificate of a P-384 key; raises `Malformed` `certificate-malformed`."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            if certificate.serial_number <= 0:  # RFC 5280 section 4.1.2.2
                raise ValueError("serial number")
            if not whole_bytes(der, certificate.signature):
                raise ValueError("unused bits")
            key = certificate.public_key()
            extensions = certificate.extensions
            constraints = _value(extensions, x509.BasicConstraints)
            usage = _value(extensions, x509.KeyUsage)
            _ = (certificate.subject, certificate.issuer, certificate.signature_algorithm_oid)
            _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
            same = certificate.public_bytes(Encoding.DER) == der
        except UNREADABLE:
            raise Malformed(
                "certificate-malformed", f"{what}: {len(der)} bytes are not a certificate"
            ) from None
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(
            key.curve, ec.SECP384R1
        ):
            raise Malformed("certificate-malformed", f"{what}: a key is not ECDSA P-384")
        if not same:
            raise Malformed("certificate-malformed", f"{what}: a certificate is not DER")
        return cls(
            certificate=certificate,
            key=key,
            authority=constraints is not None and constraints.ca,
            path_length=None if constraints is None else constraints.path_length,
            usage=usage,
            extensions=extensions,
        )

    @property
    def serial(self) -> str:
        """The serial number as hex."""
        return f"{self.certificate.serial_number:x}"


_REMEMBERED = 512
"""Certificates kept: those of some ten guests with eight GPUs and four switches."""


@dataclass(frozen=True, slots=True)
class Proven:
    """Facts of bytes that were found out: what a certificate is, and whose key signed it.

    Neither depends on a time or a policy: dates, roles, roots and revocation are checked anew with
    each verification. Eight devices of one authority cost one check of it, and so does the same
    device in the next verification.
    """

    links: dict[bytes, Link] = field(default_factory=dict)
    """DER to the certificate it is."""
    issued: set[tuple[x509.Certificate, x509.Certificate]] = field(default_factory=set)
    """Certificate and issuer whose signature held."""

    def link(self, der: bytes, *, what: str) -> Link:
        """Read a certificate, once."""
        known = self.links.get(der)
        if known is None:
            if len(self.links) >= _REMEMBERED:  # strangers' certificates must not add up
                self.links.clear()
                self.issued.clear()
            known = self.links[der] = Link.read(der, what=what)
        return known


@dataclass(frozen=True, slots=True)
class Chain:
    """Links that lead from a leaf to the pinned root, valid at the time asked."""

    links: tuple[Link, ...]
    expires: datetime
    """When the first of the certificates ends."""

    @property
    def leaf(self) -> Link:
        """The certificate whose key signed."""
        return self.links[0]

    @classmethod
    def verify(
        cls,
        ders: Sequence[bytes],
        *,
        root_der: bytes,
        now: datetime,
        codes: Codes,
        what: str,
        proven: Proven,
    ) -> Chain:
        """Check names, signatures, constraints, usages and dates, from the leaf to the root.

        What `proven` holds is not computed again, and what holds is added to it. Every certificate
        is signed with ECDSA P-384 and SHA-384, as NVIDIA's all are, and the last is `root_der`
        itself. Raises `NotAuthentic` `codes.broken`, `Undecidable` `codes.time` or `Malformed`
        `certificate-malformed`.
        """
        if not ders or ders[-1] != root_der:
            raise NotAuthentic(codes.broken, f"{what} does not end in the pinned root")
        links = tuple(proven.link(der, what=what) for der in ders)
        if len(links) < 2:
            raise NotAuthentic(codes.broken, f"{what} consists of the root alone")
        for below, (child, parent) in enumerate(pairwise(links)):
            _check_authority(parent, below=below, code=codes.broken, what=what)
            pair = (child.certificate, parent.certificate)
            if pair not in proven.issued:
                _check_issued(child, parent, code=codes.broken, what=what)
                proven.issued.add(pair)
        _check_leaf(links[0], code=codes.broken, what=what)
        for link in links:
            check_dates(link, now=now, code=codes.time, what=what)
        return cls(links, min(link.certificate.not_valid_after_utc for link in links))


def _check_issued(child: Link, parent: Link, *, code: str, what: str) -> None:
    """Check that `parent` signed `child` and that we understand all `child` insists on."""
    certificate = child.certificate
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.ECDSA_WITH_SHA384:
        raise NotAuthentic(code, f"{what}: a certificate is not signed with ECDSA and SHA-384")
    try:
        certificate.verify_directly_issued_by(parent.certificate)
    except (InvalidSignature, *UNREADABLE):
        raise NotAuthentic(code, f"{what}: serial {child.serial} has another issuer") from None
    unknown = [item for item in child.extensions if item.critical and item.oid not in _UNDERSTOOD]
    if unknown:
        raise NotAuthentic(code, f"{what}: an unknown extension is critical")


def _check_authority(link: Link, *, below: int, code: str, what: str) -> None:
    """Check that `link` may issue certificates, with `below` authorities under it."""
    usage = link.usage
    if not link.authority or usage is None or not usage.key_cert_sign:
        raise NotAuthentic(code, f"{what}: serial {link.serial} is no authority")
    if link.path_length is not None and link.path_length < below:
        raise NotAuthentic(code, f"{what}: the chain is longer than serial {link.serial} allows")


def _check_leaf(link: Link, *, code: str, what: str) -> None:
    usage = link.usage
    if link.authority or usage is None or not usage.digital_signature:
        raise NotAuthentic(code, f"{what}: the leaf may not sign statements")


def check_dates(link: Link, *, now: datetime, code: str, what: str) -> None:
    """Raise `Undecidable` when `now` is outside the certificate's validity."""
    certificate = link.certificate
    if now < certificate.not_valid_before_utc:
        begin = certificate.not_valid_before_utc
        raise Undecidable(code, f"{what}: a certificate begins {begin:%Y-%m-%dT%H:%M:%SZ}")
    if certificate.not_valid_after_utc < now:
        end = certificate.not_valid_after_utc
        raise Undecidable(code, f"{what}: a certificate ended {end:%Y-%m-%dT%H:%M:%SZ}")


def signature_holds(key: ec.EllipticCurvePublicKey, signature: bytes, data: bytes) -> None:
    """Check r and s, 48 bytes each, over SHA-384 of `data`; raises `InvalidSignature`."""
    if len(signature) != 96:
        raise InvalidSignature
    r, s = int.from_bytes(signature[:48], "big"), int.from_bytes(signature[48:], "big")
    key.verify(encode_dss_signature(r, s), data, ec.ECDSA(hashes.SHA384()))


def _value(extensions: x509.Extensions, kind: type[_Extension]) -> _Extension | None:
    try:
        return extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
