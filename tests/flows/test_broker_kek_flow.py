"""The KEK in OpenBao or an HSM: the guest is released the same key, or told to ask again."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from attestation.broker.kek import open_kek
from attestation.errors import Undecidable
from tests.broker_world import DEK, MODEL_KEY, World, bound
from tests.openbao_server import OpenBao
from tests.softhsm import new_token


@pytest.fixture(name="bao", scope="module")
def _bao(tmp_path_factory):
    server = OpenBao.start(tmp_path_factory.mktemp("bao"))
    yield server
    server.stop()


@pytest.fixture(name="world")
def _world(tmp_path):
    return World.create(tmp_path)


def use(world, uri):
    """Wrap the model's key with another KEK and serve that alone."""
    world.kek = open_kek(uri)
    try:
        world.wrap_model()
    finally:
        world.kek.close()
    resources = [
        {
            "resource": MODEL_KEY,
            "kind": "model-key",
            "wrapped_key": "model.json",
            "policy": "resource.yaml",
        }
    ]
    world.write_config(kek=uri, resources=resources)


def released(world, url):
    client = world.client(url)
    client.attest(bound(client, client.challenge(), world.guest()))
    return client.model_key(MODEL_KEY).reveal()


def tacit(*args, environment=None):
    return subprocess.run(
        [sys.executable, "-m", "attestation.cli", *args],
        capture_output=True,
        timeout=60,
        check=False,
        env=os.environ | (environment or {}),
    )


def test_a_guest_asks_again_until_openbao_is_unsealed(world, bao):
    use(world, bao.uri())
    with world.serving() as (_, url):
        assert released(world, url).minimum_version == 3
        bao.seal()
        try:
            with pytest.raises(Undecidable, match="status 503, code kek-sealed"):
                released(world, url)
        finally:
            bao.unseal()
        assert released(world, url).minimum_version == 3


def test_a_broker_that_starts_while_openbao_is_sealed_serves_when_it_is_back(world, bao):
    use(world, bao.uri(auth="jwt"))
    bao.seal()
    try:
        with world.serving() as (_, url):
            with pytest.raises(Undecidable, match="code kek-sealed"):
                released(world, url)
            bao.unseal()
            assert released(world, url).minimum_version == 3
    finally:
        bao.unseal()


def test_a_file_kek_moves_into_openbao_without_touching_the_weights(world, bao):
    path, key = str(world.path("model.json")), f"file:{world.path('kek')}"
    out = str(world.path("moved.json"))
    moved = tacit("kek", "rewrap", path, "--key", key, "--to", bao.uri(), "--out", out, "--json")
    assert json.loads(moved.stdout)["kek"] == "openbao:transit/kek"
    document = json.loads(world.path("moved.json").read_text())
    assert document["manifest"] == json.loads(world.path("model.json").read_text())["manifest"]
    use(world, bao.uri())
    world.path("model.json").write_bytes(world.path("moved.json").read_bytes())
    with world.serving() as (_, url):
        assert released(world, url).dek == json_b64(DEK)


def json_b64(data):
    from attestation.codec import b64

    return b64(data)


def test_an_hsm_keeps_the_kek_that_the_command_line_made(world, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTHSM2_CONF", "")  # what the token sets is taken back afterwards
    uri = new_token(tmp_path)
    environment = {"SOFTHSM2_CONF": os.environ["SOFTHSM2_CONF"]}
    assert tacit("kek", "new", uri, environment=environment).stdout == b"pkcs11:tacit/kek\n"
    again = tacit("kek", "new", uri, environment=environment)
    assert (again.returncode, b"kek-exists" in again.stderr) == (2, True)
    checked = tacit("kek", "check", uri, environment=environment)
    assert checked.stdout == b"pkcs11:tacit/kek can be used\n"
    out = str(world.path("moved.json"))
    path, key = str(world.path("model.json")), f"file:{world.path('kek')}"
    args = ("kek", "rewrap", path, "--key", key, "--to", uri, "--out", out)
    assert tacit(*args, environment=environment).returncode == 0
    world.write_config(
        kek=uri,
        resources=[
            {
                "resource": MODEL_KEY,
                "kind": "model-key",
                "wrapped_key": "moved.json",
                "policy": "resource.yaml",
            }
        ],
    )
    config = str(world.path("broker.yaml"))
    checked = tacit("broker", config, "--check", environment=environment)
    assert (checked.returncode, checked.stdout) == (0, f"{MODEL_KEY}\n".encode())


def test_production_takes_an_hsm_and_openbao_but_no_file(world):
    from attestation.errors import ConfigError

    for uri in ("openbao:https://h/transit/k?ca=c&auth=approle", "pkcs11:token=a;object=b"):
        world.write_config(profile="production", kek=uri)
        assert world.settings().file.kek == uri
    world.write_config(profile="production", kek="file:kek")
    with pytest.raises(ConfigError, match="KMS or an HSM"):
        world.settings()
