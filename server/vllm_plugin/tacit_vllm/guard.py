"""ASGI middleware around vLLM's API server: seven routes in, no header or error text out.

The gateway is the only client and sends only what it built itself; this is the second lock. vLLM's
error bodies and logs may quote a request, so an error keeps its status and, from closed lists, its
type and code.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from types import MappingProxyType
from typing import Any

from tacit_vllm import quiet

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

POOLING = frozenset({("POST", "/v1/embeddings"), ("POST", "/classify")})
"""Routes that vLLM has only where it pools; it has none of those that generate there."""

ROUTES = POOLING | {
    ("POST", "/v1/chat/completions"),
    ("POST", "/v1/completions"),
    ("POST", "/v1/responses"),
    ("GET", "/health"),
    ("GET", "/metrics"),
}
_IN = frozenset({b"accept", b"content-length", b"content-type", b"host", b"transfer-encoding"})
_OUT = frozenset({b"cache-control", b"content-length", b"content-type", b"transfer-encoding"})

TYPES = frozenset(
    {
        "BadRequestError",
        "InternalServerError",
        "NotFoundError",
        "NotImplementedError",
        "ServiceUnavailableError",
        "UnprocessableEntityError",
    }
)
"""The values of vLLM's `error.type` that pass."""

CODES = MappingProxyType(
    {
        "input_text": "context_length_exceeded",
        "input_tokens": "context_length_exceeded",
        "max_completion_tokens": "max_tokens_exceeded",
        "max_tokens": "max_tokens_exceeded",
    }
)
"""vLLM's `error.param` of a 400 -> the code the gateway reads."""

_MAX_ERROR = 64 * 1024

log = logging.getLogger("tacit.guard")


class Guard:
    """Wraps vLLM's application; given to it as `--middleware tacit_vllm.guard.Guard`."""

    def __init__(self, app: App) -> None:
        if not quiet.installed():
            raise RuntimeError("the tacit plug-in did not load in the API server")
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass a known request on, and its answer back without words of the engine's."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        elif (scope["method"], scope["path"]) not in ROUTES:
            await _answer(send, status=404, error=None)
        else:
            await self._request(scope, receive, send)

    async def _request(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        answer = _Answer(send)
        bare = {
            **scope,
            "query_string": b"",
            "headers": [(name, value) for name, value in scope["headers"] if name.lower() in _IN],
        }
        try:
            await self._app(bare, receive, answer.send)
        except Exception as error:
            # Outside of here Starlette would log the text and answer with it.
            log.error("a request failed in the engine", exc_info=error)  # noqa: TRY400
            if answer.started:
                raise RuntimeError("the engine's answer broke off") from None
            await _answer(send, status=500, error=None)


class _Answer:
    """One response on its way out; the body of an error is held back and replaced."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._status = 0
        self._error = b""
        self.started = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if self._status < 400:
                self.started = True
                kept = [item for item in message.get("headers", ()) if item[0].lower() in _OUT]
                await self._send({**message, "headers": kept})
        elif self._status < 400:
            await self._send(message)
        elif not self.started:
            if len(self._error) < _MAX_ERROR:
                self._error += message.get("body", b"")
            if not message.get("more_body", False):
                self.started = True
                await _answer(self._send, status=self._status, error=self._error)


async def _answer(send: Send, *, status: int, error: bytes | None) -> None:
    kind, code = _classify(error, status=status) if error is not None else (None, None)
    body = json.dumps(
        {
            "error": {
                "message": "refused by the engine",
                "type": kind or ("BadRequestError" if status < 500 else "InternalServerError"),
                "param": None,
                "code": code,
            }
        }
    ).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _classify(body: bytes, *, status: int) -> tuple[str | None, str | None]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None, None
    error = value.get("error") if isinstance(value, dict) else None
    if not isinstance(error, dict):
        return None, None
    kind, param = error.get("type"), error.get("param")
    code = CODES.get(param) if status == 400 and isinstance(param, str) else None
    return kind if isinstance(kind, str) and kind in TYPES else None, code
