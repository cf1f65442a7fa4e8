"""What a verified TDX quote and its collateral state; made by `tdx.quote.verify_quote` alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from functools import cached_property
from types import MappingProxyType


class TcbStatus(Enum):
    """Intel's word for how a trusted computing base compares with the newest one."""

    UP_TO_DATE = "UpToDate"
    SW_HARDENING_NEEDED = "SWHardeningNeeded"
    CONFIGURATION_NEEDED = "ConfigurationNeeded"
    CONFIGURATION_AND_SW_HARDENING_NEEDED = "ConfigurationAndSWHardeningNeeded"
    OUT_OF_DATE = "OutOfDate"
    OUT_OF_DATE_CONFIGURATION_NEEDED = "OutOfDateConfigurationNeeded"
    TD_RELAUNCH_ADVISED = "TDRelaunchAdvised"
    TD_RELAUNCH_ADVISED_CONFIGURATION_NEEDED = "TDRelaunchAdvisedConfigurationNeeded"
    REVOKED = "Revoked"


@dataclass(frozen=True, slots=True)
class TdExtension:
    """What a body of TD 1.5ex states beside that of TD 1.5 (`sgx_quote_5.h`), as in the quote.

    `init_cpu_svn`, `init_tee_tcb_svn` and `init_tee_fmspc` are about the platform of the service TD
    that was bound first, `init_service_td_*` and `cur_service_td_*` about the first and the present
    one: zeros where none is.
    """

    vmid: int
    """0 for a TD as such, 1 to 3 for a virtual machine that it runs inside itself."""
    td_id: bytes
    """32 bytes: tells this TD from all others; nothing about it can be known beforehand."""
    dev_info: bytes = bytes(48)
    """48 bytes: digest over the devices that are bound to the TD, zero without one."""
    init_service_td_hash: bytes = bytes(48)
    init_service_td_attributes: bytes = bytes(8)
    init_cpu_svn: bytes = bytes(16)
    init_tee_tcb_svn: bytes = bytes(16)
    init_tee_fmspc: bytes = bytes(12)
    cur_service_td_hash: bytes = bytes(48)
    cur_service_td_attributes: bytes = bytes(8)


@dataclass(frozen=True, slots=True)
class TdReport:
    """The body of the quote: the measured guest, as the CPU and the TDX module report it."""

    mrtd: bytes
    """48 bytes: the firmware the TD was built from."""
    rtmrs: tuple[bytes, bytes, bytes, bytes]
    """RTMR0..3, 48 bytes each."""
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    mr_seam: bytes
    """48 bytes: the TDX module that was loaded."""
    mr_signer_seam: bytes
    """48 bytes, zero for a module signed by Intel."""
    mr_service_td: bytes
    """48 bytes, zero where no service TD is bound and in quotes of body TD 1.0."""
    seam_attributes: bytes
    td_attributes: bytes
    """8 bytes as in the quote, little endian; see `int.from_bytes(..., "little")`."""
    xfam: bytes
    """8 bytes as in the quote, little endian."""
    report_data: bytes
    """64 bytes the guest chose."""
    tee_tcb_svn: bytes
    """16 bytes: the TDX module when the TD was launched."""
    tee_tcb_svn2: bytes | None
    """16 bytes: the TDX module now; `None` in quotes of body TD 1.0, which do not say."""
    extension: TdExtension | None = None
    """`None` in quotes of other bodies than TD 1.5ex."""


@dataclass(frozen=True, slots=True)
class TcbLevel:
    """One row of Intel's tables that an SVN was matched with."""

    status: TcbStatus
    date: datetime
    """`tcbDate`: every fix published before this day is in."""
    advisories: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ShortSvn:
    """A security version number below the one of Intel's newest level."""

    what: str
    """The component in Intel's words, such as `SGX component 1 (SGX Late Microcode Update)`."""
    present: int
    newest: int


@dataclass(frozen=True, slots=True)
class Tcb:
    """The converged verdict on platform, TDX module and quoting enclave, and its parts."""

    status: TcbStatus
    """Worst of platform, module and quoting enclave, as Intel's library converges them."""
    advisories: tuple[str, ...]
    """Union over platform, module and quoting enclave."""
    platform: TcbLevel
    """Platform and TDX module together: the worse status, the older date, all advisories."""
    quoting_enclave: TcbLevel
    tcb_info_evaluation: int
    """`tcbEvaluationDataNumber` of the TCB info."""
    qe_identity_evaluation: int
    """`tcbEvaluationDataNumber` of the QE identity."""
    short: tuple[ShortSvn, ...]
    """What to update, whatever the status; empty on a platform at Intel's newest level."""

    @property
    def evaluation(self) -> int:
        """The older of the two evaluation data numbers."""
        return min(self.tcb_info_evaluation, self.qe_identity_evaluation)


_SGX_KINDS = ("standard", "scalable", "scalable-with-integrity")

PLATFORM_FLAGS = MappingProxyType(
    {"dynamic": "dynamic", "cached_keys": "cached keys", "smt": "SMT"}
)
"""Flag of a platform -> the words for it."""
_SAID = MappingProxyType({True: "", False: "not ", None: "unstated: "})


@dataclass(frozen=True)
class Platform:
    """The machine, from the SGX extension of its PCK certificate."""

    fmspc: bytes
    """6 bytes: processor family, model, stepping, type."""
    pce_id: bytes
    ppid: bytes
    """16 bytes: identifies this very processor package."""
    instance_id: bytes | None
    """16 bytes: the platform instance, absent on single-package platforms."""
    cpu_svn: bytes
    pce_svn: int
    sgx_type: int
    """0 standard, 1 scalable, 2 scalable with integrity."""
    dynamic: bool | None
    """More packages may be added; `None` where the certificate does not say."""
    cached_keys: bool | None
    """Intel's registration service keeps the platform's root keys."""
    smt: bool | None
    """Two hardware threads share a core."""

    @property
    def flags(self) -> Mapping[str, bool | None]:
        """The three flags by their names in a policy."""
        return {"dynamic": self.dynamic, "cached_keys": self.cached_keys, "smt": self.smt}

    @property
    def sgx_kind(self) -> str:
        """The SGX type in words, or its number where it has none."""
        number = self.sgx_type
        return _SGX_KINDS[number] if 0 <= number < len(_SGX_KINDS) else str(number)

    @cached_property
    def words(self) -> str:
        """The SGX type and what is certified of each flag, in one line."""
        flags = (f"{_SAID[flag]}{PLATFORM_FLAGS[name]}" for name, flag in self.flags.items())
        return ", ".join([self.sgx_kind, *flags])


@dataclass(frozen=True, slots=True)
class Window:
    """From when until when a signed statement may be relied on."""

    issued: datetime
    expires: datetime


@dataclass(frozen=True, slots=True)
class Collateral:
    """The dates of everything Intel signed; all windows contained `now` when it was verified."""

    tcb_info: Window
    qe_identity: Window
    root_crl: Window
    pck_crl: Window
    expires: datetime
    """Earliest end of any of them or of any certificate used."""

    @property
    def issued(self) -> datetime:
        """When the oldest of TCB info, QE identity and PCK CRL was issued; its age is policy's.

        The root CRL is issued once a year and judged by its window alone.
        """
        return min(self.tcb_info.issued, self.qe_identity.issued, self.pck_crl.issued)


@dataclass(frozen=True, slots=True)
class TdxClaims:
    """A quote whose signatures, chains and revocation hold; nothing in it has been appraised."""

    quote_version: int
    """4 or 5."""
    report: TdReport
    tcb: Tcb
    platform: Platform
    collateral: Collateral
