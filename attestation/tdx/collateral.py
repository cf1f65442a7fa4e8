"""Intel's collateral as sent in, every byte of it accounted for, dcap-qvl's form out."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated

from pydantic import Field, ValidationError

from attestation.codec import Document, describe, parse_json
from attestation.errors import Malformed
from attestation.x509 import parse_pem_chain

MAX_COLLATERAL = 1024 * 1024
"""Largest collateral read, in bytes; Intel's is 16 to 25 KiB."""

Pem = Annotated[str, Field(max_length=16384)]


class CollateralDocument(Document):
    """The JSON form that dcap-qvl writes; hex is lower case so that one collateral has one text."""

    pck_crl_issuer_chain: Pem
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: Pem
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: Pem
    qe_identity: str
    qe_identity_signature: str


@dataclass(frozen=True, slots=True)
class Endorsed:
    """Parsed collateral whose signatures have not been checked yet."""

    document: CollateralDocument
    root_crl: bytes
    pck_crl: bytes
    tcb_info_signature: bytes
    qe_identity_signature: bytes
    pck_crl_chain: tuple[bytes, ...]
    tcb_info_chain: tuple[bytes, ...]
    qe_identity_chain: tuple[bytes, ...]

    @classmethod
    def parse(cls, data: bytes) -> Endorsed:
        """Parse collateral; raises `Malformed` for unknown fields, other PEM or other hex."""
        document = _document(data)
        tcb_info_chain = _chain(document.tcb_info_issuer_chain, what="TCB info issuer chain")
        qe_identity_chain = tcb_info_chain  # Intel signs both with one key
        if document.qe_identity_issuer_chain != document.tcb_info_issuer_chain:
            qe_identity_chain = _chain(
                document.qe_identity_issuer_chain, what="QE identity issuer chain"
            )
        return cls(
            document=document,
            root_crl=_bytes(document.root_ca_crl, what="root_ca_crl"),
            pck_crl=_bytes(document.pck_crl, what="pck_crl"),
            tcb_info_signature=_bytes(
                document.tcb_info_signature, what="tcb_info_signature", size=64
            ),
            qe_identity_signature=_bytes(
                document.qe_identity_signature, what="qe_identity_signature", size=64
            ),
            pck_crl_chain=_chain(document.pck_crl_issuer_chain, what="PCK CRL issuer chain"),
            tcb_info_chain=tcb_info_chain,
            qe_identity_chain=qe_identity_chain,
        )


def instant(text: object, *, what: str) -> datetime:
    """Parse an RFC 3339 date of signed collateral; one without an offset is no instant."""
    try:
        value = datetime.fromisoformat(str(text))
    except ValueError:
        raise Malformed("collateral-malformed", f"{what} is not an RFC 3339 date") from None
    if value.tzinfo is None:
        raise Malformed("collateral-malformed", f"{what} has no offset")
    return value


def _document(data: bytes) -> CollateralDocument:
    """Parse the JSON once: every field is text, which one parse settles for both of its readers."""
    value = parse_json(data, limit=MAX_COLLATERAL)
    try:
        return CollateralDocument.model_validate(value)
    except ValidationError as error:
        raise Malformed("field-invalid", describe(CollateralDocument, error)) from None


def _bytes(text: str, *, what: str, size: int | None = None) -> bytes:
    """Decode lower-case hex of `size` bytes, or of any but none."""
    try:
        data = bytes.fromhex(text)
    except ValueError:
        raise Malformed("field-invalid", f"{what} is not hex") from None
    if data.hex() != text or not data or len(data) != (size or len(data)):
        raise Malformed("field-invalid", f"{what} is not lower-case hex of its size")
    return data


def _chain(text: str, *, what: str) -> tuple[bytes, ...]:
    if not text.isascii():
        raise Malformed("certificate-malformed", f"{what} is not ASCII")
    return parse_pem_chain(text.encode(), what=what, longest=3)
