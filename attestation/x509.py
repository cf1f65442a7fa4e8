"""Canonical PEM chains and DER revocation lists in, certificates and their dates out; no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.x509.oid import NameOID

from attestation.codec import unb64
from attestation.errors import Malformed

_BEGIN = b"-----BEGIN CERTIFICATE-----\n"
_END = b"\n-----END CERTIFICATE-----\n"
_COLUMNS = 64


UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
    UserWarning,
)
"""What `cryptography` raises while it reads a certificate that a stranger made.

It warns of a serial number that is not positive and of names in lengths X.520 does not allow; where
warnings are no errors, signature and chain decide about such a certificate as about any other.
"""

_SEQUENCE, _SET, _TBS_VERSION = 0x30, 0x31, 0xA0
_TEXTS = {0x0C: "utf-8", 0x13: "ascii"}
"""UTF8String and PrintableString, the two that RFC 5280 lets authorities write names in."""
_TIMES = {0x17: 12, 0x18: 14}
"""UTCTime and GeneralizedTime -> digits."""
_COMMON_NAME = bytes.fromhex("0603550403")


@dataclass(frozen=True, slots=True)
class Named:
    """Whose certificate one is and until when it holds (RFC 5280 section 4.1).

    `cryptography` builds an object for every part of every name, which costs more than the
    signature checks of a whole quote spare; names are compared as the bytes that were signed.
    """

    issuer: bytes
    """DER of the name, with its tag and length."""
    subject: bytes
    common_name: str
    """The single common name of the subject."""
    not_after: datetime

    @classmethod
    def parse(cls, der: bytes, *, what: str) -> Named:
        """Read an X.509 v3 certificate; raises `Malformed` `certificate-malformed`.

        Checks no signature, and no more of the structure than it reads: whoever relies on the
        certificate has had its chain verified.
        """
        try:
            outer, end = _inside(der, 0, tag=_SEQUENCE)
            at, tbs_end = _inside(der, outer, tag=_SEQUENCE)
            if end != len(der):
                raise ValueError("trailing bytes")
            _, at = _inside(der, at, tag=_TBS_VERSION)
            _, at = _element(der, at)[1:]  # serial number
            _, issuer_at = _inside(der, at, tag=_SEQUENCE)  # signature algorithm
            _, at = _inside(der, issuer_at, tag=_SEQUENCE)
            validity, subject_at = _inside(der, at, tag=_SEQUENCE)
            names, key_at = _inside(der, subject_at, tag=_SEQUENCE)
            if key_at > tbs_end:
                raise ValueError("cut")
            _, until = _element(der, validity)[1:]
            return cls(
                issuer=der[issuer_at:at],
                subject=der[subject_at:key_at],
                common_name=_common_name(der, names, key_at),
                not_after=_time(der, until, subject_at),
            )
        except (ValueError, IndexError):
            raise Malformed(
                "certificate-malformed", f"{what} of {len(der)} bytes is not a certificate"
            ) from None


@dataclass(frozen=True, slots=True)
class RevocationList:
    """When a CRL was issued and when its successor is due (RFC 5280 section 5.1.2)."""

    this_update: datetime
    next_update: datetime

    @classmethod
    def parse(cls, der: bytes, *, what: str) -> RevocationList:
        """Read the dates of a CRL, not its signature.

        Raises `Malformed` `crl-malformed` for anything but one DER CRL with both dates.
        """
        try:
            crl = x509.load_der_x509_crl(der)
            this_update, next_update = crl.last_update_utc, crl.next_update_utc
        except UNREADABLE:
            raise Malformed("crl-malformed", f"{what} of {len(der)} bytes is not a CRL") from None
        if next_update is None:
            raise Malformed("crl-malformed", f"{what} does not say when its successor is due")
        return cls(this_update, next_update)


def whole_bytes(der: bytes, signature: bytes) -> bool:
    """Say whether the BIT STRING of `signature` in `der` counts no unused bits.

    The count is not signed. Where the last bits are zero, other counts than 0 are DER of the same
    signature, so a certificate or response would have several forms.
    """
    at = der.rfind(signature)
    return at > 0 and der[at - 1] == 0


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
        certificate = x509.load_der_x509_certificate(der)
        if not whole_bytes(der, certificate.signature):
            raise ValueError("unused bits")
    except UNREADABLE:
        raise Malformed(
            "certificate-malformed", f"{what} of {len(der)} bytes is not a certificate"
        ) from None
    if certificate.serial_number <= 0:  # RFC 5280 section 4.1.2.2
        raise Malformed("certificate-malformed", f"{what} has a serial number that is not positive")
    return certificate


def common_name(name: x509.Name) -> str:
    """Return the single common name of `name`; raises `Malformed` when there is not exactly one."""
    found = name.get_attributes_for_oid(NameOID.COMMON_NAME)
    if len(found) != 1 or not isinstance(found[0].value, str):
        raise Malformed("certificate-malformed", f"a name has {len(found)} common names, not 1")
    return found[0].value


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """Return tag, where the value starts and where it ends; DER has one form of each length."""
    size, start = der[at + 1], at + 2
    if size >= 0x80:
        width = size & 0x7F
        size = int.from_bytes(der[start : start + width], "big")
        start += width
        if width > 2 or size < 0x80 or size < 1 << 8 * (width - 1):
            raise ValueError("length")
    if start + size > len(der):
        raise ValueError("cut")
    return der[at], start, start + size


def _inside(der: bytes, at: int, *, tag: int) -> tuple[int, int]:
    found, start, end = _element(der, at)
    if found != tag:
        raise ValueError("tag")
    return start, end


def _common_name(der: bytes, at: int, end: int) -> str:
    """Return the one common name among the attributes of a name, one to a set."""
    found = []
    while at < end:
        relative, after = _inside(der, at, tag=_SET)
        attribute, at = _inside(der, relative, tag=_SEQUENCE)
        if at != after:
            raise ValueError("a set of several attributes")
        if der[attribute : attribute + 5] == _COMMON_NAME:
            tag, start, stop = _element(der, attribute + 5)
            if stop != at or tag not in _TEXTS:
                raise ValueError("not a text")
            found.append(der[start:stop].decode(_TEXTS[tag]))
    if at != end or len(found) != 1:
        raise ValueError("not one common name")
    return found[0]


def _time(der: bytes, at: int, end: int) -> datetime:
    """Read UTCTime or GeneralizedTime, whole seconds in UTC (RFC 5280 section 4.1.2.5)."""
    tag, start, stop = _element(der, at)
    digits = der[start : stop - 1]
    if stop != end or len(digits) != _TIMES.get(tag) or not digits.isdigit() or der[end - 1] != 90:
        raise ValueError("not a time")
    year = int(digits[:-10])
    if len(digits) == 12:
        year += 1900 if year >= 50 else 2000
    rest = digits[-10:]
    month, day, hour, minute, second = (int(rest[k : k + 2]) for k in range(0, 10, 2))
    return datetime(year, month, day, hour, minute, second, tzinfo=UTC)


def _decode(block: bytes, *, what: str) -> bytes:
    text = block.removesuffix(_END)
    breaks, rest = divmod(len(text), _COLUMNS + 1)
    full = rest > 0 and text[_COLUMNS :: _COLUMNS + 1] == b"\n" * breaks
    body = text.replace(b"\n", b"")
    try:
        der = unb64(body.decode("ascii"), what=what)
    except (Malformed, UnicodeDecodeError):
        raise Malformed("certificate-malformed", f"{what} is not PEM") from None
    # As many line feeds as there are full lines, and no other.
    if not full or len(body) != len(text) - breaks or not block.endswith(_END):
        raise Malformed("certificate-malformed", f"{what} is not canonical PEM")
    return der
