"""A mock Intel: keys and dates in; a root, collateral and signed quotes of the genuine format out.

Its root is never built in and never a default. Every statement is a dataclass of options, so a test
can have any lie signed for real.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cached_property

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.simulator.pki import Identity, Machine, Revocations, Role, issue, point, sign
from attestation.simulator.statements import QE_MR_SIGNER, QeIdentity, TcbInfo, Validity
from attestation.tdx.claims import TdReport
from attestation.tdx.layout import V4, Header, encode_body, encode_report

CERTIFICATION_QE_REPORT = 6
CERTIFICATION_PCK_CHAIN = 5
QGS_PADDING = bytes(70)
"""Intel's quote generation service hands out a buffer a little larger than the quote."""

ATTESTATION_KEY = "attestation"
_PCK_VALIDITY = Validity(issued=timedelta(days=-2), expires=timedelta(days=7 * 365))
KEYS = (*(role.name for role in Role), ATTESTATION_KEY)


@dataclass(frozen=True, slots=True)
class Crl:
    """A CRL's window relative to the time of signing, and the roles whose certificates it lists."""

    validity: Validity = field(default_factory=Validity)
    revoked: tuple[Role, ...] = ()


@dataclass(frozen=True, slots=True)
class Statements:
    """Everything Intel signs besides certificates; `replace` what should be false."""

    tcb_info: TcbInfo = field(default_factory=TcbInfo)
    qe_identity: QeIdentity = field(default_factory=QeIdentity)
    root_crl: Crl = Crl()
    pck_crl: Crl = Crl()
    signer: Role = Role.TCB
    """Whose key and chain sign TCB info and QE identity; anything but TCB is a forgery."""


@dataclass(frozen=True, slots=True)
class QuotingEnclave:
    """The enclave that certifies the attestation key, as its report states it."""

    mr_signer: bytes = QE_MR_SIGNER
    isv_prod_id: int = 2
    isv_svn: int = 4
    attributes: bytes = bytes.fromhex("1100000000000000e700000000000000")
    auth: bytes = bytes(range(32))

    def report(self, attestation_key: bytes) -> bytes:
        """Return the 384-byte SGX report that commits to the attestation key."""
        commitment = hashlib.sha256(attestation_key + self.auth).digest()
        return (
            bytes(48)  # CPUSVN 16, MISCSELECT 4, reserved 28
            + self.attributes
            + hashlib.sha256(b"simulated quoting enclave").digest()  # MRENCLAVE
            + bytes(32)
            + self.mr_signer
            + bytes(96)
            + self.isv_prod_id.to_bytes(2, "little")
            + self.isv_svn.to_bytes(2, "little")
            + bytes(60)
            + commitment
            + bytes(32)
        )


GENUINE = Statements()
GENUINE_ENCLAVE = QuotingEnclave()


@dataclass(frozen=True)
class MockIntel:
    """The hierarchy of one set of keys; pure: the same keys and dates give the same bytes."""

    keys: Mapping[str, ec.EllipticCurvePrivateKey]
    created: datetime
    """When the certificates begin to be valid, and the default time of `collateral`."""
    machine: Machine = field(default_factory=Machine)
    prefix: str = "Simulated Intel "
    """Precedes the role in every common name."""
    pck_validity: Validity = field(default_factory=lambda: _PCK_VALIDITY)

    @classmethod
    def generate(cls, now: datetime) -> MockIntel:
        """Create a hierarchy with fresh P-256 keys whose certificates start two days ago."""
        keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in KEYS}
        return cls(keys, now.replace(microsecond=0))

    @property
    def root_der(self) -> bytes:
        """The trust anchor; a policy that names it is labelled simulated."""
        return self.root.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def root_pem(self) -> bytes:
        """The trust anchor in PEM."""
        return self.root.pem.encode()

    @cached_property
    def root(self) -> Identity:
        """The self-signed root."""
        return self._issue(Role.ROOT, issuer=None, years=30)

    @cached_property
    def platform_ca(self) -> Identity:
        """The CA of PCK certificates."""
        return self._issue(Role.PLATFORM_CA, issuer=self.root, years=15)

    @cached_property
    def tcb_signer(self) -> Identity:
        """Signs TCB info and QE identity."""
        return self._issue(Role.TCB, issuer=self.root, years=10)

    @cached_property
    def pck(self) -> Identity:
        """Certifies the machine; its key signs the quoting enclave's report."""
        not_before, not_after = self.pck_validity.at(self.created)
        return issue(
            Role.PCK,
            self.keys[Role.PCK.name],
            issuer=self.platform_ca,
            common_name=self.prefix + Role.PCK.value,
            not_before=not_before,
            not_after=not_after,
            machine=self.machine,
        )

    def identity(self, role: Role) -> Identity:
        """Return the certificate and key of `role`."""
        return {
            Role.ROOT: lambda: self.root,
            Role.PLATFORM_CA: lambda: self.platform_ca,
            Role.PCK: lambda: self.pck,
            Role.TCB: lambda: self.tcb_signer,
        }[role]()

    def collateral(self, now: datetime | None = None, *, state: Statements = GENUINE) -> bytes:
        """Return `state` signed at `now`, as JSON in dcap-qvl's form."""
        moment = self.created if now is None else now
        tcb_info, qe_identity = state.tcb_info, state.qe_identity
        signer = self.identity(state.signer)
        chain = self._chain(state.signer)
        tcb_text, qe_text = tcb_info.text(moment), qe_identity.text(moment)
        document = {
            "pck_crl_issuer_chain": self._chain(Role.PLATFORM_CA),
            "root_ca_crl": self._crl(state.root_crl, issuer=self.root, now=moment).hex(),
            "pck_crl": self._crl(state.pck_crl, issuer=self.platform_ca, now=moment).hex(),
            "tcb_info_issuer_chain": chain,
            "tcb_info": tcb_text.decode(),
            "tcb_info_signature": signer.sign(tcb_text).hex(),
            "qe_identity_issuer_chain": chain,
            "qe_identity": qe_text.decode(),
            "qe_identity_signature": signer.sign(qe_text).hex(),
        }
        return json.dumps(document).encode()

    def quote(
        self,
        report: TdReport,
        *,
        header: Header = V4,
        enclave: QuotingEnclave = GENUINE_ENCLAVE,
        trailing: bytes = QGS_PADDING,
    ) -> bytes:
        """Sign `report`; version 4 by default, `layout.V5` for v5 (TD 1.0 or TD 1.5)."""
        body = encode_body(header.version, encode_report(report))
        attestation_key = self.keys[ATTESTATION_KEY]
        signed = header.encode() + body
        enclave_report = enclave.report(point(attestation_key))
        pem = self._chain(Role.PCK).encode() + b"\0"
        certification = b"".join(
            (
                enclave_report,
                self.pck.sign(enclave_report),
                len(enclave.auth).to_bytes(2, "little") + enclave.auth,
                CERTIFICATION_PCK_CHAIN.to_bytes(2, "little"),
                len(pem).to_bytes(4, "little") + pem,
            )
        )
        signature = b"".join(
            (
                sign(attestation_key, signed),
                point(attestation_key),
                CERTIFICATION_QE_REPORT.to_bytes(2, "little"),
                len(certification).to_bytes(4, "little") + certification,
            )
        )
        return signed + len(signature).to_bytes(4, "little") + signature + trailing

    def on(self, machine: Machine) -> MockIntel:
        """Return the same Intel with a PCK certificate of another machine."""
        return replace(self, machine=machine)

    def to_pem(self) -> Mapping[str, bytes]:
        """Return every private key as PKCS #8 PEM; they are test keys, yet files are 0600."""
        return {
            name: key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            for name, key in self.keys.items()
        }

    @classmethod
    def from_pem(cls, keys: Mapping[str, bytes], *, created: datetime) -> MockIntel:
        """Restore what `to_pem` wrote; the same `created` gives the same certificates."""
        restored = {}
        for name in KEYS:
            key = serialization.load_pem_private_key(keys[name], password=None)
            if not isinstance(key, ec.EllipticCurvePrivateKey):
                raise ValueError(f"key {name} is not an elliptic curve key")
            restored[name] = key
        return cls(restored, created)

    def _issue(self, role: Role, *, issuer: Identity | None, years: int) -> Identity:
        return issue(
            role,
            self.keys[role.name],
            issuer=issuer,
            common_name=self.prefix + role.value,
            not_before=self.created - timedelta(days=2),
            not_after=self.created + timedelta(days=365 * years),
            machine=self.machine,
        )

    def _chain(self, role: Role) -> str:
        above = {Role.PCK: (Role.PLATFORM_CA, Role.ROOT), Role.ROOT: ()}.get(role, (Role.ROOT,))
        return "".join(self.identity(one).pem for one in (role, *above))

    def _crl(self, crl: Crl, *, issuer: Identity, now: datetime) -> bytes:
        issued, expires = crl.validity.at(now)
        revoked = tuple(self.identity(role).certificate for role in crl.revoked)
        return Revocations(issued, expires, revoked, issuer=issuer).der()
