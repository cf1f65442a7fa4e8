"""`Ready`: everything the API needs, which exists only after the boot has succeeded."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from attestation.keyset import Keyset
from attestation.types import Nonce
from server.admission import Admission
from server.audit import AuditSink
from server.auth import KeyStore
from server.engine.protocol import Engine
from server.engine.tasks import Task
from server.logins import ClientLogins
from server.quota import Quotas
from server.settings import LimitSettings

Clock = Callable[[], datetime]
"""Returns the current time, with a time zone."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model under the name clients use, and what its engine can do."""

    engine: Engine
    device: Literal["cpu", "cuda"]
    task: Task
    reasoning: bool = field(kw_only=True)
    max_model_len: int = field(kw_only=True)
    max_queued: int = field(kw_only=True)
    """Sequences that its engine takes at once; more in one request are never served."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A guest that has its keys, its evidence and its engines. The port opens on nothing less."""

    models: Mapping[str, ServedModel]
    keys: KeyStore
    logins: ClientLogins
    keyset: Keyset
    report: Callable[[Nonce], Awaitable[bytes]]
    """Collects fresh evidence for a client's nonce; may raise `attestation.errors.Refusal`."""
    limits: LimitSettings
    clock: Clock
    audit: AuditSink
    admission: Admission
    quotas: Quotas
    healthy: Callable[[], bool]
    """Whether every engine is up; false takes the replica out of rotation."""
