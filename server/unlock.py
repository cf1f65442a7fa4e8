"""Ask the key broker, with fresh evidence, for the keys of this boot."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from threading import Event

from cryptography.hazmat.primitives.asymmetric import ec

from attestation.binding import KbsBinding, report_data
from attestation.broker.client import KbsClient
from attestation.broker.protocol import ModelKey
from attestation.confidential import Confidential
from attestation.errors import Undecidable
from attestation.evidence import Evidence
from attestation.tdx.collect import TdxGuest
from server.settings import Settings

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 15.0

log = logging.getLogger("tacit.unlock")


@dataclass(frozen=True, slots=True)
class Unlocked:
    """What the broker released to this boot."""

    model_keys: Mapping[str, Confidential[ModelKey]]
    """Served model name -> data key and the manifest it belongs to."""
    api_key_pepper: Confidential[bytes]


def unlock(settings: Settings, guest: TdxGuest, *, abandoned: Event) -> Unlocked:
    """Attest to the broker and return the keys.

    A broker that is down or cannot decide is asked again, with growing pauses, for
    `broker.retry_seconds` or until `abandoned` is set; a broker that refuses is final. Raises a
    `Refusal`.
    """
    deadline = time.monotonic() + settings.file.broker.retry_seconds
    pause = _FIRST_WAIT_S
    while True:
        try:
            return _ask(settings, guest)
        except Undecidable as refusal:
            log.warning("broker undecided", extra={"code": refusal.code})
            if time.monotonic() + pause > deadline or abandoned.wait(pause):
                raise
            pause = min(2 * pause, _LONGEST_WAIT_S)


def _ask(settings: Settings, guest: TdxGuest) -> Unlocked:
    # A new key for every conversation: what one answer was sealed to opens no other.
    key = ec.generate_private_key(ec.SECP256R1())
    broker = settings.file.broker
    pin = settings.trust["broker.certificate"].decode("ascii", errors="replace")
    with KbsClient(broker.url, key, certificate_pem=pin) as client:
        binding = KbsBinding(client.challenge(), client.tee_pubkey, "")
        event_log = guest.event_log()
        quote = guest.quote(report_data(binding, event_log=event_log, gpu_evidence=b""))
        client.attest(Evidence(quote, event_log, gpu=b"", binding=binding))
        return Unlocked(
            {name: client.model_key(model.key) for name, model in settings.file.models.items()},
            client.resource(broker.api_key_pepper),
        )
