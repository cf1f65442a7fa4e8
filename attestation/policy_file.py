"""The documents a policy file consists of: each expectation spelled out, or it does not parse."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BeforeValidator,
    Field,
    StringConstraints,
    model_validator,
)

from attestation.codec import Document
from attestation.gpu.report import Mode
from attestation.keyset import DigestText, Line, Name
from attestation.tdx.claims import PLATFORM_FLAGS, Platform, TcbStatus

_DEBUG_BITS = 0xFF
"""TD_ATTRIBUTES bits 7..0, the TUD group: any of them set makes a TD untrusted (TDX module ABI)."""


def stamp(moment: datetime) -> str:
    """Write a time as RFC 3339 with whole seconds."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


def _some(what: str, *, empty: str = "it would accept any") -> AfterValidator:
    """Refuse an empty list: it would be an expectation that nothing or everything meets."""

    def check(value: Any) -> Any:
        if len(value) == 0:
            raise ValueError(f"policy names no {what}; {empty}")
        if isinstance(value, tuple) and len(set(map(repr, value))) != len(value):
            raise ValueError(f"policy names a {what} twice")
        return value

    return AfterValidator(check)


def _quoted(value: Any) -> Any:
    """Explain the one YAML trap of hex: digits alone are read as a number."""
    if isinstance(value, int):
        raise ValueError("put hex in quotes; YAML reads bare digits as a number")
    return value


def _not_zero(value: str) -> str:
    if set(value) == {"0"}:
        raise ValueError("zeros are not a measurement; nothing was measured")
    return value


def _hex(size: int) -> Any:
    return StringConstraints(pattern=rf"^[0-9a-f]{{{2 * size}}}$")


Hex8 = Annotated[str, _hex(8), BeforeValidator(_quoted)]
Hex16 = Annotated[str, _hex(16), BeforeValidator(_quoted)]
Hex48 = Annotated[str, _hex(48), AfterValidator(_not_zero), BeforeValidator(_quoted)]
Advisory = Annotated[str, StringConstraints(pattern=r"^INTEL-(SA|DOC)-[0-9]{5}$")]


def _one_as_list(value: Any) -> Any:
    return tuple(value) if isinstance(value, list | tuple) else (value,)


Registers = Annotated[tuple[Hex48, ...], _some("value"), BeforeValidator(_one_as_list)]
"""Accepted values of one register; a lone value may be written without brackets."""
Owned = Annotated[
    tuple[Hex48 | Literal["unset"], ...], _some("value"), BeforeValidator(_one_as_list)
]
"""As `Registers`, for fields that a host may leave at zero; the word for that is `unset`."""


class Masked(Document):
    """Bits of an 8-byte field, as hex in the byte order of the quote: `field & mask == value`."""

    mask: Hex8
    value: Hex8

    @model_validator(mode="after")
    def _decides(self) -> Masked:
        if self.mask_bits == 0:
            raise ValueError("the mask is zero; it would accept any value")
        if self.value_bits & ~self.mask_bits:
            raise ValueError("the value has bits outside the mask; nothing could match")
        return self

    @cached_property
    def mask_bits(self) -> int:
        """The mask as the number whose bit n is bit n of the field."""
        return int.from_bytes(bytes.fromhex(self.mask), "little")

    @cached_property
    def value_bits(self) -> int:
        """The value as the number whose bit n is bit n of the field."""
        return int.from_bytes(bytes.fromhex(self.value), "little")

    def accepts(self, field: bytes) -> bool:
        """Say whether the masked bits of `field` are the expected ones."""
        return int.from_bytes(field, "little") & self.mask_bits == self.value_bits


class Grace(Document):
    """A TCB status tolerated until a day that is written down."""

    status: TcbStatus
    until: AwareDatetime


class TcbPolicy(Document):
    """What Intel must say about platform, module and quoting enclave, and how recently."""

    accepted_statuses: Annotated[tuple[TcbStatus, ...], _some("TCB status")]
    denied_advisories: Literal["none"] | Annotated[tuple[Advisory, ...], _some("advisory")]
    minimum_evaluation_number: Annotated[int, Field(ge=1)]
    """Lowest `tcbEvaluationDataNumber`; older sets are how a platform hides a TCB recovery."""
    collateral_max_age_days: Annotated[int, Field(ge=1, le=366)]
    grace: (
        Literal["none"] | Annotated[tuple[Grace, ...], _some("grace period", empty="write `none`")]
    )

    @model_validator(mode="after")
    def _consistent(self) -> TcbPolicy:
        graced = [item.status for item in self.graces]
        if TcbStatus.REVOKED in (*self.accepted_statuses, *graced):
            raise ValueError("a revoked platform is never accepted")
        if TcbStatus.UP_TO_DATE not in self.accepted_statuses:
            raise ValueError("UpToDate is not accepted; an updated platform would be refused")
        if set(graced) & set(self.accepted_statuses):
            raise ValueError("a status is both accepted and in grace; the date would mean nothing")
        if len(set(graced)) != len(graced):
            raise ValueError("a status has two grace periods")
        return self

    @cached_property
    def words(self) -> str:
        """What a check says it expects of a status."""
        graced = [f"{item.status.value} until {stamp(item.until)}" for item in self.graces]
        return " or ".join([*(item.value for item in self.accepted_statuses), *graced])

    @property
    def graces(self) -> tuple[Grace, ...]:
        """The grace periods, none or some."""
        return () if self.grace == "none" else self.grace

    def grace_until(self, status: TcbStatus) -> datetime | None:
        """Return until when `status` is tolerated, or `None` when no grace names it."""
        return next((item.until for item in self.graces if item.status is status), None)


class ModulePolicy(Document):
    """Which TDX modules are accepted, beside their TCB level, which `tcb` decides."""

    signer: Literal["intel"] | Annotated[tuple[Hex48, ...], _some("module signer")]
    """`intel` stands for MRSIGNERSEAM of zeros."""
    measurement: Literal["any"] | Annotated[tuple[Hex48, ...], _some("module measurement")]
    """MRSEAM; `any` lets Intel update the module without a policy change."""


GUEST_FIELDS = (
    "mrtd",
    "rtmr0",
    "rtmr1",
    "rtmr2",
    "mr_config_id",
    "mr_owner",
    "mr_owner_config",
)
"""The registers of a reference-value set."""


class Guest(Document):
    """One reference-value set: these registers belong together, from one image on one shape."""

    name: Name
    mrtd: Registers
    rtmr0: Registers
    rtmr1: Registers
    rtmr2: Registers
    mr_config_id: Owned
    mr_owner: Owned
    mr_owner_config: Owned

    @cached_property
    def accepted(self) -> Mapping[str, tuple[bytes, ...]]:
        """The accepted values of each of `GUEST_FIELDS`, 48 bytes each."""
        return {
            field: tuple(
                bytes(48) if text == "unset" else bytes.fromhex(text)
                for text in getattr(self, field)
            )
            for field in GUEST_FIELDS
        }

    @cached_property
    def words(self) -> Mapping[str, str]:
        """What a check says it expects of each of `GUEST_FIELDS`."""
        return {
            field: f"{' or '.join(value.hex() for value in values)} (guest {self.name})"
            for field, values in self.accepted.items()
        }


class PlatformKind(Document):
    """What Intel certified of the machine's build, in the SGX extension of its PCK certificate."""

    sgx_types: Annotated[
        tuple[Literal["standard", "scalable", "scalable-with-integrity"], ...], _some("SGX type")
    ]
    """How its memory is protected."""
    dynamic: Literal["any", "refused"]
    """Whether packages may be added to the platform later."""
    cached_keys: Literal["any", "refused"]
    """Whether Intel's registration service keeps the platform's root keys."""
    smt: Literal["any", "refused"]
    """Whether two hardware threads share a core."""

    def accepts(self, platform: Platform) -> bool:
        """Say whether `platform` is of this kind; what the certificate leaves open is refused."""
        refused = all(platform.flags[name] is False for name in self._refused)
        return refused and platform.sgx_kind in self.sgx_types

    @cached_property
    def words(self) -> str:
        """What is accepted, in one line."""
        refused = "".join(f", not {PLATFORM_FLAGS[name]}" for name in self._refused)
        return " or ".join(self.sgx_types) + refused

    @cached_property
    def _refused(self) -> tuple[str, ...]:
        return tuple(name for name in PLATFORM_FLAGS if getattr(self, name) == "refused")


class TdxPolicy(Document):
    """Expectations of the TDX quote and its collateral."""

    tcb: TcbPolicy
    td_attributes: Masked
    xfam: Masked
    platforms: Literal["any"] | Annotated[tuple[Hex16, ...], _some("platform")]
    """PPIDs of the processors that may run the guest; `any` trusts every genuine one."""
    platform_kind: Literal["any"] | PlatformKind
    module: ModulePolicy
    guests: Annotated[tuple[Guest, ...], _some("guest")]

    @model_validator(mode="after")
    def _decides(self) -> TdxPolicy:
        if self.td_attributes.mask_bits & _DEBUG_BITS != _DEBUG_BITS:
            raise ValueError(
                "td_attributes.mask leaves debug bits open; it would accept a debug TD"
            )
        if self.td_attributes.value_bits & _DEBUG_BITS:
            raise ValueError("td_attributes.value asks for a debug TD, which is always refused")
        if len({guest.name for guest in self.guests}) != len(self.guests):
            raise ValueError("two guests have one name")
        return self


class RuntimePolicy(Document):
    """What RTMR3 must consist of: one configuration, then the served models, and nothing else."""

    config: Annotated[tuple[DigestText, ...], _some("configuration")]
    models: Annotated[
        dict[Name, Annotated[tuple[DigestText, ...], _some("manifest")]], _some("model")
    ]
    """Served name to the manifest digests accepted under it."""

    @cached_property
    def served(self) -> tuple[str, ...]:
        """The contents of the `model` events that are accepted, sorted."""
        return tuple(sorted(f"{name}={one}" for name, many in self.models.items() for one in many))


Names = Literal["any", "none"] | Annotated[tuple[Name, ...], _some("name", empty="write `none`")]


class KeysetPolicy(Document):
    """What a guest must declare to those who send it prompts."""

    retention: Literal["none"]
    training: Literal["none"]
    operators: Literal["any"] | Annotated[tuple[Line, ...], _some("operator")]
    jurisdictions: Literal["any"] | Annotated[tuple[Line, ...], _some("jurisdiction")]
    audit_fields: Names
    """Field names an audit record may carry at most."""
    filters: Names
    """What reads prompts and answers beside the engine, exactly: one left out protects nobody."""
    telemetry: Names
    """Attributes that metrics, traces and log events may carry out at most."""


class GpuPolicy(Document):
    """Which NVIDIA devices a guest must have, in which state, and how recently vouched for."""

    gpus: Annotated[int, Field(ge=1, le=64)]
    switches: Annotated[int, Field(ge=0, le=16)]
    architectures: Annotated[tuple[Literal["hopper", "blackwell"], ...], _some("architecture")]
    modes: Annotated[tuple[Mode, ...], _some("mode")]
    protected_pcie: Literal["required", "any"]
    drivers: Literal["any"] | Annotated[tuple[Line, ...], _some("driver")]
    vbios: Literal["any"] | Annotated[tuple[Line, ...], _some("VBIOS")]
    """Accepted versions of VBIOS and of switch firmware."""
    measurements: Literal["nvidia"]
    """Every measurement that NVIDIA's manifests of driver and VBIOS name has a value they name."""
    ocsp_max_age_days: Annotated[int, Field(ge=1, le=90)]

    @model_validator(mode="after")
    def _baseboard(self) -> GpuPolicy:
        if Mode.PROTECTED_PCIE in self.modes and (self.gpus, self.switches) != (8, 4):
            raise ValueError("mode ppcie is that of a baseboard: eight GPUs and four switches")
        if self.switches and self.modes != (Mode.PROTECTED_PCIE,):
            raise ValueError("only mode ppcie has switches inside the guest")
        return self


class SimulatedNvidia(Document):
    """The PEM certificates of a mock NVIDIA's roots."""

    device: str
    rim: str


class SimulatedRoot(Document):
    """The PEM certificates of a software TDX's root and of the mock NVIDIA beside it."""

    simulated: str
    nvidia: SimulatedNvidia | None = None
    """Absent where no GPU is simulated; evidence that covers one is undecidable then."""


class PolicyFile(Document):
    """The file; every expectation is spelled out, `any` and `none` are words, not omissions."""

    version: Literal[1]
    name: Name
    profile: Literal["production", "simulated"]
    root: Literal["intel"] | SimulatedRoot
    tdx: TdxPolicy
    runtime: RuntimePolicy
    gpu: Literal["none"] | GpuPolicy
    """`none`: no GPU takes part, and evidence that covers one is refused."""
    keyset: KeysetPolicy

    @model_validator(mode="after")
    def _profile_and_root(self) -> PolicyFile:
        if (self.profile == "production") != (self.root == "intel"):
            raise ValueError("profile production goes with root intel, simulated with a test root")
        if self.gpu != "none" and self.root != "intel" and self.root.nvidia is None:
            raise ValueError("the policy asks for GPUs, but its root names no NVIDIA")
        return self
