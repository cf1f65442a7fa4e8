"""A second reader of sealed packages, written from the format's text alone: no code of ours in it.

plaintext(package, signer=<32 raw bytes>, dek=<32 bytes>) -> {path: bytes}
"""

import base64
import hashlib
import hmac
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes


def hkdf(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 with SHA-256, for 32 bytes of output."""
    extracted = hmac.digest(salt, secret, "sha256")
    return hmac.digest(extracted, info + b"\x01", "sha256")


def lp(*parts: bytes) -> bytes:
    return b"".join(len(part).to_bytes(8, "big") + part for part in parts)


def file_key(dek: bytes, *, generation: bytes, file: int) -> bytes:
    info = b"tacit/v1/sealed/file" + lp(file.to_bytes(4, "big"))
    return hkdf(dek, salt=generation, info=info)


def chunk_aad(generation: bytes, file: int, index: int, count: int, size: int) -> bytes:
    numbers = (file.to_bytes(4, "big"), *(n.to_bytes(8, "big") for n in (index, count, size)))
    return b"tacit/v1/sealed/chunk" + lp(generation, *numbers)


def decrypt(key: bytes, index: int, sealed: bytes, tag: bytes, aad: bytes) -> bytes:
    nonce = bytes(4) + index.to_bytes(8, "big")
    opener = Cipher(algorithms.AES(key), modes.GCM(nonce, tag)).decryptor()
    opener.authenticate_additional_data(aad)
    return opener.update(sealed) + opener.finalize()


def mth(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, with the split found by counting up."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return hashlib.sha256(b"\x01" + mth(leaves[:k]) + mth(leaves[k:])).digest()


def plaintext(package: Path, *, signer: bytes, dek: bytes) -> dict[str, bytes]:
    envelope = json.loads((package / "manifest.dsse.json").read_bytes())
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    (signature,) = envelope["signatures"]
    Ed25519PublicKey.from_public_bytes(signer).verify(base64.b64decode(signature["sig"]), signed)
    statement = json.loads(payload)
    predicate = statement["predicate"]
    generation, chunk = bytes.fromhex(predicate["generation"]), predicate["chunk_size"]
    commitment = hkdf(dek, salt=generation, info=b"tacit/v1/sealed/commit")
    assert commitment.hex() == predicate["key_commitment"]
    tags, files, leaves = (package / "tags.bin").read_bytes(), {}, []
    for entry, subject in zip(predicate["files"], statement["subject"], strict=True):
        number, size, count = entry["id"], entry["size"], entry["chunks"]
        mine, tags = tags[: 16 * count], tags[16 * count :]
        assert hashlib.sha256(mine).hexdigest() == entry["tags_sha256"]
        sealed = (package / f"{number:05d}.sealed").read_bytes()
        key = file_key(dek, generation=generation, file=number)
        content = b"".join(
            decrypt(
                key,
                i,
                sealed[i * chunk : (i + 1) * chunk],
                mine[16 * i : 16 * i + 16],
                chunk_aad(generation, number, i, count, size),
            )
            for i in range(count)
        )
        digest = hashlib.sha256(content).hexdigest()
        assert digest == subject["digest"]["sha256"]
        assert entry["path"] == subject["name"]
        leaf = {"path": entry["path"], "role": entry["role"], "sha256": digest, "size": size}
        leaves.append(json.dumps(leaf, sort_keys=True, separators=(",", ":")).encode())
        files[entry["path"]] = content
    assert tags == b""
    assert mth(leaves).hex() == predicate["weights_root"]
    return files
