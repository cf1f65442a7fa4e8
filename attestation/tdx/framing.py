"""The bytes of a TDX quote, checked to the last one, in; its report and its PCK chain out."""

from __future__ import annotations

from dataclasses import dataclass

from attestation.errors import Malformed
from attestation.tdx.layout import (
    BODY_SIZES,
    BODY_TD10,
    HEADER_SIZE,
    KEY_TYPE_ECDSA_P256,
    QE_VENDOR_INTEL,
    TEE_TYPE_TDX,
)
from attestation.x509 import parse_pem_chain

MAX_QUOTE = 128 * 1024
"""Largest quote read, in bytes: what a Linux guest's GET_QUOTE buffer holds."""

_QE_REPORT_DATA, _PCK_CHAIN = 6, 5
_REPORT_DATA_AT = BODY_SIZES[BODY_TD10] - 64
"""Where REPORT_DATA stands in a body: last in TD 1.0, which the later ones begin with."""


@dataclass(frozen=True, slots=True)
class QuoteFrame:
    """What is needed from a quote before its signatures are checked."""

    version: int
    body: bytes
    """The TD report, of one of `BODY_SIZES`."""
    signature: bytes
    """The signature data: quote signature, key, and what certifies that key."""
    lasting: bytes
    """The quote but for REPORT_DATA and the 64-byte signature, all that a new nonce changes."""

    @classmethod
    def parse(cls, quote: bytes) -> QuoteFrame:
        """Walk a version 4 or 5 quote (Intel TDX DCAP Quoting Library API, appendix 3).

        Every length must fit exactly (those inside the signature are read by `pck_chain`), and
        whatever follows the signature must be zero: the quoting service pads its buffer. Raises
        `Malformed` `too-large`, `quote-unsupported` for other kinds of evidence, `quote-malformed`
        for everything else.
        """
        if len(quote) > MAX_QUOTE:
            raise Malformed("too-large", f"quote of {len(quote)} bytes, limit {MAX_QUOTE}")
        version = _version(quote)
        body_at, signature_at = _body(quote, version)
        signature, at = _sized(quote, signature_at, width=4)
        if quote.count(0, at) != len(quote) - at:
            raise Malformed("quote-malformed", f"bytes other than zero follow the quote at {at}")
        bound_at, sealed_at = body_at + _REPORT_DATA_AT, signature_at + 4
        lasting = quote[:bound_at] + quote[bound_at + 64 : sealed_at] + quote[sealed_at + 64 : at]
        return cls(version, quote[body_at:signature_at], signature, lasting)

    @property
    def pck_chain(self) -> tuple[bytes, bytes, bytes]:
        """DER of PCK leaf, PCK CA and root.

        Raises `Malformed`, `certificate-malformed` where it is the certificates that are.
        """
        pem = _pck_pem(self.signature)
        chain = parse_pem_chain(pem, what="PCK certificate chain", longest=3)
        if len(chain) != 3:
            raise Malformed("certificate-malformed", "a PCK chain holds leaf, authority and root")
        return chain


def _version(quote: bytes) -> int:
    """Name the kind of evidence by its first bytes, so that a reader learns what arrived."""
    if len(quote) < HEADER_SIZE:
        raise Malformed(
            "quote-malformed", f"quote of {len(quote)} bytes is shorter than its header"
        )
    if quote[0] >= 0x80:  # CBOR major types 4 to 6: DICE-based quotes are CBOR web tokens
        raise Malformed("quote-unsupported", "this looks like CBOR, as DICE-based quotes are")
    version, key_type = int.from_bytes(quote[0:2], "little"), int.from_bytes(quote[2:4], "little")
    tee = int.from_bytes(quote[4:8], "little")
    if version == 3:
        raise Malformed("quote-unsupported", "this is an SGX quote (version 3); TDX is required")
    if version not in (4, 5):
        raise Malformed("quote-malformed", "this is not a quote of version 4 or 5")
    if tee != TEE_TYPE_TDX:
        raise Malformed("quote-unsupported", f"the quote is of TEE type {tee:#x}, not TDX (0x81)")
    if key_type != KEY_TYPE_ECDSA_P256 or quote[12:28] != QE_VENDOR_INTEL:
        raise Malformed("quote-unsupported", "not an ECDSA P-256 quote of Intel's quoting enclave")
    return version


def _body(quote: bytes, version: int) -> tuple[int, int]:
    """Return where the TD report begins and ends."""
    if version == 4:
        return HEADER_SIZE, HEADER_SIZE + BODY_SIZES[BODY_TD10]
    body_type = int.from_bytes(quote[48:50], "little")
    size = int.from_bytes(quote[50:54], "little")
    if body_type not in BODY_SIZES:
        raise Malformed("quote-unsupported", f"quote body of type {body_type} is not a TD report")
    if size != BODY_SIZES[body_type]:
        raise Malformed("quote-malformed", f"quote body of type {body_type} has {size} bytes")
    return HEADER_SIZE + 6, HEADER_SIZE + 6 + size


def _pck_pem(signature: bytes) -> bytes:
    """Unwrap signature 64, key 64, QE report 384, its signature 64, QE authentication, chain."""
    report = _typed(signature, 128, kind=_QE_REPORT_DATA)
    _, at = _sized(report, 384 + 64, width=2)
    return _typed(report, at, kind=_PCK_CHAIN).removesuffix(b"\0")


def _typed(data: bytes, at: int, *, kind: int) -> bytes:
    """Return certification data of one kind that ends where `data` ends."""
    if int.from_bytes(data[at : at + 2], "little") != kind:
        raise Malformed("quote-unsupported", f"certification data is not of type {kind}")
    value, end = _sized(data, at + 2, width=4)
    if end != len(data):
        raise Malformed("quote-malformed", f"{len(data) - end} bytes follow certification data")
    return value


def _sized(data: bytes, at: int, *, width: int) -> tuple[bytes, int]:
    """Return the bytes behind a little-endian length and where they end."""
    start = at + width
    end = start + int.from_bytes(data[at:start], "little")
    if start > len(data) or end > len(data):
        raise Malformed("quote-malformed", f"a field at {at} is cut")
    return data[start:end], end
