"""A TDX quote, Intel's collateral and a time in; verified claims out. Alone in using dcap-qvl."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime

import dcap_qvl

from attestation.errors import Refusal, Undecidable
from attestation.tdx.causes import refusal_for
from attestation.tdx.checks import (
    check_attributes,
    check_extension,
    check_module_not_rolled_back,
    check_pce,
    check_pck,
)
from attestation.tdx.claims import Collateral, Tcb, TdxClaims
from attestation.tdx.collateral import Endorsed
from attestation.tdx.framing import QuoteFrame
from attestation.tdx.qvl import QvlClaims
from attestation.tdx.shortfall import shortfall
from attestation.tdx.stated import Root, Stated

_REMEMBERED = 4
"""Collaterals a verifier keeps parsed: those of a fleet of so many kinds of machine."""


@dataclass(frozen=True, slots=True)
class _Known:
    """Collateral by its exact bytes, with what those bytes say; no verdict on them."""

    data: bytes
    form: dcap_qvl.QuoteCollateralV3
    stated: Stated


@dataclass(frozen=True, slots=True)
class QuoteVerifier:
    """Verifies quotes under one root, and parses collateral it has seen before no second time.

    Collateral is kept once its signatures held. They are checked again with every quote, and so is
    every date; what is kept are facts of its bytes. A thread that keeps one and loses the race with
    another costs that one parse.
    """

    root: Root
    _known: deque[_Known] = field(
        default_factory=lambda: deque(maxlen=_REMEMBERED), init=False, repr=False, compare=False
    )

    def verify(self, quote: bytes, collateral: bytes, *, now: datetime) -> TdxClaims:
        """Verify a quote against Intel's collateral under the pinned root, wholly offline.

        1. account for every byte of quote and collateral; 2. have dcap-qvl check signatures,
        chains, revocation, quoting enclave, TDX module and TD attributes at `now`; 3. check what it
        leaves. Statuses other than revoked pass: they are the policy's to judge. Raises
        `Malformed`, `NotAuthentic`, `NotAffirmed` (debug and other TDs nobody may accept) or
        `Undecidable`.
        """
        frame = QuoteFrame.parse(quote)
        known = next((one for one in tuple(self._known) if one.data == collateral), None)
        if known is not None:
            stated = known.stated
            claims = _verify(quote, known.form, root_der=self.root.der, now=now)
        else:
            sent = Endorsed.parse(collateral)
            form = _form(sent)
            claims = _verify(quote, form, root_der=self.root.der, now=now)
            stated = Stated.of(sent, root=self.root)
            self._known.append(_Known(collateral, form, stated))
        return _claims(claims, frame=frame, stated=stated, root=self.root, now=now)


def verify_quote(quote: bytes, collateral: bytes, *, root_der: bytes, now: datetime) -> TdxClaims:
    """Verify one quote under the root given as DER; see `QuoteVerifier.verify`."""
    return QuoteVerifier(Root.parse(root_der)).verify(quote, collateral, now=now)


def collateral_key(quote: bytes) -> str:
    """Return `<fmspc>-<ca>` of the platform an unverified quote claims; it only picks a file."""
    QuoteFrame.parse(quote)
    try:
        parsed = dcap_qvl.parse_quote(quote)
        return f"{parsed.fmspc().lower()}-{parsed.ca()}"
    except ValueError as error:
        raise refusal_for(str(error)) from None


def _form(sent: Endorsed) -> dcap_qvl.QuoteCollateralV3:
    """Return collateral as dcap-qvl takes it."""
    return dcap_qvl.QuoteCollateralV3(
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


def _verify(
    quote: bytes, collateral: dcap_qvl.QuoteCollateralV3, *, root_der: bytes, now: datetime
) -> QvlClaims:
    seconds = int(now.timestamp())
    if seconds < 0:
        raise Undecidable("collateral-future", "the given time is before 1970")
    policy = dcap_qvl.QuotePolicy.claims_only(seconds)
    try:
        verifier = dcap_qvl.QuoteVerifier(root_ca_der=root_der)
        claims = verifier.verify_with_policy(quote, collateral, seconds, policy)
    except ValueError as error:
        raise _refusal(error, quote, collateral, root_der=root_der, seconds=seconds) from None
    return QvlClaims(claims.to_json())


def _refusal(
    error: ValueError,
    quote: bytes,
    collateral: dcap_qvl.QuoteCollateralV3,
    *,
    root_der: bytes,
    seconds: int,
) -> Refusal:
    """Ask again for the cause, which the policy interface drops, and name it."""
    try:
        dcap_qvl.verify_with_root_ca(quote, collateral, root_der, seconds)
    except ValueError as cause:
        return refusal_for(str(cause))
    return refusal_for(str(error))


def _claims(
    claims: QvlClaims, *, frame: QuoteFrame, stated: Stated, root: Root, now: datetime
) -> TdxClaims:
    leaf_end = check_pck(frame.pck_chain, stated, root=root)
    stated.check_dates(now)
    platform, report = claims.platform, claims.report
    check_pce(stated.tcb_info, pce_id=platform.pce_id)
    check_attributes(report)
    check_module_not_rolled_back(report)
    check_extension(report.extension)
    windows = (stated.tcb_info_window, stated.qe_identity_window, stated.root_crl, stated.pck_crl)
    return TdxClaims(
        quote_version=frame.version,
        report=report,
        tcb=Tcb(
            status=claims.status,
            advisories=claims.advisories,
            platform=claims.platform_level,
            quoting_enclave=claims.enclave_level,
            tcb_info_evaluation=int(stated.tcb_info["tcbEvaluationDataNumber"]),
            qe_identity_evaluation=int(stated.qe_identity["tcbEvaluationDataNumber"]),
            short=shortfall(stated.tcb_info, platform=platform, tee_tcb_svn=report.tee_tcb_svn),
        ),
        platform=platform,
        collateral=Collateral(
            tcb_info=stated.tcb_info_window,
            qe_identity=stated.qe_identity_window,
            root_crl=stated.root_crl,
            pck_crl=stated.pck_crl,
            expires=min(leaf_end, stated.certificates_end, *(w.expires for w in windows)),
        ),
    )
