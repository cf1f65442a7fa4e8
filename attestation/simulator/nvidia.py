"""A mock NVIDIA: a seed and a date in; device evidence, manifests and OCSP responses out.

Its two roots are never built in and never a default. Everything a device or NVIDIA states is a
field or a keyword, so a test can have any lie signed for real.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from types import MappingProxyType

from cryptography import x509

from attestation.gpu.evidence import DeviceEvidence, GpuEndorsements, GpuEvidence
from attestation.gpu.verify import GpuRoots
from attestation.simulator.nvidia_pki import (
    Party,
    Window,
    certify,
    derived_key,
    ocsp_response,
    raw_signature,
)
from attestation.simulator.nvidia_report import DeviceState, switch_state
from attestation.simulator.nvidia_rim import Golden, manifest
from attestation.x509 import common_name

GPU = DeviceState()
"""A GPU of a PPCIE baseboard, as the simulated driver and VBIOS report it."""
SWITCHES = tuple(switch_state(index) for index in range(4))

NOTHING: Mapping[int, bytes | None] = MappingProxyType({})

_DRIVER_INDEXES, _VBIOS_INDEXES = range(7, 40), range(7)
_ARCHITECTURES = {"GH": "hopper", "GB": "blackwell", "LS": "ls10"}


def golden_of(state: DeviceState, indexes: Sequence[int]) -> Golden:
    """Return golden values that a device in `state` matches."""
    return {index: (state.measurements[index], bytes(48)) for index in indexes}


@dataclass(frozen=True)
class MockNvidia:
    """The hierarchies of one seed; pure: the same seed and dates give the same bytes."""

    seed: bytes
    created: datetime
    """When certificates begin to be valid, and the time of `endorsements`."""

    @classmethod
    def generate(cls, now: datetime) -> MockNvidia:
        """Create hierarchies of fresh keys whose certificates start two days ago."""
        return cls(secrets.token_bytes(32), now.replace(microsecond=0))

    @property
    def roots(self) -> GpuRoots:
        """The trust anchors; a policy that names them is labelled simulated."""
        return GpuRoots(self.device_root.der, self.rim_root.der)

    @cached_property
    def device_root(self) -> Party:
        """Root of device identities."""
        return self._party("Simulated NVIDIA Device Identity CA", issuer=None)

    @cached_property
    def rim_root(self) -> Party:
        """Root of manifest signers."""
        return self._party("Simulated NVIDIA CoRIM signing Root CA", issuer=None)

    @cached_property
    def identity(self) -> Party:
        """The authority below the device root."""
        return self._party("Simulated NVIDIA GH100 Identity", issuer=self.device_root)

    @cached_property
    def rim_chain(self) -> tuple[Party, ...]:
        """Manifest signer first, root last."""
        second = self._party("Simulated NVIDIA Reference Value CA", issuer=self.rim_root)
        third = self._party("Simulated NVIDIA Reference Value L3 001", issuer=second)
        signer = self._party("Simulated RIM L4 Signer", issuer=third, days=730, authority=False)
        return signer, third, second, self.rim_root

    def provisioner(self, chip: str) -> Party:
        """Return the authority of a chip's devices; its name tells what they are."""
        return self._party(f"NVIDIA {chip} Provisioner ICA 1", issuer=self.identity)

    def chain(self, chip: str, unit: str, *, fwid: bytes) -> tuple[Party, ...]:
        """Return the five certificates of a device, leaf first; `unit` tells devices apart."""
        provisioner = self.provisioner(chip)
        core = "GSP" if chip.startswith("G") else "FSP"
        brom = self._party(f"{chip} A01 {core} BROM", issuer=provisioner, unit=unit)
        leaf = self._party(
            f"{chip} A01 {core} FMC LF", issuer=brom, unit=unit, authority=False, fwid=fwid
        )
        return leaf, brom, provisioner, self.identity, self.device_root

    def device(
        self, state: DeviceState, *, unit: str, nonce: bytes, signer: Party | None = None
    ) -> DeviceEvidence:
        """Return signed evidence of one device in `state`."""
        chain = self.chain(state.chip, unit, fwid=state.fwid)
        unsigned = state.unsigned(nonce)
        key = (chain[0] if signer is None else signer).key
        return DeviceEvidence(
            kind=state.kind,
            arch=_ARCHITECTURES[state.chip[:2]],
            report=unsigned + raw_signature(key, unsigned),
            certificates="".join(party.pem for party in chain),
        )

    def evidence(
        self,
        nonce: bytes,
        *,
        gpus: int = 8,
        switches: int = 4,
        state: DeviceState = GPU,
    ) -> GpuEvidence:
        """Return the evidence of a baseboard: GPUs in `state`, then switches."""
        devices = [self.device(state, unit=f"gpu {i}", nonce=nonce) for i in range(gpus)]
        devices += [
            self.device(SWITCHES[i], unit=f"switch {i}", nonce=nonce) for i in range(switches)
        ]
        return GpuEvidence(tuple(devices))

    def manifests(self, state: DeviceState = GPU) -> Mapping[str, bytes]:
        """Return the manifests that the GPU in `state` and the switches match, by RIM id."""
        switch, board = SWITCHES[0], "_".join(state.board)
        driver_id, chip = f"NV_GPU_DRIVER_GH100_{state.driver}", state.chip
        if chip.startswith("GB"):
            driver_id = f"NV_GPU_CC_DRIVER_GB100_{state.driver}"
        return {
            driver_id: self.manifest(
                golden_of(state, _DRIVER_INDEXES), product=chip, version=state.driver
            ),
            f"NV_GPU_VBIOS_{board}_{state.vbios.replace('.', '')}": self.manifest(
                golden_of(state, _VBIOS_INDEXES), product=chip, version=state.vbios
            ),
            f"NV_SWITCH_BIOS_5612_0002_890_{switch.vbios.replace('.', '')}": self.manifest(
                golden_of(switch, range(31)), product="LS10", version=switch.vbios
            ),
        }

    def manifest(
        self,
        golden: Golden,
        *,
        product: str,
        version: str,
        chain: Sequence[Party] | None = None,
    ) -> bytes:
        """Return a signed manifest; `chain` replaces signer and certificates."""
        parties = self.rim_chain if chain is None else chain
        return manifest(
            golden,
            product=product,
            version=version,
            key=parties[0].key,
            certificates=[party.certificate for party in parties],
        )

    def ocsp_window(self, now: datetime) -> Window:
        """Return the window of responses issued an hour before `now` for a week."""
        return Window(now - timedelta(hours=1), now + timedelta(days=7))

    def issued(self, evidence: GpuEvidence) -> tuple[tuple[x509.Certificate, Party], ...]:
        """Return each certificate that must not be revoked, once, with its issuer."""
        pairs = [
            (child.certificate, parent)
            for child, parent in zip(self.rim_chain[:-1], self.rim_chain[1:], strict=True)
        ]
        for item in evidence.devices:
            _, brom, provisioner, identity, _ = x509.load_pem_x509_certificates(
                item.certificates.encode()
            )
            chip = common_name(provisioner.subject).split()[1]
            pairs += [
                (brom, self.provisioner(chip)),
                (provisioner, self.identity),
                (identity, self.device_root),
            ]
        return tuple({certificate.serial_number: (certificate, issuer)
                      for certificate, issuer in pairs}.values())  # fmt: skip

    def endorsements(
        self,
        evidence: GpuEvidence,
        *,
        now: datetime | None = None,
        state: DeviceState = GPU,
        instead: Mapping[int, bytes | None] = NOTHING,
    ) -> GpuEndorsements:
        """Return manifests and good OCSP responses, issued at `now`, for all of `evidence`.

        `instead` replaces responses by serial number; `None` leaves one out.
        """
        window = self.ocsp_window(self.created if now is None else now)
        responses = {
            subject.serial_number: ocsp_response(subject, issuer, window=window)
            for subject, issuer in self.issued(evidence)
        }
        told = {**responses, **instead}.values()
        return GpuEndorsements.of(self.manifests(state), [der for der in told if der is not None])

    def _party(
        self,
        name: str,
        *,
        issuer: Party | None,
        unit: str = "",
        days: int = 3650,
        authority: bool = True,
        fwid: bytes | None = None,
    ) -> Party:
        begins = self.created - timedelta(days=2)
        return certify(
            name,
            derived_key(self.seed, f"{name} {unit}"),
            issuer=issuer,
            window=Window(begins, begins + timedelta(days=days)),
            authority=authority,
            fwid=fwid,
        )
