"""A TDX quote, Intel's collateral and a time in; verified claims out. Alone in using dcap-qvl."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import dcap_qvl

from attestation.errors import Malformed, NotAuthentic, Refusal, Undecidable
from attestation.tdx.causes import refusal_for
from attestation.tdx.checks import (
    Chains,
    check_attributes,
    check_module_not_rolled_back,
    check_pce,
    check_revocation_dates,
    check_roles,
    check_window,
)
from attestation.tdx.claims import (
    Collateral,
    Platform,
    ShortSvn,
    Tcb,
    TcbLevel,
    TcbStatus,
    TdReport,
    TdxClaims,
)
from attestation.tdx.collateral import Endorsed, instant
from attestation.tdx.framing import QuoteFrame
from attestation.tdx.shortfall import shortfall

_FLAGS = {"True": True, "False": False}


def verify_quote(quote: bytes, collateral: bytes, *, root_der: bytes, now: datetime) -> TdxClaims:
    """Verify a quote against Intel's collateral under a pinned root, wholly offline.

    1. account for every byte of quote and collateral; 2. have dcap-qvl check signatures, chains,
    revocation, quoting enclave, TDX module and TD attributes at `now`; 3. check what it leaves.
    Statuses other than revoked pass: they are the policy's to judge. Raises `Malformed`,
    `NotAuthentic`, `NotAffirmed` (debug and other TDs nobody may accept) or `Undecidable`.
    """
    frame = QuoteFrame.parse(quote)
    sent = Endorsed.parse(collateral)
    stated = _verify(quote, sent, root_der=root_der, now=now)
    return _claims(stated, frame=frame, sent=sent, root_der=root_der, now=now)


def collateral_key(quote: bytes) -> str:
    """Return `<fmspc>-<ca>` of the platform an unverified quote claims; it only picks a file."""
    QuoteFrame.parse(quote)
    try:
        parsed = dcap_qvl.parse_quote(quote)
        return f"{parsed.fmspc().lower()}-{parsed.ca()}"
    except ValueError as error:
        raise refusal_for(str(error)) from None


def _verify(quote: bytes, sent: Endorsed, *, root_der: bytes, now: datetime) -> dict[str, Any]:
    seconds = int(now.timestamp())
    if seconds < 0:
        raise Undecidable("collateral-future", "the given time is before 1970")
    collateral = dcap_qvl.QuoteCollateralV3(
        sent.document.pck_crl_issuer_chain,
        sent.root_crl,
        sent.pck_crl,
        sent.document.tcb_info_issuer_chain,
        sent.document.tcb_info,
        sent.tcb_info_signature,
        sent.document.qe_identity_issuer_chain,
        sent.document.qe_identity,
        sent.qe_identity_signature,
    )
    policy = dcap_qvl.QuotePolicy.claims_only(seconds)
    try:
        verifier = dcap_qvl.QuoteVerifier(root_ca_der=root_der)
        claims = verifier.verify_with_policy(quote, collateral, seconds, policy)
    except ValueError as error:
        raise _refusal(error, quote, collateral, root_der=root_der, seconds=seconds) from None
    stated: dict[str, Any] = json.loads(claims.to_json())
    return stated


def _refusal(
    error: ValueError, quote: bytes, collateral: object, *, root_der: bytes, seconds: int
) -> Refusal:
    """Ask again for the cause, which the policy interface drops, and name it."""
    try:
        dcap_qvl.verify_with_root_ca(quote, collateral, root_der, seconds)
    except ValueError as cause:
        return refusal_for(str(cause))
    return refusal_for(str(error))


def _claims(
    stated: dict[str, Any], *, frame: QuoteFrame, sent: Endorsed, root_der: bytes, now: datetime
) -> TdxClaims:
    certificates_end = check_roles(Chains(frame.pck_chain, sent, root_der))
    root_crl, pck_crl = check_revocation_dates(sent, now=now)
    tcb_info, qe_identity = sent.statements()
    tcb_window = check_window(tcb_info, what="TCB info", now=now)
    qe_window = check_window(qe_identity, what="QE identity", now=now)
    platform = _platform(stated["platform"]["pck"])
    check_pce(tcb_info, pce_id=platform.pce_id)
    report = _report(stated["report"])
    check_attributes(report)
    check_module_not_rolled_back(report)
    windows = (tcb_window, qe_window, root_crl, pck_crl)
    return TdxClaims(
        quote_version=frame.version,
        report=report,
        tcb=_tcb(
            stated,
            tcb_info=tcb_info,
            qe_identity=qe_identity,
            short=shortfall(tcb_info, platform=platform, tee_tcb_svn=report.tee_tcb_svn),
        ),
        platform=platform,
        collateral=Collateral(
            tcb_info=tcb_window,
            qe_identity=qe_window,
            root_crl=root_crl,
            pck_crl=pck_crl,
            expires=min(certificates_end, *(window.expires for window in windows)),
        ),
    )


def _report(body: Mapping[str, Mapping[str, str]]) -> TdReport:
    ((kind, fields),) = body.items()
    if kind not in ("TD10", "TD15"):
        raise Malformed("quote-unsupported", "the quote does not carry a TD report")
    raw = {name: bytes.fromhex(value) for name, value in _flat(fields).items()}
    return TdReport(
        mrtd=raw["mr_td"],
        rtmrs=(raw["rt_mr0"], raw["rt_mr1"], raw["rt_mr2"], raw["rt_mr3"]),
        mr_config_id=raw["mr_config_id"],
        mr_owner=raw["mr_owner"],
        mr_owner_config=raw["mr_owner_config"],
        mr_seam=raw["mr_seam"],
        mr_signer_seam=raw["mr_signer_seam"],
        mr_service_td=raw.get("mr_service_td", bytes(48)),
        seam_attributes=raw["seam_attributes"],
        td_attributes=raw["td_attributes"],
        xfam=raw["xfam"],
        report_data=raw["report_data"],
        tee_tcb_svn=raw["tee_tcb_svn"],
        tee_tcb_svn2=raw.get("tee_tcb_svn2"),
    )


def _flat(fields: Mapping[str, Any]) -> dict[str, str]:
    """Lay the TD 1.0 fields that a TD 1.5 body holds beside its own."""
    base = fields.get("base", {})
    return {**base, **{name: value for name, value in fields.items() if name != "base"}}


def _tcb(
    stated: Mapping[str, Any],
    *,
    tcb_info: Mapping[str, Any],
    qe_identity: Mapping[str, Any],
    short: tuple[ShortSvn, ...],
) -> Tcb:
    tcb_evaluation = int(tcb_info["tcbEvaluationDataNumber"])
    qe_evaluation = int(qe_identity["tcbEvaluationDataNumber"])
    qe_level = stated["qe"]["tcb_level"]
    # The tag is the older of the platform's and the TDX module's dates.
    platform_date = datetime.fromtimestamp(int(stated["platform"]["tcb_date_tag"]), UTC)
    return Tcb(
        status=_status(stated["tcb"]["status"]),
        advisories=tuple(stated["tcb"]["advisory_ids"]),
        platform=_level(stated["platform"]["tcb_level"], dated=platform_date),
        quoting_enclave=_level(qe_level, dated=instant(qe_level["tcbDate"], what="QE tcbDate")),
        tcb_info_evaluation=tcb_evaluation,
        qe_identity_evaluation=qe_evaluation,
        short=short,
    )


def _level(level: Mapping[str, Any], *, dated: datetime) -> TcbLevel:
    return TcbLevel(
        status=_status(level["tcbStatus"]), date=dated, advisories=tuple(level["advisoryIDs"])
    )


def _status(word: str) -> TcbStatus:
    try:
        return TcbStatus(word)
    except ValueError:
        raise NotAuthentic(
            "tcb-unknown", "Intel's collateral has a TCB status of no name"
        ) from None


def _platform(pck: Mapping[str, Any]) -> Platform:
    instance = pck["platform_instance_id"]
    return Platform(
        fmspc=bytes(pck["fmspc"]),
        pce_id=bytes(pck["pce_id"]),
        ppid=bytes(pck["ppid"]),
        instance_id=None if instance is None else bytes(instance),
        cpu_svn=bytes(pck["cpu_svn"]),
        pce_svn=int(pck["pce_svn"]),
        sgx_type=int(pck["sgx_type"]),
        dynamic=_FLAGS.get(pck["dynamic_platform"]),
        cached_keys=_FLAGS.get(pck["cached_keys"]),
        smt=_FLAGS.get(pck["smt_enabled"]),
    )
