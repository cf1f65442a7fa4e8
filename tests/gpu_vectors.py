"""NVIDIA's genuine evidence and manifests, read from the shared vectors."""

import base64
import json
from datetime import UTC, datetime

from attestation.gpu.evidence import DeviceEvidence
from attestation.gpu.report import Kind
from tests.shared_data import vectors

INSIDE = 1717200000
"""2024-06-01: inside the validity of the manifests of `gpu-hopper-545-full-match`."""


def at(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def device(folder: str, arch: str = "hopper") -> DeviceEvidence:
    report = vectors(folder, "report.bin").read_bytes()
    return DeviceEvidence(Kind.GPU, arch, report, vectors(folder, "cert_chain.pem").read_text())


def baseboard() -> tuple[tuple[DeviceEvidence, ...], bytes]:
    """Return the four GPUs of `gpu-hopper-multi4-ppcie` and the nonce they answer."""
    listed = json.loads(vectors("gpu-hopper-multi4-ppcie", "evidence.json").read_text())
    devices = tuple(
        DeviceEvidence(
            Kind.GPU,
            item["arch"].lower(),
            base64.b64decode(item["evidence"]),
            base64.b64decode(item["certificate"]).decode(),
        )
        for item in listed
    )
    return devices, bytes.fromhex(listed[0]["nonce"])
