"""A nonce and what it must bind in; the evidence of this guest, GPUs first and the quote last, out.

A GPU is the host's to give, so the guest believes it no more than a client does: what a broker is
sent was verified here first, and no GPU is given work before.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from attestation.binding import Binding, KbsBinding, KeysetBinding, report_data
from attestation.endorse import Endorser
from attestation.errors import ConfigError, NotAffirmed
from attestation.evidence import Evidence
from attestation.gpu.collect import GpuGuest
from attestation.gpu.evidence import GpuEndorsements, bound_nonce
from attestation.gpu.verify import GpuRoots, nvidia_roots, verify_gpu
from attestation.policy import simulated_gpu_roots
from attestation.tdx.collect import TdxGuest
from server.ready import Clock
from server.settings import NoGpu, NvidiaGpu, Settings


class Gpus(Protocol):
    """The GPUs of a guest, or their stated absence."""

    def collected(self, binding: Binding) -> bytes:
        """Return the evidence set over the nonce of `binding`, for somebody else to verify."""

    def verified(self, binding: Binding) -> bytes:
        """Return the evidence set once it was verified here; raises a `Refusal`."""

    def accept_work(self) -> None:
        """Let the GPUs take work, after `verified` returned."""


class WithoutGpus:
    """A guest whose measured configuration says that no GPU takes part."""

    def collected(self, binding: Binding) -> bytes:
        """Return the empty evidence set."""
        bound_nonce(binding)
        return b""

    verified = collected

    def accept_work(self) -> None:
        """Do nothing."""


@dataclass(frozen=True, slots=True)
class WithGpus:
    """Confidential GPUs, verified under `roots` by what NVIDIA states in the store of `endorser`.

    The clock is the host's, so dates are believed no further than the verifiers who ask next.
    """

    guest: GpuGuest
    roots: GpuRoots
    endorser: Endorser
    clock: Clock

    def collected(self, binding: Binding) -> bytes:
        """Return fresh reports; raises what `GpuGuest.evidence` raises."""
        return self.guest.evidence(bound_nonce(binding)).to_bytes()

    def verified(self, binding: Binding) -> bytes:
        """Return fresh reports that hold in everything `verify_gpu` checks.

        Raises a `Refusal`: `NotAffirmed` `gpu.measurements` where a device runs anything but what
        NVIDIA released, `Undecidable` `gpu-endorsements-missing` where NVIDIA's word is absent.
        """
        nonce = bound_nonce(binding)
        evidence = self.guest.evidence(nonce)
        claims = verify_gpu(
            evidence,
            GpuEndorsements.parse(self.endorser.gpu()),
            nonce=nonce,
            roots=self.roots,
            now=self.clock(),
        )
        bad = [device for device in claims if device.unmatched or not device.compared]
        if bad:
            why = f"{len(bad)} of {len(claims)} devices differ from NVIDIA's golden values"
            raise NotAffirmed("gpu.measurements", why)
        return evidence.to_bytes()

    def accept_work(self) -> None:
        """Set the GPUs' ready state; the driver gives them no work before."""
        self.guest.accept_work()


@dataclass(frozen=True, slots=True)
class Attester:
    """The TD and its GPUs, answering whoever asks."""

    tdx: TdxGuest
    gpus: Gpus

    @classmethod
    def of(cls, settings: Settings, endorser: Endorser, *, clock: Clock) -> Attester:
        """Open the interfaces that the measured configuration names; raises `ConfigError`."""
        attestation = settings.file.attestation
        if attestation.mode == "tdx":
            tdx = TdxGuest.kernel()
        else:
            tdx = TdxGuest.insecure_simulated(settings.path(attestation.directory))
        return cls(tdx, _gpus(settings, endorser, clock=clock))

    def for_broker(self, nonce: str, key: Mapping[str, str]) -> Evidence:
        """Return evidence that binds a broker's nonce and the key it may seal to."""
        asked = KbsBinding(nonce, key, "")
        binding = replace(asked, additional_evidence=self.gpus.verified(asked).decode())
        return self._evidence(binding, gpu=b"")

    def for_client(self, binding: KeysetBinding) -> Evidence:
        """Return evidence that binds a client's nonce and the keyset of this boot."""
        return self._evidence(binding, gpu=self.gpus.collected(binding))

    def _evidence(self, binding: Binding, *, gpu: bytes) -> Evidence:
        """Quote last: it signs keys, logs and the GPUs' reports."""
        event_log = self.tdx.event_log()
        quote = self.tdx.quote(report_data(binding, event_log=event_log, gpu_evidence=gpu))
        return Evidence(quote, event_log, gpu=gpu, binding=binding)


def _gpus(settings: Settings, endorser: Endorser, *, clock: Clock) -> Gpus:
    gpu = settings.file.gpu
    if isinstance(gpu, NoGpu):
        return WithoutGpus()
    if isinstance(gpu, NvidiaGpu):
        return WithGpus(GpuGuest.local(), nvidia_roots(), endorser, clock)
    try:
        device, rim = (settings.trust[f"gpu.{name}"].decode("ascii") for name in ("device", "rim"))
    except UnicodeDecodeError:
        raise ConfigError("config-invalid", "a root of the simulated GPUs is not PEM") from None
    roots = simulated_gpu_roots(device, rim, name="gpu")
    return WithGpus(
        GpuGuest.insecure_simulated(settings.path(gpu.directory)), roots, endorser, clock
    )
