"""Answers of Intel's Provisioning Certification Service in; collateral in dcap-qvl's form out.

PCS and PCCS, API version 4: the signed JSON is the body, its issuer chain is a header. Nothing is
verified here; `tdx.quote` verifies every signature each time the collateral is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

from attestation.codec import canonical_json, parse_json
from attestation.errors import Malformed
from attestation.tdx.collateral import MAX_COLLATERAL, Endorsed

Authority = Literal["platform", "processor"]

_FMSPC = re.compile(r"[0-9a-f]{12}")
_TCB_CHAIN = ("tcb-info-issuer-chain", "sgx-tcb-info-issuer-chain")
_QE_CHAIN = ("sgx-enclave-identity-issuer-chain",)
_CRL_CHAIN = ("sgx-pck-crl-issuer-chain",)


@dataclass(frozen=True, slots=True)
class Response:
    """One HTTP answer; header names are lower case."""

    headers: Mapping[str, str]
    body: bytes

    @classmethod
    def parse(cls, saved: bytes, *, what: str) -> Response:
        """Read an answer with status 200 saved with its headers, as `curl --include` writes it.

        Raises `Malformed` `pcs-response`.
        """
        head, separator, body = saved.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        if not separator or re.fullmatch(rb"HTTP/[0-9.]+ 200( [ -~]*)?", status) is None:
            raise Malformed("pcs-response", f"{what} is not a saved HTTP answer of status 200")
        headers = {}
        for line in lines:
            name, colon, value = line.decode("latin-1").partition(":")
            if not colon or name.lower() in headers:
                raise Malformed("pcs-response", f"{what} has a header without or with two values")
            headers[name.lower()] = value.strip()
        return cls(headers, body)


@dataclass(frozen=True, slots=True)
class Answers:
    """The four answers that collateral is made of."""

    tcb: Response
    qe_identity: Response
    pck_crl: Response
    root_crl: Response

    def collateral(self) -> bytes:
        """Return the JSON, every signed byte as it came; raises `Malformed`."""
        tcb_info, tcb_signature = _signed(self.tcb.body, name="tcbInfo")
        identity, identity_signature = _signed(self.qe_identity.body, name="enclaveIdentity")
        document = canonical_json(
            {
                "pck_crl_issuer_chain": _chain(self.pck_crl, _CRL_CHAIN, what="PCK CRL"),
                "root_ca_crl": _der(self.root_crl.body, what="root CRL").hex(),
                "pck_crl": _der(self.pck_crl.body, what="PCK CRL").hex(),
                "tcb_info_issuer_chain": _chain(self.tcb, _TCB_CHAIN, what="TCB info"),
                "tcb_info": tcb_info,
                "tcb_info_signature": tcb_signature,
                "qe_identity_issuer_chain": _chain(self.qe_identity, _QE_CHAIN, what="QE identity"),
                "qe_identity": identity,
                "qe_identity_signature": identity_signature,
            }
        )
        Endorsed.parse(document)
        return document


def paths(*, fmspc: str, ca: Authority, update: Literal["standard", "early"]) -> dict[str, str]:
    """Return the path of each answer, below the service's root; raises `Malformed`."""
    if _FMSPC.fullmatch(fmspc) is None:
        raise Malformed("field-invalid", "an FMSPC is 12 lower-case hex characters")
    return {
        "tcb": f"/tdx/certification/v4/tcb?fmspc={fmspc}&update={update}",
        "qe_identity": f"/tdx/certification/v4/qe/identity?update={update}",
        "pck_crl": f"/sgx/certification/v4/pckcrl?ca={ca}&encoding=der",
        "root_crl": "/sgx/certification/v4/rootcacrl",
    }


def _signed(body: bytes, *, name: str) -> tuple[str, str]:
    """Return the exact text that was signed, which a JSON parser would not keep, and who signed."""
    form = rb'\s*\{\s*"%s"\s*:\s*(\{.*\})\s*,\s*"signature"\s*:\s*"([0-9A-Fa-f]{128})"\s*\}\s*'
    found = re.fullmatch(form % name.encode(), body, re.DOTALL)
    document = parse_json(body, limit=MAX_COLLATERAL)
    if found is None or set(document) != {name, "signature"}:
        raise Malformed("pcs-response", f"not an answer with {name} and its signature")
    text = found.group(1)
    if parse_json(text) != document[name]:
        raise Malformed("pcs-response", f"{name} cannot be told from what surrounds it")
    return text.decode(), found.group(2).decode().lower()


def _chain(response: Response, names: tuple[str, ...], *, what: str) -> str:
    found = [response.headers[name] for name in names if name in response.headers]
    if len(found) != 1:
        raise Malformed("pcs-response", f"{what} came without one issuer chain in its headers")
    text = unquote_to_bytes(found[0]).replace(b"\r\n", b"\n")
    if not text.isascii():
        raise Malformed("pcs-response", f"the issuer chain of {what} is not ASCII")
    return text.decode().rstrip("\n") + "\n"


def _der(body: bytes, *, what: str) -> bytes:
    """Return a CRL sent as DER, or as the hex that a PCCS sends."""
    if body[:1] == b"\x30" and not body.strip().isalnum():
        return body
    try:
        return bytes.fromhex(body.decode("ascii").strip())
    except ValueError:
        raise Malformed("pcs-response", f"{what} is neither DER nor hex") from None
