"""What the broker's listeners share: bounded bodies in, answers or errors without words out."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import anyio
import anyio.to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from attestation.broker.protocol import ERROR_TYPE, ErrorInformation
from attestation.errors import Malformed, Refusal

T = TypeVar("T")

log = logging.getLogger("tacit.broker")

BODY_SECONDS = 20
"""How long a body may take to arrive."""

STATUS: Mapping[str, int] = MappingProxyType(
    {
        "resource-unknown": 404,
        "resource-path": 404,
        "request-unknown": 404,
        "too-large": 413,
        "rate-limited": 429,
    }
)
"""Codes whose HTTP status is not that of their kind; KBS clients know 404 and stop at it."""


async def read(request: Request, *, limit: int) -> bytes:
    """Return the body, or refuse one of over `limit` bytes as soon as it is, or one too slow.

    Raises `Malformed` ("too-large", "body-incomplete").
    """
    body = bytearray()
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > limit:
                    raise Malformed("too-large", f"a body over {limit} bytes")
    except TimeoutError:
        why = f"no body within {BODY_SECONDS} seconds"
        raise Malformed("body-incomplete", why) from None
    except ClientDisconnect:
        raise Malformed("body-incomplete", "the client went away") from None
    return bytes(body)


async def in_thread(work: Callable[[], T]) -> T:
    """Do blocking work beside the event loop."""
    return await anyio.to_thread.run_sync(work)


async def answered(answer: Callable[[], Awaitable[Response]]) -> Response:
    """Return the answer, or the refusal or bug that came of it as an error without its words."""
    try:
        return await answer()
    except Refusal as refusal:
        status = STATUS.get(refusal.code, refusal.http_status)
        log.warning("refused", extra={"code": refusal.code, "status": status})
        return error_response(status, kind=type(refusal).__name__, code=refusal.code)
    except Exception as error:  # noqa: BLE001 - the one place that may; the text could quote input
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        log.error("bug", extra={"error": type(error).__name__, "place": place})  # noqa: TRY400
        return error_response(500, kind="Internal", code="broker-bug")


def error_response(status: int, *, kind: str, code: str) -> Response:
    """Return KBS's `ErrorInformation`; its detail is our code and nothing of the request."""
    body = ErrorInformation(type=ERROR_TYPE + kind, detail=code)
    response = Response(body.model_dump_json(), status, media_type="application/json")
    if status in (429, 503):
        response.headers["retry-after"] = "5"
    return response


def no_route(_request: Request, _error: Exception) -> Response:
    """Answer what no route answers."""
    return error_response(404, kind="InvalidRequestPath", code="route-unknown")
