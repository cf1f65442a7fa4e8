"""What dcap-qvl leaves unchecked in a quote it accepted: roles, issuers, dates and counters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from attestation.errors import ConfigError, NotAffirmed, NotAuthentic, Undecidable
from attestation.tdx.claims import TdReport, Window
from attestation.tdx.collateral import Endorsed, instant
from attestation.x509 import Named, RevocationList

_ROOT_ROLE = "SGX Root CA"
_TCB_SIGNER = ("SGX TCB Signing",)
_PCK_LEAF = ("SGX PCK Certificate",)
_PCK_ISSUER = ("SGX PCK Platform CA", "SGX PCK Processor CA")
_KNOWN_ATTRIBUTES = sum(1 << bit for bit in (0, 4, 5, 6, 16, 27, 28, 29, 30, 31, 62, 63))
"""TD_ATTRIBUTES that the TDX module ABI names: DEBUG, the profiling bits, ICSSD, LASS,
SEPT_VE_DISABLE, MIGRATABLE, PKS, KL, TPA and PERFMON."""


@dataclass(frozen=True, slots=True)
class Chains:
    """The chains of a quote and its collateral, whose signatures dcap-qvl has checked."""

    pck: tuple[bytes, bytes, bytes]
    endorsed: Endorsed
    root_der: bytes


def check_roles(chains: Chains) -> datetime:
    """Check that every certificate plays its role under the pinned root; return the first end.

    dcap-qvl accepts collateral signed by any leaf under the root, and the key of a PCK leaf is in
    reach of whoever owns a machine. Names carry the root's own prefix (`Intel`, `Simulated`).
    """
    root_der, sent = chains.root_der, chains.endorsed
    root = Named.parse(root_der, what="root certificate")
    owner = root.common_name.removesuffix(_ROOT_ROLE)
    if owner == root.common_name:
        raise ConfigError("tdx-root", "the pinned root is not an SGX root")
    leaf = Named.parse(chains.pck[0], what="PCK certificate")
    issuer = Named.parse(chains.pck[1], what="PCK authority")
    _check_role(leaf, owner=owner, roles=_PCK_LEAF)
    _check_role(issuer, owner=owner, roles=_PCK_ISSUER)
    used = [root, leaf, issuer]
    # TCB info and QE identity are nearly always signed by the same one.
    for chain in {sent.tcb_info_chain, sent.qe_identity_chain}:
        signer = Named.parse(chain[0], what="TCB signer")
        _check_role(signer, owner=owner, roles=_TCB_SIGNER)
        if chain[1:] != (root_der,):  # so the path that dcap-qvl found is signer, root
            raise NotAuthentic("tdx-chain", "the TCB signer is not issued by the pinned root")
        used.append(signer)
    # Not the root's subject, so the path that dcap-qvl found is leaf, authority, root.
    if leaf.issuer != issuer.subject:
        raise NotAuthentic("tdx-chain", "the PCK certificate is not issued by its authority")
    if chains.pck[2] != root_der or sent.pck_crl_chain != (chains.pck[1], root_der):
        raise NotAuthentic("tdx-chain", "PCK or PCK CRL do not lead to the pinned root")
    return min(certificate.not_after for certificate in used)


def check_revocation_dates(sent: Endorsed, *, now: datetime) -> tuple[Window, Window]:
    """Check that root CRL and PCK CRL are today's; dcap-qvl accepts lists from the future."""
    windows = []
    for what, der in (("root CRL", sent.root_crl), ("PCK CRL", sent.pck_crl)):
        crl = RevocationList.parse(der, what=what, now=now)
        windows.append(Window(crl.this_update, crl.next_update))
    return windows[0], windows[1]


def check_window(statement: Mapping[str, object], *, what: str, now: datetime) -> Window:
    """Return when a signed statement of Intel's holds, which must include `now`."""
    issued = instant(statement.get("issueDate"), what=f"{what} issueDate")
    expires = instant(statement.get("nextUpdate"), what=f"{what} nextUpdate")
    if now < issued:
        raise Undecidable("collateral-future", f"{what} is issued {issued:%Y-%m-%dT%H:%M:%SZ}")
    if expires <= now:
        raise Undecidable("collateral-expired", f"{what} ended {expires:%Y-%m-%dT%H:%M:%SZ}")
    return Window(issued, expires)


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


def _check_role(certificate: Named, *, owner: str, roles: tuple[str, ...]) -> None:
    if certificate.common_name not in {owner + role for role in roles}:
        raise NotAuthentic("tdx-role", f"a certificate is not named as {' or '.join(roles)}")
