"""Certificates and CRLs shaped like Intel's, from keys and dates; deterministic (RFC 6979)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

SGX_EXTENSION = x509.ObjectIdentifier("1.2.840.113741.1.13.1")
_SGX_ARC = bytes.fromhex("2a864886f84d010d01")  # the same object identifier in DER

_INTEGER, _OCTETS, _OID, _ENUMERATED, _BOOLEAN, _SEQUENCE = 0x02, 0x04, 0x06, 0x0A, 0x01, 0x30


class Role(Enum):
    """Who signs what in Intel's hierarchy; the value is the common name's role."""

    ROOT = "SGX Root CA"
    PLATFORM_CA = "SGX PCK Platform CA"
    PCK = "SGX PCK Certificate"
    TCB = "SGX TCB Signing"


@dataclass(frozen=True, slots=True)
class Machine:
    """What the PCK certificate states about a processor package.

    The family-model-stepping-platform-customer code is not one of Intel's.
    """

    fmspc: bytes = bytes.fromhex("53494d000000")
    pce_id: bytes = bytes(2)
    ppid: bytes = hashlib.sha256(b"simulated processor package").digest()[:16]
    instance_id: bytes = hashlib.sha256(b"simulated platform instance").digest()[:16]
    sgx_svns: tuple[int, ...] = (5, 5, 2, 2, 4, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0)
    pce_svn: int = 13
    sgx_type: int = 1
    dynamic: bool = True
    cached_keys: bool = True
    smt: bool = True

    def extension(self) -> bytes:
        """Return the DER of the SGX extension (Intel SGX PCK Certificate profile, section 1.3.5).

        Flags are true by default because they are on every genuine server seen.
        """
        svns = [
            _entry(_tlv(_INTEGER, _unsigned(svn)), 2, index)
            for index, svn in enumerate(self.sgx_svns, start=1)
        ]
        svns.append(_entry(_tlv(_INTEGER, _unsigned(self.pce_svn)), 2, 17))
        svns.append(_entry(_tlv(_OCTETS, bytes(self.sgx_svns)), 2, 18))
        flags = (self.dynamic, self.cached_keys, self.smt)
        booleans = [
            _entry(_tlv(_BOOLEAN, b"\xff" if flag else b"\x00"), 7, index)
            for index, flag in enumerate(flags, start=1)
        ]
        return _tlv(
            _SEQUENCE,
            _entry(_tlv(_OCTETS, self.ppid), 1)
            + _entry(_tlv(_SEQUENCE, b"".join(svns)), 2)
            + _entry(_tlv(_OCTETS, self.pce_id), 3)
            + _entry(_tlv(_OCTETS, self.fmspc), 4)
            + _entry(_tlv(_ENUMERATED, _unsigned(self.sgx_type)), 5)
            + _entry(_tlv(_OCTETS, self.instance_id), 6)
            + _entry(_tlv(_SEQUENCE, b"".join(booleans)), 7),
        )


@dataclass(frozen=True, slots=True)
class Identity:
    """A certificate of the hierarchy and the key it certifies."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def sign(self, data: bytes) -> bytes:
        """Sign with ECDSA P-256 and SHA-256; return r and s, 32 bytes each."""
        return sign(self.key, data)

    @property
    def pem(self) -> str:
        """The certificate in PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()


@dataclass(frozen=True, slots=True)
class Revocations:
    """A CRL: when it was issued, when the next is due and whose certificates it lists."""

    issued: datetime
    expires: datetime
    revoked: tuple[x509.Certificate, ...] = ()
    number: int = 1
    issuer: Identity = field(kw_only=True)

    def der(self) -> bytes:
        """Return the signed v2 CRL in DER."""
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.issuer.certificate.subject)
            .last_update(self.issued)
            .next_update(self.expires)
            .add_extension(x509.CRLNumber(self.number), critical=False)
            .add_extension(_authority(self.issuer.key), critical=False)
        )
        for certificate in self.revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(certificate.serial_number)
                .revocation_date(self.issued)
                .build()
            )
        signed = builder.sign(self.issuer.key, hashes.SHA256(), ecdsa_deterministic=True)
        return signed.public_bytes(serialization.Encoding.DER)


def issue(
    role: Role,
    key: ec.EllipticCurvePrivateKey,
    *,
    issuer: Identity | None,
    common_name: str,
    not_before: datetime,
    not_after: datetime,
    machine: Machine,
) -> Identity:
    """Certify `key` for `role`; the root has no issuer and signs itself."""
    subject = _name(common_name)
    signer = issuer.key if issuer is not None else key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer is not None else subject)
        .public_key(key.public_key())
        .serial_number(_serial(role, key))
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(_authority(signer), critical=False)
        .add_extension(_key_usage(role), critical=True)
        .add_extension(_constraints(role), critical=True)
    )
    if role is Role.PCK:
        extension = x509.UnrecognizedExtension(SGX_EXTENSION, machine.extension())
        builder = builder.add_extension(extension, critical=False)
    return Identity(builder.sign(signer, hashes.SHA256(), ecdsa_deterministic=True), key)


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """Sign with ECDSA P-256 and SHA-256 (RFC 6979 nonces); return r and s, 32 bytes each."""
    signature = key.sign(data, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    r, s = decode_dss_signature(signature)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def point(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return x and y of the public key, 32 bytes each."""
    numbers = key.public_key().public_numbers()
    return numbers.x.to_bytes(32, "big") + numbers.y.to_bytes(32, "big")


def _name(common_name: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated Corporation"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "XX"),
        ]
    )


def _serial(role: Role, key: ec.EllipticCurvePrivateKey) -> int:
    digest = hashlib.sha256(role.value.encode() + point(key)).digest()
    return int.from_bytes(digest[:16], "big") | 1


def _authority(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _constraints(role: Role) -> x509.BasicConstraints:
    depth = {Role.ROOT: 1, Role.PLATFORM_CA: 0}.get(role)
    return x509.BasicConstraints(ca=depth is not None, path_length=depth)


def _key_usage(role: Role) -> x509.KeyUsage:
    authority = role in {Role.ROOT, Role.PLATFORM_CA}
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


def _entry(value: bytes, *arcs: int) -> bytes:
    return _tlv(_SEQUENCE, _tlv(_OID, _SGX_ARC + bytes(arcs)) + value)


def _unsigned(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big")  # a leading zero keeps it positive


def _tlv(tag: int, body: bytes) -> bytes:
    if len(body) < 0x80:
        return bytes([tag, len(body)]) + body
    size = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(size)]) + size + body
