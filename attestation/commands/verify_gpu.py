"""`tacit verify gpu`: files of one device in; what they prove out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from attestation.appraise import appraise_device
from attestation.codec import unhex
from attestation.commands import files
from attestation.errors import ConfigError, NotAuthentic, Undecidable
from attestation.explain import Answer, as_of, of_device
from attestation.gpu.chain import Proven
from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.ocsp import MAX_OCSP, Responses
from attestation.gpu.report import MAX_REPORT
from attestation.gpu.rim import MAX_RIM, Rim
from attestation.gpu.verify import (
    Device,
    GpuRoots,
    family_of,
    judge,
    require_complete,
    revocation_words,
)
from attestation.policy import Policy, intel_roots

_MAX_CERTIFICATES = 16 * 1024


def device_answer(arguments: argparse.Namespace, policy: Policy | None) -> Answer:
    """Verify report, certificates, manifests and OCSP responses at `--at`, else now.

    Without a policy, what is missing is only listed; under one it is `Undecidable`.
    """
    if arguments.nonce is None:
        print("note: no nonce was given; the report may be an old one", file=sys.stderr)
    roots = intel_roots() if policy is None else policy.roots
    if roots.gpu is None:
        raise Undecidable("gpu-unsupported", "the policy names no root for GPUs")
    moment: datetime = arguments.at or files.now()
    proven = Proven()
    device = _device(arguments, roots=roots.gpu, now=moment, proven=proven)
    rims = _rims(arguments.rim, device, roots=roots.gpu, now=moment, proven=proven)
    responses = Responses.parse(files.read(path, limit=MAX_OCSP) for path in arguments.ocsp)
    words = revocation_words([device], rims.values(), responses, now=moment)
    claims = judge(device, rims, words)
    appraisal = None
    if policy is not None:
        require_complete((claims,))
        appraisal = appraise_device(claims, policy, now=moment)
    told = of_device(claims, appraisal, simulated=roots.simulated, now=moment)
    return told if arguments.at is None else as_of(told, moment)


def _device(
    arguments: argparse.Namespace, *, roots: GpuRoots, now: datetime, proven: Proven
) -> Device:
    """Read what the chain says it is; a file has no evidence set that would state it."""
    report = files.read(arguments.file, limit=MAX_REPORT)
    try:
        pem = files.read(arguments.certs, limit=_MAX_CERTIFICATES).decode("ascii")
        nonce = None
        if arguments.nonce is not None:
            nonce = unhex(arguments.nonce, size=32, what="nonce")
    except UnicodeDecodeError:
        raise ConfigError("argument-invalid", f"{arguments.certs.name} is not PEM") from None
    kind, architecture = family_of(pem, root_der=roots.device_der, now=now)
    evidence = DeviceEvidence(kind, architecture.value, report, pem)
    return Device.authenticate(
        evidence, nonce=nonce, root_der=roots.device_der, now=now, proven=proven
    )


def _rims(
    paths: Sequence[Path], device: Device, *, roots: GpuRoots, now: datetime, proven: Proven
) -> dict[str, Rim]:
    """Verify every manifest given; each must be of this device's driver or VBIOS."""
    found = dict[str, Rim]()
    for path in paths:
        rim = Rim.verify(
            files.read(path, limit=MAX_RIM), root_der=roots.rim_der, now=now, proven=proven
        )
        name = device.describes(rim)
        if name is None:
            why = f"{path.name} is of {rim.product} {rim.version}, not of this device"
            raise NotAuthentic("rim-mismatch", why)
        found[name] = rim
    return found
