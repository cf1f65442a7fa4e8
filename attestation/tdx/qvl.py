"""The claims JSON of dcap-qvl 0.7 in; the report, the platform and the TCB levels it states out.

Only what is used is declared and read. A shape that is not the declared one is a refusal: this is
where another release of the library would show.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attestation.errors import Malformed, NotAuthentic
from attestation.tdx.claims import Platform, TcbLevel, TcbStatus, TdExtension, TdReport
from attestation.tdx.collateral import instant

_Flag = Literal["True", "False", "Undefined"]
_FLAGS = {"True": True, "False": False, "Undefined": None}


class _Stated(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="ignore",
        val_json_bytes="hex",
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


class _Report10(_Stated):
    tee_tcb_svn: bytes
    mr_seam: bytes
    mr_signer_seam: bytes
    seam_attributes: bytes
    td_attributes: bytes
    xfam: bytes
    mr_td: bytes
    mr_config_id: bytes
    mr_owner: bytes
    mr_owner_config: bytes
    rt_mr0: bytes
    rt_mr1: bytes
    rt_mr2: bytes
    rt_mr3: bytes
    report_data: bytes


class _Report15(_Stated):
    base: _Report10
    tee_tcb_svn2: bytes
    mr_service_td: bytes


class _Report15Ex(_Stated):
    base: _Report15
    vmid: int
    td_id: bytes
    dev_info: bytes
    init_service_td_hash: bytes
    init_service_td_attributes: bytes
    init_cpu_svn: bytes
    init_tee_tcb_svn: bytes
    init_tee_fmspc: bytes
    cur_service_td_hash: bytes
    cur_service_td_attributes: bytes


class _Report(_Stated):
    td10: Annotated[_Report10 | None, Field(alias="TD10")] = None
    td15: Annotated[_Report15 | None, Field(alias="TD15")] = None
    td15_ex: Annotated[_Report15Ex | None, Field(alias="TD15Ex")] = None


class _Claims(_Stated):
    tcb: _Converged
    platform: _Platform
    qe: _QuotingEnclave
    report: _Report


class QvlClaims:
    """What dcap-qvl says of a quote it accepted."""

    __slots__ = ("_stated",)

    def __init__(self, text: str) -> None:
        """Read the library's JSON; raises `Malformed` `quote-unsupported` for another shape."""
        try:
            self._stated = _Claims.model_validate_json(text)
        except ValidationError:
            raise Malformed(
                "quote-unsupported", "the quote library states other claims than those we know"
            ) from None

    @property
    def status(self) -> TcbStatus:
        """The converged status of platform, TDX module and quoting enclave."""
        return _status(self._stated.tcb.status)

    @property
    def advisories(self) -> tuple[str, ...]:
        """The union over platform, TDX module and quoting enclave."""
        return self._stated.tcb.advisory_ids

    @property
    def platform_level(self) -> TcbLevel:
        """Platform and TDX module together; the tag is the older of their two dates."""
        platform = self._stated.platform
        return _level(platform.tcb_level, dated=datetime.fromtimestamp(platform.tcb_date_tag, UTC))

    @property
    def enclave_level(self) -> TcbLevel:
        """The quoting enclave's own level."""
        level = self._stated.qe.tcb_level
        return _level(level, dated=instant(level.date, what="QE tcbDate"))

    @property
    def platform(self) -> Platform:
        """The machine, from its PCK certificate."""
        pck = self._stated.platform.pck
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

    @property
    def report(self) -> TdReport:
        """The TD report, whichever of the three bodies carries it."""
        body = self._stated.report
        extended = body.td15_ex
        newer = body.td15 if extended is None else extended.base
        base = body.td10 if newer is None else newer.base
        if base is None:
            raise Malformed("quote-unsupported", "the quote does not carry a TD report")
        return TdReport(
            mrtd=base.mr_td,
            rtmrs=(base.rt_mr0, base.rt_mr1, base.rt_mr2, base.rt_mr3),
            mr_config_id=base.mr_config_id,
            mr_owner=base.mr_owner,
            mr_owner_config=base.mr_owner_config,
            mr_seam=base.mr_seam,
            mr_signer_seam=base.mr_signer_seam,
            mr_service_td=bytes(48) if newer is None else newer.mr_service_td,
            seam_attributes=base.seam_attributes,
            td_attributes=base.td_attributes,
            xfam=base.xfam,
            report_data=base.report_data,
            tee_tcb_svn=base.tee_tcb_svn,
            tee_tcb_svn2=None if newer is None else newer.tee_tcb_svn2,
            extension=None if extended is None else _extension(extended),
        )


def _extension(body: _Report15Ex) -> TdExtension:
    return TdExtension(
        vmid=body.vmid,
        td_id=body.td_id,
        dev_info=body.dev_info,
        init_service_td_hash=body.init_service_td_hash,
        init_service_td_attributes=body.init_service_td_attributes,
        init_cpu_svn=body.init_cpu_svn,
        init_tee_tcb_svn=body.init_tee_tcb_svn,
        init_tee_fmspc=body.init_tee_fmspc,
        cur_service_td_hash=body.cur_service_td_hash,
        cur_service_td_attributes=body.cur_service_td_attributes,
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
