"""The admin API: what an operator with the role `admin` sees and changes on a running guest."""

from __future__ import annotations

import json
from dataclasses import dataclass

from starlette.types import Receive, Scope, Send

from server.onion import respond
from server.ready import Ready


@dataclass(frozen=True, slots=True)
class Administration:
    """Endpoints of the operator listener; the table in `server.app` says who reaches them."""

    ready: Ready

    async def status(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Say what this guest serves and how busy it is."""
        del scope, receive
        admission = self.ready.admission
        found = {
            "models": sorted(self.ready.models),
            "healthy": self.ready.healthy(),
            "draining": admission.draining,
            "in_flight": admission.in_flight,
            "limit": admission.limit,
            "config": self.ready.keyset.config,
        }
        await respond(send, 200, json.dumps(found).encode())
