"""Collateral whose signatures hold and the pinned root in; what it states, dated, out.

Everything here is a fact of those bytes alone, whatever the time and the quote: it stays true for
the next quote, while the signatures are checked anew with each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from attestation.codec import parse_json
from attestation.errors import ConfigError, Malformed, NotAuthentic, Undecidable
from attestation.tdx.claims import Window
from attestation.tdx.collateral import Endorsed, instant
from attestation.x509 import Named, RevocationList

_ROOT_ROLE = "SGX Root CA"
_TCB_SIGNER = ("SGX TCB Signing",)
_PCK_ISSUER = ("SGX PCK Platform CA", "SGX PCK Processor CA")


@dataclass(frozen=True, slots=True)
class Root:
    """A pinned SGX root: Intel's, or the one of a software TDX."""

    der: bytes
    owner: str
    """What precedes the role in every common name under it: `Intel `, `Simulated Intel `."""
    not_after: datetime

    @classmethod
    def parse(cls, der: bytes) -> Root:
        """Read a root; raises `ConfigError` `tdx-root` for a certificate of another role."""
        root = Named.parse(der, what="root certificate")
        owner = root.common_name.removesuffix(_ROOT_ROLE)
        if owner == root.common_name:
            raise ConfigError("tdx-root", "the pinned root is not an SGX root")
        return cls(der, owner, root.not_after)

    def check_role(self, certificate: Named, *, roles: tuple[str, ...]) -> None:
        """Raise `NotAuthentic` `tdx-role` unless the certificate is named for one of `roles`."""
        if certificate.common_name not in {self.owner + role for role in roles}:
            raise NotAuthentic("tdx-role", f"a certificate is not named as {' or '.join(roles)}")


@dataclass(frozen=True, slots=True)
class Stated:
    """What Intel states about a platform, until when, and by whose certificates."""

    tcb_info: Mapping[str, Any]
    qe_identity: Mapping[str, Any]
    tcb_info_window: Window
    qe_identity_window: Window
    root_crl: Window
    pck_crl: Window
    pck_chain: tuple[bytes, bytes]
    """Authority and root that every PCK certificate of this platform has above it, DER."""
    authority: Named
    expires: datetime
    """First end of a window, or of a certificate used: root, PCK authority or TCB signer."""

    @classmethod
    def of(cls, sent: Endorsed, *, root: Root) -> Stated:
        """Read collateral whose signatures dcap-qvl has checked, and check what that leaves.

        dcap-qvl accepts collateral signed by any leaf under the root, and the key of a PCK leaf is
        in reach of whoever owns a machine. Raises `NotAuthentic` or `Malformed`.
        """
        signers = [
            _signer(chain, root=root) for chain in {sent.tcb_info_chain, sent.qe_identity_chain}
        ]
        authority = _authority(sent.pck_crl_chain, root=root)
        tcb_info = _statement(sent.document.tcb_info)
        qe_identity = _statement(sent.document.qe_identity)
        windows = (
            _window(tcb_info, what="TCB info"),
            _window(qe_identity, what="QE identity"),
            _crl(sent.root_crl, what="root CRL"),
            _crl(sent.pck_crl, what="PCK CRL"),
        )
        ends = [root.not_after, *(one.not_after for one in (authority, *signers))]
        return cls(
            tcb_info,
            qe_identity,
            *windows,
            pck_chain=(sent.pck_crl_chain[0], root.der),
            authority=authority,
            expires=min([*ends, *(window.expires for window in windows)]),
        )

    def check_dates(self, now: datetime) -> None:
        """Raise `Undecidable` unless all of it holds at `now`; dcap-qvl accepts lists of tomorrow.

        `crl-future` and `crl-expired` of lists, `collateral-future` and `collateral-expired` of
        statements.
        """
        for kind, what, window in (
            ("crl", "root CRL", self.root_crl),
            ("crl", "PCK CRL", self.pck_crl),
            ("collateral", "TCB info", self.tcb_info_window),
            ("collateral", "QE identity", self.qe_identity_window),
        ):
            if now < window.issued:
                raise Undecidable(f"{kind}-future", f"{what} is issued {_stamp(window.issued)}")
            if window.expires <= now:
                raise Undecidable(f"{kind}-expired", f"{what} ended {_stamp(window.expires)}")


def claimed_begin(collateral: bytes) -> datetime:
    """Return when unverified collateral begins to hold as a whole: when its last part was issued.

    Raises `Malformed`.
    """
    sent = Endorsed.parse(collateral)
    return max(
        _window(_statement(sent.document.tcb_info), what="TCB info").issued,
        _window(_statement(sent.document.qe_identity), what="QE identity").issued,
        _crl(sent.root_crl, what="root CRL").issued,
        _crl(sent.pck_crl, what="PCK CRL").issued,
    )


def claimed_end(collateral: bytes) -> datetime:
    """Return when the first part of unverified collateral ends; raises `Malformed`."""
    sent = Endorsed.parse(collateral)
    return min(
        _window(_statement(sent.document.tcb_info), what="TCB info").expires,
        _window(_statement(sent.document.qe_identity), what="QE identity").expires,
        _crl(sent.root_crl, what="root CRL").expires,
        _crl(sent.pck_crl, what="PCK CRL").expires,
    )


def _signer(chain: tuple[bytes, ...], *, root: Root) -> Named:
    signer = Named.parse(chain[0], what="TCB signer")
    root.check_role(signer, roles=_TCB_SIGNER)
    if chain[1:] != (root.der,):  # so the path that dcap-qvl found is signer, root
        raise NotAuthentic("tdx-chain", "the TCB signer is not issued by the pinned root")
    return signer


def _authority(chain: tuple[bytes, ...], *, root: Root) -> Named:
    authority = Named.parse(chain[0], what="PCK authority")
    root.check_role(authority, roles=_PCK_ISSUER)
    if chain[1:] != (root.der,):
        raise NotAuthentic("tdx-chain", "the PCK CRL does not lead to the pinned root")
    return authority


def _statement(text: str) -> dict[str, Any]:
    try:
        statement = parse_json(text.encode())
    except UnicodeEncodeError:  # half of a surrogate pair
        raise Malformed("collateral-malformed", "a statement is not UTF-8") from None
    if not isinstance(statement, dict):
        raise Malformed("collateral-malformed", "a statement is not a JSON object")
    return statement


def _window(statement: Mapping[str, object], *, what: str) -> Window:
    return Window(
        instant(statement.get("issueDate"), what=f"{what} issueDate"),
        instant(statement.get("nextUpdate"), what=f"{what} nextUpdate"),
    )


def _crl(der: bytes, *, what: str) -> Window:
    dates = RevocationList.parse(der, what=what)
    return Window(dates.this_update, dates.next_update)


def _stamp(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"
