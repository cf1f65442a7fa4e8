"""The instruments: every metric that exists, with unit, attributes and bucket bounds."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, TypeAlias

from server.telemetry import vocabulary as names
from server.telemetry.vocabulary import Attributes

Kind: TypeAlias = Literal["counter", "gauge", "histogram"]

VLLM_LABELS = MappingProxyType(
    {names.MODEL: "model_name", names.ENGINE: "engine", names.FINISH: "finished_reason"}
)
"""Attribute -> label of vLLM's own families, whose dashboards then work unchanged."""


@dataclass(frozen=True, slots=True)
class Instrument:
    """One metric under its OpenTelemetry name."""

    name: str
    kind: Kind
    unit: str
    """UCUM: `s` for seconds, `{thing}` for counts of things."""
    text: str
    attributes: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()
    """Upper bounds of a histogram's buckets, without infinity."""

    @property
    def family(self) -> str:
        """Return the name in Prometheus' text, without what a sample adds (`_total`, `_sum`).

        The OpenTelemetry specification's rules; vLLM's own names keep the colon they have there.
        """
        if self.name.startswith("vllm."):
            return self.name.replace(".", ":", 1)
        base = self.name.replace(".", "_")
        return f"{base}_seconds" if self.unit == "s" else base

    def label(self, attribute: str) -> str:
        """Return what `attribute` is called among Prometheus' labels; vLLM's keep their names."""
        if self.name.startswith("vllm."):
            return VLLM_LABELS.get(attribute, attribute)
        return attribute.replace(".", "_")


@dataclass(frozen=True, slots=True)
class Distribution:
    """What a histogram has counted: one count a bucket, the last above every bound."""

    counts: tuple[int, ...]
    total: float
    """Sum of the observed values."""


@dataclass(frozen=True, slots=True)
class Point:
    """The value of an instrument under one set of attributes."""

    attributes: Attributes
    value: float | Distribution


@dataclass(frozen=True, slots=True)
class Family:
    """An instrument and all of its points."""

    instrument: Instrument
    points: tuple[Point, ...]


_LATENCY = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
_FIRST = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_HTTP = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
_GENERATION = (names.OPERATION, names.PROVIDER, names.MODEL)

REQUESTS = Instrument(
    "tacit.requests",
    "counter",
    "{request}",
    "Finished requests by route, status and the code of the refusal; 499 is a client that left.",
    (names.ROUTE, names.STATUS, names.ERROR),
)
HTTP_DURATION = Instrument(
    "http.server.request.duration",
    "histogram",
    "s",
    "Time from the first byte of a request to the last byte of its answer.",
    (names.ROUTE,),
    _HTTP,
)
DURATION = Instrument(
    "gen_ai.server.request.duration",
    "histogram",
    "s",
    "Time that a generation took, until its last token or its failure.",
    (*_GENERATION, names.ERROR),
    _LATENCY,
)
FIRST_TOKEN = Instrument(
    "gen_ai.server.time_to_first_token",
    "histogram",
    "s",
    "Time until the first event of a stream that succeeded.",
    _GENERATION,
    _FIRST,
)
PER_TOKEN = Instrument(
    "gen_ai.server.time_per_output_token",
    "histogram",
    "s",
    "Time between tokens after the first, averaged over a stream that succeeded.",
    _GENERATION,
    _PER_TOKEN,
)
TOKENS = Instrument(
    "tacit.tokens",
    "counter",
    "{token}",
    "Tokens that went into and came out of models, as the engine counted them.",
    (names.MODEL, names.TOKEN_TYPE),
)
TENANT_REQUESTS = Instrument(
    "tacit.tenant.requests",
    "counter",
    "{request}",
    "Finished requests of a tenant, by the code of the refusal.",
    (names.TENANT, names.ERROR),
)
TENANT_TOKENS = Instrument(
    "tacit.tenant.tokens",
    "counter",
    "{token}",
    "Tokens of a tenant.",
    (names.TENANT, names.TOKEN_TYPE),
)
DROPPED = Instrument(
    "tacit.telemetry.dropped",
    "counter",
    "{item}",
    "Spans, log events and metric readings that no collector took.",
    (names.SIGNAL,),
)
ACTIVE = Instrument(
    "tacit.requests.active", "gauge", "{request}", "Generations under way in this replica."
)
PLACES = Instrument(
    "tacit.requests.limit", "gauge", "{request}", "Generations that this replica admits at once."
)
ROTATION = Instrument(
    "tacit.ready", "gauge", "", "1 while /readyz says that new requests should come here."
)
ENGINE_UP = Instrument(
    "tacit.engine.up", "gauge", "", "1 while the engine of a model answers.", (names.MODEL,)
)
CERTIFICATE = Instrument(
    "tacit.certificate.expiry",
    "gauge",
    "s",
    "When the certificate of this boot ends, in seconds since 1970.",
)
COLLATERAL = Instrument(
    "tacit.collateral.expiry",
    "gauge",
    "s",
    "When the first of Intel's statements stapled to the last report ends, in seconds since 1970.",
)
OCSP = Instrument(
    "tacit.nvidia.ocsp.expiry",
    "gauge",
    "s",
    "When the first of NVIDIA's OCSP responses in the last report ends, in seconds since 1970.",
)
SIMULATED = Instrument(
    "tacit.simulated", "gauge", "", "1 where attestation is software and proves nothing."
)

INSTRUMENTS = (
    REQUESTS,
    HTTP_DURATION,
    DURATION,
    FIRST_TOKEN,
    PER_TOKEN,
    TOKENS,
    TENANT_REQUESTS,
    TENANT_TOKENS,
    DROPPED,
    ACTIVE,
    PLACES,
    ROTATION,
    ENGINE_UP,
    CERTIFICATE,
    COLLATERAL,
    OCSP,
    SIMULATED,
)
"""The gateway's own; `server.telemetry.engine` lists those passed on from vLLM."""
