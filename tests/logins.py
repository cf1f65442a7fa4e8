"""Client certificates and tokens for tests: an authority, an identity provider, what they issue."""

from __future__ import annotations

import datetime as dt
import json
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey

ISSUER, AUDIENCE = "https://idp.example", "tacit"


class Authority:
    """A CA that issues client certificates."""

    def __init__(self, now: dt.datetime) -> None:
        self.now = now
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "clients")])
        basic = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate = self._build(self.name, self.key.public_key(), basic).sign(
            self.key, hashes.SHA256()
        )
        self.pem = self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, directory: Path, *names: x509.GeneralName, days: float = 1) -> tuple[Path, str]:
        """Write certificate and key for `names`; return the file and the `sha256:` name."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "somebody")])
        basic = x509.BasicConstraints(ca=False, path_length=None)
        builder = self._build(subject, key.public_key(), basic, days=days)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        file = directory / f"client-{certificate.serial_number}.pem"
        file.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        spki = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        digest = hashes.Hash(hashes.SHA256())
        digest.update(spki)
        return file, f"sha256:{digest.finalize().hex()}"

    def _build(self, subject, public, basic, *, days: float = 1):
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.now - dt.timedelta(days=2))
            .not_valid_after(self.now + dt.timedelta(days=days))
            .add_extension(basic, critical=True)
        )


class Provider:
    """An identity provider with one key after another."""

    def __init__(self, now: dt.datetime) -> None:
        self.now = now
        self.keys = {"one": ec.generate_private_key(ec.SECP256R1())}

    def jwks(self) -> bytes:
        public = [ECKey.import_key(k).as_dict(private=False, kid=i) for i, k in self.keys.items()]
        return json.dumps({"keys": public}).encode()

    def token(self, *, kid: str = "one", key=None, algorithm: str = "ES256", **changes) -> str:
        """Return a token for five minutes; a claim of None is left out."""
        claims = {
            "iss": ISSUER,
            "aud": AUDIENCE,
            "sub": "ada",
            "exp": int(self.now.timestamp()) + 300,
        } | changes
        said = {name: value for name, value in claims.items() if value is not None}
        private = key or ECKey.import_key(self.keys[kid])
        return jwt.encode({"alg": algorithm, "kid": kid}, said, private, algorithms=[algorithm])


def with_certificate(context: ssl.SSLContext, file: Path | None) -> ssl.SSLContext:
    """Return `context` with a client certificate, if there is one."""
    if file is not None:
        context.load_cert_chain(file)
    return context
