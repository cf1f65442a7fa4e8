"""What dcap-qvl leaves unchecked in a quote it accepted: roles, issuers, counters, attributes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from attestation.errors import NotAffirmed, NotAuthentic, Undecidable
from attestation.tdx.claims import TdExtension, TdReport
from attestation.tdx.stated import Root, Stated
from attestation.x509 import Named

_PCK_LEAF = ("SGX PCK Certificate",)
_KNOWN_ATTRIBUTES = sum(1 << bit for bit in (0, 4, 5, 6, 16, 27, 28, 29, 30, 31, 62, 63))
"""TD_ATTRIBUTES that the TDX module ABI names: DEBUG, the profiling bits, ICSSD, LASS,
SEPT_VE_DISABLE, MIGRATABLE, PKS, KL, TPA and PERFMON."""


def check_pck(chain: tuple[bytes, bytes, bytes], stated: Stated, *, root: Root) -> datetime:
    """Check that the chain's leaf is a PCK certificate of the authority; return when it ends."""
    leaf = Named.parse(chain[0], what="PCK certificate")
    root.check_role(leaf, roles=_PCK_LEAF)
    # Not the root's subject, so the path that dcap-qvl found is leaf, authority, root.
    if leaf.issuer != stated.authority.subject:
        raise NotAuthentic("tdx-chain", "the PCK certificate is not issued by its authority")
    if chain[1:] != stated.pck_chain:
        raise NotAuthentic("tdx-chain", "PCK or PCK CRL do not lead to the pinned root")
    return leaf.not_after


def check_pce(tcb_info: Mapping[str, object], *, pce_id: bytes) -> None:
    """Check that the TCB info is about this provisioning certification enclave."""
    if str(tcb_info.get("pceId", "")).lower() != pce_id.hex():
        raise Undecidable("collateral-mismatch", f"the TCB info is not of PCE {pce_id.hex()}")


def check_attributes(report: TdReport) -> None:
    """Check that no TD attribute without a name is set; nobody could say what it weakens."""
    reserved = int.from_bytes(report.td_attributes, "little") & ~_KNOWN_ATTRIBUTES
    if reserved:
        raise NotAffirmed("tdx-attributes", f"reserved TD attributes {reserved:#x} are set")


def check_module_not_rolled_back(report: TdReport) -> None:
    """Check that the TDX module is no older now than when the TD was launched."""
    if report.tee_tcb_svn2 is None:
        return
    then, current = report.tee_tcb_svn, report.tee_tcb_svn2
    # [1] is the module's major version, which orders before the SVN in [0]; [2..] are independent.
    older = (current[1], current[0]) < (then[1], then[0])
    if older or any(new < old for new, old in zip(current[2:], then[2:], strict=True)):
        raise NotAffirmed(
            "tdx-module-rollback", f"module SVN {current.hex()} now, {then.hex()} at launch"
        )


def check_extension(extension: TdExtension | None) -> None:
    """Check that a TD 1.5ex body states nothing that no policy can name; dcap-qvl looks at none.

    Only `td_id` may be other than zero: it tells TDs apart and says nothing of any.
    """
    if extension is None:
        return
    if any(
        any(field)
        for field in (
            extension.init_service_td_hash,
            extension.init_service_td_attributes,
            extension.init_cpu_svn,
            extension.init_tee_tcb_svn,
            extension.init_tee_fmspc,
            extension.cur_service_td_hash,
            extension.cur_service_td_attributes,
        )
    ):
        raise NotAffirmed("tdx-service-td", "a service TD is or was bound to this TD")
    if any(extension.dev_info):
        raise NotAffirmed("tdx-devices", "devices are bound to this TD that no policy names")
    if extension.vmid:
        raise NotAffirmed("tdx-partition", f"the report is of virtual machine {extension.vmid}")
