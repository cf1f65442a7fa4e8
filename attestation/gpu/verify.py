"""Device reports, NVIDIA's roots and stored endorsements in; claims about each device out."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from itertools import pairwise

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from attestation.errors import Malformed, NotAuthentic, Undecidable
from attestation.gpu.chain import DEVICE_CODES, Chain, Link, Proven
from attestation.gpu.claims import Architecture, GpuClaims, Reference
from attestation.gpu.der import firmware_id
from attestation.gpu.evidence import DeviceEvidence, GpuEndorsements, GpuEvidence
from attestation.gpu.ocsp import Good, Responses, Words, words_on
from attestation.gpu.report import DeviceReport, Kind, ReportFrame
from attestation.gpu.rim import Rim
from attestation.recent import Recent
from attestation.x509 import common_name, parse_pem_chain

_CHAIN_LENGTH = 5
_DICE = ("2.23.133.5.4.1", "2.23.133.5.4.1.1")
"""TCG DICE: CompositeDeviceID on Hopper and NVSwitch, TcbInfo on Blackwell."""
_PROVISIONER = re.compile(r"NVIDIA (GH|GB|LS_)([0-9]{2,3})[A-Z]? Provisioner ICA [0-9]+\Z")
_LEAF = re.compile(r"(GH|GB|LS_)([0-9]{2,3})[A-Z]? [A-Z0-9]+ (?:GSP|FSP|SOE) FMC LF\Z")
_FAMILIES = {
    "GH": (Kind.GPU, Architecture.HOPPER),
    "GB": (Kind.GPU, Architecture.BLACKWELL),
    "LS_": (Kind.SWITCH, Architecture.LS10),
}
_PRODUCTS = {
    Architecture.HOPPER: "GH",
    Architecture.BLACKWELL: "GB",
    Architecture.LS10: "LS",
}
"""How the product of a manifest begins."""
_NVDEC0_MEASUREMENT = 35
"""Measured only where the video decoder is enabled."""


_RIMS = 16
"""Manifests kept: drivers and firmware of several kinds of device."""


@dataclass(frozen=True, slots=True)
class GpuRoots:
    """The trust anchors of device certificates and of manifests, DER."""

    device_der: bytes
    rim_der: bytes
    proven: Proven = field(default_factory=Proven, init=False, repr=False, compare=False)
    """What was found out under them, for as long as they are in use."""
    rims: Recent[bytes, Rim] = field(
        default_factory=lambda: Recent(_RIMS), init=False, repr=False, compare=False
    )
    """The last manifests whose signature held."""


def nvidia_roots() -> GpuRoots:
    """Return NVIDIA's two roots, the only ones that are built in."""
    return GpuRoots(_pinned("nvidia_device_root.pem"), _pinned("nvidia_rim_root.pem"))


def _pinned(name: str) -> bytes:
    pem = resources.files("attestation.gpu").joinpath(name).read_bytes()
    return x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)


@dataclass(frozen=True, slots=True)
class Device:
    """A device whose report is signed by a certified key and answers the expected nonce."""

    architecture: Architecture
    report: DeviceReport
    chain: Chain
    fwid: bytes

    @classmethod
    def authenticate(
        cls,
        evidence: DeviceEvidence,
        *,
        nonce: bytes | None,
        root_der: bytes,
        now: datetime,
        proven: Proven,
    ) -> Device:
        """Check chain, role, signature, firmware id and nonce, in this order.

        `nonce` is `None` where nobody asked: a report from a file proves no freshness. Raises
        `NotAuthentic` `gpu-chain`, `gpu-role`, `gpu-signature`, `gpu-fwid` or `gpu-nonce`,
        `Undecidable` `gpu-certificate-time`, `Malformed`.
        """
        frame = ReportFrame.parse(evidence.report, kind=evidence.kind)
        chain = _chain(evidence.certificates, root_der=root_der, now=now, proven=proven)
        kind, architecture = _family(chain)
        if (kind, architecture.value) != (evidence.kind, evidence.arch):
            raise NotAuthentic("gpu-role", "the certificates are of another kind of device")
        fwid = _certified_fwid(chain)
        report = frame.verified(chain.leaf.key)
        if report.fwid is not None and not hmac.compare_digest(report.fwid, fwid):
            raise NotAuthentic("gpu-fwid", "the report names other firmware than its certificate")
        if nonce is not None and not hmac.compare_digest(report.nonce, nonce):
            raise NotAuthentic("gpu-nonce", "the report answers another nonce")
        return cls(architecture, report, chain, fwid)

    @property
    def rim_ids(self) -> tuple[str, ...]:
        """What NVIDIA's RIM service calls the manifests of this driver and VBIOS."""
        vbios = self.report.vbios.replace(".", "").upper()
        if self.report.kind is Kind.SWITCH:
            return (f"NV_SWITCH_BIOS_5612_0002_890_{vbios}",)
        prefix = "NV_GPU_DRIVER_GH100"
        if self.architecture is Architecture.BLACKWELL:
            prefix = f"NV_GPU_CC_DRIVER_{self.report.chip or 'GB100'}"
        board = "_".join(self.report.board or ())
        return f"{prefix}_{self.report.driver}", f"NV_GPU_VBIOS_{board}_{vbios}"

    @property
    def rim_versions(self) -> tuple[str, ...]:
        """The versions those manifests must state, in the order of `rim_ids`."""
        driver, vbios = self.report.driver, self.report.vbios
        return (vbios,) if driver is None else (driver, vbios)

    def describes(self, rim: Rim) -> str | None:
        """Return the id under which `rim` belongs to this device, or `None`."""
        if not rim.product.startswith(_PRODUCTS[self.architecture]):
            return None
        named = zip(self.rim_ids, self.rim_versions, strict=True)
        return next((name for name, version in named if version == rim.version), None)


def family_of(certificates: str, *, root_der: bytes, now: datetime) -> tuple[Kind, Architecture]:
    """Return what kind of device a valid chain certifies, where only files were given."""
    return _family(_chain(certificates, root_der=root_der, now=now, proven=Proven()))


def verify_gpu(
    evidence: GpuEvidence,
    endorsements: GpuEndorsements,
    *,
    nonce: bytes | None,
    roots: GpuRoots,
    now: datetime,
) -> tuple[GpuClaims, ...]:
    """Verify every device of a guest at `now` with nothing left out but what `nonce` None skips.

    1. each report (`Device.authenticate`); 2. devices are distinct and in one mode, with one
    driver; 3. manifests and OCSP responses of each (`judge`); 4. none of them is missing, else
    `Undecidable` `gpu-endorsements-missing`. Raises a `Refusal`.
    """
    proven = roots.proven
    devices = tuple(
        Device.authenticate(item, nonce=nonce, root_der=roots.device_der, now=now, proven=proven)
        for item in evidence.devices
    )
    check_set(devices)
    wanted = {name for device in devices for name in device.rim_ids}
    rims = {
        name: _manifest(endorsements.rims[name], roots=roots, now=now)
        for name in sorted(wanted & endorsements.rims.keys())
    }
    responses = Responses.parse(endorsements.ocsp)
    words = revocation_words(devices, rims.values(), responses, now=now)
    claims = tuple(judge(device, rims, words) for device in devices)
    require_complete(claims)
    return claims


def _manifest(xml: bytes, *, roots: GpuRoots, now: datetime) -> Rim:
    """Verify a manifest; one whose signature held before is asked only for its certificates."""
    kept = roots.rims.find(xml)
    if kept is not None:
        return kept.again(root_der=roots.rim_der, now=now, proven=roots.proven)
    rim = Rim.verify(xml, root_der=roots.rim_der, now=now, proven=roots.proven)
    return roots.rims.keep(xml, rim)


def check_set(devices: tuple[Device, ...]) -> None:
    """Refuse a set that one guest cannot have: a device twice, or modes and drivers mixed.

    A second certificate for a key, or a second report under one, is the same device again.
    Raises `NotAuthentic` `gpu-duplicate` or `gpu-mixed`.
    """
    leaves = {device.chain.leaf.key.public_numbers() for device in devices}
    serials = {device.chain.leaf.serial for device in devices}
    cores = {device.chain.links[1].serial for device in devices}
    switches = [device for device in devices if device.report.kind is Kind.SWITCH]
    pdis = {pdi for device in switches for pdi in device.report.switch_pdis}
    if not len(leaves) == len(serials) == len(cores) == len(devices) or len(pdis) != len(switches):
        raise NotAuthentic("gpu-duplicate", f"{len(devices)} reports, but not as many devices")
    gpus = [device for device in devices if device.report.kind is Kind.GPU]
    for what, values in (
        ("architectures", {device.architecture for device in gpus}),
        ("modes", {device.report.mode for device in gpus}),
        ("protected-PCIe states", {device.report.protected_pcie for device in gpus}),
        ("drivers", {device.report.driver for device in gpus}),
    ):
        if len(values) > 1:
            raise NotAuthentic("gpu-mixed", f"the GPUs of one guest have {len(values)} {what}")


def revocation_words(
    devices: Iterable[Device], rims: Iterable[Rim], responses: Responses, *, now: datetime
) -> Words:
    """Return the words on every certificate NVIDIA issued; a leaf is its device's own.

    Raises what `Responses.good` raises, such as `NotAuthentic` `gpu-revoked`.
    """
    return words_on(issued_pairs(devices, rims), responses, now=now)


def issued_pairs(devices: Iterable[Device], rims: Iterable[Rim]) -> list[tuple[Link, Link]]:
    """Return each certificate that a responder is asked about, with its issuer."""
    pairs = [pair for device in devices for pair in _issued(device.chain, first=1)]
    return pairs + [pair for rim in rims for pair in _issued(rim.chain, first=0)]


def _issued(chain: Chain, *, first: int) -> tuple[tuple[Link, Link], ...]:
    return tuple(pairwise(chain.links[first:]))


def judge(device: Device, rims: Mapping[str, Rim], words: Words) -> GpuClaims:
    """Compare a device with verified manifests; list in `missing` what is absent.

    Raises `NotAuthentic` `rim-mismatch` for a manifest of something else, or for two that decide
    the same measurement.
    """
    report = device.report
    found = {name: rims[name] for name in device.rim_ids if name in rims}
    for name, rim in found.items():
        if device.describes(rim) != name:
            raise NotAuthentic("rim-mismatch", f"{name} is of {rim.product} {rim.version}")
    if len(frozenset().union(*(rim.indexes for rim in found.values()))) != sum(
        len(rim.golden) for rim in found.values()
    ):
        raise NotAuthentic("rim-mismatch", "two manifests decide the same measurement")
    asked = [subject for subject, _ in _issued(device.chain, first=1)]
    asked += [subject for rim in found.values() for subject, _ in _issued(rim.chain, first=0)]
    answers = {subject.serial: words.get(subject.certificate) for subject in asked}
    goods = tuple(word for word in answers.values() if word is not None)
    compared, unmatched = _compare(report, tuple(found.values()))
    missing = [name for name in device.rim_ids if name not in found]
    missing += [f"OCSP response on serial {name}" for name, word in answers.items() if not word]
    return GpuClaims(
        kind=report.kind,
        architecture=device.architecture,
        serial=device.chain.leaf.serial,
        fwid=device.fwid,
        driver=report.driver,
        vbios=report.vbios,
        mode=report.mode,
        protected_pcie=report.protected_pcie,
        switch_pdis=report.switch_pdis,
        gpu_pdis=report.gpu_pdis,
        references=tuple(
            Reference(name, rim.version, rim.digest, rim.chain.expires)
            for name, rim in found.items()
        ),
        compared=compared,
        unmatched=unmatched,
        revocation=min((good.this_update for good in goods), default=None),
        missing=tuple(missing),
        expires=_earliest(device, tuple(found.values()), goods),
    )


def require_complete(claims: tuple[GpuClaims, ...]) -> None:
    """Raise `Undecidable` `gpu-endorsements-missing` when something could not be checked."""
    missing = tuple(dict.fromkeys(name for device in claims for name in device.missing))
    if missing:
        first = ", ".join(missing[:3])
        raise Undecidable("gpu-endorsements-missing", f"{len(missing)} absent, such as {first}")


def _chain(pem: str, *, root_der: bytes, now: datetime, proven: Proven) -> Chain:
    try:
        text = pem.encode("ascii")
    except UnicodeEncodeError:
        raise Malformed("certificate-malformed", "device certificates are not PEM") from None
    what = "device certificate chain"
    # NVIDIA's tools write the last line with and without a line feed.
    ders = parse_pem_chain(text.removesuffix(b"\n") + b"\n", what=what, longest=_CHAIN_LENGTH)
    if len(ders) != _CHAIN_LENGTH:
        why = f"{what} has {len(ders)} certificates, not {_CHAIN_LENGTH}"
        raise NotAuthentic("gpu-chain", why)
    return Chain.verify(
        ders, root_der=root_der, now=now, codes=DEVICE_CODES, what=what, proven=proven
    )


def _family(chain: Chain) -> tuple[Kind, Architecture]:
    """Read the kind of device from the names that NVIDIA's provisioner and the device carry."""
    leaf = _LEAF.match(common_name(chain.leaf.certificate.subject))
    provisioner = _PROVISIONER.match(common_name(chain.links[2].certificate.subject))
    if leaf is None or provisioner is None or leaf[1] != provisioner[1]:
        raise NotAuthentic("gpu-role", "the certificates are not named as a device's are")
    return _FAMILIES[leaf[1]]


def _certified_fwid(chain: Chain) -> bytes:
    values = [
        item.value.public_bytes()
        for item in chain.leaf.extensions
        if item.oid.dotted_string in _DICE
    ]
    if len(values) != 1:
        raise NotAuthentic("gpu-role", "the leaf certificate names no firmware")
    return firmware_id(values[0])


def _compare(report: DeviceReport, rims: tuple[Rim, ...]) -> tuple[int, tuple[int, ...]]:
    """Return how many measurements were compared, and the indexes that do not match."""
    compared, unmatched = 0, list[int]()
    for rim in rims:
        for index, accepted in rim.golden:
            if index == _NVDEC0_MEASUREMENT and report.nvdec0 is False:
                continue
            compared += 1
            measured = report.measurements[index : index + 1]
            if not measured or measured[0] not in accepted:
                unmatched.append(index)
    return compared, tuple(sorted(unmatched))


def _earliest(device: Device, rims: tuple[Rim, ...], goods: tuple[Good, ...]) -> datetime:
    ends = [device.chain.expires]
    ends += [rim.chain.expires for rim in rims]
    ends += [good.next_update for good in goods]
    return min(ends)
