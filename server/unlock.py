"""Ask the key broker, with fresh evidence, for the keys of this boot."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event

from cryptography.hazmat.primitives.asymmetric import ec

from attestation.broker.client import KbsClient, NativeClient
from attestation.broker.protocol import ModelKey
from attestation.broker.statement import Released, statement_key
from attestation.confidential import Confidential
from attestation.errors import NotAuthentic, Undecidable
from attestation.types import Digest
from server.attester import Attester
from server.settings import KbsBroker, NativeBroker, SealedModelSettings, Settings

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 15.0
_CONVERSATIONS = 3
"""How often a guest attests because its session ended before it had every key."""

log = logging.getLogger("tacit.unlock")


@dataclass(frozen=True, slots=True)
class Unlocked:
    """What the broker released to this boot."""

    model_keys: Mapping[str, Confidential[ModelKey]]
    """Served model name -> data key and its manifest; a model on a volume has none."""
    api_key_pepper: Confidential[bytes]
    statements: Mapping[str, Digest]
    """Resource -> digest of the broker's signed statement; KBS has none."""


def unlock(settings: Settings, attester: Attester, *, abandoned: Event) -> Unlocked:
    """Attest to the broker, with GPUs that were verified here first, and return the keys.

    A broker that is down or cannot decide is asked again, with growing pauses, for
    `broker.retry_seconds` or until `abandoned` is set; a broker that refuses is final. Raises a
    `Refusal`.
    """
    deadline = time.monotonic() + settings.file.broker.retry_seconds
    pause = _FIRST_WAIT_S
    while True:
        try:
            return _ask(settings, attester)
        except Undecidable as refusal:
            log.warning("broker undecided", extra={"code": refusal.code})
            if time.monotonic() + pause > deadline or abandoned.wait(pause):
                raise
            pause = min(2 * pause, _LONGEST_WAIT_S)


def _ask(settings: Settings, attester: Attester) -> Unlocked:
    broker = settings.file.broker
    if isinstance(broker, NativeBroker):
        return _ask_natively(settings, attester, broker)
    refusal = ""
    for _ in range(_CONVERSATIONS):
        try:
            return _converse(settings, attester, broker)
        except _SessionEnded as ended:
            refusal = ended.why
            log.info("broker session ended")
    raise NotAuthentic("broker-rejected", refusal)


def _ask_natively(settings: Settings, attester: Attester, broker: NativeBroker) -> Unlocked:
    pin, key = _pin(settings), statement_key(settings.trust["broker.statement_key"])
    statements: dict[str, Digest] = {}

    def released(client: NativeClient, path: str) -> Released:
        found = client.release(path, attester.for_broker)
        statements[path] = found.digest
        log.info("key released", extra={"statement": str(found.digest)})
        return found

    with NativeClient(broker.url, certificate_pem=pin, key=key) as client:
        keys = {name: released(client, model.key).model_key() for name, model in _sealed(settings)}
        return Unlocked(keys, released(client, broker.api_key_pepper).payload, statements)


def _converse(settings: Settings, attester: Attester, broker: KbsBroker) -> Unlocked:
    # A new key for every conversation: what one answer was sealed to opens no other.
    key, pin = ec.generate_private_key(ec.SECP256R1()), _pin(settings)
    with KbsClient(broker.url, key, certificate_pem=pin, session=broker.session) as client:
        client.attest(attester.for_broker(client.challenge(), client.tee_pubkey))
        try:
            return Unlocked(
                {name: client.model_key(model.key) for name, model in _sealed(settings)},
                client.resource(broker.api_key_pepper),
                statements={},
            )
        except NotAuthentic as refusal:
            if refusal.code != "broker-rejected":
                raise
            raise _SessionEnded(refusal.code, refusal.why) from None


class _SessionEnded(NotAuthentic):
    """The evidence was taken, the session or token was not: KBS clients attest anew then."""


def _sealed(settings: Settings) -> tuple[tuple[str, SealedModelSettings], ...]:
    models = settings.file.models.items()
    return tuple((n, model) for n, model in models if isinstance(model, SealedModelSettings))


def _pin(settings: Settings) -> str:
    return settings.trust["broker.certificate"].decode("ascii", errors="replace")
