"""A TDX quote, Intel's collateral and a time in; verified claims out. Alone in using dcap-qvl."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime

import dcap_qvl

from attestation.errors import Undecidable
from attestation.recent import Recent
from attestation.tdx.causes import refusal_for
from attestation.tdx.checks import (
    check_attributes,
    check_extension,
    check_module_not_rolled_back,
    check_pce,
    check_pck,
)
from attestation.tdx.claims import Collateral, Platform, Tcb, TdReport, TdxClaims
from attestation.tdx.collateral import Endorsed
from attestation.tdx.framing import QuoteFrame
from attestation.tdx.layout import decode_report
from attestation.tdx.qvl import Machine
from attestation.tdx.shortfall import shortfall
from attestation.tdx.stated import Root, Stated

_COLLATERALS, _GUESTS = 4, 32
"""What a verifier keeps parsed: the kinds of machine of a fleet, and some guests on each kind."""


@dataclass(frozen=True, slots=True)
class _Placed:
    """A machine as its collateral places it."""

    platform: Platform
    tcb: Tcb
    collateral: Collateral


@dataclass(frozen=True, slots=True)
class _Known:
    """What collateral and its machines say, whether or not they can be believed now."""

    form: dcap_qvl.QuoteCollateralV3
    stated: Stated
    machines: Recent[bytes, _Placed] = field(default_factory=lambda: Recent(_GUESTS))
    """By all of a guest's quote that lasts from one nonce to the next."""


@dataclass(frozen=True, slots=True)
class QuoteVerifier:
    """Verifies quotes under one root, and parses what it has seen before no second time.

    Collateral and machines are kept once all of their signatures held. dcap-qvl checks those again
    with every quote, and so is every date; what is kept are facts of their bytes.
    """

    root: Root
    _library: dcap_qvl.QuoteVerifier = field(init=False, repr=False, compare=False)
    _known: Recent[bytes, _Known] = field(
        default_factory=lambda: Recent(_COLLATERALS), init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "_library", dcap_qvl.QuoteVerifier(root_ca_der=self.root.der))

    def verify(self, quote: bytes, collateral: bytes, *, now: datetime) -> TdxClaims:
        """Verify a quote against Intel's collateral under the pinned root, wholly offline.

        1. account for every byte of quote and collateral; 2. have dcap-qvl check signatures,
        chains, revocation, quoting enclave, TDX module and TD attributes at `now`; 3. check what it
        leaves. Statuses other than revoked pass: they are the policy's to judge. Raises
        `Malformed`, `NotAuthentic`, `NotAffirmed` (debug and other TDs nobody may accept) or
        `Undecidable`.
        """
        seconds = int(now.timestamp())
        if seconds < 0:
            raise Undecidable("collateral-future", "the given time is before 1970")
        frame = QuoteFrame.parse(quote)
        report = decode_report(frame.body)
        known = self._known.find(collateral)
        placed = None if known is None else known.machines.find(frame.lasting)
        if known is None or placed is None:
            known, placed = self._learn(
                quote, collateral, frame=frame, report=report, known=known, seconds=seconds
            )
        else:
            self._authenticate(quote, known.form, seconds=seconds)
        known.stated.check_dates(now)
        return TdxClaims(frame.version, report, placed.tcb, placed.platform, placed.collateral)

    def _learn(
        self,
        quote: bytes,
        collateral: bytes,
        *,
        frame: QuoteFrame,
        report: TdReport,
        known: _Known | None,
        seconds: int,
    ) -> tuple[_Known, _Placed]:
        """Verify a guest not seen before; keep what the library says of its machine.

        What is checked here alone is in what lasts, and so true of each quote that has the same.
        """
        chain = frame.pck_chain
        if known is not None:
            words = self._ask(quote, known.form, seconds=seconds)
        else:
            sent = Endorsed.parse(collateral)
            form = _form(sent)
            words = self._ask(quote, form, seconds=seconds)
            stated = Stated.of(sent, root=self.root)
            known = self._known.keep(collateral, _Known(form, stated))
        end = check_pck(chain, known.stated, root=self.root)
        placed = _placed(Machine.parse(words), report, stated=known.stated, pck_end=end)
        check_attributes(report)
        check_module_not_rolled_back(report)
        check_extension(report.extension)
        return known, known.machines.keep(frame.lasting, placed)

    def _ask(self, quote: bytes, collateral: dcap_qvl.QuoteCollateralV3, *, seconds: int) -> str:
        """Return dcap-qvl's claims about a quote it accepts, as JSON."""
        policy = dcap_qvl.QuotePolicy.claims_only(seconds)
        try:
            claims = self._library.verify_with_policy(quote, collateral, seconds, policy)
        except ValueError as error:
            self._authenticate(quote, collateral, seconds=seconds)  # which names the cause
            raise refusal_for(str(error)) from None
        words: str = claims.to_json()
        return words

    def _authenticate(
        self, quote: bytes, collateral: dcap_qvl.QuoteCollateralV3, *, seconds: int
    ) -> None:
        """Have dcap-qvl check all of a quote and its collateral, without the claims."""
        try:
            dcap_qvl.verify_with_root_ca(quote, collateral, self.root.der, seconds)
        except ValueError as error:
            raise refusal_for(str(error)) from None


def verify_quote(quote: bytes, collateral: bytes, *, root_der: bytes, now: datetime) -> TdxClaims:
    """Verify one quote under the root given as DER; see `QuoteVerifier.verify`."""
    return QuoteVerifier(Root.parse(root_der)).verify(quote, collateral, now=now)


def collateral_key(quote: bytes) -> str:
    """Return `<fmspc>-<ca>` of the platform an unverified quote claims; it only picks a file."""
    _ = QuoteFrame.parse(quote).pck_chain  # which refuses what is no chain
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


def _placed(machine: Machine, report: TdReport, *, stated: Stated, pck_end: datetime) -> _Placed:
    check_pce(stated.tcb_info, pce_id=machine.platform.pce_id)
    tcb = Tcb(
        status=machine.status,
        advisories=machine.advisories,
        platform=machine.platform_level,
        quoting_enclave=machine.enclave_level,
        tcb_info_evaluation=stated.tcb_info["tcbEvaluationDataNumber"],
        qe_identity_evaluation=stated.qe_identity["tcbEvaluationDataNumber"],
        short=shortfall(stated.tcb_info, platform=machine.platform, tee_tcb_svn=report.tee_tcb_svn),
    )
    collateral = Collateral(
        tcb_info=stated.tcb_info_window,
        qe_identity=stated.qe_identity_window,
        root_crl=stated.root_crl,
        pck_crl=stated.pck_crl,
        expires=min(pck_end, stated.expires),
    )
    return _Placed(machine.platform, tcb, collateral)
