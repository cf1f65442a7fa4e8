"""Work that ends when the client does: whoever hangs up stops paying for tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.types import Receive

T = TypeVar("T")


class ClientGone(Exception):
    """The client closed the connection before the answer was complete."""


async def until_gone(receive: Receive, work: Coroutine[Any, Any, T], *, seconds: float) -> T:
    """Run `work`; cancel it and raise `ClientGone` when the client disconnects first.

    The request body must have been read. After `seconds` the work is cancelled and `TimeoutError`
    is raised. Either way the work has finished its clean-up before this returns.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_gone(receive))
    try:
        done, _ = await asyncio.wait(
            {working, watching}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED
        )
        if working in done:
            return working.result()
        if watching in done:
            watching.result()
            raise ClientGone
        raise TimeoutError
    finally:
        working.cancel()
        watching.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
