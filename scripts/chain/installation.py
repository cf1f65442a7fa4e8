"""A directory in, a software-TDX installation in it out: roots, keys, policy, sealed model."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from attestation.broker.kek import create_file_kek, open_kek
from attestation.broker.keyfile import WrappedSecret, secret_aad
from attestation.codec import b64, canonical_json
from attestation.confidential import Confidential
from attestation.simulator import state
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.policy import policy_yaml
from attestation.types import Digest
from server.auth import KeyFile, mint
from server.settings import Settings

MODEL = "qwen3-demo"
MODEL_KEY = "tacit/demo/qwen3-demo"
PEPPER = "tacit/demo/api-key-pepper"
_LIFE = timedelta(days=365)


@dataclass(frozen=True, slots=True)
class Installation:
    """Where everything lies; `create` makes what is missing and keeps what is there."""

    directory: Path
    config: Path
    """The measured YAML of `tacit serve`; its paths point into `directory`."""

    @property
    def tdx(self) -> Path:
        return self.directory / "tdx"

    @property
    def sealed(self) -> Path:
        return self.directory / "sealed" / MODEL

    @property
    def broker_config(self) -> Path:
        return self.directory / "broker" / "broker.yaml"

    @property
    def policy(self) -> Path:
        return self.directory / "policy.yaml"

    @property
    def api_key(self) -> Path:
        return self.directory / "api-key"

    def create_keys(self, *, broker_port: int) -> None:
        """Make the trust root, the broker's keys and the model signer's."""
        now = datetime.now(UTC)
        if not self.tdx.joinpath(state.ROOT).exists():
            state.create(self.tdx, now=now)
        state.write_collateral(self.tdx, state.load(self.tdx), now=now)
        broker = self.directory / "broker"
        broker.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not broker.joinpath("kek").exists():
            create_file_kek(broker / "kek")
        if not broker.joinpath("token.pem").exists():
            _write_key(broker / "token.pem", ec.generate_private_key(ec.SECP256R1()))
        if not broker.joinpath("tls.key").exists():
            _write_certificate(broker / "tls.crt", broker / "tls.key", now=now)
        signer = self.directory / "keys" / "model-signer.pem"
        if not signer.exists():
            signer.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            private = ed25519.Ed25519PrivateKey.generate()
            _write_key(signer, private)
            public = private.public_key().public_bytes(
                serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
            )
            signer.with_suffix(".pub").write_bytes(public)
        self._write_broker_config(broker_port)

    def create_api_key(self) -> None:
        """Make the pepper, which only the broker keeps, and one API key under it."""
        wrapped = self.directory / "broker" / "pepper.json"
        if wrapped.exists() and self.api_key.exists():
            return
        now = datetime.now(UTC).replace(microsecond=0)
        kek = open_kek(f"file:{self.directory / 'broker' / 'kek'}")
        pepper = Confidential(secrets.token_bytes(32))
        document = WrappedSecret(
            version=1,
            kind="secret",
            resource=PEPPER,
            kek=kek.id,
            wrapped=b64(kek.wrap(pepper, aad=secret_aad(PEPPER))),
            created=now,
        )
        entry, key = mint(
            key_id=secrets.token_hex(4),
            secret=Confidential(secrets.token_bytes(32)),
            tenant="demo",
            created=now,
            expires=now + _LIFE,
            pepper=pepper,
        )
        keys = KeyFile(version=1, keys=(entry,))
        wrapped.write_bytes(document.model_dump_json().encode())
        (self.directory / "api-keys.yaml").write_bytes(canonical_json(keys.model_dump(mode="json")))
        _write_private(self.api_key, key.reveal().encode())

    def write_policy(self, manifest: Digest) -> None:
        """Write the policy that accepts exactly this guest, configuration and model."""
        intel = state.load(self.tdx)
        text = policy_yaml(
            SoftwareGuest(intel).report,
            intel,
            config=Settings.load(self.config).digest,
            models={MODEL: manifest},
        )
        self.policy.write_bytes(text)

    def _write_broker_config(self, port: int) -> None:
        resources = [
            (MODEL_KEY, "model-key", f"../sealed/{MODEL}.key.json"),
            (PEPPER, "secret", "pepper.json"),
        ]
        document = {
            "version": 1,
            "profile": "simulated",
            "listen": {"host": "127.0.0.1", "port": port},
            "tls": {"certificate": "tls.crt", "key": "tls.key"},
            "store": "sqlite:broker.db",
            "kek": "file:kek",
            "token_key": "token.pem",
            "endorsements": "../tdx/collateral.json",
            "policy": "../policy.yaml",
            "resources": [
                {
                    "resource": name,
                    "kind": kind,
                    "wrapped_key": wrapped,
                    "policy": "../policy.yaml",
                }
                for name, kind, wrapped in resources
            ],
            "limits": {"sessions": 1024, "session_seconds": 300},
        }
        self.broker_config.write_text(yaml.safe_dump(document, sort_keys=False))


def _write_certificate(certificate: Path, key: Path, *, now: datetime) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tacit key broker")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=10))
        .not_valid_after(now + _LIFE)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(built.public_bytes(serialization.Encoding.PEM))
    _write_key(key, private)


def _write_key(path: Path, private: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> None:
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    _write_private(path, pem)


def _write_private(path: Path, data: bytes) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as stream:
        stream.write(data)
