"""Stored OCSP responses in; whether certificates were good, and as of when, out (RFC 6960)."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from attestation.errors import Malformed, NotAuthentic, Undecidable
from attestation.gpu.chain import Link, check_dates
from attestation.x509 import UNREADABLE, whole_bytes

MAX_OCSP = 16 * 1024
"""Largest response read, in bytes; one with its responder's certificate has about 1 KiB."""

_HASHES = (hashes.SHA1, hashes.SHA256, hashes.SHA384)
"""Of names and keys in a CertID, where they only address; SHA-1 is what OpenSSL clients send."""


@dataclass(frozen=True, slots=True)
class Good:
    """A responder's word that a certificate was not revoked."""

    this_update: datetime
    next_update: datetime


@dataclass(frozen=True, slots=True)
class Responses:
    """Responses by the serial number they claim to be about; none is verified yet."""

    _by_serial: Mapping[int, tuple[ocsp.OCSPResponse, ...]]

    @classmethod
    def parse(cls, ders: Iterable[bytes]) -> Responses:
        """Parse successful responses about one certificate each; raises `Malformed`."""
        found = dict[int, tuple[ocsp.OCSPResponse, ...]]()
        for der in ders:
            response = _parse(der)
            found[response.serial_number] = (*found.get(response.serial_number, ()), response)
        return cls(found)

    def claimed_end(self) -> datetime | None:
        """Return when the first certificate has no current response, unverified; None for none."""
        newest = (max(items, key=_begin) for items in self._by_serial.values())
        ends = (item.next_update_utc for item in newest)
        return min((end for end in ends if end is not None), default=None)

    def good(self, subject: Link, issuer: Link, *, now: datetime) -> Good | None:
        """Return the newest word on `subject`, or `None` where there is none.

        The responder is `issuer` itself or one it certified for OCSP (RFC 6960 section 4.2.2.2).
        One that says revoked outweighs another that says good. Raises `NotAuthentic`
        `ocsp-signature`, `gpu-revoked` or `gpu-hold`, `Undecidable` `ocsp-unknown`, `ocsp-future`
        or `ocsp-expired`.
        """
        serial = subject.certificate.serial_number
        about = [item for item in self._by_serial.get(serial, ()) if _is_about(item, issuer)]
        words = [_word(item, subject, issuer, now=now) for item in about]
        newest = max(words, key=lambda word: word.this_update, default=None)
        if newest is not None:
            _check_window(newest, now=now, what=f"OCSP response on serial {subject.serial}")
        return newest


Words = Mapping[x509.Certificate, Good | None]
"""What responders say about certificates; `None` where there is no response."""


def words_on(
    pairs: Iterable[tuple[Link, Link]], responses: Responses, *, now: datetime
) -> dict[x509.Certificate, Good | None]:
    """Return the word on each certificate of (subject, issuer), asked once for each."""
    words = dict[x509.Certificate, Good | None]()
    for subject, issuer in pairs:
        if subject.certificate not in words:
            words[subject.certificate] = responses.good(subject, issuer, now=now)
    return words


def _parse(der: bytes) -> ocsp.OCSPResponse:
    if len(der) > MAX_OCSP:
        raise Malformed("too-large", f"OCSP response of {len(der)} bytes, limit {MAX_OCSP}")
    try:
        response = ocsp.load_der_ocsp_response(der)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise _malformed("the responder answered with an error")
        if len(list(response.responses)) != 1:
            raise _malformed("it is not about one certificate")
        _ = (response.serial_number, response.certificate_status, response.revocation_reason)
        _ = (response.this_update_utc, response.issuer_key_hash, response.issuer_name_hash)
        _ = (response.hash_algorithm, response.signature_hash_algorithm, response.certificates)
        critical = any(item.critical for item in response.extensions)
        critical |= any(item.critical for item in response.single_extensions)
        if not whole_bytes(der, response.signature):
            raise _malformed("its signature is not whole bytes")
        if response.next_update_utc is None:
            raise _malformed("it does not say when its successor is due")
    except UNREADABLE:
        raise _malformed(f"{len(der)} bytes are no response") from None
    if critical:
        raise _malformed("an extension is critical")
    return response


def _begin(response: ocsp.OCSPResponse) -> datetime:
    return response.this_update_utc


def _is_about(response: ocsp.OCSPResponse, issuer: Link) -> bool:
    """Say whether the response addresses certificates of `issuer` (RFC 6960 section 4.1.1)."""
    algorithm = response.hash_algorithm
    if not isinstance(algorithm, _HASHES):
        return False
    key = issuer.key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    name = issuer.certificate.subject.public_bytes()
    return hmac.compare_digest(response.issuer_key_hash, _hash(algorithm, key)) and (
        hmac.compare_digest(response.issuer_name_hash, _hash(algorithm, name))
    )


def _hash(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    digest = hashes.Hash(algorithm)
    digest.update(data)
    return digest.finalize()


def _word(response: ocsp.OCSPResponse, subject: Link, issuer: Link, *, now: datetime) -> Good:
    what = f"OCSP response on serial {subject.serial}"
    _check_signature(response, issuer, now=now, what=what)
    begin, end = response.this_update_utc, response.next_update_utc
    status = response.certificate_status
    if status is ocsp.OCSPCertStatus.REVOKED:
        hold = response.revocation_reason is x509.ReasonFlags.certificate_hold
        code, word = ("gpu-hold", "on hold") if hold else ("gpu-revoked", "revoked")
        raise NotAuthentic(code, f"the certificate of serial {subject.serial} is {word}")
    if status is not ocsp.OCSPCertStatus.GOOD:
        raise Undecidable("ocsp-unknown", f"{what}: the responder does not know it")
    if end is None:
        raise _malformed("it does not say when its successor is due")
    return Good(begin, end)


def _check_window(word: Good, *, now: datetime, what: str) -> None:
    if now < word.this_update:
        raise Undecidable("ocsp-future", f"{what} is of {word.this_update:%Y-%m-%dT%H:%M:%SZ}")
    if word.next_update <= now:
        raise Undecidable("ocsp-expired", f"{what} ended {word.next_update:%Y-%m-%dT%H:%M:%SZ}")


def _check_signature(
    response: ocsp.OCSPResponse, issuer: Link, *, now: datetime, what: str
) -> None:
    responder = _responder(response, issuer, now=now, what=what)
    algorithm = response.signature_hash_algorithm
    if not isinstance(algorithm, hashes.SHA256 | hashes.SHA384):
        raise NotAuthentic("ocsp-signature", f"{what} is not signed with SHA-256 or SHA-384")
    try:
        responder.key.verify(response.signature, response.tbs_response_bytes, ec.ECDSA(algorithm))
    except InvalidSignature:
        raise NotAuthentic("ocsp-signature", f"{what} is not its responder's") from None


def _responder(response: ocsp.OCSPResponse, issuer: Link, *, now: datetime, what: str) -> Link:
    """Return who may sign: the issuer, or the delegate whose certificate comes along."""
    certificates = [Link.read(item.public_bytes(Encoding.DER), what=what)
                    for item in response.certificates]  # fmt: skip
    delegates = [link for link in certificates if link.certificate != issuer.certificate]
    if not delegates:
        return issuer
    delegate = delegates[0]
    try:
        delegate.certificate.verify_directly_issued_by(issuer.certificate)
        usage = delegate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (InvalidSignature, x509.ExtensionNotFound, *UNREADABLE):
        raise NotAuthentic("ocsp-signature", f"{what}: no delegate of the issuer") from None
    if ExtendedKeyUsageOID.OCSP_SIGNING not in usage or delegate.authority or len(delegates) > 1:
        raise NotAuthentic("ocsp-signature", f"{what}: a certificate is not for OCSP")
    check_dates(delegate, now=now, code="ocsp-expired", what=what)
    return delegate


def _malformed(why: str) -> Malformed:
    return Malformed("ocsp-malformed", f"OCSP response: {why}")
