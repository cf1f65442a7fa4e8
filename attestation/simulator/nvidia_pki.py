"""Certificates and OCSP responses shaped like NVIDIA's, from a seed and dates; P-384, SHA-384."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

_P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
    16,
)
_DICE = x509.ObjectIdentifier("2.23.133.5.4.1")
_SHA384_FWID = bytes.fromhex("0609608648016503040202") + bytes.fromhex("0430")


@dataclass(frozen=True, slots=True)
class Party:
    """A certificate and the key it certifies."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        """The certificate in DER."""
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> str:
        """The certificate in PEM."""
        return self.certificate.public_bytes(Encoding.PEM).decode()


@dataclass(frozen=True, slots=True)
class Window:
    """When a certificate is valid."""

    begins: datetime
    ends: datetime


def derived_key(seed: bytes, name: str) -> ec.EllipticCurvePrivateKey:
    """Return the P-384 key that `seed` has under `name`."""
    digest = hashlib.sha512(seed + name.encode()).digest()
    return ec.derive_private_key(int.from_bytes(digest, "big") % _P384_ORDER, ec.SECP384R1())


def raw_signature(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Sign with ECDSA and SHA-384 (RFC 6979 nonces); return r and s, 48 bytes each."""
    signature = key.sign(data, ec.ECDSA(hashes.SHA384(), deterministic_signing=True))
    r, s = decode_dss_signature(signature)
    return r.to_bytes(48, "big") + s.to_bytes(48, "big")


def certify(
    name: str,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: Party | None,
    window: Window,
    authority: bool = True,
    fwid: bytes | None = None,
    ocsp_signing: bool = False,
) -> Party:
    """Certify `key` under a common name; without an issuer it signs itself.

    `fwid` makes a device's leaf: a DICE CompositeDeviceID of the key and that firmware.
    """
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated Corporation"),
        ]
    )
    public = key.public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    serial = int.from_bytes(hashlib.sha256(name.encode() + spki).digest()[:16], "big") | 1
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer.certificate.subject)
        .public_key(public)
        .serial_number(serial)
        .not_valid_before(window.begins)
        .not_valid_after(window.ends)
        .add_extension(_usage(authority=authority), critical=True)
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    )
    if fwid is not None:
        composite = b"\x02\x01\x01" + spki + _sequence(_SHA384_FWID + fwid)
        dice = x509.UnrecognizedExtension(_DICE, _sequence(composite))
        builder = builder.add_extension(dice, critical=False)
    if ocsp_signing:
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING])
        builder = builder.add_extension(usage, critical=False)
    signer = key if issuer is None else issuer.key
    return Party(builder.sign(signer, hashes.SHA384(), ecdsa_deterministic=True), key)


def ocsp_response(
    subject: x509.Certificate,
    issuer: Party,
    *,
    window: Window,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    reason: x509.ReasonFlags | None = None,
    responder: Party | None = None,
) -> bytes:
    """Return a response about `subject`, signed by its issuer or by `responder` if given."""
    revoked = status is ocsp.OCSPCertStatus.REVOKED
    signer = issuer if responder is None else responder
    builder = (
        ocsp.OCSPResponseBuilder()
        .add_response(
            cert=subject,
            issuer=issuer.certificate,
            algorithm=hashes.SHA1(),  # noqa: S303 - an address, as OpenSSL's clients send it
            cert_status=status,
            this_update=window.begins,
            next_update=window.ends,
            revocation_time=window.begins if revoked else None,
            revocation_reason=reason,
        )
        .responder_id(ocsp.OCSPResponderEncoding.HASH, signer.certificate)
    )
    if responder is not None:
        builder = builder.certificates([responder.certificate])
    return builder.sign(signer.key, hashes.SHA384()).public_bytes(Encoding.DER)


def _usage(*, authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _sequence(body: bytes) -> bytes:
    size = bytes([len(body)]) if len(body) < 0x80 else bytes([0x81, len(body)])
    return b"\x30" + size + body
