"""NVML in; the signed reports of this guest's GPUs, or a refusal to collect from open ones, out."""

from __future__ import annotations

import contextlib
import ctypes
import hmac
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from attestation.errors import NotAuthentic, Undecidable
from attestation.gpu.claims import Architecture
from attestation.gpu.evidence import DeviceEvidence, GpuEvidence
from attestation.gpu.insecure_nvml import SoftwareNvml
from attestation.gpu.nscq import Nscq
from attestation.gpu.report import Kind
from attestation.types import nonce as checked_nonce

_Answer = TypeVar("_Answer")

_ARCHITECTURES = {9: Architecture.HOPPER, 10: Architecture.BLACKWELL}
"""NVML_DEVICE_ARCH_HOPPER and NVML_DEVICE_ARCH_BLACKWELL."""

Switches = Callable[[bytes], tuple[DeviceEvidence, ...]]
"""Given the nonce, return the evidence of NVSwitches, which NVML does not collect."""


def no_switches(nonce: bytes) -> tuple[DeviceEvidence, ...]:
    """Return nothing: no switch belongs to the guest."""
    checked_nonce(nonce)
    return ()


class GpuGuest:
    """The confidential GPUs of this guest; a caller collects, verifies, then lets them work."""

    def __init__(self, nvml: Any, *, switches: Switches = no_switches) -> None:
        """Use `nvml`, which is `pynvml` or has its functions."""
        self._nvml = nvml
        self._switches = switches

    @classmethod
    def local(cls) -> GpuGuest:
        """Use the driver of this guest; raises `Undecidable` `gpu-absent` without the extra."""
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            raise Undecidable("gpu-absent", "pynvml is not installed") from None
        return cls(nvml, switches=Nscq().switches)

    @classmethod
    def insecure_simulated(cls, directory: Path) -> GpuGuest:
        """Use the software GPUs that a simulator serves in `directory`."""
        nvml = SoftwareNvml(directory)
        return cls(nvml, switches=nvml.switches)

    def evidence(self, nonce: bytes) -> GpuEvidence:
        """Return a report of every GPU over the 32 bytes of `nonce`, in mode ppcie of switches too.

        Raises `Undecidable` `gpu-cc-off` where confidential computing is off, simulated or open to
        developer tools, `gpu-unavailable` when NVML does not answer, and `NotAuthentic`
        `gpu-nonce` for a report over another nonce, which the host may have recorded.
        """
        challenge = checked_nonce(nonce)
        with self._session():
            protected = self._check_state()
            count = self._ask(self._nvml.nvmlDeviceGetCount)
            if not count:
                raise Undecidable("gpu-unavailable", "NVML counts no GPU")
            gpus = tuple(self._gpu(index, challenge) for index in range(count))
        return GpuEvidence(gpus + (self._switches(challenge) if protected else ()))

    def accept_work(self) -> None:
        """Let the GPUs take work; call it only after their evidence was verified here."""
        with self._session():
            self._ask(lambda: self._nvml.nvmlSystemSetConfComputeGpusReadyState(1))

    def _gpu(self, index: int, nonce: bytes) -> DeviceEvidence:
        nvml = self._nvml
        handle = self._ask(lambda: nvml.nvmlDeviceGetHandleByIndex(index))
        number = self._ask(lambda: nvml.nvmlDeviceGetArchitecture(handle))
        architecture = _ARCHITECTURES.get(number)
        if architecture is None:
            raise Undecidable("gpu-unavailable", f"GPU {index} is of architecture {number}")
        chain = self._ask(lambda: nvml.nvmlDeviceGetConfComputeGpuCertificate(handle))
        answer = self._ask(lambda: nvml.nvmlDeviceGetConfComputeGpuAttestationReport(handle, nonce))
        report = bytes(answer.attestationReport)[: answer.attestationReportSize]
        if not hmac.compare_digest(report[4:36], nonce):
            raise NotAuthentic("gpu-nonce", f"GPU {index} answered another nonce")
        pem = bytes(chain.attestationCertChain)[: chain.attestationCertChainSize]
        try:
            text = pem.rstrip(b"\0").decode("ascii")
        except UnicodeDecodeError:
            raise Undecidable("gpu-unavailable", f"GPU {index} has no PEM chain") from None
        return DeviceEvidence(Kind.GPU, architecture.value, report, text)

    def _check_state(self) -> bool:
        """Return whether switches belong to the guest: protected PCIe.

        That is a mode of its own, in which the feature itself reads as off.
        """
        nvml = self._nvml
        settings = nvml.c_nvmlSystemConfComputeSettings_v1_t()
        status = self._ask(lambda: nvml.nvmlSystemGetConfComputeSettings(ctypes.byref(settings)))
        if status != nvml.NVML_SUCCESS:
            raise Undecidable("gpu-unavailable", f"NVML refuses its settings with {status}")
        protected = settings.multiGpuMode == nvml.NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE
        if settings.ccFeature != nvml.NVML_CC_SYSTEM_FEATURE_ENABLED and not protected:
            raise Undecidable("gpu-cc-off", "confidential computing is off")
        if settings.devToolsMode != nvml.NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF:
            raise Undecidable("gpu-cc-off", "developer tools may read the GPUs")
        if settings.environment != nvml.NVML_CC_SYSTEM_ENVIRONMENT_PROD:
            raise Undecidable("gpu-cc-off", f"the environment is {settings.environment}, not 2")
        return bool(protected)

    @contextlib.contextmanager
    def _session(self) -> Iterator[None]:
        self._ask(self._nvml.nvmlInit)
        try:
            yield
        finally:
            with contextlib.suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()

    def _ask(self, question: Callable[[], _Answer]) -> _Answer:
        try:
            return question()
        except self._nvml.NVMLError as error:
            number = getattr(error, "value", "unknown")
            raise Undecidable("gpu-unavailable", f"NVML refuses with error {number}") from None
