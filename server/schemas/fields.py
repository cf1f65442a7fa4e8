"""Building blocks of the request schemas: texts, numbers, JSON Schemas, refused fields."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, JsonValue, StringConstraints
from pydantic_core import PydanticCustomError

from attestation.codec import Document

MAX_STOPS = 4
"""Stop strings of one request (OpenAI's limit, and the engine's)."""
MAX_CHOICES = 8
MAX_TOOLS = 128
MAX_MESSAGES = 4096
MAX_PARTS = 256
MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32
MAX_SCHEMA_NODES = 4096
MAX_INTEGER = 2**53
"""Largest integer every JSON reader agrees on (RFC 8259 section 6)."""


class Content(Document):
    """A piece of a request; neither `repr` nor `str` shows what a client wrote."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    __str__ = __repr__

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return []


def refuse(code: str, *, param: str | None = None) -> PydanticCustomError:
    """Return the error that `server.schemas.requests` turns into a refusal with this code.

    `param` names a field below the model that refuses; it is our own word, never the client's.
    """
    # the type of a custom error is our code; its text is never shown
    return PydanticCustomError(code, "refused", None if param is None else {"param": param})


def _refused(code: str) -> BeforeValidator:
    def check(value: Any) -> None:
        if value is not None:
            raise refuse(code)

    return BeforeValidator(check)


def _refused_if_asked(code: str) -> BeforeValidator:
    def check(value: Any) -> None:
        if value is not None and value is not False:
            raise refuse(code)

    return BeforeValidator(check)


# Fields that exist elsewhere and are refused here by name. `null` asks for nothing and is
# forgotten; so is `false` where it is the default everywhere.
RefusedControl = Annotated[None, _refused("engine-control-refused")]
RefusedTemplate = Annotated[None, _refused("template-refused")]
RefusedMedia = Annotated[None, _refused("media-refused")]
RefusedDecoding = Annotated[None, _refused("decoding-refused")]
RefusedEgress = Annotated[None, _refused("egress-refused")]
RefusedDeprecated = Annotated[None, _refused("deprecated-refused")]
RefusedEcho = Annotated[None, _refused_if_asked("echo-refused")]
RefusedStore = Annotated[None, _refused_if_asked("store-refused")]


def _dropped(value: Any) -> None:
    del value


Dropped = Annotated[None, BeforeValidator(_dropped)]
"""Accepted whatever it holds, because SDKs send it back to us, and forgotten at once."""


def _json(value: Any) -> Any:
    nodes = 0
    level = [value]
    for _ in range(MAX_SCHEMA_DEPTH):
        below: list[Any] = []
        for item in level:
            nodes += 1
            if isinstance(item, dict):
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif not _portable(item):
                raise refuse("field-invalid")
        level = below
        if not level:
            break
    if level or nodes > MAX_SCHEMA_NODES:
        raise refuse("schema-too-large")
    if len(json.dumps(value, ensure_ascii=False)) > MAX_SCHEMA_BYTES:
        raise refuse("schema-too-large")
    return value


def _portable(item: Any) -> bool:
    if isinstance(item, float):
        return math.isfinite(item)
    if isinstance(item, int):
        return -MAX_INTEGER <= item <= MAX_INTEGER
    return True


JsonSchema = Annotated[dict[str, JsonValue], AfterValidator(_json)]
"""A JSON Schema as the client wrote it, bounded in bytes, nodes and depth."""

FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
CallId = Annotated[str, StringConstraints(pattern=r"^[\x20-\x7e]{1,128}$")]
Label = Annotated[str, StringConstraints(max_length=512)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Stop = StopText | Annotated[tuple[StopText, ...], Field(max_length=MAX_STOPS)]
Count = Annotated[int, Field(ge=1, le=1_048_576)]
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Temperature = Annotated[float, Field(ge=0, le=2)]
TopP = Annotated[float, Field(gt=0, le=1)]
TopK = Annotated[int, Field(ge=-1, le=1_048_576)]
MinP = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
RepetitionPenalty = Annotated[float, Field(gt=0, le=2)]
TokenId = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,7}$")]
Bias = Annotated[float, Field(ge=-100, le=100)]
