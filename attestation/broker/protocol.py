"""Messages of the CoCo KBS attestation protocol 0.4.0: bytes in, typed values out, and back."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import Field, JsonValue, StringConstraints

from attestation.binding import KbsBinding
from attestation.codec import Document, b64, b64url, parse_document, parse_json, unb64, unb64url
from attestation.errors import Malformed
from attestation.evidence import Evidence

VERSION = "0.4.0"
"""The one version spoken; KBS compares by the requirement `=0.4.0`."""

MAX_AUTH = 64 * 1024
"""Largest body of `POST /kbs/v0/auth`, in bytes."""
MAX_ATTEST = 1024 * 1024
"""Largest body of `POST /kbs/v0/attest`, in bytes."""
MAX_RESOURCE = 64 * 1024
"""Largest resource released, in bytes."""

ERROR_TYPE = "https://github.com/confidential-containers/kbs/errors/"

_PART = re.compile(r"[a-zA-Z0-9_\-]+[a-zA-Z0-9_\-\.]*")
_CURVES: Mapping[str, type[ec.EllipticCurve]] = {"P-256": ec.SECP256R1, "P-521": ec.SECP521R1}
_SIZES = {"P-256": 32, "P-521": 66}
_INIT_DATA_HASHES = {"sha256", "sha384", "sha512"}

Text = Annotated[str, StringConstraints(max_length=MAX_ATTEST)]
Short = Annotated[str, StringConstraints(min_length=1, max_length=1024)]


class Request(Document):
    """`POST /kbs/v0/auth`: which TEE wants a challenge."""

    version: Short
    tee: Short
    extra_params: JsonValue = Field(alias="extra-params")
    """TEE specific; a TDX guest has none, whatever it sends here is not used."""

    @classmethod
    def parse(cls, data: bytes) -> Request:
        """Parse a request of a TDX guest that speaks 0.4.0, or refuse it."""
        request = parse_document(cls, data, limit=MAX_AUTH)
        if request.version != VERSION:
            raise Malformed("kbs-version", "the guest speaks another protocol version")
        if request.tee != "tdx":
            raise Malformed("kbs-tee", "the guest is not a TDX guest")
        return request


class Challenge(Document):
    """The answer to a request: the nonce the evidence must bind."""

    nonce: Annotated[str, StringConstraints(min_length=44, max_length=44)]
    extra_params: Literal[""] = Field(alias="extra-params")


class EcKey(Document):
    """An elliptic-curve key of the guest; the broker seals resources to it."""

    kty: Literal["EC"]
    crv: Literal["P-256", "P-521"]
    alg: Literal["ECDH-ES+A256KW"]
    x: Short
    y: Short

    def public_key(self) -> ec.EllipticCurvePublicKey:
        """Return the key, or refuse coordinates that are no point of the curve."""
        return ec_public_key(self.crv, self.x, self.y)


class RsaKey(Document):
    """An RSA key of the guest, for clients that have no elliptic-curve key."""

    kty: Literal["RSA"]
    alg: Literal["RSA-OAEP-256"]
    n: Short
    e: Literal["AQAB"]

    def public_key(self) -> rsa.RSAPublicKey:
        """Return the key, or refuse a modulus outside 2048 to 4096 bits."""
        modulus = int.from_bytes(unb64url(self.n, what="tee-pubkey.n"), "big")
        if not 2048 <= modulus.bit_length() <= 4096 or modulus % 2 == 0:
            raise Malformed("tee-pubkey", f"an RSA modulus of {modulus.bit_length()} bits")
        return rsa.RSAPublicNumbers(65537, modulus).public_key()


TeePubKey = Annotated[EcKey | RsaKey, Field(discriminator="kty")]


class RuntimeData(Document):
    """What the quote's REPORT_DATA binds besides the additional evidence."""

    nonce: Short
    tee_pubkey: TeePubKey = Field(alias="tee-pubkey")


class InitData(Document):
    """The document the host started the guest with; its digest is MRCONFIGID."""

    format: Literal["toml", "json"]
    body: Text

    def mr_config_id(self) -> bytes:
        """Return the 48 bytes MRCONFIGID must hold: digest of the body, cut or zero-filled to 48.

        Cutting SHA-512 and filling SHA-256 is the protocol's rule for TDX, not a tolerance.
        """
        algorithm = _algorithm(self)
        digest = hashlib.new(algorithm, self.body.encode()).digest()
        return digest[:48].ljust(48, b"\0")


class PrimaryEvidence(Document):
    """Evidence of the TDX attester of CoCo guest-components."""

    cc_eventlog: Text | None
    quote: Text


class TeeEvidence(Document):
    """Evidence of the CPU, and of devices as a string of JSON (empty when there are none)."""

    primary_evidence: PrimaryEvidence
    additional_evidence: Text


class Attestation(Document):
    """`POST /kbs/v0/attest`: evidence and what it binds."""

    init_data: InitData | None = Field(default=None, alias="init-data")
    runtime_data: RuntimeData = Field(alias="runtime-data")
    tee_evidence: TeeEvidence = Field(alias="tee-evidence")

    @classmethod
    def parse(cls, data: bytes) -> Attestation:
        """Parse the body, the guest's key included; nothing in it is believed yet."""
        attestation = parse_document(cls, data, limit=MAX_ATTEST)
        attestation.runtime_data.tee_pubkey.public_key()
        return attestation

    @classmethod
    def build(cls, evidence: Evidence, *, init_data: InitData | None = None) -> Attestation:
        """Put evidence with a `KbsBinding` into a message."""
        binding = evidence.binding
        if not isinstance(binding, KbsBinding):
            raise TypeError("evidence for a key broker has a KbsBinding")
        eventlog = b64(evidence.event_log) if evidence.event_log else None
        message = {
            "init-data": None if init_data is None else init_data.model_dump(),
            "runtime-data": {"nonce": binding.nonce, "tee-pubkey": dict(binding.tee_pubkey)},
            "tee-evidence": {
                "primary_evidence": {"cc_eventlog": eventlog, "quote": b64(evidence.quote)},
                "additional_evidence": binding.additional_evidence,
            },
        }
        return cls.parse(json.dumps(message).encode())

    def to_bytes(self) -> bytes:
        """Return the JSON that is posted."""
        return self.model_dump_json(by_alias=True).encode()

    @property
    def binding(self) -> KbsBinding:
        """What REPORT_DATA must commit to."""
        key = self.runtime_data.tee_pubkey.model_dump()
        return KbsBinding(self.runtime_data.nonce, key, self.tee_evidence.additional_evidence)

    def evidence(self) -> Evidence:
        """Return the evidence, opaque until it is authenticated."""
        primary = self.tee_evidence.primary_evidence
        log = b"" if primary.cc_eventlog is None else unb64(primary.cc_eventlog, what="cc_eventlog")
        quote = unb64(primary.quote, what="quote")
        return Evidence(quote, log, b"", self.binding)  # the binding carries GPU evidence here


class Response(Document):
    """The answer to an attestation: the attestation result as an EAR token."""

    token: Text


class ErrorInformation(Document):
    """The body of every error; `detail` is one of our codes and never words."""

    type: Short
    detail: Short


class ModelKey(Document):
    """The payload sealed for a model: the key, and what it may be used with."""

    dek: Short
    """Data encryption key, standard base64."""
    manifest: Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]
    minimum_version: Annotated[int, Field(ge=1)]


def resource_path(text: str) -> str:
    """Return `repo/type/tag` if every part follows the KBS grammar, or refuse it."""
    parts = text.split("/")
    if len(text) > 1024 or len(parts) != 3 or not all(_PART.fullmatch(part) for part in parts):
        raise Malformed("resource-path", "a resource is named repo/type/tag")
    return text


def tee_pubkey(key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """Return `key` as the tee-pubkey the guest binds and sends."""
    crv = next((n for n, curve in _CURVES.items() if isinstance(key.curve, curve)), None)
    if crv is None:
        raise TypeError("a tee-pubkey is on P-256 or P-521")
    point = key.public_numbers()
    x, y = (b64url(value.to_bytes(_SIZES[crv], "big")) for value in (point.x, point.y))
    return {"kty": "EC", "crv": crv, "alg": "ECDH-ES+A256KW", "x": x, "y": y}


def ec_public_key(crv: str, x: str, y: str) -> ec.EllipticCurvePublicKey:
    """Return the point with these coordinates, or refuse another length or no point at all."""
    across, up = unb64url(x, what="tee-pubkey.x"), unb64url(y, what="tee-pubkey.y")
    if not len(across) == len(up) == _SIZES[crv]:
        raise Malformed("tee-pubkey", f"coordinates of {len(across)} and {len(up)} bytes")
    point = int.from_bytes(across, "big"), int.from_bytes(up, "big")
    try:
        return ec.EllipticCurvePublicNumbers(*point, _CURVES[crv]()).public_key()
    except ValueError:
        raise Malformed("tee-pubkey", f"the coordinates are no point of {crv}") from None


def _algorithm(document: InitData) -> str:
    try:
        fields = (
            tomllib.loads(document.body)
            if document.format == "toml"
            else parse_json(document.body.encode(), limit=MAX_ATTEST)
        )
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        raise Malformed("init-data", "init-data is not the TOML it says it is") from None
    algorithm = fields.get("algorithm") if isinstance(fields, dict) else None
    if algorithm not in _INIT_DATA_HASHES:
        raise Malformed("init-data", "init-data names none of sha256, sha384, sha512")
    return str(algorithm)
