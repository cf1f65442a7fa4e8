"""The rows of the check table that judge GPUs and switches."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from attestation.checks import Case, Facts, Rule, stamp
from attestation.gpu.claims import GpuClaims
from attestation.gpu.report import Kind, Mode
from attestation.policy import GpuPolicy, Policy

_Answer = tuple[bool, str, str]
_Judge = Callable[[Case, GpuPolicy], _Answer]

_BASEBOARD = (8, 4)
"""GPUs and switches of the one baseboard that protected PCIe is made for."""


def gpu_rules(facts: Facts, policy: Policy) -> tuple[Rule, ...]:
    """Return the checks of a guest that has GPUs, or must have them."""
    expected = policy.file.gpu
    if expected == "none":
        return (Rule("gpu.count", _COUNT, _no_gpu),) if facts.gpu else ()
    return tuple(Rule(name, why, _bound(judge, expected)) for name, why, judge in _TABLE)


def words_end(case: Case) -> tuple[datetime, ...]:
    """Return when the oldest OCSP response in use grows too old for the policy."""
    expected, oldest = case.file.gpu, _oldest_word(case)
    if expected == "none" or oldest is None:
        return ()
    return (oldest + timedelta(days=expected.ocsp_max_age_days),)


def _bound(judge: _Judge, expected: GpuPolicy) -> Callable[[Case], _Answer]:
    return lambda case: judge(case, expected)


def _gpus(case: Case) -> tuple[GpuClaims, ...]:
    return tuple(device for device in case.facts.gpu if device.kind is Kind.GPU)


def _switches(case: Case) -> tuple[GpuClaims, ...]:
    return tuple(device for device in case.facts.gpu if device.kind is Kind.SWITCH)


def _counted(gpus: int, switches: int) -> str:
    return f"{gpus} GPUs, {switches} switches"


def _no_gpu(case: Case) -> _Answer:
    actual = _counted(len(_gpus(case)), len(_switches(case)))
    return not case.facts.gpu, _counted(0, 0), actual


def _count(case: Case, expected: GpuPolicy) -> _Answer:
    actual = (len(_gpus(case)), len(_switches(case)))
    wanted = (expected.gpus, expected.switches)
    return actual == wanted, _counted(*wanted), _counted(*actual)


def _architecture(case: Case, expected: GpuPolicy) -> _Answer:
    seen = {device.architecture.value for device in _gpus(case)}
    return _within(seen, expected.architectures)


def _mode(case: Case, expected: GpuPolicy) -> _Answer:
    seen = {device.mode.value for device in _gpus(case)}
    return _within(seen, tuple(mode.value for mode in expected.modes))


def _topology(case: Case, _: GpuPolicy) -> _Answer:
    """Judge the wiring: in mode ppcie all links end inside this guest, else there are none.

    Every GPU must name exactly the switches that reported, and every switch the same eight GPUs;
    each count is asked for by itself (a peer's `!= 8 and != 4` let eight GPUs and no switch pass).
    """
    gpus, switches = _gpus(case), _switches(case)
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


def _protected_pcie(case: Case, expected: GpuPolicy) -> _Answer:
    words = {True: "on", False: "off", None: "unstated"}
    seen = {words[device.protected_pcie] for device in _gpus(case)}
    if expected.protected_pcie == "any":
        return True, "any", _listed(seen)
    return seen == {"on"}, "on", _listed(seen)


def _driver(case: Case, expected: GpuPolicy) -> _Answer:
    seen = {device.driver or "none" for device in _gpus(case)}
    return _within(seen, expected.drivers)


def _vbios(case: Case, expected: GpuPolicy) -> _Answer:
    return _within({device.vbios for device in case.facts.gpu}, expected.vbios)


def _measurements(case: Case, _: GpuPolicy) -> _Answer:
    """Judge every device, and that something was compared for each."""
    devices = case.facts.gpu
    bad = [
        f"{device.kind.value} {device.serial}: {', '.join(map(str, device.unmatched))}"
        for device in devices
        if device.unmatched
    ]
    compared = sum(device.compared for device in devices)
    passed = not bad and bool(devices) and all(device.compared for device in devices)
    actual = "; ".join(bad[:8]) if bad else f"{compared} equal on {len(devices)} devices"
    return passed, "all equal to NVIDIA's golden values", actual


def _ocsp_age(case: Case, expected: GpuPolicy) -> _Answer:
    limit = case.now - timedelta(days=expected.ocsp_max_age_days)
    oldest = _oldest_word(case)
    passed = oldest is not None and oldest > limit
    return passed, f"issued after {stamp(limit)}", "none" if oldest is None else stamp(oldest)


def _oldest_word(case: Case) -> datetime | None:
    words = [device.revocation for device in case.facts.gpu]
    known = [word for word in words if word is not None]
    return min(known) if known and len(known) == len(words) else None


def _within(seen: set[str], accepted: tuple[str, ...] | str) -> _Answer:
    if isinstance(accepted, str):
        return bool(seen), "any", _listed(seen)
    return bool(seen) and seen <= set(accepted), " or ".join(accepted), _listed(seen)


def _listed(values: Iterable[str]) -> str:
    return ", ".join(sorted(values)) or "none"


_COUNT = "the guest has the devices this policy names, each once"
_TABLE: tuple[tuple[str, str, _Judge], ...] = (
    ("gpu.count", _COUNT, _count),
    ("gpu.architecture", "the GPUs are of a kind this policy names", _architecture),
    ("gpu.mode", "the GPUs are shared out as this policy says", _mode),
    ("gpu.topology", "every link between GPUs ends inside this guest", _topology),
    ("gpu.protected-pcie", "traffic over PCIe is protected as this policy says", _protected_pcie),
    ("gpu.driver", "the driver is a version this policy names", _driver),
    ("gpu.vbios", "VBIOS and switch firmware are versions this policy names", _vbios),
    ("gpu.measurements", "driver and firmware measure as NVIDIA released them", _measurements),
    ("gpu.ocsp-age", "NVIDIA vouched for the certificates recently enough", _ocsp_age),
)
"""Checks of every guest that must have GPUs, in the order they are reported."""
