"""The directory of a simulator in; what NVML and the switches of its software GPUs answer, out.

It has the functions of `pynvml` that the collector asks for, so the collector is the same one. The
keys stay with the simulator (`attestation.simulator.gpus` says what lies in the directory).
"""

# ruff: noqa: N802 - the functions have NVML's names

from __future__ import annotations

import ctypes
import secrets
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from attestation.codec import Document, parse_document
from attestation.errors import Malformed, Undecidable
from attestation.gpu.evidence import MAX_GPU, MOST_DEVICES, DeviceEvidence
from attestation.gpu.report import Kind

_POLL_S = 0.002
_MAX_REPORT = 64 * 1024
_HOPPER, _BLACKWELL = 9, 10
_NUMBERS = {"hopper": _HOPPER, "blackwell": _BLACKWELL}


class SoftwareSettings(Document):
    """What NVML says about confidential computing, in its own numbers."""

    environment: Annotated[int, Field(ge=0, le=255)]
    cc_feature: Annotated[int, Field(ge=0, le=255)]
    dev_tools_mode: Annotated[int, Field(ge=0, le=255)]
    multi_gpu_mode: Annotated[int, Field(ge=0, le=255)]


class SoftwareDevice(Document):
    """One software device; its certificates are public."""

    kind: Literal["gpu", "switch"]
    arch: Literal["hopper", "blackwell", "ls10"]
    certificates: Annotated[str, StringConstraints(max_length=16 * 1024)]


class SoftwareState(Document):
    """`state.json`: the devices, GPUs first, and how they are set."""

    version: Literal[1]
    settings: SoftwareSettings
    devices: Annotated[tuple[SoftwareDevice, ...], Field(max_length=MOST_DEVICES)]


class SoftwareNvmlError(Exception):
    """What NVML raises, with its number."""

    def __init__(self, value: int) -> None:
        super().__init__(value)
        self.value = value


_UNINITIALIZED, _TIMEOUT, _UNKNOWN = 1, 10, 999
"""NVML_ERROR_UNINITIALIZED, NVML_ERROR_TIMEOUT and NVML_ERROR_UNKNOWN."""


class _Settings(ctypes.Structure):
    _fields_ = [
        ("version", ctypes.c_uint),
        ("environment", ctypes.c_uint),
        ("ccFeature", ctypes.c_uint),
        ("devToolsMode", ctypes.c_uint),
        ("multiGpuMode", ctypes.c_uint),
    ]


class SoftwareNvml:
    """NVML of the GPUs that a simulator serves below `directory`."""

    NVMLError = SoftwareNvmlError
    NVML_SUCCESS = 0
    NVML_CC_SYSTEM_FEATURE_ENABLED = 1
    NVML_CC_SYSTEM_DEVTOOLS_MODE_OFF = 0
    NVML_CC_SYSTEM_ENVIRONMENT_PROD = 2
    NVML_CC_SYSTEM_MULTIGPU_PROTECTED_PCIE = 1
    c_nvmlSystemConfComputeSettings_v1_t = _Settings  # noqa: N815 - NVML's name

    def __init__(self, directory: Path, *, timeout_s: float = 10) -> None:
        self._directory = directory / "gpu"
        self._timeout_s = timeout_s

    def nvmlInit(self) -> None:
        """Raise `SoftwareNvmlError` where no simulator serves GPUs."""
        self._state()

    def nvmlShutdown(self) -> None:
        """Do nothing: every question reads the directory anew."""

    def nvmlDeviceGetCount(self) -> int:
        """Return how many GPUs there are, switches aside."""
        return sum(device.kind == "gpu" for device in self._state().devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        """Return the index; a software GPU has no other handle."""
        return index

    def nvmlDeviceGetArchitecture(self, handle: int) -> int:
        """Return NVML's number of the architecture."""
        return _NUMBERS.get(self._state().devices[handle].arch, 0)

    def nvmlSystemGetConfComputeSettings(self, reference: Any) -> int:
        """Fill in the structure that `reference` points to."""
        settings, given = reference._obj, self._state().settings  # noqa: SLF001 - byref's own
        settings.environment = given.environment
        settings.ccFeature = given.cc_feature
        settings.devToolsMode = given.dev_tools_mode
        settings.multiGpuMode = given.multi_gpu_mode
        return self.NVML_SUCCESS

    def nvmlDeviceGetConfComputeGpuCertificate(self, handle: int) -> SimpleNamespace:
        """Return the device's certificates."""
        pem = self._state().devices[handle].certificates.encode()
        return SimpleNamespace(attestationCertChain=pem, attestationCertChainSize=len(pem))

    def nvmlDeviceGetConfComputeGpuAttestationReport(
        self, handle: int, nonce: bytes
    ) -> SimpleNamespace:
        """Return a report over `nonce`."""
        report = self._ask(handle, nonce)
        return SimpleNamespace(attestationReport=report, attestationReportSize=len(report))

    def nvmlSystemSetConfComputeGpusReadyState(self, state: int) -> None:
        """Tell the simulator whether the GPUs may take work."""
        try:
            (self._directory / "ready").write_text(f"{state}\n")
        except OSError:
            raise SoftwareNvmlError(_UNKNOWN) from None

    def switches(self, nonce: bytes) -> tuple[DeviceEvidence, ...]:
        """Return the evidence of the software switches, as NSCQ would for genuine ones."""
        try:
            return tuple(
                DeviceEvidence(
                    Kind.SWITCH, device.arch, self._ask(index, nonce), device.certificates
                )
                for index, device in enumerate(self._state().devices)
                if device.kind == "switch"
            )
        except SoftwareNvmlError as error:
            why = f"a software switch refuses with error {error.value}"
            raise Undecidable("gpu-unavailable", why) from None

    def _state(self) -> SoftwareState:
        try:
            data = (self._directory / "state.json").read_bytes()
            return parse_document(SoftwareState, data, limit=MAX_GPU)
        except (OSError, Malformed):
            raise SoftwareNvmlError(_UNINITIALIZED) from None

    def _ask(self, device: int, nonce: bytes) -> bytes:
        """Leave a request whose name says everything, and wait for the answer of that name."""
        name = f"{device}.{nonce.hex()}.{secrets.token_hex(8)}"
        asked, answer = self._directory / "asked" / name, self._directory / "answered" / name
        deadline = time.monotonic() + self._timeout_s
        try:
            asked.touch(mode=0o600)
            while not answer.exists():
                if time.monotonic() >= deadline:
                    asked.unlink(missing_ok=True)
                    raise SoftwareNvmlError(_TIMEOUT)
                time.sleep(_POLL_S)
            with answer.open("rb") as stream:
                report = stream.read(_MAX_REPORT)
            answer.unlink(missing_ok=True)
        except OSError:
            raise SoftwareNvmlError(_UNKNOWN) from None
        return report
