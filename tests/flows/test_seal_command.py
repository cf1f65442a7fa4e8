"""`tacit keygen`, `tacit seal`, `tacit unseal --verify-only`: what an operator types and gets."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from attestation import dsse
from attestation.broker.kek import create_file_kek
from attestation.broker.keyfile import WrappedKey, parse_wrapped
from attestation.cli import main
from attestation.manifest import MANIFEST, Manifest
from tests.sealed_world import write_model


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "qwen3-demo", shard_bytes=5000)
    create_file_kek(tmp_path / "kek")
    assert main(["keygen", "signer.pem"]) == 0
    return tmp_path


def seal(*words: str) -> int:
    return main(["seal", "qwen3-demo", "out", "--key", "file:kek", *words])


def verify(*words: str) -> int:
    return main(["unseal", "--verify-only", "out", "--key", "file:kek", *words])


def last_json(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_a_signing_key_is_made_for_its_owner_alone_and_never_over_another(place: Path) -> None:
    assert stat.S_IMODE((place / "signer.pem").stat().st_mode) == 0o600
    private = dsse.private_key((place / "signer.pem").read_bytes(), name="k")
    public = dsse.public_key((place / "signer.pub").read_bytes(), name="k")
    assert dsse.key_id(private.public_key()) == dsse.key_id(public)
    before = (place / "signer.pem").read_bytes()
    assert main(["keygen", "signer.pem"]) == 2
    assert (place / "signer.pem").read_bytes() == before


def test_a_model_is_sealed_and_verified(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert seal("--sign", "signer.pem", "--version", "3", "--json") == 0
    said = last_json(capsys)
    signer = dsse.public_key((place / "signer.pub").read_bytes(), name="k")
    manifest = Manifest.open((place / "out" / MANIFEST).read_bytes(), signer=signer)
    assert said["manifest"] == str(manifest.digest)
    assert said["model"] == manifest.model == "qwen3-demo"
    assert manifest.key == "kbs:///tacit/model/qwen3-demo"
    wrapped = parse_wrapped((place / "out.key.json").read_bytes(), name="k")
    assert isinstance(wrapped, WrappedKey)
    assert (wrapped.resource, wrapped.manifest) == ("tacit/model/qwen3-demo", said["manifest"])
    assert wrapped.minimum_version == 3
    assert verify("--signer", "signer.pub", "--json") == 0
    assert last_json(capsys)["verdict"] == "authentic"


def test_without_a_signing_key_one_is_used_once_and_forgotten(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    assert seal("--json") == 0
    assert last_json(capsys)["signer"] == "out.signer.pub"
    assert verify("--signer", "out.signer.pub") == 0
    assert verify("--signer", "signer.pub") == 4
    kept = {path.name for path in place.iterdir()} - {"qwen3-demo", "signer.pem", "signer.pub"}
    assert kept == {"kek", "out", "out.key.json", "out.signer.pub"}


def test_a_damaged_package_is_not_authentic(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seal("--sign", "signer.pem", "--resource", "a/b/c") == 0
    shard = place / "out" / "00003.sealed"
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    capsys.readouterr()
    assert verify("--signer", "signer.pub", "--json") == 4
    assert last_json(capsys)["code"] == "weights-chunk"


def test_a_wrapped_key_of_another_package_does_not_open_this_one(place: Path) -> None:
    assert seal("--sign", "signer.pem") == 0
    (place / "out.key.json").rename(place / "first.json")
    (place / "out").rename(place / "first")
    assert seal("--sign", "signer.pem") == 0
    assert verify("--signer", "signer.pub", "--key-file", "first.json") == 5
    edited = json.loads((place / "first.json").read_bytes())
    edited["manifest"] = json.loads((place / "out.key.json").read_bytes())["manifest"]
    (place / "first.json").write_text(json.dumps(edited))
    assert verify("--signer", "signer.pub", "--key-file", "first.json") == 4  # the KEK says no


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--key", "file:absent"], "kek-file"),
        (["--key", "hsm:1"], "kek-uri"),
        (["--sign", "kek"], "signing-key"),
        (["--sign", "signer.pub"], "signing-key"),
        (["--sign", "absent.pem"], "file-unreadable"),
        (["--name", "../x"], "seal-argument"),
    ],
)
def test_a_wrong_argument_leaves_nothing_behind(
    place: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: str
) -> None:
    capsys.readouterr()
    assert seal("--json", *words) == 2
    assert last_json(capsys)["code"] == code
    assert not (place / "out").exists()
    assert not (place / "out.key.json").exists()


def test_nothing_is_sealed_over_a_package_or_its_key(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert seal("--sign", "signer.pem") == 0
    capsys.readouterr()
    assert seal("--sign", "signer.pem", "--json") == 2
    assert last_json(capsys)["code"] == "seal-output"


def test_the_data_key_is_nowhere_in_the_clear(place: Path) -> None:
    from attestation.broker.kek import open_kek
    from attestation.codec import b64, unb64

    assert seal("--sign", "signer.pem") == 0
    wrapped = parse_wrapped((place / "out.key.json").read_bytes(), name="k")
    secret = open_kek("file:kek").unwrap(unb64(wrapped.wrapped, what="w"), aad=wrapped.aad).reveal()
    for path in place.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert secret not in data
            assert b64(secret).encode() not in data
            assert secret.hex().encode() not in data
