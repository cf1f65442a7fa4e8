"""Bearer tokens: a JWT and an issuer's public keys in, the claims it signed for us out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from attestation.errors import ConfigError, NotAuthentic

R = TypeVar("R")

ALGORITHMS = ("ES256", "ES384", "EdDSA", "Ed25519", "RS256", "PS256")
"""Signature algorithms of tokens; none that a published key could forge."""
LEEWAY_SECONDS = 30
"""How far the issuer's clock may be from ours."""
_MAX_TOKEN = 16 * 1024


@dataclass(frozen=True, slots=True)
class Issuer:
    """Whose tokens count, for whom they must be meant, and the keys that sign them (RFC 7517)."""

    name: str
    audience: str
    keys: KeySet

    def claims(self, authorization: str | None, now: datetime) -> Mapping[str, Any]:
        """Return the claims of `Bearer TOKEN` or raise `NotAuthentic` `token`.

        RFC 8725: fixed algorithms, issuer, audience, a subject, an expiry that must be there, and
        `nbf` where it is.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not 0 < len(token) <= _MAX_TOKEN:
            raise NotAuthentic("token", "no bearer token")
        try:
            claims = jwt.decode(token, self.keys, algorithms=list(ALGORITHMS)).claims
        except (JoseError, ValueError, TypeError, KeyError, RecursionError):
            # the last for a header of nested brackets, which is read before any signature
            raise NotAuthentic("token", "the token does not verify") from None
        second = now.timestamp()
        if claims.get("iss") != self.name or self.audience not in listed(claims.get("aud")):
            raise NotAuthentic("token", "the token is of another issuer or for another service")
        ends, begins = claims.get("exp"), claims.get("nbf", 0)
        if not isinstance(ends, int) or second >= ends + LEEWAY_SECONDS:
            raise NotAuthentic("token", "the token has ended, or never does")
        if not isinstance(begins, int) or second < begins - LEEWAY_SECONDS:
            raise NotAuthentic("token", "the token is not valid yet")
        subject = claims.get("sub")
        if not isinstance(subject, str) or not 0 < len(subject) <= 128 or not subject.isprintable():
            raise NotAuthentic("token", "the token names nobody")
        return claims


def granted(
    claims: Mapping[str, Any], roles: Mapping[str, Iterable[R]], *, by: str
) -> frozenset[R]:
    """Return what `roles` grants to the groups that the claim `by` lists."""
    groups = [group for group in listed(claims.get(by)) if isinstance(group, str)]
    return frozenset(role for group in groups for role in roles.get(group, ()))


def listed(value: Any) -> list[Any]:
    """Return a claim that may be one value or several as a list."""
    return value if isinstance(value, list) else [value]


def key_set(data: bytes, *, name: str, code: str) -> KeySet:
    """Read a JWK set of public keys, or raise `ConfigError` `code`."""
    try:
        document = json.loads(data)
        keys = KeySet.import_key_set(document)
        private = any(key.is_private for key in keys.keys)
        symmetric = any(key.key_type == "oct" for key in keys.keys)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        raise ConfigError(code, f"{name} is not a set of public keys") from None
    if private or symmetric or not keys.keys:
        raise ConfigError(code, f"{name} must hold public keys and nothing else")
    return keys
