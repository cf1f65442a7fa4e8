"""`tacit endorse gpu`: collect what NVIDIA states about the devices of a guest."""

from __future__ import annotations

import argparse
import contextlib
import secrets
from pathlib import Path

from attestation.commands import files
from attestation.commands.files import Commands
from attestation.errors import ConfigError, Undecidable
from attestation.gpu.evidence import GpuEvidence


def register(acts: Commands) -> None:
    """Add `gpu` and `gpu-evidence`."""
    ask = acts.add_parser("gpu-evidence", help="ask this guest's GPUs for reports, and keep them")
    ask.add_argument("--simulated", type=Path, metavar="DIR", help="software GPUs of a simulator")
    ask.add_argument("--to", type=Path, required=True, metavar="FILE")
    files.add_json(ask)
    ask.set_defaults(run=run_evidence)

    gpu = acts.add_parser("gpu", help="collect NVIDIA's manifests and OCSP responses about devices")
    gpu.add_argument("file", type=Path, metavar="EVIDENCE", help="a report, or of `gpu-evidence`")
    where = "a service or mirror of it (https://...), or a directory of what it answered"
    gpu.add_argument("--rims", required=True, metavar="URL_OR_DIR", help=where)
    gpu.add_argument("--ocsp", required=True, metavar="URL_OR_DIR", help="the same of responders")
    gpu.add_argument("--tls-ca", type=Path, metavar="PEM", help="whom a mirror must be known to")
    gpu.add_argument("--policy", type=Path, metavar="FILE", help="of a simulator: whose roots")
    files.add_policy_signer(gpu)
    gpu.add_argument("--to", type=Path, required=True, metavar="FILE", help="such as nvidia.json")
    files.add_json(gpu)
    gpu.set_defaults(run=run_gpu)


def run_evidence(arguments: argparse.Namespace) -> int:
    """Write the evidence set of this guest's devices; its nonce is of no use to anybody."""
    from attestation.gpu.collect import GpuGuest

    if arguments.simulated is None:
        guest = GpuGuest.local()
    else:
        guest = GpuGuest.insecure_simulated(arguments.simulated)
    evidence = guest.evidence(secrets.token_bytes(32))
    files.write(arguments.to, evidence.to_bytes())
    return files.told(arguments, file=str(arguments.to), devices=len(evidence.devices))


def run_gpu(arguments: argparse.Namespace) -> int:
    """Write the store once everything in it verified and nothing is missing."""
    from attestation.nvidia import Carried, Service, collected, service
    from attestation.policy import intel_roots

    roots = intel_roots()
    if arguments.policy is not None:
        roots = files.load_policy(arguments.policy, signer=arguments.policy_signer).roots
    if roots.gpu is None:
        raise Undecidable("gpu-unsupported", "the policy names no root for GPUs")
    trusted = files.authority(arguments.tls_ca)

    with contextlib.ExitStack() as opened:

        def source(place: str) -> Service | Carried:
            if "://" in place:
                return opened.enter_context(service(place, trusted))
            return Carried(Path(place))

        store = collected(
            _evidence(arguments.file),
            source(arguments.rims),
            source(arguments.ocsp),
            roots=roots.gpu,
            now=files.now(),
        )
    files.write(arguments.to, store.to_bytes())
    return files.told(
        arguments, file=str(arguments.to), manifests=sorted(store.rims), ocsp=len(store.ocsp)
    )


def _evidence(path: Path) -> GpuEvidence:
    data = files.read(path)
    if data.startswith(b'{"devices":'):
        return GpuEvidence.parse(data)
    sent = files.saved_report(data, name=path.name).gpu
    if not sent:
        raise ConfigError("argument-invalid", f"{path.name} is of a guest without GPUs")
    return GpuEvidence.parse(sent)
