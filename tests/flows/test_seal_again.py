"""`tacit seal` when things go wrong or change: interrupted, disk full, KEK away, a new data key."""

import base64
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from attestation import dsse
from attestation.broker.kek import create_file_kek
from attestation.cli import main
from attestation.codec import unb64
from attestation.manifest import MANIFEST, Manifest
from tests.sealed_reference import plaintext
from tests.sealed_world import write_model

OPENSSF = Path(__file__).parents[2] / ".venv-peers/bin/model_signing"
CERTIFICATE = Path(__file__).parents[2] / "attestation/gpu/nvidia_device_root.pem"
RUN = [sys.executable, "-c", "import sys; from attestation.cli import main; sys.exit(main())"]
SEAL = ["seal", "model", "out", "--key", "file:kek", "--sign", "signer.pem", "--json"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "model", shard_bytes=9_000_000)
    create_file_kek(tmp_path / "kek")
    assert main(["keygen", "signer.pem"]) == 0
    return tmp_path


def contents(place: Path, package: str) -> dict[str, bytes]:
    """Read a package with the independent reader and the key that lies beside it."""
    from attestation.broker.kek import open_kek
    from attestation.broker.keyfile import parse_wrapped

    wrapped = parse_wrapped((place / f"{package}.key.json").read_bytes(), name="k")
    dek = open_kek("file:kek").unwrap(unb64(wrapped.wrapped, what="w"), aad=wrapped.aad).reveal()
    signer = dsse.public_key((place / "signer.pub").read_bytes(), name="k")
    return plaintext(place / package, signer=signer.public_bytes_raw(), dek=dek)


def model_files(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (place / "model").iterdir()}


def full_disk(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `tacit seal` where no file may grow over 5 MB, as on a disk that fills up."""
    return subprocess.run(
        [*RUN, *SEAL, *words], cwd=place, capture_output=True, text=True, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (5_000_000, 5_000_000)),
    )  # fmt: skip


def test_a_full_disk_is_said_and_what_was_done_is_gone_on_with(place: Path) -> None:
    before = model_files(place)
    failed = full_disk(place)
    assert failed.returncode == 2
    assert json.loads(failed.stdout)["code"] == "seal-output"
    assert not (place / "out" / MANIFEST).exists()
    assert not (place / "out.key.json").exists()
    began = json.loads((place / "out" / "sealing.jsonl").read_bytes().splitlines()[0])
    done = (place / "out" / "sealing.jsonl").read_bytes().count(b"\n") - 1
    assert main([*SEAL]) == 2  # never over what is there
    assert main([*SEAL, "--resume"]) == 0
    assert done > 0
    signer = dsse.public_key((place / "signer.pub").read_bytes(), name="k")
    manifest = Manifest.open((place / "out" / MANIFEST).read_bytes(), signer=signer)
    assert manifest.generation.hex() == began["generation"]
    assert contents(place, "out") == before == model_files(place)
    assert not (place / "out" / "sealing.jsonl").exists()


def test_a_killed_run_is_resumed(place: Path) -> None:
    running = subprocess.Popen([*RUN, *SEAL, "--workers", "1"], cwd=place, stdout=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (place / "out").exists() or not any((place / "out").glob("*.sealed")):
        assert time.monotonic() < deadline
        assert running.poll() is None
    running.send_signal(signal.SIGKILL)
    running.communicate()
    if not (place / "out" / "sealing.jsonl").exists():  # it was faster
        assert contents(place, "out") == model_files(place)
        return
    assert main([*SEAL, "--resume"]) == 0
    assert contents(place, "out") == model_files(place)


def test_a_chunk_that_changed_in_between_is_not_encrypted_again(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same size and time of change as before: only the ciphertext that lies there tells."""
    full_disk(place)
    for shard in (place / "model").glob("*.safetensors"):
        status = shard.stat()
        with shard.open("r+b") as stream:
            stream.seek(1000)
            stream.write(b"changed!")
        os.utime(shard, ns=(status.st_atime_ns, status.st_mtime_ns))
    capsys.readouterr()
    assert main([*SEAL, "--resume"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "seal-resume"
    assert list((place / "out").iterdir()) == []


def test_a_run_is_not_resumed_over_other_files_or_another_kek(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full_disk(place)
    shutil.copytree(place / "out", place / "kept")
    create_file_kek(place / "other-kek")
    capsys.readouterr()
    words = [word.replace("file:kek", "file:other-kek") for word in SEAL]
    assert main([*words, "--resume"]) == 4
    assert json.loads(capsys.readouterr().out)["code"] == "kek-mismatch"
    (place / "model" / "config.json").write_text("{}")
    assert main([*SEAL, "--resume"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "seal-resume"
    for path in (place / "kept").iterdir():
        assert (place / "out" / path.name).read_bytes() == path.read_bytes()


def test_nothing_is_resumed_where_nothing_was_begun(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert main([*SEAL, "--resume"]) == 2
    assert json.loads(capsys.readouterr().out)["code"] == "seal-resume"


def again(*words: str) -> int:
    return main(
        ["seal", "new", "--from-sealed", "out", "--signer", "signer.pub", "--key", "file:kek",
         "--sign", "signer.pem", "--json", *words]
    )  # fmt: skip


def test_a_new_data_key_costs_no_plaintext(place: Path) -> None:
    assert main([*SEAL, "--version", "3", "--source", "hf:x/y@1"]) == 0
    before = model_files(place)
    shutil.rmtree(place / "model")
    assert again() == 0
    assert contents(place, "new") == before
    signer = dsse.public_key((place / "signer.pub").read_bytes(), name="k")
    old, new = (
        Manifest.open((place / name / MANIFEST).read_bytes(), signer=signer)
        for name in ("out", "new")
    )
    assert (new.version, new.model, new.source, new.key) == (4, "model", "hf:x/y@1", old.key)
    assert new.weights_root == old.weights_root
    assert new.generation != old.generation
    assert new.key_commitment != old.key_commitment
    for path in (place / "new").glob("*.sealed"):
        data = path.read_bytes()
        assert not data or data != (place / "out" / path.name).read_bytes()


def test_what_does_not_authenticate_is_not_sealed_again(place: Path) -> None:
    assert main(SEAL) == 0
    shard = max((place / "out").glob("*.sealed"), key=lambda path: path.stat().st_size)
    with shard.open("r+b") as stream:
        stream.seek(5_000_000)
        stream.write(b"?")
    assert again() == 4
    assert not (place / "new.key.json").exists()
    assert list((place / "new").iterdir()) == []


def test_a_new_key_never_takes_an_old_version(place: Path) -> None:
    assert main([*SEAL, "--version", "3"]) == 0
    assert again("--version", "3") == 2
    assert main(["seal", "model", "new", "--from-sealed", "out", "--key", "file:kek"]) == 2


def test_a_kek_that_is_away_is_found_out_before_anything_is_read(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "word").write_text("word")
    shutil.copy(CERTIFICATE, place / "ca.pem")  # any one: nobody answers
    words = "ca=ca.pem&auth=approle&role-id=word&secret-id=word"
    uri = f"openbao:https://127.0.0.1:9/transit/kek?{words}"
    capsys.readouterr()
    assert main(["seal", "absent", "out", "--key", uri, "--json"]) == 6
    assert json.loads(capsys.readouterr().out)["code"] == "kek-unreachable"
    assert not (place / "out").exists()


def p256(place: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (place / "p256.pem").write_bytes(private)
    (place / "p256.pub").write_bytes(public)


def test_the_openssf_bundle_vouches_for_every_plaintext_file(place: Path) -> None:
    """Predicate v1.0 as its specification words it, read here without our code."""
    p256(place)
    assert main([*SEAL, "--model-signing", "p256.pem"]) == 0
    bundle = json.loads((place / "out.model.sig").read_bytes())
    envelope = bundle["dsseEnvelope"]
    payload, (signature,) = base64.b64decode(envelope["payload"]), envelope["signatures"]
    public = serialization.load_pem_public_key((place / "p256.pub").read_bytes())
    assert isinstance(public, ec.EllipticCurvePublicKey)
    kind = envelope["payloadType"].encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    public.verify(base64.b64decode(signature["sig"]), signed, ec.ECDSA(hashes.SHA256()))
    said = json.loads(payload)
    resources = said["predicate"]["resources"]
    assert {(r["name"], r["algorithm"], r["digest"]) for r in resources} == {
        (name, "sha256", hashlib.sha256(data).hexdigest())
        for name, data in model_files(place).items()
    }
    whole = hashlib.sha256(b"".join(bytes.fromhex(r["digest"]) for r in resources)).hexdigest()
    assert said["subject"] == [{"name": "model", "digest": {"sha256": whole}}]
    assert said["predicateType"] == "https://model_signing/signature/v1.0"
    hint = hashlib.sha256((place / "p256.pub").read_bytes()).hexdigest()
    assert bundle["verificationMaterial"]["publicKey"]["hint"] == hint
    assert main(["seal", "model", "more", *SEAL[3:], "--model-signing", "signer.pem"]) == 2
    assert not (place / "more").exists()


@pytest.mark.skipif(not OPENSSF.exists(), reason="model-signing comes with scripts/bench unseal")
def test_the_openssf_verifier_takes_the_bundle_and_no_other_files(place: Path) -> None:
    p256(place)
    (place / "model" / ".cache").write_text("left out, and not vouched for")
    assert main([*SEAL, "--model-signing", "p256.pem"]) == 0
    verify = [OPENSSF, "verify", "key", "model", "--signature", "out.model.sig"]
    verify += ["--public_key", "p256.pub"]
    assert subprocess.run(verify, cwd=place, check=False).returncode == 0
    (place / "model" / "config.json").write_text("{}")
    assert subprocess.run(verify, cwd=place, check=False).returncode != 0
