"""The closed vocabulary: attribute values in, only those that a list or a range names out.

Names are those of OpenTelemetry's semantic conventions 1.41 (general and GenAI, the last release
that had both); what is ours begins with `tacit.`. An attribute that is not in `Vocabulary.checks`
does not exist: no prompt, header, path, address or exception text has a name here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

from attestation.codes import CODES
from server.errors import MESSAGES

SCHEMA = "https://opentelemetry.io/schemas/1.41.0"
OTHER = "_OTHER"
"""What a text that no list names is replaced by (semantic conventions, `error.type`)."""

OPERATION = "gen_ai.operation.name"
PROVIDER = "gen_ai.provider.name"
MODEL = "gen_ai.request.model"
TOKEN_TYPE = "gen_ai.token.type"  # noqa: S105 - a name
INPUT_TOKENS = "gen_ai.usage.input_tokens"
OUTPUT_TOKENS = "gen_ai.usage.output_tokens"
STREAM = "gen_ai.request.stream"
ROUTE = "http.route"
STATUS = "http.response.status_code"
ERROR = "error.type"
EXCEPTION = "exception.type"
REQUEST = "tacit.request.id"
TENANT = "tacit.tenant"
SIGNAL = "tacit.signal"
ENGINE = "tacit.engine"
FINISH = "tacit.finished_reason"
PROFILE = "tacit.profile"
PLACE = "tacit.place"
COUNT = "tacit.count"
EXIT_STATUS = "tacit.status"
ENGINE_LEVEL = "tacit.engine.level"

Scalar: TypeAlias = str | int | bool
Attributes: TypeAlias = tuple[tuple[str, Scalar], ...]
"""Names with their values, in the order of the names."""

OPERATIONS = MappingProxyType(
    {
        "/v1/chat/completions": "chat",
        "/v1/completions": "text_completion",
        "/v1/responses": "chat",
        "/v1/embeddings": "embeddings",
        "/v1/rerank": "rerank",
    }
)
"""Route -> `gen_ai.operation.name`. `rerank` has none in the conventions."""

EVENTS = frozenset(
    {
        "api keys cannot be read",
        "api keys read",
        "audit",
        "bug",
        "cut",
        "draining",
        "engine ended",
        "engine killed",
        "engine ready",
        "engine refused to load",
        "engine said",
        "engine started",
        "key given",
        "key refused",
        "key window closed",
        "no evidence",
        "rejected",
        "telemetry refused",
        "telemetry resumed",
        "unhandled",
        "warning",
    }
)
"""What the service's own loggers may say to a collector; any other event stays on stderr."""

LOG_FIELDS = MappingProxyType(
    {
        "code": ERROR,
        "count": COUNT,
        "engine": MODEL,
        "engine_level": ENGINE_LEVEL,
        "error": EXCEPTION,
        "in_flight": COUNT,
        "keys": COUNT,
        "place": PLACE,
        "request": REQUEST,
        "status": EXIT_STATUS,
    }
)
"""Field of our log records -> attribute."""

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}")
_REQUEST = re.compile(r"req_[0-9a-f]{32}")
_PLACE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}\.py:[0-9]{1,6}")
_CLASS = re.compile(r"[A-Z][A-Za-z0-9]{0,63}")
_SIGNALS = frozenset({"traces", "metrics", "logs"})
_FINISHES = frozenset({"stop", "length", "abort", "error", "repetition"})
_LEVELS = frozenset({"DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"})
_ERRORS = frozenset(MESSAGES) | frozenset(CODES) | {"client-gone"}
_MOST = 2**53

Check: TypeAlias = Callable[[object], bool]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Every attribute that may leave this deployment, with what its value may be."""

    checks: Mapping[str, Check]

    @classmethod
    def of(cls, *, models: Iterable[str], routes: Iterable[str], tenants: bool) -> Vocabulary:
        """Return the vocabulary of a deployment; tenants have a name in it only if wanted."""
        checks = {
            OPERATION: _one_of(frozenset(OPERATIONS.values())),
            PROVIDER: _one_of(frozenset({"vllm"})),
            MODEL: _one_of(frozenset(models)),
            TOKEN_TYPE: _one_of(frozenset({"input", "output"})),
            INPUT_TOKENS: _whole(0, _MOST),
            OUTPUT_TOKENS: _whole(0, _MOST),
            STREAM: _truth,
            ROUTE: _one_of(frozenset(routes)),
            STATUS: _whole(100, 599),
            ERROR: _one_of(_ERRORS),
            EXCEPTION: _like(_CLASS),
            REQUEST: _like(_REQUEST),
            SIGNAL: _one_of(_SIGNALS),
            ENGINE: _whole(0, 1023),
            FINISH: _one_of(_FINISHES),
            PROFILE: _one_of(frozenset({"production", "simulated"})),
            PLACE: _like(_PLACE),
            COUNT: _whole(0, _MOST),
            EXIT_STATUS: _whole(-255, 255),
            ENGINE_LEVEL: _one_of(_LEVELS),
        }
        if tenants:
            checks[TENANT] = _like(_TENANT)
        return cls(MappingProxyType(checks))

    def rebuilt(self, values: Mapping[str, object], names: Iterable[str]) -> Attributes:
        """Return the attributes of `names` that have a value, each made anew from this list.

        A text that is not allowed becomes `_OTHER`, anything else that is not is left out.
        """
        found: list[tuple[str, Scalar]] = []
        for name in sorted(set(names)):
            check, value = self.checks.get(name), values.get(name)
            if check is None or value is None:
                continue
            if type(value) in {str, int, bool} and check(value):
                found.append((name, value))  # type: ignore[arg-type]
            elif isinstance(value, str):
                found.append((name, OTHER))
        return tuple(found)


def _one_of(allowed: frozenset[str]) -> Check:
    return lambda value: isinstance(value, str) and value in allowed


def _like(pattern: re.Pattern[str]) -> Check:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _whole(least: int, most: int) -> Check:
    return lambda value: type(value) is int and least <= value <= most


def _truth(value: object) -> bool:
    return type(value) is bool
