"""The routes that answer without the engine: models, attestation, keyset, health; and the table."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from server import exchange
from server.disconnect import until_gone
from server.errors import MethodNotAllowed, NotFound, Unavailable
from server.generation import Generation
from server.onion import respond
from server.pooling import Pooling
from server.ready import Ready
from server.reports import Reports, parse_nonce
from server.schemas import response_answers
from server.schemas.pooling import EmbeddingsRequest, RerankRequest
from server.schemas.requests import ChatRequest, CompletionRequest
from server.schemas.responses import ResponsesRequest

Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = frozenset({"/healthz", "/readyz", "/v1/attestation/report", "/.well-known/tacit/keyset"})
"""Paths that need no API key: who has none yet must be able to verify before asking for one."""

_REPORT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Method:
    """One route under one method; the route's own pattern is what the audit record names."""

    method: str
    route: str
    endpoint: Endpoint

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the endpoint or raise `MethodNotAllowed`."""
        exchange.of(scope).route = self.route
        if scope["method"] != self.method and (self.method, scope["method"]) != ("GET", "HEAD"):
            raise MethodNotAllowed("method-not-allowed", allow=self.method)
        await self.endpoint(scope, receive, send)


@dataclass(frozen=True, slots=True)
class Answers:
    """Endpoints that the gateway answers by itself."""

    ready: Ready
    reports: Reports
    since: datetime

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """List the served models."""
        del receive
        allowance = exchange.allowance(scope)
        data = [self._model(name) for name in sorted(self.ready.models) if allowance.serves(name)]
        await respond(send, 200, _json({"object": "list", "data": data}))

    async def model(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Describe one served model."""
        del receive
        name = scope["path_params"]["name"]
        if name not in self.ready.models or not exchange.allowance(scope).serves(name):
            raise NotFound("model-not-found", param="model")
        await respond(send, 200, _json(self._model(name)))

    async def keyset(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Return the canonical keyset whose digest the evidence binds."""
        del scope, receive
        await respond(send, 200, self.ready.keyset.canonical())

    async def report(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Return fresh evidence for the client's nonce."""
        asked = parse_nonce(scope["query_string"])
        try:
            body = await until_gone(receive, self.reports.report(asked), seconds=_REPORT_SECONDS)
        except TimeoutError:
            raise Unavailable("attestation-unavailable", retry_after=5) from None
        await respond(send, 200, body)

    async def alive(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say that the process answers; a liveness probe must not restart a draining guest."""
        del scope, receive
        await respond(send, 200, _json({"status": "ok"}))

    async def rotation(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say whether new requests should come here."""
        del scope, receive
        if self.ready.admission.draining:
            raise Unavailable("draining", retry_after=1)
        if not self.ready.healthy():
            raise Unavailable("engine-down", retry_after=5)
        await respond(send, 200, _json({"status": "ready"}))

    def _model(self, name: str) -> dict[str, object]:
        return {
            "id": name,
            "object": "model",
            "created": int(self.since.timestamp()),
            "owned_by": "tacit",
            "max_model_len": self.ready.models[name].max_model_len,
            "task": self.ready.models[name].task,
        }


async def unknown(scope: Scope, receive: Receive, send: Send) -> None:
    """Refuse every path that the table does not list."""
    del scope, receive, send
    raise NotFound("route-unknown")


def router(ready: Ready) -> Router:
    """Return the allow-list of routes; whatever is not here does not exist."""
    answers = Answers(ready, Reports(ready.report), ready.clock())
    chat = Generation(ready, ChatRequest, "/v1/chat/completions", "chatcmpl")
    completion = Generation(ready, CompletionRequest, "/v1/completions", "cmpl")
    response = Generation(
        ready, ResponsesRequest, "/v1/responses", "resp", rebuild=response_answers.rebuild
    )
    table: tuple[tuple[str, str, Endpoint], ...] = (
        ("POST", "/v1/chat/completions", chat),
        ("POST", "/v1/completions", completion),
        ("POST", "/v1/responses", response),
        ("POST", "/v1/embeddings", Pooling(ready, EmbeddingsRequest, "embd")),
        ("POST", "/v1/rerank", Pooling(ready, RerankRequest, "rerank")),
        ("GET", "/v1/models", answers.models),
        ("GET", "/v1/models/{name:path}", answers.model),
        ("GET", "/v1/attestation/report", answers.report),
        ("GET", "/.well-known/tacit/keyset", answers.keyset),
        ("GET", "/healthz", answers.alive),
        ("GET", "/readyz", answers.rotation),
    )
    routes = [Route(path, Method(method, path, endpoint)) for method, path, endpoint in table]
    return Router(routes, redirect_slashes=False, default=unknown)


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
