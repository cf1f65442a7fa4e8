"""Collecting evidence through NVML's own structures, from an object with its functions."""

# ruff: noqa: N802 - the functions have NVML's names

import sys
from dataclasses import replace

import pynvml
import pytest

from attestation.errors import NotAuthentic, Refusal, Undecidable
from attestation.gpu.collect import GpuGuest
from attestation.gpu.evidence import GpuEvidence
from attestation.gpu.verify import verify_gpu
from tests.appraisal_world import NOW
from tests.gpu_world import SINGLE, nvidia

NONCE = bytes(range(32))


class SoftwareNvml:
    """NVML whose GPUs are simulated: the real structures and constants, other functions."""

    def __init__(self, *, devices=2, architecture=9, answers=None, state=SINGLE, **settings):
        self.devices = devices
        self.architecture = architecture
        self.answers = answers
        self.state = state
        self.settings = {"environment": 2, "ccFeature": 1, "devToolsMode": 0, "multiGpuMode": 0}
        self.settings |= settings
        self.open = 0
        self.ready = 0
        self.status = pynvml.NVML_SUCCESS

    def __getattr__(self, name):
        if not name.startswith(("NVML", "c_nvml")):
            raise AttributeError(name)
        return getattr(pynvml, name)

    def nvmlInit(self):
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlDeviceGetCount(self):
        return self.devices

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetArchitecture(self, handle):
        return self.architecture

    def nvmlSystemGetConfComputeSettings(self, reference):
        for name, value in self.settings.items():
            setattr(reference._obj, name, value)
        return self.status

    def nvmlSystemSetConfComputeGpusReadyState(self, state):
        self.ready = state

    def _device(self, handle, nonce):
        return nvidia().device(self.state, unit=f"gpu {handle}", nonce=nonce)

    def nvmlDeviceGetConfComputeGpuCertificate(self, handle):
        answer = pynvml.c_nvmlConfComputeGpuCertificate_t()
        pem = self._device(handle, NONCE).certificates.encode()
        answer.attestationCertChain[: len(pem)] = pem
        answer.attestationCertChainSize = len(pem)
        return answer

    def nvmlDeviceGetConfComputeGpuAttestationReport(self, handle, nonce):
        answer = pynvml.c_nvmlConfComputeGpuAttestationReport_t()
        report = self._device(handle, self.answers or nonce).report
        answer.attestationReport[: len(report)] = report
        answer.attestationReportSize = len(report)
        return answer


class Broken(SoftwareNvml):
    def nvmlDeviceGetCount(self):
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


def refused(nvml):
    with pytest.raises(Refusal) as refusal:
        GpuGuest(nvml).evidence(NONCE)
    assert nvml.open == 0
    return type(refusal.value), refusal.value.code


def test_what_is_collected_verifies():
    nvml = SoftwareNvml()
    evidence = GpuGuest(nvml).evidence(NONCE)
    store = nvidia().endorsements(evidence, state=SINGLE)
    claims = verify_gpu(
        GpuEvidence.parse(evidence.to_bytes()), store, nonce=NONCE, roots=nvidia().roots, now=NOW
    )
    assert len(claims) == 2
    assert nvml.open == 0


def test_switches_are_collected_beside_the_gpus():
    def switches(nonce):
        return nvidia().evidence(nonce, gpus=0, switches=4).devices

    evidence = GpuGuest(SoftwareNvml(ccFeature=0, multiGpuMode=1), switches=switches).evidence(
        NONCE
    )
    assert [item.kind.value for item in evidence.devices] == ["gpu"] * 2 + ["switch"] * 4


def test_outside_protected_pcie_no_switch_is_asked():
    def switches(nonce):
        raise AssertionError(nonce)

    assert len(GpuGuest(SoftwareNvml(), switches=switches).evidence(NONCE).devices) == 2


@pytest.mark.parametrize(
    "settings", [{"ccFeature": 0}, {"devToolsMode": 1}, {"environment": 1}, {"environment": 0}]
)
def test_gpus_that_are_open_to_the_host_are_not_collected_from(settings):
    assert refused(SoftwareNvml(**settings)) == (Undecidable, "gpu-cc-off")


def test_protected_pcie_is_confidential_although_the_feature_reads_as_off():
    nvml = SoftwareNvml(ccFeature=0, multiGpuMode=1)
    assert len(GpuGuest(nvml).evidence(NONCE).devices) == 2


def test_protected_pcie_with_developer_tools_is_open_too():
    nvml = SoftwareNvml(ccFeature=0, multiGpuMode=1, devToolsMode=1)
    assert refused(nvml) == (Undecidable, "gpu-cc-off")


def test_a_recorded_report_is_noticed_before_it_is_sent():
    assert refused(SoftwareNvml(answers=bytes(32))) == (NotAuthentic, "gpu-nonce")


def test_an_unknown_architecture_is_not_guessed():
    assert refused(SoftwareNvml(architecture=8)) == (Undecidable, "gpu-unavailable")


def test_a_guest_without_gpus_has_no_gpu_evidence():
    assert refused(SoftwareNvml(devices=0)) == (Undecidable, "gpu-unavailable")


def test_a_driver_that_refuses_is_named_by_its_error_number():
    assert refused(Broken()) == (Undecidable, "gpu-unavailable")


def test_a_status_that_is_not_success_is_not_read_over():
    nvml = SoftwareNvml()
    nvml.status = 3
    assert refused(nvml) == (Undecidable, "gpu-unavailable")


def test_a_nonce_of_another_size_is_refused():
    with pytest.raises(Refusal):
        GpuGuest(SoftwareNvml()).evidence(bytes(31))


def test_gpus_accept_work_only_when_told():
    nvml = SoftwareNvml()
    guest = GpuGuest(nvml)
    guest.evidence(NONCE)
    assert nvml.ready == 0
    guest.accept_work()
    assert (nvml.ready, nvml.open) == (1, 0)


def test_a_machine_without_a_driver_says_so():
    with pytest.raises(Undecidable, match="gpu-unavailable"):
        GpuGuest.local().evidence(NONCE)
    assert "pynvml" in sys.modules


def test_a_blackwell_gpu_is_collected_as_one():
    state = replace(SINGLE, chip="GB100")
    nvml = SoftwareNvml(architecture=10, devices=1, state=state)
    assert GpuGuest(nvml).evidence(NONCE).devices[0].arch == "blackwell"
