"""One passed-through GPU of a mock NVIDIA, and what `verify_gpu` says of it."""

from datetime import timedelta

import pytest

from attestation.errors import Refusal
from attestation.gpu.evidence import GpuEvidence
from attestation.gpu.verify import verify_gpu
from attestation.simulator.nvidia_pki import Window, ocsp_response
from tests.gpu_world import NOW, SINGLE, nvidia

NONCE = bytes(range(32))
HOUR = timedelta(hours=1)


def one(state=SINGLE, **options):
    return GpuEvidence((nvidia().device(state, unit="gpu 0", nonce=NONCE, **options),))


def verify(evidence=None, store=None, *, now=NOW, nonce=NONCE):
    sent = one() if evidence is None else evidence
    endorsed = nvidia().endorsements(sent, state=SINGLE) if store is None else store
    return verify_gpu(sent, endorsed, nonce=nonce, roots=nvidia().roots, now=now)


def refused(*arguments, **options):
    with pytest.raises(Refusal) as refusal:
        verify(*arguments, **options)
    return type(refusal.value), refusal.value.code


def store(**options):
    return nvidia().endorsements(one(), state=SINGLE, **options)


def chain(unit="gpu 0", chip="GH100"):
    return nvidia().chain(chip, unit, fwid=SINGLE.fwid)


def word(subject, issuer, **options):
    options.setdefault("window", Window(NOW - HOUR, NOW + HOUR))
    return {subject.certificate.serial_number: ocsp_response(
        subject.certificate, issuer, **options)}  # fmt: skip
