"""A KEK inside an HSM over PKCS #11: AES-256-GCM in the token, with a key that cannot leave it."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from attestation.broker.kekuri import attributes, read_credential, required
from attestation.confidential import Confidential
from attestation.errors import ConfigError, Malformed, NotAuthentic, Undecidable

FORM = "pkcs11:token=LABEL;object=LABEL?module-path=FILE&pin-source=FILE"
"""The URI (RFC 7512); `pin-source` names a file with the user PIN."""

T = TypeVar("T")

_LABEL = re.compile(r"[A-Za-z0-9._-]{1,32}")
_NONCE, _TAG = 12, 16
_OPENING = threading.Lock()
"""A module is one library per process; two threads must not initialise it at once."""


class Pkcs11Kek:
    """An AES-256 key of a token: sensitive, never extractable, used by one thread at a time.

    Layout of what it wraps: nonce (12 bytes, ours, random) ‖ ciphertext ‖ tag (16 bytes). The
    session is opened at first use and again after the token failed, so a restarted HSM is found.
    """

    def __init__(self, module: Path, pin: Path, *, token: str, label: str) -> None:
        self._module, self._pin = module, pin
        self._token, self._label = token, label
        self._session: Any = None
        self._key: Any = None
        self._lock = threading.Lock()

    @property
    def id(self) -> str:
        """`pkcs11:TOKEN/OBJECT`."""
        return f"pkcs11:{self._token}/{self._label}"

    def wrap(self, key: Confidential[bytes], *, aad: bytes) -> bytes:
        """Encrypt `key` inside the token."""
        nonce = os.urandom(_NONCE)
        sealed: bytes = self._used(
            lambda p, kek: kek.encrypt(
                key.reveal(),
                mechanism=p.Mechanism.AES_GCM,
                mechanism_param=p.GCMParams(nonce, aad, 8 * _TAG),
            )
        )
        return nonce + sealed

    def unwrap(self, wrapped: bytes, *, aad: bytes) -> Confidential[bytes]:
        """Decrypt inside the token what `wrap` returned for the same `aad`."""
        if len(wrapped) <= _NONCE + _TAG:
            raise Malformed("wrapped-key", f"a wrapped key of {len(wrapped)} bytes")
        return Confidential(
            self._used(
                lambda p, kek: kek.decrypt(
                    wrapped[_NONCE:],
                    mechanism=p.Mechanism.AES_GCM,
                    mechanism_param=p.GCMParams(wrapped[:_NONCE], aad, 8 * _TAG),
                )
            )
        )

    def check(self) -> None:
        """Raise `Undecidable` while the token cannot be used, `ConfigError` for a key to leak."""
        self._used(lambda _p, kek: kek.key_length)

    def close(self) -> None:
        """Log out."""
        with self._lock:
            self._forget()

    def create(self) -> None:
        """Make the key in the token; one that exists is never replaced."""
        p = _pkcs11()
        with self._lock:
            session = self._open(p, writes=True)
            try:
                if any(session.get_objects({p.Attribute.LABEL: self._label})):
                    raise ConfigError("kek-exists", f"{self.id} exists already")
                session.generate_key(
                    p.KeyType.AES,
                    256,
                    label=self._label,
                    store=True,
                    capabilities=p.MechanismFlag.ENCRYPT | p.MechanismFlag.DECRYPT,
                    template={p.Attribute.SENSITIVE: True, p.Attribute.EXTRACTABLE: False},
                )
            except p.PKCS11Error as error:
                raise ConfigError("kek-hsm", f"{self.id}: {type(error).__name__}") from None
            finally:
                session.close()

    def _used(self, work: Callable[[Any, Any], T]) -> T:
        """Do `work` with the key; a session that failed is opened anew once."""
        p = _pkcs11()
        with self._lock:
            try:
                return self._tried(p, work)
            except p.PKCS11Error as error:
                self._forget()
                wrong = type(error).__name__ in _WRONG_TAG
            try:
                # tokens report a wrong tag in several words: it was one if the token still works
                self._tried(p, _probe)
                if wrong:
                    raise NotAuthentic(
                        "kek-mismatch", f"{self.id} does not open what it was given"
                    ) from None
                return self._tried(p, work)
            except p.PKCS11Error as error:
                self._forget()
                raise Undecidable("kek-unreachable", f"HSM: {type(error).__name__}") from None

    def _tried(self, p: Any, work: Callable[[Any, Any], T]) -> T:
        if self._key is None:
            self._session = self._open(p, writes=False)
            self._key = self._found(p)
        return work(p, self._key)

    def _open(self, p: Any, *, writes: bool) -> Any:
        try:
            pin = read_credential(self._pin)
        except ConfigError as error:
            raise Undecidable("kek-denied", f"no login: {error.why}") from None
        try:
            with _OPENING:
                token = p.lib(os.fspath(self._module)).get_token(token_label=self._token)
                try:
                    return token.open(user_pin=pin, rw=writes)
                except p.UserAlreadyLoggedIn:  # a login counts for every session of a process
                    return token.open(rw=writes)
        except (p.NoSuchToken, p.MultipleTokensReturned):
            raise Undecidable("kek-missing", f"no one token {self._token}") from None
        except (p.PinIncorrect, p.PinLocked, p.PinInvalid, p.PinLenRange, p.PinExpired):
            raise Undecidable("kek-denied", f"token {self._token} refuses the PIN") from None
        except (p.PKCS11Error, RuntimeError) as error:  # RuntimeError: the module does not load
            raise Undecidable("kek-unreachable", f"HSM: {type(error).__name__}") from None

    def _found(self, p: Any) -> Any:
        wanted = {p.Attribute.CLASS: p.ObjectClass.SECRET_KEY, p.Attribute.LABEL: self._label}
        keys = list(self._session.get_objects(wanted))
        if len(keys) != 1:
            raise Undecidable("kek-missing", f"{len(keys)} keys are called {self.id}")
        (key,) = keys
        if key[p.Attribute.EXTRACTABLE] or not key[p.Attribute.SENSITIVE]:
            raise ConfigError("kek-weak", f"{self.id} can be exported")
        if key.key_type is not p.KeyType.AES or key.key_length != 256:
            raise ConfigError("kek-weak", f"{self.id} is not an AES key of 256 bits")
        return key

    def _forget(self) -> None:
        session, self._session, self._key = self._session, None, None
        if session is not None:
            p = _pkcs11()
            try:
                session.close()
            except p.PKCS11Error:
                return  # it ended with the token


def _probe(p: Any, kek: Any) -> None:
    params = p.GCMParams(os.urandom(_NONCE), b"", 8 * _TAG)
    kek.encrypt(b"probe", mechanism=p.Mechanism.AES_GCM, mechanism_param=params)


_WRONG_TAG = frozenset(
    ("EncryptedDataInvalid", "EncryptedDataLenRange", "GeneralError", "FunctionFailed")
)


def open_hsm(location: str, *, directory: Path) -> Pkcs11Kek:
    """Name the key at `location` (see `FORM`); the token is not touched before its first use."""
    path, _, query = location.partition("?")
    given = attributes(path, separator=";", known=("token", "object"))
    files = attributes(query, separator="&", known=("module-path", "pin-source"))
    token, label = required(given, "token", "object")
    module, pin = required(files, "module-path", "pin-source")
    if not _LABEL.fullmatch(token) or not _LABEL.fullmatch(label):
        raise ConfigError("kek-uri", f"a KEK in an HSM is {FORM}; labels are plain names")
    _pkcs11()
    return Pkcs11Kek(directory / module, directory / pin, token=token, label=label)


def _pkcs11() -> Any:
    try:
        import pkcs11  # noqa: PLC0415 - an extra; brokers without an HSM do not have it
    except ModuleNotFoundError:
        raise ConfigError("kek-extra", "python-pkcs11 is not installed") from None
    return pkcs11
