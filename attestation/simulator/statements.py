"""The documents Intel signs about platforms: TCB info and QE identity, every field settable."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from attestation.simulator.pki import Machine

Amend = Callable[[dict[str, Any]], dict[str, Any]]
"""Changes the JSON object before it is signed, for statements the fields cannot express."""

RECOVERED = "2026-02-11T00:00:00Z"
"""`tcbDate` of the newest level: the day of the last simulated TCB recovery."""

QE_MR_SIGNER = bytes.fromhex("53494d55") + bytes(28)
TDX_SVNS = (7, 1, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
"""TEE_TCB_SVN of an up-to-date guest: module SVN 7, module version 1, SEAM loader 3."""


def as_signed(amended: dict[str, Any]) -> dict[str, Any]:
    """Leave a statement as it is."""
    return amended


@dataclass(frozen=True, slots=True)
class Validity:
    """Issue and expiry, relative to the time of signing."""

    issued: timedelta = timedelta(days=-1)
    expires: timedelta = timedelta(days=29)

    def at(self, now: datetime) -> tuple[datetime, datetime]:
        """Return both instants, whole seconds."""
        moment = now.replace(microsecond=0)
        return moment + self.issued, moment + self.expires


@dataclass(frozen=True, slots=True)
class Level:
    """Intel's word for one set of SVNs, from this one up to the next newer level."""

    status: str = "UpToDate"
    date: str = RECOVERED
    advisories: tuple[str, ...] = ()

    def row(self, tcb: dict[str, Any]) -> dict[str, Any]:
        """Return the level in Intel's spelling."""
        row: dict[str, Any] = {"tcb": tcb, "tcbDate": self.date, "tcbStatus": self.status}
        return row | ({"advisoryIDs": list(self.advisories)} if self.advisories else {})


@dataclass(frozen=True, slots=True)
class PlatformLevel(Level):
    """A level of SGX component SVNs, PCE SVN and TDX component SVNs."""

    sgx_svns: tuple[int, ...] = Machine().sgx_svns
    pce_svn: int = Machine().pce_svn
    tdx_svns: tuple[int, ...] = TDX_SVNS

    def json(self) -> dict[str, Any]:
        """Return the level in Intel's spelling."""
        tcb = {
            "sgxtcbcomponents": [{"svn": svn} for svn in self.sgx_svns],
            "pcesvn": self.pce_svn,
            "tdxtcbcomponents": [{"svn": svn} for svn in self.tdx_svns],
        }
        return self.row(tcb)


@dataclass(frozen=True, slots=True)
class IsvLevel(Level):
    """A level of one SVN: of the TDX module or of the quoting enclave."""

    svn: int = 0

    def json(self) -> dict[str, Any]:
        """Return the level in Intel's spelling."""
        return self.row({"isvsvn": self.svn})


@dataclass(frozen=True, slots=True)
class Module:
    """The identity of one version of the TDX module."""

    id: str = "TDX_01"
    mr_signer: bytes = bytes(48)
    attributes: bytes = bytes(8)
    levels: tuple[IsvLevel, ...] = (
        IsvLevel(svn=7),
        IsvLevel(svn=2, status="OutOfDate", date="2025-08-13T00:00:00Z"),
    )

    def json(self) -> dict[str, Any]:
        """Return the identity in Intel's spelling."""
        return {
            "id": self.id,
            "mrsigner": self.mr_signer.hex().upper(),
            "attributes": self.attributes.hex().upper(),
            "attributesMask": "F" * 16,
            "tcbLevels": [level.json() for level in self.levels],
        }


@dataclass(frozen=True, slots=True)
class TcbInfo:
    """What Intel knows about a processor family, newest level first."""

    id: str = "TDX"
    validity: Validity = Validity()
    fmspc: bytes = Machine().fmspc
    pce_id: bytes = Machine().pce_id
    evaluation: int = 21
    modules: tuple[Module, ...] = (Module(),)
    levels: tuple[PlatformLevel, ...] = (
        PlatformLevel(),
        PlatformLevel(
            status="OutOfDate",
            date="2025-08-13T00:00:00Z",
            advisories=("INTEL-SA-99999",),
            sgx_svns=(2,) * 2 + (0,) * 14,
            pce_svn=5,
            tdx_svns=(2, 0, 2) + (0,) * 13,
        ),
    )
    amend: Amend = as_signed

    def text(self, now: datetime) -> bytes:
        """Return the compact JSON that is signed at `now`."""
        issued, expires = self.validity.at(now)
        document = {
            "id": self.id,
            "version": 3,
            "issueDate": zulu(issued),
            "nextUpdate": zulu(expires),
            "fmspc": self.fmspc.hex().upper(),
            "pceId": self.pce_id.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": self.evaluation,
            "tdxModule": {
                "mrsigner": "00" * 48,
                "attributes": "00" * 8,
                "attributesMask": "F" * 16,
            },
            "tdxModuleIdentities": [module.json() for module in self.modules],
            "tcbLevels": [level.json() for level in self.levels],
        }
        return compact(self.amend(document))


@dataclass(frozen=True, slots=True)
class QeIdentity:
    """What Intel knows about the quoting enclave."""

    id: str = "TD_QE"
    version: int = 2
    validity: Validity = Validity()
    evaluation: int = 21
    mr_signer: bytes = QE_MR_SIGNER
    isv_prod_id: int = 2
    levels: tuple[IsvLevel, ...] = (IsvLevel(svn=4),)
    amend: Amend = as_signed

    def text(self, now: datetime) -> bytes:
        """Return the compact JSON that is signed at `now`."""
        issued, expires = self.validity.at(now)
        document = {
            "id": self.id,
            "version": self.version,
            "issueDate": zulu(issued),
            "nextUpdate": zulu(expires),
            "tcbEvaluationDataNumber": self.evaluation,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": "11000000000000000000000000000000",
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",
            "mrsigner": self.mr_signer.hex().upper(),
            "isvprodid": self.isv_prod_id,
            "tcbLevels": [level.json() for level in self.levels],
        }
        return compact(self.amend(document))


def compact(document: dict[str, Any]) -> bytes:
    """Return JSON without white space, keys in the order given; the signature covers it."""
    return json.dumps(document, separators=(",", ":")).encode()


def zulu(moment: datetime) -> str:
    """Return `YYYY-MM-DDTHH:MM:SSZ` of an aware UTC datetime."""
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
