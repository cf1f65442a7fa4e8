"""The guest's side of KBS 0.4.0: challenge, attest, resource, against one pinned broker."""

from __future__ import annotations

import re
import ssl
from types import TracebackType
from typing import NoReturn, Self, TypeVar

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.broker.jwe import open_jwe
from attestation.broker.protocol import (
    MAX_ATTEST,
    Attestation,
    Challenge,
    ErrorInformation,
    InitData,
    ModelKey,
    Response,
    resource_path,
    tee_pubkey,
)
from attestation.codec import Document, parse_document, unb64
from attestation.codes import CODES
from attestation.confidential import Confidential
from attestation.errors import Malformed, NotAffirmed, NotAuthentic, Refusal, Undecidable
from attestation.evidence import Evidence
from attestation.tls import pinned_context
from attestation.types import nonce

M = TypeVar("M", bound=Document)

_COOKIE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{1,4096}")
"""RFC 6265 section 4.1.1 cookie-octets."""
_NAME = "kbs-session-id"


class KbsClient:
    """One boot's conversation with its key broker; resources open with this boot's key alone.

    `certificate_pem` is the broker's certificate from the measured configuration: the only key a
    handshake is completed with. Proxies and certificates of the environment are not used.
    """

    def __init__(
        self,
        url: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        certificate_pem: str,
        timeout_s: float = 30,
    ) -> None:
        self._key = key
        self._cookie: str | None = None
        self._http = httpx2.Client(
            base_url=url, verify=pinned_context(certificate_pem), trust_env=False, timeout=timeout_s
        )

    @property
    def tee_pubkey(self) -> dict[str, str]:
        """The public half of the boot's key, as the evidence must bind it."""
        return tee_pubkey(self._key.public_key())

    def challenge(self) -> str:
        """Start a session and return the broker's nonce, as the base64 text the evidence binds."""
        self._cookie = None
        request = {"version": "0.4.0", "tee": "tdx", "extra-params": ""}
        answer = _parse(Challenge, self._send("POST", "/kbs/v0/auth", json=request))
        nonce(unb64(answer.nonce, what="nonce"))
        return answer.nonce

    def attest(self, evidence: Evidence, *, init_data: InitData | None = None) -> str:
        """Send evidence that binds the challenge and this boot's key; return the EAR token."""
        body = Attestation.build(evidence, init_data=init_data).to_bytes()
        return _parse(Response, self._send("POST", "/kbs/v0/attest", content=body)).token

    def resource(self, path: str) -> Confidential[bytes]:
        """Return a resource, opened with this boot's key; needs an attested session."""
        sealed = self._send("GET", f"/kbs/v0/resource/{resource_path(path)}")
        try:
            return open_jwe(sealed, self._key)
        except Malformed:
            raise Malformed("broker-protocol", f"an answer of {len(sealed)} bytes") from None

    def model_key(self, path: str) -> Confidential[ModelKey]:
        """Return a model's data key together with the manifest it may be used with."""
        payload = self.resource(path).reveal()
        return Confidential(_parse(ModelKey, payload))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self.close()

    def _send(
        self,
        method: str,
        path: str,
        *,
        json: dict[str, str] | None = None,
        content: bytes | None = None,
    ) -> bytes:
        headers = {"accept": "application/json"}
        if self._cookie is not None:
            headers["cookie"] = f"{_NAME}={self._cookie}"
        if content is not None:
            headers["content-type"] = "application/json"
        request = self._http.build_request(
            method, path, json=json, content=content, headers=headers
        )
        try:
            response = self._http.send(request, stream=True)
            try:
                body = _read(response)
            finally:
                response.close()
        except httpx2.TransportError as error:
            _unreachable(error)
        if response.status_code != 200:
            raise _refusal(response.status_code, body)
        self._keep_cookie(response)
        return body

    def _keep_cookie(self, response: httpx2.Response) -> None:
        # by hand: a cookie jar would drop the cookie of a broker named by its address
        for header in response.headers.get_list("set-cookie"):
            name, _, rest = header.partition("=")
            value = rest.partition(";")[0]
            if name == _NAME and _COOKIE.fullmatch(value):
                self._cookie = value


def _read(response: httpx2.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > MAX_ATTEST:
            raise Malformed("broker-protocol", f"an answer over {MAX_ATTEST} bytes")
    return bytes(body)


def _parse(kind: type[M], body: bytes) -> M:
    try:
        return parse_document(kind, body, limit=MAX_ATTEST)
    except Malformed:
        raise Malformed("broker-protocol", f"no {kind.__name__} in {len(body)} bytes") from None


def _unreachable(error: httpx2.TransportError) -> NoReturn:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            raise NotAuthentic("broker-tls-key", "another key than the pinned one") from None
        cause = cause.__cause__ or cause.__context__
    raise Undecidable("broker-unreachable", type(error).__name__) from None


def _refusal(status: int, body: bytes) -> Refusal:
    """Return what a guest does about a refusal; the broker's code is named if it is ours."""
    try:
        detail = parse_document(ErrorInformation, body, limit=4096).detail
    except Malformed:
        detail = ""
    why = f"status {status}, code {detail if detail in CODES else 'unknown'}"
    if status == 401:
        return NotAuthentic("broker-rejected", why)
    if status in (403, 404):
        return NotAffirmed("broker-refused", why)
    if status in (429, 500, 502, 503, 504):
        return Undecidable("broker-undecided", why)
    return Malformed("broker-protocol", why)
