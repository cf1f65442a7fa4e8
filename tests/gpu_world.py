"""A guest with eight GPUs and four switches that a policy accepts, and ways to change it."""

from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import yaml

from attestation.appraise import AttestationResult, appraise
from attestation.authenticate import Claims, authenticate
from attestation.binding import Binding, KeysetBinding
from attestation.evidence import Evidence
from attestation.gpu.evidence import GpuEndorsements, GpuEvidence, bound_nonce
from attestation.policy import Policy
from attestation.simulator.nvidia import GPU, MockNvidia
from attestation.simulator.nvidia_report import DeviceState
from tests.appraisal_world import KEYSET, NONCE, NOW, World, policy_text

BINDING = KeysetBinding(NONCE, KEYSET)

GPU_POLICY: dict[str, Any] = {
    "gpus": 8,
    "switches": 4,
    "architectures": ["hopper"],
    "modes": ["ppcie"],
    "protected_pcie": "required",
    "drivers": ["570.124.06"],
    "vbios": ["96.00.C1.00.04", "96.10.6D.00.01"],
    "measurements": "nvidia",
    "ocsp_max_age_days": 3,
}
SINGLE = replace(GPU, feature=0, protected_pcie=0x55, switch_ids=())
"""A GPU that is passed through alone."""
SINGLE_POLICY = GPU_POLICY | {
    "gpus": 1,
    "switches": 0,
    "modes": ["spt"],
    "protected_pcie": "any",
}


@cache
def nvidia() -> MockNvidia:
    return MockNvidia.generate(NOW)


@cache
def baseboard(nonce: bytes) -> GpuEvidence:
    return nvidia().evidence(nonce)


@cache
def stored(nonce: bytes) -> GpuEndorsements:
    return nvidia().endorsements(baseboard(nonce))


def gpu_policy_text(gpu: Any = GPU_POLICY, *, nvidia_root: bool = True) -> bytes:
    document = yaml.safe_load(policy_text())
    document["gpu"] = gpu
    if nvidia_root:
        document["root"]["nvidia"] = {
            "device": nvidia().device_root.pem,
            "rim": nvidia().rim_root.pem,
        }
    return yaml.safe_dump(document).encode()


def gpu_policy(gpu: Any = GPU_POLICY, **options: bool) -> Policy:
    return Policy.load(gpu_policy_text(gpu, **options), name="gpu.yaml")


@dataclass(frozen=True)
class GpuWorld:
    """One guest with GPUs; `None` stands for what an honest guest and operator send."""

    binding: Binding = BINDING
    evidence: GpuEvidence | None = None
    endorsements: GpuEndorsements | None = None
    policy: Any = field(default_factory=lambda: GPU_POLICY)

    @property
    def nonce(self) -> bytes:
        return bound_nonce(self.binding)

    def gpus(self) -> GpuEvidence:
        return baseboard(self.nonce) if self.evidence is None else self.evidence

    def store(self) -> GpuEndorsements:
        if self.endorsements is not None:
            return self.endorsements
        if self.evidence is None:
            return stored(self.nonce)
        return nvidia().endorsements(self.evidence)

    def sent(self) -> Evidence:
        return World().guest().evidence(self.binding, gpu=self.gpus().to_bytes())

    def claims(self, sent: Evidence | None = None, *, now=NOW) -> Claims:
        endorsed = World().guest().endorsements(NOW)
        return authenticate(
            self.sent() if sent is None else sent,
            replace(endorsed, gpu=self.store().to_bytes()),
            roots=gpu_policy(self.policy).roots,
            expected_nonce=self.binding.nonce,
            now=now,
        )

    def result(self, *, now=NOW) -> AttestationResult:
        return appraise(self.claims(now=now), gpu_policy(self.policy), now=now)


def single(state: DeviceState = SINGLE, **options: Any) -> GpuWorld:
    """Return a guest with one GPU in `state`; its manifests are those of `SINGLE`."""
    evidence = nvidia().evidence(bound_nonce(BINDING), gpus=1, switches=0, state=state)
    options.setdefault("endorsements", nvidia().endorsements(evidence, state=SINGLE))
    options.setdefault("policy", SINGLE_POLICY)
    return GpuWorld(evidence=evidence, **options)
