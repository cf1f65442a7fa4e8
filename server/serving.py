"""What every route of a model does around its engine: find the model, read, salt, refuse."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import NoReturn

from starlette.types import Receive, Scope

from attestation.codec import length_prefixed
from attestation.confidential import Confidential
from server import exchange
from server.disconnect import ClientGone
from server.engine.protocol import EngineBroken, reason
from server.engine.tasks import Task
from server.errors import BadRequest, EngineFailed, NotFound, Overloaded, TimedOut
from server.exchange import Exchange
from server.ready import Ready, ServedModel
from server.schemas.target import Target

GRACE_SECONDS = 5
"""What a client that stopped reading gets beyond the time limit before it is cut off."""

_SALT = b"tacit/v1/cache-salt"


@dataclass(frozen=True, slots=True)
class Salt:
    """Of this boot: no tenant can guess another's, none outlives the prefix cache it salts."""

    secret: Confidential[bytes] = field(
        default_factory=lambda: Confidential(secrets.token_bytes(32))
    )

    def target(self, name: str, model: ServedModel, seen: Exchange) -> Target:
        """Return where a request for `model` goes, with the salt of its tenant."""
        tenant = length_prefixed((seen.tenant or "").encode(), name.encode())
        salt = hmac.digest(self.secret.reveal(), _SALT + tenant, hashlib.sha256)
        return Target(
            model=name,
            reasoning=model.reasoning,
            seeds=model.device != "cpu",
            cache_salt=salt.hex(),
        )


def served(ready: Ready, scope: Scope, *, name: str, task: Task) -> ServedModel:
    """Return the model of this name; raise `NotFound` or, for another task, `BadRequest`."""
    model = ready.models.get(name)
    if model is None or not exchange.allowance(scope).serves(name):
        raise NotFound("model-not-found", param="model")
    if model.task != task:
        raise BadRequest("model-task", param="model")
    return model


def refuse(status: int, body: Confidential[bytes], *, code: str) -> NoReturn:
    """Raise what a client is told of a status other than 200.

    The engine's own words are never passed on: they can quote the prompt or the schema. `code` is
    for a refusal without a reason that we know.
    """
    if status in {400, 413, 422}:
        raise BadRequest(reason(body) or code)
    if status in {429, 503}:
        raise Overloaded("engine-busy", retry_after=2)
    raise EngineFailed("engine-failed")


async def read_json(scope: Scope, receive: Receive) -> Confidential[bytes]:
    """Return the whole body of a request that says it is JSON; nothing is parsed yet."""
    headers = dict(scope["headers"])
    media = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if media != b"application/json" or headers.get(b"content-encoding", b"identity") != b"identity":
        raise BadRequest("content-type")
    return await read_whole(receive)


async def read_whole(receive: Receive) -> Confidential[bytes]:
    """Return the whole body of a request; raise `ClientGone` when the rest will not come."""
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return Confidential(b"".join(parts))


async def asked(
    model: ServedModel, path: str, body: Confidential[bytes], *, seconds: float, code: str
) -> Confidential[bytes]:
    """Return the engine's complete answer of status 200; any other raises as `refuse` says."""
    try:
        async with asyncio.timeout(seconds):
            found = await model.engine.call(path, body)
    except EngineBroken:
        raise EngineFailed("engine-failed") from None
    except TimeoutError:
        raise TimedOut("request-timeout") from None
    if found.status != 200:
        refuse(found.status, found.body, code=code)
    return found.body
