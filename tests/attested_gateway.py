"""A gateway in a software TD: real TLS, real evidence over its own keyset, an echoing engine."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from types import MappingProxyType
from typing import Any

import httpx2

from attestation.binding import KeysetBinding
from attestation.client import AsyncAttestedTransport, AttestedTransport, RelyingParty
from attestation.keyset import Keyset
from attestation.policy import Policy
from attestation.report import Report
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.intel import MockIntel
from attestation.simulator.policy import policy_yaml
from attestation.tdx.eventlog import RuntimeEvent
from attestation.types import Digest, Nonce
from tests.gateway_kit import MODEL, Gateway, keyset, prepared

STARTED = datetime.now(UTC)
DOMAIN = "tacit.inference/v1"
CANARY = "canary-7d1f0c9e"
"""In every prompt; no byte that leaves for an unverified service may hold it."""


@cache
def intel() -> MockIntel:
    return MockIntel.generate(STARTED)


def measured(stated: Keyset, **launch: Any) -> SoftwareGuest:
    """Return a TD that measured what `stated` says it runs."""
    guest = SoftwareGuest(intel(), **launch)
    guest.extend(RuntimeEvent(DOMAIN, "config", stated.config))
    for model in stated.models:
        guest.extend(RuntimeEvent(DOMAIN, "model", f"{model.name}={model.manifest}"))
    return guest


def policy_text() -> bytes:
    """Return the policy that accepts `service()`."""
    stated = keyset(Digest.sha256(b"any"))
    return policy_yaml(
        SoftwareGuest(intel()).report,
        intel(),
        config=Digest.parse(stated.config),
        models={model.name: Digest.parse(model.manifest) for model in stated.models},
    )


def policy(changes: Mapping[bytes, bytes] = MappingProxyType({})) -> Policy:
    """Load `policy_text()` with some words of it replaced."""
    text = policy_text()
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return Policy.load(text, name="gateway.yaml")


def report_of(
    stated: Keyset,
    nonce: Nonce,
    *,
    staple: bool = True,
    stapled_at: datetime | None = None,
    **launch: Any,
) -> bytes:
    """Return the report of a TD over `stated`; `launch` says how the TD was started."""
    guest = measured(stated, **launch)
    endorsements = guest.endorsements(stapled_at) if staple else None
    return Report.build(guest.evidence(KeysetBinding(nonce, stated)), endorsements).to_bytes()


def service(**evidence: Any) -> Gateway:
    """Return a gateway that reports itself; `evidence` changes what it reports."""
    gateway = prepared()

    async def report(nonce: Nonce) -> bytes:
        return report_of(gateway.ready.keyset, nonce, **evidence)

    gateway.ready = replace(gateway.ready, report=report)
    return gateway


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.offset = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


def client_of(url: str, **fields: Any) -> httpx2.Client:
    """Return what `attested_client` does, for a relying party with these fields."""
    party = RelyingParty(url, fields.pop("policy", None) or policy(), **fields)
    return httpx2.Client(transport=AttestedTransport(party), trust_env=False, timeout=20)


def async_client_of(url: str, **fields: Any) -> httpx2.AsyncClient:
    party = RelyingParty(url, fields.pop("policy", None) or policy(), **fields)
    return httpx2.AsyncClient(transport=AsyncAttestedTransport(party), trust_env=False, timeout=20)


def prompt(**fields: Any) -> dict[str, Any]:
    """Return the arguments of a chat that carries the canary."""
    messages = [{"role": "user", "content": f"say {CANARY}"}]
    return {"model": MODEL, "messages": messages, **fields}
