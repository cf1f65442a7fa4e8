"""A KBS as Trustee speaks it on the wire (0.4.0), over real TLS; none of our broker's code."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import ssl
import threading
import time
import uuid
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import rfc8785
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from joserfc import jwt
from joserfc.jwk import ECKey

ERRORS = "https://github.com/confidential-containers/kbs/errors/"
COOKIE = "kbs-session-id"
REPORT_DATA = slice(568, 632)
"""Where a v4 quote with a TD 1.0 body has it."""


def url64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def number(text: str) -> int:
    return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")


class Refused(Exception):
    """One of Trustee's errors: 401 for everything but two kinds."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(kind)
        self.status = 404 if kind in ("InvalidRequestPath", "PluginNotFound") else 401
        self.body = {"type": ERRORS + kind, "detail": detail}


@dataclass
class Trustee:
    """Its resources, its policy and what it saw; tests change any of it."""

    resources: dict[str, bytes]
    denied: set[str] = field(default_factory=set)
    token_life_s: int = 300
    forget: int = 0
    """How many sessions to end right after they attested, as a restart of Trustee would."""
    takes_cookies: bool = True
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sessions: dict[str, dict[str, Any]] = field(default_factory=dict)
    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256"))

    def auth(self, body: Any, _headers: Any) -> tuple[dict[str, Any], str]:
        if body["version"] != "0.4.0":
            raise Refused("ProtocolVersion", "expected version requirement: `=0.4.0`")
        assert body["tee"] == "tdx"
        assert "extra-params" in body
        session, nonce = uuid.uuid4().hex, base64.b64encode(os.urandom(32)).decode()
        self.sessions[session] = {"nonce": nonce}
        return {"nonce": nonce, "extra-params": ""}, session

    def attest(self, body: Any, headers: Any) -> tuple[dict[str, Any], str]:
        session = self._session(headers)
        runtime, evidence = body["runtime-data"], body["tee-evidence"]
        if runtime["nonce"] != self.sessions[session]["nonce"]:
            raise Refused("AttestationError", "RCAR handshake Attest failed")
        assert body["init-data"] is None
        assert set(evidence) == {"primary_evidence", "additional_evidence"}
        assert set(evidence["primary_evidence"]) == {"cc_eventlog", "quote"}
        quote = base64.b64decode(evidence["primary_evidence"]["quote"], validate=True)
        bound = {"additional-evidence": evidence["additional_evidence"], **runtime}
        digest = hashlib.sha384(rfc8785.dumps(bound)).digest()
        if quote[REPORT_DATA] != digest + bytes(16):
            raise Refused("AttestationError", "REPORT_DATA is different from that in TDX Quote")
        now = int(time.time())
        annotated = {"runtime_data_claims": runtime, "tdx": {"tcb_status": "UpToDate"}}
        claims = {
            "eat_profile": "tag:github.com,2024:confidential-containers/Trustee",
            "iat": now,
            "exp": now + self.token_life_s,
            "submods": {
                "cpu0": {"ear.status": "affirming", "ear.veraison.annotated-evidence": annotated}
            },
        }
        token = jwt.encode({"alg": "ES256", "typ": "JWT"}, claims, self.key)
        if self.forget:
            self.forget -= 1
            del self.sessions[session]
        else:
            self.sessions[session]["token"] = token
        return {"token": token}, session

    def resource(self, path: str, headers: Any) -> dict[str, str]:
        """Cookie first, then bearer, and the token is verified again either way."""
        token = None
        if self.takes_cookies and headers.get("cookie"):
            token = self.sessions[self._session(headers)].get("token")
        elif (headers.get("authorization") or "").startswith("Bearer "):
            token = headers["authorization"].removeprefix("Bearer ")
        if token is None:
            raise Refused("TokenNotFound", "Attestation Token not found")
        try:
            claims = jwt.decode(token, self.key, algorithms=["ES256"]).claims
            if claims["exp"] <= time.time():
                raise ValueError
        except ValueError:
            raise Refused("TokenVerifierError", "Token verifier error") from None
        if path in self.denied:
            raise Refused("PolicyDeny", "Access denied by policy")
        if path not in self.resources:
            raise Refused("PluginInternalError", "Plugin Internal Error")
        annotated = claims["submods"]["cpu0"]["ear.veraison.annotated-evidence"]
        return sealed(self.resources[path], annotated["runtime_data_claims"]["tee-pubkey"])

    def _session(self, headers: Any) -> str:
        name, _, session = (headers.get("cookie") or "").partition("=")
        if name != COOKIE or session not in self.sessions:
            raise Refused("SessionNotFound", "The session is not found")
        return session

    @contextlib.contextmanager
    def serving(self, directory: Path):
        """Serve with the certificate of `directory`; yields the URL."""
        handler = type("Bound", (_Wire,), {"kbs": self})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "tls.crt", directory / "tls.key")
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"https://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


class _Wire(BaseHTTPRequestHandler):
    kbs: Trustee

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        act = {"/kbs/v0/auth": self.kbs.auth, "/kbs/v0/attest": self.kbs.attest}[self.path]
        self._answer(lambda: act(body, self.headers))

    def do_GET(self) -> None:
        path = self.path.removeprefix("/kbs/v0/resource/")
        self._answer(lambda: (self.kbs.resource(path, self.headers), None))

    def _answer(self, act: Any) -> None:
        self.kbs.seen.append((self.path, {k.lower(): v for k, v in self.headers.items()}))
        status, session = 200, None
        try:
            document, session = act()
        except Refused as refused:
            status, document = refused.status, refused.body
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        if session is not None:
            ends = "Wed, 25 Nov 2099 12:00:00 GMT"
            self.send_header("set-cookie", f"{COOKIE}={session}; Expires={ends}")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Print nothing."""


def sealed(payload: bytes, jwk: dict[str, str]) -> dict[str, str]:
    """Seal as Trustee does: a flattened JWE with epk inside `protected` (RFC 7516, 7518)."""
    assert set(jwk) == {"kty", "crv", "alg", "x", "y"}
    point = ec.EllipticCurvePublicNumbers(number(jwk["x"]), number(jwk["y"]), ec.SECP256R1())
    ephemeral, cek, iv = ec.generate_private_key(ec.SECP256R1()), os.urandom(32), os.urandom(12)
    shared = ephemeral.exchange(ec.ECDH(), point.public_key())
    name = b"ECDH-ES+A256KW"
    info = len(name).to_bytes(4, "big") + name + bytes(8) + (256).to_bytes(4, "big")
    kek = hashlib.sha256((1).to_bytes(4, "big") + shared + info).digest()
    public = ephemeral.public_key().public_numbers()
    x, y = (url64(value.to_bytes(32, "big")) for value in (public.x, public.y))
    epk = {"crv": "P-256", "kty": "EC", "x": x, "y": y}
    header = {"alg": name.decode(), "enc": "A256GCM", "epk": epk}
    protected = url64(json.dumps(header, separators=(",", ":")).encode())
    box = AESGCM(cek).encrypt(iv, payload, protected.encode())
    return {
        "protected": protected,
        "encrypted_key": url64(aes_key_wrap(kek, cek)),
        "iv": url64(iv),
        "ciphertext": url64(box[:-16]),
        "tag": url64(box[-16:]),
    }
