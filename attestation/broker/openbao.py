"""A KEK inside OpenBao's transit engine: data keys go over pinned TLS, the KEK never leaves it."""

from __future__ import annotations

import re
import ssl
import threading
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2

from attestation.broker.kekuri import attributes, read_credential, required
from attestation.codec import b64, parse_json, unb64
from attestation.confidential import Confidential
from attestation.errors import ConfigError, Malformed, NotAuthentic, Undecidable
from attestation.regular import require_regular

FORM = (
    "openbao:https://HOST:PORT/MOUNT/KEY?ca=FILE&auth=approle&role-id=FILE&secret-id=FILE "
    "or …&auth=jwt&role=NAME&jwt=FILE"
)
"""The URI; `namespace` and `auth-mount` may be given too, values are percent-encoded."""

_KNOWN = frozenset(("ca", "auth", "role-id", "secret-id", "role", "jwt", "namespace", "auth-mount"))
_PATH = re.compile(r"/([a-z0-9-]{1,64})/([A-Za-z0-9._-]{1,128})")
_MOUNT = re.compile(r"[A-Za-z0-9_-]{1,64}")
_AEAD = ("aes128-gcm96", "aes256-gcm96", "chacha20-poly1305", "xchacha20-poly1305")
"""Key types whose ciphertexts authenticate `associated_data`."""
_TIMEOUT_S = 5.0
_MAX_ANSWER = 1024 * 1024


class Login(Protocol):
    """How a broker proves to OpenBao who it is."""

    def request(self) -> tuple[str, dict[str, str]]:
        """Return the path to post to and the body, with credentials read at this moment."""


class AppRole:
    """Log in with a role id and a secret id, each in a file."""

    def __init__(self, mount: str, *, role_id: Path, secret_id: Path) -> None:
        self._mount, self._role_id, self._secret_id = mount, role_id, secret_id

    def request(self) -> tuple[str, dict[str, str]]:
        """Read both files."""
        role_id, secret_id = read_credential(self._role_id), read_credential(self._secret_id)
        return f"auth/{self._mount}/login", {"role_id": role_id, "secret_id": secret_id}


class Jwt:
    """Log in with a JWT that the platform keeps fresh in a file, such as a SPIFFE JWT-SVID."""

    def __init__(self, mount: str, *, role: str, jwt: Path) -> None:
        self._mount, self._role, self._jwt = mount, role, jwt

    def request(self) -> tuple[str, dict[str, str]]:
        """Read the token file."""
        body = {"role": self._role, "jwt": read_credential(self._jwt)}
        return f"auth/{self._mount}/login", body


class OpenBaoKek:
    """A transit key; wrapping and unwrapping bind the additional data as `associated_data`.

    OpenBao that is sealed, down, slow or refuses the login raises `Undecidable`: nothing can be
    released, and nobody's evidence is blamed.
    """

    def __init__(self, http: httpx2.Client, login: Login, *, mount: str, key: str) -> None:
        self._http, self._login = http, login
        self._mount, self._key = mount, key
        self._token: str | None = None
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        """`openbao:MOUNT/KEY`; which version of the key wrapped, the ciphertext itself says."""
        return f"openbao:{self._mount}/{self._key}"

    def wrap(self, key: Confidential[bytes], *, aad: bytes) -> bytes:
        """Have OpenBao encrypt `key` with the newest version of the KEK."""
        body = {"plaintext": b64(key.reveal()), "associated_data": b64(aad)}
        return _text(self._transit("encrypt", body), "ciphertext").encode()

    def unwrap(self, wrapped: bytes, *, aad: bytes) -> Confidential[bytes]:
        """Have OpenBao decrypt what `wrap` returned for the same `aad`."""
        if not re.fullmatch(rb"vault:v[0-9]{1,9}:[A-Za-z0-9+/=]{16,}", wrapped):
            raise Malformed("wrapped-key", f"{len(wrapped)} bytes that are no transit ciphertext")
        body = {"ciphertext": wrapped.decode(), "associated_data": b64(aad)}
        return Confidential(
            unb64(_text(self._transit("decrypt", body), "plaintext"), what="plaintext")
        )

    def check(self) -> None:
        """Raise `Undecidable` while OpenBao cannot serve, `ConfigError` for a KEK that can leak."""
        status, _ = self._send("GET", "sys/health?standbyok=true", body=None, token=None)
        if status in (501, 503):
            raise Undecidable("kek-sealed", f"OpenBao answers {status}")
        key = self._authorised("GET", f"{self._mount}/keys/{self._key}", body=None)
        if key.get("type") not in _AEAD:
            raise ConfigError("kek-weak", f"{self.id} is of a type that binds no additional data")
        if key.get("exportable") is not False or key.get("allow_plaintext_backup") is not False:
            raise ConfigError("kek-weak", f"{self.id} can be exported")

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def _transit(self, act: str, body: dict[str, str]) -> dict[str, Any]:
        return self._authorised("POST", f"{self._mount}/{act}/{self._key}", body=body)

    def _authorised(self, method: str, path: str, *, body: dict[str, str] | None) -> dict[str, Any]:
        """Send with the token of the last login; one that ended is replaced once."""
        token = self._token or self._renewed(None)
        status, answer = self._send(method, path, body=body, token=token)
        if status == 403:
            status, answer = self._send(method, path, body=body, token=self._renewed(token))
        if status == 200:
            data = answer.get("data")
            return data if isinstance(data, dict) else {}
        if status == 400:
            raise NotAuthentic("kek-mismatch", f"OpenBao does not open it with {self.id}")
        if status == 403:
            raise Undecidable("kek-denied", f"OpenBao answers 403 for {self._mount}/{self._key}")
        if status == 404:
            raise Undecidable("kek-missing", f"OpenBao has no {self._mount}/{self._key}")
        raise _unusable(status)

    def _renewed(self, old: str | None) -> str:
        with self._lock:
            if self._token is not None and self._token != old:
                return self._token  # another thread logged in meanwhile
            try:
                path, body = self._login.request()
            except ConfigError as error:  # a credential file that is being replaced comes back
                raise Undecidable("kek-denied", f"no login: {error.why}") from None
            status, answer = self._send("POST", path, body=body, token=None)
            auth = answer.get("auth")
            if status in (400, 403) or (status == 200 and not isinstance(auth, dict)):
                raise Undecidable("kek-denied", f"OpenBao refuses the login with {status}")
            if status != 200:
                raise _unusable(status)
            self._token = _text(auth, "client_token")
            return self._token

    def _send(
        self, method: str, path: str, *, body: dict[str, str] | None, token: str | None
    ) -> tuple[int, dict[str, Any]]:
        headers = {} if token is None else {"x-vault-token": token}
        try:
            response = self._http.request(method, f"/v1/{path}", json=body, headers=headers)
        except httpx2.HTTPError as error:
            raise Undecidable("kek-unreachable", f"OpenBao: {type(error).__name__}") from None
        try:
            answer = parse_json(response.content, limit=_MAX_ANSWER) if response.content else {}
        except Malformed:
            answer = {}
        return response.status_code, answer if isinstance(answer, dict) else {}


def open_openbao(location: str, *, directory: Path) -> OpenBaoKek:
    """Open the transit key at `location` (see `FORM`); nothing is sent before its first use."""
    where, _, query = location.partition("?")
    url = urlsplit(where)
    given = attributes(query, separator="&", known=_KNOWN)
    path = _PATH.fullmatch(url.path)
    if url.scheme != "https" or not url.hostname or url.username or url.fragment or path is None:
        raise ConfigError("kek-uri", f"a KEK in OpenBao is {FORM}")
    ca, auth = required(given, "ca", "auth")
    headers = {"x-vault-request": "true"}
    if "namespace" in given:
        headers["x-vault-namespace"] = given["namespace"]
    http = httpx2.Client(
        base_url=f"https://{url.netloc}",
        verify=_only(directory / ca),
        headers=headers,
        trust_env=False,
        timeout=_TIMEOUT_S,
        follow_redirects=False,
    )
    mount = given.get("auth-mount", auth)
    if not _MOUNT.fullmatch(mount):
        raise ConfigError("kek-uri", "auth-mount is one path segment")
    return OpenBaoKek(
        http, _login(auth, given, mount=mount, directory=directory), mount=path[1], key=path[2]
    )


def _login(auth: str, given: Any, *, mount: str, directory: Path) -> Login:
    if auth == "approle":
        role_id, secret_id = required(given, "role-id", "secret-id")
        return AppRole(mount, role_id=directory / role_id, secret_id=directory / secret_id)
    if auth == "jwt":
        role, jwt = required(given, "role", "jwt")
        return Jwt(mount, role=role, jwt=directory / jwt)
    raise ConfigError("kek-uri", "auth is approle or jwt")


def _only(ca: Path) -> ssl.SSLContext:
    """Trust the certificate authorities of one file and no other; the host's name is checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        require_regular(ca)
        context.load_verify_locations(cafile=ca)
    except (OSError, ssl.SSLError):
        raise ConfigError("kek-credential", f"{ca} holds no PEM certificates") from None
    return context


def _unusable(status: int) -> Undecidable:
    code = "kek-sealed" if status == 503 else "kek-unreachable"
    return Undecidable(code, f"OpenBao answers {status}")


def _text(answer: Any, name: str) -> str:
    value = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(value, str):
        raise Undecidable("kek-unreachable", f"OpenBao's answer has no {name}")
    return value
