"""The rows of the check table that judge GPUs and switches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from attestation.checks import Answer, Case, Rule, recent
from attestation.facts import Facts
from attestation.gpu.claims import GpuClaims
from attestation.gpu.report import Kind, Mode
from attestation.policy import Policy
from attestation.policy_file import GpuPolicy

_BASEBOARD = (8, 4)
"""GPUs and switches of the one baseboard that protected PCIe is made for."""


@dataclass(frozen=True, slots=True)
class GpuCase:
    """Verified devices under the expectations of a policy at a time."""

    devices: tuple[GpuClaims, ...]
    expected: GpuPolicy
    now: datetime

    @property
    def gpus(self) -> tuple[GpuClaims, ...]:
        """The GPUs among the devices."""
        return tuple(device for device in self.devices if device.kind is Kind.GPU)

    @property
    def switches(self) -> tuple[GpuClaims, ...]:
        """The switches among the devices."""
        return tuple(device for device in self.devices if device.kind is Kind.SWITCH)


@dataclass(frozen=True, slots=True)
class GpuRow:
    """A row of the check table, for a whole guest or for a device alone."""

    id: str
    why: str
    judge: Callable[[GpuCase], Answer]

    def rule(self, expected: GpuPolicy) -> Rule:
        """Return the row as a check of a guest."""
        return Rule(
            self.id,
            self.why,
            lambda case: self.judge(GpuCase(case.facts.gpu, expected, case.now)),
        )


def gpu_rules(facts: Facts, policy: Policy) -> tuple[Rule, ...]:
    """Return the checks of a guest that has GPUs, or must have them."""
    expected = policy.file.gpu
    if expected == "none":
        return (NO_GPU,) if facts.gpu else ()
    return tuple(row.rule(expected) for row in GPU_ROWS)


def device_rows(device: GpuClaims) -> tuple[GpuRow, ...]:
    """Return the checks that one device can be asked without the others of its guest."""
    alone = _OF_GPU | _OF_ANY if device.kind is Kind.GPU else _OF_ANY
    return tuple(row for row in GPU_ROWS if row.id in alone)


def words_end(case: Case) -> tuple[datetime, ...]:
    """Return when the oldest OCSP response in use grows too old for the policy."""
    expected = case.file.gpu
    if expected == "none":
        return ()
    return word_ends(GpuCase(case.facts.gpu, expected, case.now))


def word_ends(case: GpuCase) -> tuple[datetime, ...]:
    """Return when the oldest OCSP response grows too old, nothing where there is none."""
    oldest = _oldest_word(case)
    return () if oldest is None else (oldest + timedelta(days=case.expected.ocsp_max_age_days),)


def _counted(gpus: int, switches: int) -> str:
    return f"{gpus} GPUs, {switches} switches"


def _no_gpu(case: Case) -> Answer:
    gpus = sum(device.kind is Kind.GPU for device in case.facts.gpu)
    return not case.facts.gpu, _counted(0, 0), _counted(gpus, len(case.facts.gpu) - gpus)


def _count(case: GpuCase) -> Answer:
    actual = (len(case.gpus), len(case.switches))
    wanted = (case.expected.gpus, case.expected.switches)
    return actual == wanted, _counted(*wanted), _counted(*actual)


def _architecture(case: GpuCase) -> Answer:
    seen = {device.architecture.value for device in case.gpus}
    return _within(seen, case.expected.architectures)


def _mode(case: GpuCase) -> Answer:
    seen = {device.mode.value for device in case.gpus}
    return _within(seen, tuple(mode.value for mode in case.expected.modes))


def _topology(case: GpuCase) -> Answer:
    """Judge the wiring: in mode ppcie all links end inside this guest, else there are none.

    Every GPU must name exactly the switches that reported, and every switch the same eight GPUs;
    each count is asked for by itself (a peer's `!= 8 and != 4` let eight GPUs and no switch pass).
    """
    gpus, switches = case.gpus, case.switches
    if not any(device.mode is Mode.PROTECTED_PCIE for device in gpus):
        return not switches, "no switches", _counted(len(gpus), len(switches))
    own = {pdi for switch in switches for pdi in switch.switch_pdis}
    passed = (
        (len(gpus), len(switches)) == _BASEBOARD
        and all(device.mode is Mode.PROTECTED_PCIE for device in gpus)
        and all(device.switch_pdis == own for device in gpus)
        and len({switch.gpu_pdis for switch in switches}) == 1
        and all(len(switch.gpu_pdis) == len(gpus) for switch in switches)
    )
    named = {pdi for device in gpus for pdi in device.switch_pdis}
    actual = f"{_counted(len(gpus), len(switches))}, {len(named & own)} of {len(named)} wired"
    return passed, f"{_counted(*_BASEBOARD)}, 4 of 4 wired", actual


def _protected_pcie(case: GpuCase) -> Answer:
    words = {True: "on", False: "off", None: "unstated"}
    seen = {words[device.protected_pcie] for device in case.gpus}
    if case.expected.protected_pcie == "any":
        return True, "any", _listed(seen)
    return seen == {"on"}, "on", _listed(seen)


def _driver(case: GpuCase) -> Answer:
    seen = {device.driver or "none" for device in case.gpus}
    return _within(seen, case.expected.drivers)


def _vbios(case: GpuCase) -> Answer:
    return _within({device.vbios for device in case.devices}, case.expected.vbios)


def _measurements(case: GpuCase) -> Answer:
    """Judge every device, and that something was compared for each."""
    devices = case.devices
    bad = [
        f"{device.kind.value} {device.serial}: {', '.join(map(str, device.unmatched))}"
        for device in devices
        if device.unmatched
    ]
    compared = sum(device.compared for device in devices)
    passed = not bad and bool(devices) and all(device.compared for device in devices)
    actual = "; ".join(bad[:8]) if bad else f"{compared} equal on {len(devices)} devices"
    return passed, "all equal to NVIDIA's golden values", actual


def _ocsp_age(case: GpuCase) -> Answer:
    return recent(_oldest_word(case), days=case.expected.ocsp_max_age_days, now=case.now)


def _oldest_word(case: GpuCase) -> datetime | None:
    words = [device.revocation for device in case.devices]
    known = [word for word in words if word is not None]
    return min(known) if known and len(known) == len(words) else None


def _within(seen: set[str], accepted: tuple[str, ...] | str) -> Answer:
    if isinstance(accepted, str):
        return bool(seen), "any", _listed(seen)
    return bool(seen) and seen <= set(accepted), " or ".join(accepted), _listed(seen)


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(values)) or "none"


_COUNT = "the guest has the devices this policy names, each once"
GPU_ROWS: tuple[GpuRow, ...] = (
    GpuRow("gpu.count", _COUNT, _count),
    GpuRow("gpu.architecture", "the GPUs are of a kind this policy names", _architecture),
    GpuRow("gpu.mode", "the GPUs are shared out as this policy says", _mode),
    GpuRow("gpu.topology", "every link between GPUs ends inside this guest", _topology),
    GpuRow(
        "gpu.protected-pcie", "traffic over PCIe is protected as this policy says", _protected_pcie
    ),
    GpuRow("gpu.driver", "the driver is a version this policy names", _driver),
    GpuRow("gpu.vbios", "VBIOS and switch firmware are versions this policy names", _vbios),
    GpuRow(
        "gpu.measurements", "driver and firmware measure as NVIDIA released them", _measurements
    ),
    GpuRow("gpu.ocsp-age", "NVIDIA vouched for the certificates recently enough", _ocsp_age),
)
"""Checks of every guest that must have GPUs, in the order they are reported."""

NO_GPU = Rule("gpu.count", _COUNT, _no_gpu)
_OF_GPU = {"gpu.architecture", "gpu.mode", "gpu.protected-pcie", "gpu.driver"}
_OF_ANY = {"gpu.vbios", "gpu.measurements", "gpu.ocsp-age"}
