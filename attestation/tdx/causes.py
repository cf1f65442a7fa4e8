"""The sentences dcap-qvl refuses with in, our stable codes out; its text never travels further."""

from __future__ import annotations

from attestation.errors import Malformed, NotAffirmed, NotAuthentic, Refusal, Undecidable

_CAUSES: tuple[tuple[str, type[Refusal], str, str], ...] = (
    # part of the cause, kind, code, why; the first that matches names the refusal
    ("CertRevoked", NotAuthentic, "tdx-revoked", "a certificate is on a revocation list"),
    ("root CA is revoked", NotAuthentic, "tdx-revoked", "the root revokes itself"),
    ("InvalidCrlSignature", NotAuthentic, "tdx-chain", "a revocation list is not its authority's"),
    ("leaf certificate", Malformed, "collateral-malformed", "a TCB signer is not a certificate"),
    ("tcbDate", Malformed, "collateral-malformed", "a TCB level has no date"),
    ("CrlExpired", Undecidable, "crl-expired", "a revocation list ended before the given time"),
    ("revocation list expired", Undecidable, "crl-expired", "a revocation list ended"),
    ("TCBInfo expired", Undecidable, "collateral-expired", "the TCB info ended"),
    ("QE Identity expired", Undecidable, "collateral-expired", "the QE identity ended"),
    ("date is in the future", Undecidable, "collateral-future", "collateral is not yet valid"),
    ("CertExpired", Undecidable, "tdx-certificate-time", "a certificate ended"),
    ("CertNotValidYet", Undecidable, "tdx-certificate-time", "a certificate is not yet valid"),
    ("QE report validation", NotAuthentic, "tdx-quoting-enclave", "the QE is in debug mode"),
    ("Debug mode", NotAffirmed, "tdx-debug", "the host can read the memory of this TD"),
    ("TD profiling", NotAffirmed, "tdx-attributes", "the TD is profiled"),
    ("TD migration", NotAffirmed, "tdx-attributes", "the TD can be migrated"),
    ("SERVTD_EXT", NotAffirmed, "tdx-attributes", "the TD has the SERVTD_EXT attribute"),
    ("SEPT_VE_DISABLE", NotAffirmed, "tdx-attributes", "the TD lacks SEPT_VE_DISABLE"),
    ("Reserved bits in TD", NotAffirmed, "tdx-attributes", "reserved TD attributes are set"),
    ("MR service TD", NotAffirmed, "tdx-service-td", "a service TD is bound to this TD"),
    ("status is invalid", NotAffirmed, "tcb-revoked", "Intel has revoked this TCB level"),
    ("No matching TCB level", NotAffirmed, "tcb-unknown", "no TCB level is this low"),
    ("below minimum required", NotAffirmed, "tcb-unknown", "no level of QE or module is this low"),
    ("No TDX module identity", Undecidable, "collateral-mismatch", "the TDX module is not listed"),
    ("Fmspc mismatch", Undecidable, "collateral-mismatch", "the TCB info is of another FMSPC"),
    ("Unsupported QE Identity", Undecidable, "collateral-mismatch", "the QE identity is not TDX's"),
    ("non-TDX TCB info", Undecidable, "collateral-mismatch", "the TCB info is not TDX's"),
    ("for tcb_info", NotAuthentic, "collateral-signature", "the TCB info is not what was signed"),
    ("for qe_identity", NotAuthentic, "collateral-signature", "the QE identity is not as signed"),
    ("certificate chain", NotAuthentic, "tdx-chain", "a chain does not lead to the pinned root"),
    ("for qe_report", NotAuthentic, "tdx-signature", "the PCK did not sign the QE report"),
    ("QE report hash", NotAuthentic, "tdx-signature", "the QE did not vouch for the quoting key"),
    ("report signature is invalid", NotAuthentic, "tdx-signature", "the TD report was altered"),
    ("auth data length", Malformed, "quote-malformed", "QE authentication data is not 32 bytes"),
    ("QE ", NotAuthentic, "tdx-quoting-enclave", "the quoting enclave is not Intel's"),
    ("TDX module", NotAuthentic, "tdx-module", "the TDX module is not one Intel lists"),
    ("count mismatch", Malformed, "collateral-malformed", "a TCB level has not 16 components"),
    ("root CA CRL", Malformed, "collateral-malformed", "the root CRL is not a CRL"),
    ("PCK CRL", Malformed, "collateral-malformed", "the PCK CRL is not a CRL"),
    ("TCB FMSPC", Malformed, "collateral-malformed", "the TCB info has no FMSPC"),
    ("TcbInfo", Malformed, "collateral-malformed", "the TCB info has another shape"),
    ("TCB Info", Malformed, "collateral-malformed", "the TCB info has another shape"),
    ("QeIdentity", Malformed, "collateral-malformed", "the QE identity has another shape"),
    ("decode quote", Malformed, "quote-malformed", "the quote has another shape"),
    ("PCK", Malformed, "quote-malformed", "the PCK certificate has another shape"),
)


def refusal_for(cause: str) -> Refusal:
    """Return the refusal that stands for dcap-qvl's `cause`; an unknown one is never a pass."""
    if "Failed to decode" in cause:  # what could not be decoded may be quoted further down
        cause = cause.partition("\n")[0]
    for part, kind, code, why in _CAUSES:
        if part in cause:
            return kind(code, why)
    return NotAuthentic("tdx-refused", "the quote library refused for a reason without a name")
