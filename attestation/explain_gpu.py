"""Verified GPU claims and GPU policies in; JSON values and words out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from attestation.gpu.claims import GpuClaims
from attestation.gpu.report import Kind
from attestation.policy_file import GpuPolicy, stamp


def gpu_words(devices: tuple[GpuClaims, ...]) -> str:
    """Say what devices a guest has, in one line."""
    gpus = [device for device in devices if device.kind is Kind.GPU]
    switches = len(devices) - len(gpus)
    kinds = " and ".join(sorted({device.architecture.value for device in gpus}))
    parts = [_counted(len(gpus), f"{kinds} GPU".strip())]
    if switches:
        parts.append(_counted(switches, "switch"))
    parts += [f"mode {word}" for word in sorted({device.mode.value for device in gpus})]
    parts += [f"driver {word}" for word in sorted({device.driver or "" for device in gpus})]
    compared = sum(device.compared for device in devices)
    differing = sum(len(device.unmatched) for device in devices)
    parts.append(f"{compared - differing} of {compared} measurements as NVIDIA released them")
    missing = {name for device in devices for name in device.missing}
    if missing:
        parts.append(f"{_counted(len(missing), 'endorsement')} missing")
    return ", ".join(parts)


def gpu_json(device: GpuClaims) -> dict[str, Any]:
    """Return the claims of one device as JSON values."""
    return {
        "kind": device.kind.value,
        "architecture": device.architecture.value,
        "serial": device.serial,
        "fwid": device.fwid.hex(),
        "driver": device.driver,
        "vbios": device.vbios,
        "mode": device.mode.value,
        "protected_pcie": device.protected_pcie,
        "references": [
            {
                "id": item.id,
                "version": item.version,
                "digest": str(item.digest),
                "expires": stamp(item.expires),
            }
            for item in device.references
        ],
        "compared": device.compared,
        "unmatched": list(device.unmatched),
        "ocsp_issued": None if device.revocation is None else stamp(device.revocation),
        "missing": list(device.missing),
        "expires": stamp(device.expires),
    }


def gpu_policy_words(policy: GpuPolicy | Literal["none"]) -> Iterator[str]:
    """Say which devices a policy accepts, a line each."""
    if policy == "none":
        yield "none"
        return
    yield f"{policy.gpus} GPUs, {policy.switches} switches: {', '.join(policy.architectures)}"
    yield f"mode {', '.join(mode.value for mode in policy.modes)}"
    yield f"protected PCIe {policy.protected_pcie}"
    yield f"drivers {_words(policy.drivers)}"
    yield f"VBIOS {_words(policy.vbios)}"
    yield f"measurements as {policy.measurements} states them"
    yield f"OCSP responses at most {policy.ocsp_max_age_days} days old"


def _counted(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}es" if noun.endswith("ch") else f"{number} {noun}s"


def _words(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)
