"""The guest's side of a key release, over KBS 0.4.0 or natively, against one pinned broker."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Mapping
from http.cookiejar import DefaultCookiePolicy
from types import TracebackType
from typing import Literal, NoReturn, Self, TypeVar

import httpx2
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.binding import KbsBinding
from attestation.broker.jwe import open_jwe
from attestation.broker.native import NativeChallenge, Recipient, ReleaseAnswer
from attestation.broker.protocol import (
    ERROR_TYPE,
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
from attestation.broker.statement import Released, open_release
from attestation.codec import Document, parse_document, unb64
from attestation.codes import CODES
from attestation.confidential import Confidential
from attestation.errors import Malformed, NotAffirmed, NotAuthentic, Refusal, Undecidable
from attestation.evidence import Evidence
from attestation.tls import pinned_context
from attestation.types import nonce

M = TypeVar("M", bound=Document)

Collect = Callable[[str, Mapping[str, str]], Evidence]
"""Collects evidence with a `KbsBinding` to a broker's nonce and a public key of this boot."""

_COOKIE = re.compile(r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]{1,4096}")
"""RFC 6265 section 4.1.1 cookie-octets."""
_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
"""RFC 7515 section 7.1: nothing that could end a header."""
_MAX_TOKEN = 64 * 1024
_NAME = "kbs-session-id"


class _Connection:
    """HTTPS to one broker, whose certificate's key is the only one a handshake is completed with.

    Proxies and certificates of the environment are not used, and no redirect is followed.
    """

    def __init__(self, url: str, *, certificate_pem: str, timeout_s: float) -> None:
        self._http = httpx2.Client(
            base_url=url,
            verify=pinned_context(certificate_pem),
            trust_env=False,
            timeout=timeout_s,
            follow_redirects=False,
        )
        # httpx would send back whatever cookie it was given, under any name
        self._http.cookies.jar.set_policy(DefaultCookiePolicy(allowed_domains=()))

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

    def _exchange(
        self, method: str, path: str, *, content: bytes | None, headers: Mapping[str, str]
    ) -> tuple[bytes, httpx2.Headers]:
        """Send and return body and headers of a 200, or raise what any other status means."""
        named = {"accept": "application/json", **headers}
        if content is not None:
            named["content-type"] = "application/json"
        request = self._http.build_request(method, path, content=content, headers=named)
        try:
            response = self._http.send(request, stream=True)
            try:
                body = _read(response)
            finally:
                response.close()
        except httpx2.TransportError as error:
            _unreachable(error)
        except httpx2.DecodingError:
            raise Malformed("broker-protocol", "an answer in a broken encoding") from None
        if response.status_code != 200:
            raise _refusal(response.status_code, body)
        return body, response.headers


class KbsClient(_Connection):
    """One boot's KBS conversation; resources open with this boot's key alone.

    With `session="bearer"` resources are asked for with the attestation token instead of the
    cookie, as a KBS takes it that did not attest the guest itself.
    """

    def __init__(
        self,
        url: str,
        key: ec.EllipticCurvePrivateKey,
        *,
        certificate_pem: str,
        session: Literal["cookie", "bearer"] = "cookie",
        timeout_s: float = 30,
    ) -> None:
        super().__init__(url, certificate_pem=certificate_pem, timeout_s=timeout_s)
        self._key = key
        self._bearer = session == "bearer"
        self._cookie: str | None = None
        self._token: str | None = None

    @property
    def tee_pubkey(self) -> dict[str, str]:
        """The public half of the boot's key, as the evidence must bind it."""
        return tee_pubkey(self._key.public_key())

    def challenge(self) -> str:
        """Start a session and return the broker's nonce, as the base64 text the evidence binds."""
        self._cookie = self._token = None
        request = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'
        answer = _parse(Challenge, self._send("POST", "/kbs/v0/auth", content=request))
        nonce(unb64(answer.nonce, what="nonce"))
        return answer.nonce

    def attest(self, evidence: Evidence, *, init_data: InitData | None = None) -> str:
        """Send evidence that binds the challenge and this boot's key; return the EAR token."""
        body = Attestation.build(evidence, init_data=init_data).to_bytes()
        token = _parse(Response, self._send("POST", "/kbs/v0/attest", content=body)).token
        if len(token) > _MAX_TOKEN or not _TOKEN.fullmatch(token):
            raise Malformed("broker-protocol", f"a token of {len(token)} characters")
        self._token = token
        return token

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

    def _send(self, method: str, path: str, *, content: bytes | None = None) -> bytes:
        headers = {}
        if self._bearer and self._token is not None:
            headers["authorization"] = f"Bearer {self._token}"
        elif self._cookie is not None:
            headers["cookie"] = f"{_NAME}={self._cookie}"
        body, answered = self._exchange(method, path, content=content, headers=headers)
        self._keep_cookie(answered)
        return body

    def _keep_cookie(self, headers: httpx2.Headers) -> None:
        # by hand: a cookie jar would drop the cookie of a broker named by its address
        for header in headers.get_list("set-cookie"):
            name, _, rest = header.partition("=")
            value = rest.partition(";")[0]
            if name == _NAME and _COOKIE.fullmatch(value):
                self._cookie = value


class NativeClient(_Connection):
    """One boot's native releases: each with evidence, a key pair and a signed statement of its own.

    `key` is the one that signs the broker's statements; TLS alone is not believed, for whoever
    ends it could seal a key of his own making to this boot.
    """

    def __init__(
        self,
        url: str,
        *,
        certificate_pem: str,
        key: ec.EllipticCurvePublicKey,
        timeout_s: float = 30,
    ) -> None:
        super().__init__(url, certificate_pem=certificate_pem, timeout_s=timeout_s)
        self._statement_key = key

    def release(self, path: str, collect: Collect) -> Released:
        """Return a resource that the broker released to evidence collected for this release."""
        recipient = Recipient.generate()
        challenge = _parse(NativeChallenge, self._post("challenge", b'{"version":1}')).nonce
        evidence = collect(challenge, recipient.public.model_dump())
        binding = evidence.binding
        if not isinstance(binding, KbsBinding):
            raise TypeError("evidence for a key broker has a KbsBinding")
        request = recipient.request(
            resource_path(path), evidence, nonce=challenge, gpu=binding.additional_evidence
        )
        body = self._post("release", request.model_dump_json().encode())
        answer = _parse(ReleaseAnswer, body)
        return open_release(answer, request, recipient=recipient, key=self._statement_key)

    def _post(self, act: str, content: bytes) -> bytes:
        return self._exchange("POST", f"/v1/keys/{act}", content=content, headers={})[0]


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
        said = parse_document(ErrorInformation, body, limit=4096)
    except Malformed:
        kind = detail = ""
    else:
        kind, detail = said.type.removeprefix(ERROR_TYPE), said.detail
    why = f"status {status}, code {detail if detail in CODES else 'unknown'}"
    if status == 401 and kind == "PolicyDeny":  # Trustee's 401 is also its policy's refusal
        return NotAffirmed("broker-refused", why)
    if status == 401:
        return NotAuthentic("broker-rejected", why)
    if status in (403, 404):
        return NotAffirmed("broker-refused", why)
    if status in (429, 500, 502, 503, 504):
        return Undecidable("broker-undecided", why)
    return Malformed("broker-protocol", why)
