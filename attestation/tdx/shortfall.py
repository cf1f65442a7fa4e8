"""Signed TCB info and the SVNs of a platform in; which of them lag behind Intel's newest out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attestation.tdx.claims import Platform, ShortSvn

_MODULE = "TDX module"


def shortfall(
    tcb_info: Mapping[str, Any], *, platform: Platform, tee_tcb_svn: bytes
) -> tuple[ShortSvn, ...]:
    """Name every SVN below the first, that is newest, level of TCB info; the signature is checked.

    The SVNs of the TDX module are compared with its own identity, as Intel does since TDX 1.5
    (TEE_TCB_SVN[1] > 0), and then not with the platform's level. This explains a status; the
    status itself is decided by the quote library.
    """
    newest = tcb_info["tcbLevels"][0]["tcb"]
    module_version = tee_tcb_svn[1]
    skipped = 2 if module_version > 0 else 0
    return (
        *_short(newest["sgxtcbcomponents"], platform.cpu_svn, kind="SGX component"),
        *_one("PCE", platform.pce_svn, int(newest["pcesvn"])),
        *_short(newest["tdxtcbcomponents"], tee_tcb_svn, kind="TDX component", first=skipped),
        *_module(tcb_info.get("tdxModuleIdentities", ()), tee_tcb_svn),
    )


def _short(
    components: Sequence[Mapping[str, Any]], svns: bytes, *, kind: str, first: int = 0
) -> Iterator[ShortSvn]:
    for index, (component, svn) in enumerate(zip(components, svns, strict=True)):
        if svn < component["svn"] and index >= first:
            what = component.get("type") or component.get("category")
            name = f"{kind} {index}" + (f" ({what})" if what else "")
            yield ShortSvn(name, svn, component["svn"])


def _module(identities: Sequence[Mapping[str, Any]], tee_tcb_svn: bytes) -> Iterator[ShortSvn]:
    wanted = f"TDX_{tee_tcb_svn[1]:02X}"
    for identity in identities:
        if identity["id"].upper() == wanted and tee_tcb_svn[1] > 0:
            newest = identity["tcbLevels"][0]["tcb"]["isvsvn"]
            yield from _one(f"{_MODULE} {wanted}", tee_tcb_svn[0], newest)


def _one(what: str, present: int, newest: int) -> Iterator[ShortSvn]:
    if present < newest:
        yield ShortSvn(what, present, newest)
