"""The claims JSON of dcap-qvl 0.7 in; the platform and the TCB levels it states out.

Only what is used is declared and read. A shape that is not the declared one is a refusal: this is
where another release of the library would show.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attestation.errors import Malformed, NotAuthentic
from attestation.tdx.claims import Platform, TcbLevel, TcbStatus
from attestation.tdx.collateral import instant

_Flag = Literal["True", "False", "Undefined"]
_FLAGS = {"True": True, "False": False, "Undefined": None}


class _Stated(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        hide_input_in_errors=True,
        cache_strings="none",
    )


class _Converged(_Stated):
    status: str
    advisory_ids: tuple[str, ...]


class _Level(_Stated):
    date: Annotated[str, Field(alias="tcbDate")]
    status: Annotated[str, Field(alias="tcbStatus")]
    advisories: Annotated[tuple[str, ...], Field(alias="advisoryIDs")]


class _Pck(_Stated):
    ppid: list[int]
    cpu_svn: list[int]
    pce_svn: int
    pce_id: list[int]
    fmspc: list[int]
    sgx_type: int
    platform_instance_id: list[int] | None
    dynamic_platform: _Flag
    cached_keys: _Flag
    smt_enabled: _Flag


class _Platform(_Stated):
    tcb_level: _Level
    tcb_date_tag: int
    pck: _Pck


class _QuotingEnclave(_Stated):
    tcb_level: _Level


class _Claims(_Stated):
    tcb: _Converged
    platform: _Platform
    qe: _QuotingEnclave


@dataclass(frozen=True, slots=True)
class Machine:
    """What dcap-qvl says of a quote it accepted, apart from the TD: platform and enclave."""

    platform: Platform
    status: TcbStatus
    """Converged over platform, TDX module and quoting enclave."""
    advisories: tuple[str, ...]
    """The union over the three."""
    platform_level: TcbLevel
    """Platform and TDX module together."""
    enclave_level: TcbLevel

    @classmethod
    def parse(cls, text: str) -> Machine:
        """Read the library's JSON; raises `Malformed` `quote-unsupported` for another shape."""
        try:
            stated = _Claims.model_validate_json(text)
        except ValidationError:
            raise Malformed(
                "quote-unsupported", "the quote library states other claims than those we know"
            ) from None
        platform, enclave = stated.platform, stated.qe.tcb_level
        # The tag is the older of the platform's and the TDX module's dates.
        dated = datetime.fromtimestamp(platform.tcb_date_tag, UTC)
        return cls(
            platform=_platform(platform.pck),
            status=_status(stated.tcb.status),
            advisories=stated.tcb.advisory_ids,
            platform_level=_level(platform.tcb_level, dated=dated),
            enclave_level=_level(enclave, dated=instant(enclave.date, what="QE tcbDate")),
        )


def _platform(pck: _Pck) -> Platform:
    instance = pck.platform_instance_id
    return Platform(
        fmspc=bytes(pck.fmspc),
        pce_id=bytes(pck.pce_id),
        ppid=bytes(pck.ppid),
        instance_id=None if instance is None else bytes(instance),
        cpu_svn=bytes(pck.cpu_svn),
        pce_svn=pck.pce_svn,
        sgx_type=pck.sgx_type,
        dynamic=_FLAGS[pck.dynamic_platform],
        cached_keys=_FLAGS[pck.cached_keys],
        smt=_FLAGS[pck.smt_enabled],
    )


def _level(level: _Level, *, dated: datetime) -> TcbLevel:
    return TcbLevel(status=_status(level.status), date=dated, advisories=level.advisories)


def _status(word: str) -> TcbStatus:
    try:
        return TcbStatus(word)
    except ValueError:
        raise NotAuthentic(
            "tcb-unknown", "Intel's collateral has a TCB status of no name"
        ) from None
