"""Wrapped keys as files: what `tacit seal` writes, the broker imports, and only a KEK opens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, TypeAdapter, ValidationError

from attestation.broker.protocol import MAX_ATTEST, Short, resource_path
from attestation.codec import (
    Document,
    describe,
    length_prefixed,
    parse_json,
    unb64,
)
from attestation.errors import ConfigError, Malformed
from attestation.keyset import DigestText, Name


def _resource(text: str) -> str:
    try:
        return resource_path(text)
    except Malformed as refusal:
        raise ValueError(refusal.why) from None


ResourcePath = Annotated[str, AfterValidator(_resource)]
KekId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+:[0-9A-Za-z._/-]{1,200}$")]
Wrapped = Annotated[str, StringConstraints(min_length=1, max_length=MAX_ATTEST)]


class WrappedKey(Document):
    """The data key of one model's sealed weights, wrapped; binds what it may be used with."""

    version: Literal[1]
    kind: Literal["model-key"] = "model-key"
    resource: ResourcePath
    model: Name
    manifest: DigestText
    """Digest of the manifest whose files the key opens; the guest must have measured it."""
    minimum_version: Annotated[int, Field(ge=1, le=2**31)]
    """Lowest manifest version the guest may load with this key."""
    kek: KekId
    wrapped: Wrapped
    created: datetime

    @property
    def aad(self) -> bytes:
        """What the wrapping authenticates: a key cannot be moved to another name or manifest."""
        return model_key_aad(
            self.resource, manifest=self.manifest, minimum_version=self.minimum_version
        )


class WrappedSecret(Document):
    """A small secret of a deployment (such as the pepper of its API keys), wrapped."""

    version: Literal[1]
    kind: Literal["secret"]
    resource: ResourcePath
    kek: KekId
    wrapped: Wrapped
    created: datetime

    @property
    def aad(self) -> bytes:
        """What the wrapping authenticates: a secret cannot be moved to another name or kind."""
        return secret_aad(self.resource)


WrappedResource = WrappedKey | WrappedSecret
_WRAPPED: TypeAdapter[WrappedResource] = TypeAdapter(WrappedKey | WrappedSecret)


def model_key_aad(resource: str, *, manifest: str, minimum_version: int) -> bytes:
    """Return the additional data a model key is wrapped with."""
    parts = (resource.encode(), manifest.encode(), str(minimum_version).encode())
    return b"tacit/v1/wrapped-key" + length_prefixed(*parts)


def secret_aad(resource: str) -> bytes:
    """Return the additional data a secret is wrapped with."""
    return b"tacit/v1/wrapped-secret" + length_prefixed(resource.encode())


def sealing_run_aad(sources: str) -> bytes:
    """Return the additional data that the key of an unfinished sealing run is wrapped with."""
    return b"tacit/v1/sealing-run" + length_prefixed(sources.encode())


def parse_wrapped(data: bytes, *, name: str) -> WrappedResource:
    """Parse the wrapped-key file `name`, or raise `ConfigError`: it is the operator's file."""
    try:
        value = parse_json(data, limit=MAX_ATTEST)
        kind = value.get("kind", "model-key") if isinstance(value, dict) else None
        model = WrappedSecret if kind == "secret" else WrappedKey
        wrapped = model.model_validate_json(data)
        unb64(wrapped.wrapped, what="wrapped")
    except ValidationError as error:
        raise ConfigError("wrapped-key", f"{name}: {describe(WrappedKey, error)}") from None
    except Malformed as refusal:
        raise ConfigError("wrapped-key", f"{name}: {refusal.why}") from None
    return wrapped


__all__ = [
    "ResourcePath",
    "Short",
    "WrappedKey",
    "WrappedResource",
    "WrappedSecret",
    "model_key_aad",
    "parse_wrapped",
    "sealing_run_aad",
    "secret_aad",
]
