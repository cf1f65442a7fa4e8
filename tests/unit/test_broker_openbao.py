"""A KEK in a real OpenBao: what it binds, and what is told when it cannot be used."""

import os

import pytest

from attestation.broker.kek import open_kek
from attestation.broker.keyfile import model_key_aad, secret_aad
from attestation.confidential import Confidential
from attestation.errors import ConfigError, Malformed, NotAuthentic, Undecidable
from tests.openbao_server import OpenBao, free_port

DEK = Confidential(bytes(range(32)))
AAD = model_key_aad("a/b/c", manifest="sha256:" + "11" * 32, minimum_version=2)


@pytest.fixture(name="bao", scope="module")
def _bao(tmp_path_factory):
    server = OpenBao.start(tmp_path_factory.mktemp("bao"))
    yield server
    server.stop()


@pytest.fixture(name="opened")
def _opened():
    keks = []

    def opened(uri):
        keks.append(open_kek(uri))
        return keks[-1]

    yield opened
    for kek in keks:
        kek.close()


def code(refused):
    return refused.value.code


@pytest.mark.parametrize("auth", ["approle", "jwt"])
def test_a_wrapped_key_opens_with_the_same_name_only(bao, opened, auth):
    kek = opened(bao.uri(auth=auth))
    kek.check()
    wrapped = kek.wrap(DEK, aad=AAD)
    assert wrapped.startswith(b"vault:v")
    assert kek.unwrap(wrapped, aad=AAD).reveal() == DEK.reveal()
    for other in (secret_aad("a/b/c"), AAD[:-1], b""):
        with pytest.raises(NotAuthentic) as refused:
            kek.unwrap(wrapped, aad=other)
        assert code(refused) == "kek-mismatch"
    assert kek.id == "openbao:transit/kek"


def test_a_changed_ciphertext_does_not_open(bao, opened):
    kek = opened(bao.uri())
    wrapped = bytearray(kek.wrap(DEK, aad=AAD))
    wrapped[20] ^= 3
    with pytest.raises((NotAuthentic, Malformed)):
        kek.unwrap(bytes(wrapped), aad=AAD)
    with pytest.raises(Malformed):
        kek.unwrap(b"not a transit ciphertext", aad=AAD)


def test_rotation_keeps_old_keys_readable(bao, opened):
    kek = opened(bao.uri())
    before = kek.wrap(DEK, aad=AAD)
    bao.write("transit/keys/kek/rotate")
    after = kek.wrap(DEK, aad=AAD)
    assert before.split(b":")[1] != after.split(b":")[1]
    for wrapped in (before, after):
        assert kek.unwrap(wrapped, aad=AAD).reveal() == DEK.reveal()


def test_sealed_openbao_is_undecidable_and_comes_back(bao, opened):
    kek = opened(bao.uri())
    wrapped = kek.wrap(DEK, aad=AAD)
    bao.seal()
    try:
        for act in (kek.check, lambda: kek.unwrap(wrapped, aad=AAD)):
            with pytest.raises(Undecidable) as refused:
                act()
            assert code(refused) == "kek-sealed"
            assert "unseal OpenBao" in refused.value.next_step
    finally:
        bao.unseal()
    assert kek.unwrap(wrapped, aad=AAD).reveal() == DEK.reveal()


def test_absent_openbao_is_undecidable(bao, opened):
    kek = opened(bao.uri(port=free_port()))
    with pytest.raises(Undecidable) as refused:
        kek.unwrap(b"vault:v1:" + b"A" * 60, aad=AAD)
    assert code(refused) == "kek-unreachable"


def test_another_server_s_certificate_is_not_taken(bao, opened, tmp_path):
    from tests.broker_world import write_tls

    write_tls(tmp_path / "crt", tmp_path / "key")
    uri = bao.uri().replace(f"{bao.directory}/vault-ca.pem", str(tmp_path / "crt"))
    with pytest.raises(Undecidable) as refused:
        opened(uri).check()
    assert code(refused) == "kek-unreachable"


def test_a_token_that_ended_is_renewed_with_the_credentials_of_now(bao, opened):
    kek = opened(bao.uri())
    wrapped = kek.wrap(DEK, aad=AAD)
    accessors = bao.http.request("LIST", "auth/token/accessors").json()["data"]["keys"]
    for accessor in accessors:
        found = bao.http.post("auth/token/lookup-accessor", json={"accessor": accessor}).json()
        if "broker" in found["data"]["policies"]:
            bao.write("auth/token/revoke-accessor", accessor=accessor)
    assert kek.unwrap(wrapped, aad=AAD).reveal() == DEK.reveal()


@pytest.mark.parametrize("auth", ["approle", "jwt"])
def test_a_login_that_is_refused_is_undecidable(bao, opened, auth):
    name = {"approle": "secret-id", "jwt": "jwt"}[auth]
    bao.credential(name, "11111111-2222-3333-4444-555555555555")
    try:
        kek = opened(bao.uri(auth=auth))
        with pytest.raises(Undecidable) as refused:
            kek.wrap(DEK, aad=AAD)
        assert code(refused) == "kek-denied"
        bao.directory.joinpath(name).unlink()
        with pytest.raises(Undecidable) as refused:
            kek.wrap(DEK, aad=AAD)
        assert code(refused) == "kek-denied"
    finally:
        bao.new_secret_id()
        bao.new_jwt()
    assert kek.wrap(DEK, aad=AAD)


def test_a_key_the_login_may_not_use_is_undecidable(bao, opened):
    with pytest.raises(Undecidable) as refused:
        opened(bao.uri(key="other")).wrap(DEK, aad=AAD)
    assert code(refused) == "kek-denied"


@pytest.mark.parametrize(
    "weak", [{"type": "rsa-2048"}, {"type": "aes256-gcm96", "exportable": True}]
)
def test_a_kek_that_could_leave_or_binds_nothing_is_refused(bao, opened, weak):
    name = weak["type"]
    bao.write(f"transit/keys/{name}", **weak)
    bao.write("sys/policies/acl/broker", policy=read_policy(name))
    try:
        with pytest.raises(ConfigError) as refused:
            opened(bao.uri(key=name)).check()
        assert code(refused) == "kek-weak"
    finally:
        bao.write("sys/policies/acl/broker", policy=read_policy("kek"))


def read_policy(name):
    from tests.openbao_server import POLICY

    return POLICY + f'path "transit/keys/{name}" {{ capabilities = ["read"] }}'


GOOD = "openbao:https://h:8200/transit/kek?ca=ca&auth=jwt&role=r&jwt=j"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("https:", "http:"),
        ("/transit/kek", "/transit"),
        ("/transit/kek", "/transit/kek/more"),
        ("h:8200", "user:secret@h:8200"),
        ("ca=ca&", ""),
        ("&jwt=j", ""),
        ("auth=jwt", "auth=token"),
        ("role=r", "role=r&role=s"),
        ("role=r", "role="),
        ("role=r", "role=r&secret=x"),
        ("role=r", "role=r&auth-mount=a/b"),
    ],
)
def test_a_uri_of_another_form_is_refused(old, new, tmp_path):
    from tests.broker_world import write_tls

    write_tls(tmp_path / "ca", tmp_path / "key")
    open_kek(GOOD, directory=tmp_path).close()
    with pytest.raises(ConfigError) as refused:
        open_kek(GOOD.replace(old, new, 1), directory=tmp_path)
    assert code(refused) == "kek-uri"


def test_a_pipe_in_place_of_the_authorities_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "ca")
    with pytest.raises(ConfigError) as refused:
        open_kek(GOOD, directory=tmp_path)
    assert code(refused) == "kek-credential"


def test_a_credential_that_strangers_can_read_is_not_used(tmp_path):
    from attestation.broker.kekuri import read_credential

    path = tmp_path / "pin"
    path.write_text("1234\n")
    for mode, allowed in ((0o600, True), (0o440, True), (0o644, False), (0o620, False)):
        path.chmod(mode)
        if allowed:
            assert read_credential(path) == "1234"
        else:
            with pytest.raises(ConfigError) as refused:
                read_credential(path)
            assert code(refused) == "kek-permissions"
