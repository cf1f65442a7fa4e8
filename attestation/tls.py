"""A PEM certificate in; a TLS context out that only that certificate's key completes."""

from __future__ import annotations

import ssl

from attestation.errors import Malformed

_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which Python does not name."""


def pinned_context(certificate_pem: str) -> ssl.SSLContext:
    """Return a TLS 1.3 client context with this one certificate as its only trust anchor.

    It is accepted as a partial chain (OpenSSL X509_V_FLAG_PARTIAL_CHAIN). Its name and dates are
    not checked: what was attested or measured is its key, and a wrong key ends the handshake before
    any byte of a request exists. Raises `Malformed` `tls-certificate`.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        context.load_verify_locations(cadata=certificate_pem)
    except (ssl.SSLError, ValueError):
        raise Malformed("tls-certificate", "the certificate to pin is not PEM") from None
    return context
