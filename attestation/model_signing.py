"""A manifest in, an OpenSSF Model Signing bundle of the same plaintext files out.

Whoever gets the files in the clear (a registry, an auditor) checks them with `model_signing verify
key`. It proves origin and integrity to them and nothing to us: no reader of a sealed package opens
a bundle. Format: predicate `https://model_signing/signature/v1.0` in a Sigstore bundle v0.3, signed
by a key; its verifier knows ECDSA keys only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation.codec import b64, canonical_json
from attestation.dsse import PAYLOAD_TYPE, pae
from attestation.errors import ConfigError
from attestation.manifest import Manifest

PREDICATE = "https://model_signing/signature/v1.0"
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


def signing_key(pem: bytes, *, name: str) -> ec.EllipticCurvePrivateKey:
    """Read an unencrypted P-256 key in PEM, or raise `ConfigError` ("signing-key")."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError("signing-key", f"{name} is not an open private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError("signing-key", f"{name} is not a P-256 key, which model signing takes")
    return key


def statement(manifest: Manifest, *, ignored: Sequence[str]) -> bytes:
    """Return the in-toto statement about the plaintext of every file of `manifest`.

    `ignored` are paths of the model's directory that were not sealed and are not vouched for. The
    subject's digest is SHA-256 over the digests in the order of the resources.
    """
    digests = b"".join(bytes.fromhex(file.sha256) for file in manifest.files)
    value = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": manifest.model, "digest": {"sha256": hashlib.sha256(digests).hexdigest()}}
        ],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": list(ignored),
            },
            "resources": [
                {"name": file.path, "algorithm": "sha256", "digest": file.sha256}
                for file in manifest.files
            ],
        },
    }
    return canonical_json(value)


def bundle(
    manifest: Manifest, *, ignored: Sequence[str], signer: ec.EllipticCurvePrivateKey
) -> bytes:
    """Return the signed bundle, what its readers call `model.sig`."""
    payload = statement(manifest, ignored=ignored)
    public = signer.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    signature = signer.sign(pae(payload), ec.ECDSA(hashes.SHA256()))
    return canonical_json(
        {
            "mediaType": _MEDIA_TYPE,
            "verificationMaterial": {
                "publicKey": {"hint": hashlib.sha256(public).hexdigest()},
                "tlogEntries": [],
            },
            "dsseEnvelope": {
                "payload": b64(payload),
                "payloadType": PAYLOAD_TYPE,
                "signatures": [{"sig": b64(signature), "keyid": ""}],
            },
        }
    )
