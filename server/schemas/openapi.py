"""The public API as an OpenAPI 3.1 document: request schemas in, what clients are made from out.

Fields that exist elsewhere and are refused or forgotten here are left out: to a client they are not
part of this API.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from server.schemas.pooling import EmbeddingsRequest, RerankRequest
from server.schemas.requests import ChatRequest, CompletionRequest
from server.schemas.responses import ResponsesRequest

_BODIES: tuple[tuple[str, str, type[BaseModel]], ...] = (
    ("/v1/chat/completions", "Answer a conversation", ChatRequest),
    ("/v1/completions", "Continue a text", CompletionRequest),
    ("/v1/responses", "Answer items, statelessly", ResponsesRequest),
    ("/v1/embeddings", "Make vectors of texts", EmbeddingsRequest),
    ("/v1/rerank", "Order documents by relevance", RerankRequest),
)
_READS: tuple[tuple[str, str, bool], ...] = (
    ("/v1/models", "List the served models", True),
    ("/v1/models/{name}", "Describe one model", True),
    ("/v1/attestation/report", "Fresh evidence for a nonce", False),
    ("/.well-known/tacit/keyset", "The keyset that evidence binds", False),
    ("/healthz", "Whether the process answers", False),
    ("/readyz", "Whether requests should come here", False),
)
_REF = "#/components/schemas/{model}"
_KEY: list[dict[str, list[str]]] = [{"key": []}]


def document() -> dict[str, Any]:
    """Return the document; equal code gives equal documents."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for path, summary, kind in _BODIES:
        schema = kind.model_json_schema(ref_template=_REF, by_alias=True)
        schemas |= schema.pop("$defs", {})
        schemas[kind.__name__] = schema
        body = {"schema": {"$ref": _REF.format(model=kind.__name__)}}
        paths[path] = {
            "post": {
                "summary": summary,
                "security": _KEY,
                "requestBody": {"required": True, "content": {"application/json": body}},
                "responses": _responses("application/json", *_streams(kind)),
            }
        }
    for path, summary, keyed in _READS:
        read: dict[str, Any] = {"summary": summary, "responses": _responses("application/json")}
        if keyed:
            read["security"] = _KEY
        names = [("name", "path")] if "{name}" in path else []
        names += [("nonce", "query")] if path.endswith("report") else []
        read["parameters"] = [
            {"name": name, "in": place, "required": True, "schema": {"type": "string"}}
            for name, place in names
        ]
        paths[path] = {"get": read}
    for schema in schemas.values():
        _forget_what_is_refused(schema)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Tacit", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


def _streams(kind: type[BaseModel]) -> tuple[str, ...]:
    return ("text/event-stream",) if "stream" in kind.model_fields else ()


def _responses(*media: str) -> dict[str, Any]:
    content = {"application/json": {"schema": {"type": "object"}}}
    return {
        "200": {"description": "the answer", "content": {kind: {} for kind in media}},
        "default": {"description": "OpenAI's error object, by `code`", "content": content},
    }


def _forget_what_is_refused(schema: dict[str, Any]) -> None:
    properties = schema.get("properties", {})
    for name in [name for name, value in properties.items() if value.get("type") == "null"]:
        del properties[name]
