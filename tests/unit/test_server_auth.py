"""API keys: who gets in, and what a host that writes the file can and cannot do."""

from __future__ import annotations

import os
import time
import zlib
from datetime import timedelta

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.cli import run
from attestation.confidential import Confidential
from attestation.errors import ConfigError
from server.auth import ApiKeys, Caller, KeyFile, mint
from server.commands import apikey
from server.errors import Rejected, Unauthenticated, Unavailable
from server.keyfile import ApiKeyFile, write
from tests.gateway_kit import NOW, PEPPER, keys


def minted(*, tenant="acme", key_id="abcd1234", pepper=PEPPER):
    return mint(
        key_id=key_id,
        secret=Confidential(os.urandom(32)),
        tenant=tenant,
        created=NOW,
        expires=NOW + timedelta(days=1),
        pepper=pepper,
    )


def loaded(*entries, pepper=PEPPER) -> ApiKeys:
    return ApiKeys.load(KeyFile(version=1, keys=entries).model_dump_json().encode(), pepper)


def bearer(key: Confidential[str]) -> bytes:
    return b"Bearer " + key.reveal().encode()


def code(of: ApiKeys, header: bytes | None, now=NOW) -> str:
    with pytest.raises(Unauthenticated) as caught:
        of.authenticate(header, now)
    return caught.value.code


def test_a_key_names_its_tenant():
    entry, key = minted()
    assert loaded(entry).authenticate(bearer(key), NOW) == Caller("acme", "abcd1234")
    assert loaded(entry).authenticate(bearer(key).replace(b"Bearer", b"bearer"), NOW)


def test_a_key_has_the_documented_shape():
    _, key = minted()
    head, checksum = key.reveal().rsplit("-", 1)
    assert head.startswith("sk-tacit-abcd1234-")
    assert len(key.reveal()) == 70
    assert checksum == f"{zlib.crc32(head.encode()):08x}"


def test_the_file_holds_no_secret():
    entry, key = minted()
    secret = key.reveal()[18:61]
    assert secret not in entry.model_dump_json()


@pytest.mark.parametrize("header", [None, b"", b"Basic x", b"sk-tacit-x", b"Bearer"])
def test_no_bearer_key_is_a_missing_key(header):
    assert code(loaded(), header) == "key-missing"


@settings(deadline=None)
@given(st.binary(max_size=90))
def test_any_other_text_is_malformed(text):
    assert code(loaded(), b"Bearer " + text) == "key-malformed"


@settings(deadline=None)
@given(st.integers(9, 69), st.integers(1, 255))
def test_a_key_with_one_byte_changed_is_refused(place, flip):
    entry, key = minted()
    wrong = bytearray(key.reveal().encode())
    wrong[place] ^= flip
    assert code(loaded(entry), b"Bearer " + bytes(wrong)) in {"key-malformed", "key-unknown"}


def test_a_key_with_a_right_checksum_and_a_wrong_secret_is_unknown():
    entry, _ = minted()
    _, other = minted()
    assert code(loaded(entry), bearer(other)) == "key-unknown"


def test_an_unknown_id_is_unknown():
    _, key = minted()
    assert code(loaded(), bearer(key)) == "key-unknown"


def test_a_key_ends_with_its_last_second():
    entry, key = minted()
    ends = NOW + timedelta(days=1)
    assert loaded(entry).authenticate(bearer(key), ends - timedelta(seconds=1))
    assert code(loaded(entry), bearer(key), ends) == "key-expired"


def test_a_host_cannot_mint_a_key_without_the_pepper():
    entry, key = minted(pepper=Confidential(bytes(32)))
    assert code(loaded(entry), bearer(key)) == "key-unknown"


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "globex"},
        {"expires": "2036-11-25T12:00:00Z"},
        {"created": "2020-11-25T12:00:00Z"},
    ],
)
def test_a_host_cannot_change_what_an_entry_says(change):
    entry, key = minted()
    assert code(loaded(entry.model_copy(update=change)), bearer(key)) == "key-unknown"


def test_an_entry_cannot_be_renamed():
    entry, key = minted()
    other = entry.model_copy(update={"id": "zzzz9999"})
    body = key.reveal()[:-9].replace("abcd1234", "zzzz9999")
    forged = f"Bearer {body}-{zlib.crc32(body.encode()):08x}".encode()
    assert code(loaded(other), forged) == "key-unknown"


@pytest.mark.parametrize("size", [0, 16, 31])
def test_a_short_pepper_does_not_load(size):
    with pytest.raises(ConfigError) as caught:
        ApiKeys.load(b'{"version":1,"keys":[]}', Confidential(bytes(size)))
    assert caught.value.code == "api-key-pepper"


def test_two_keys_of_one_id_do_not_load():
    entry, _ = minted()
    document = yaml.safe_dump({"version": 1, "keys": [entry.model_dump()] * 2})
    with pytest.raises(ConfigError):
        ApiKeys.load(document.encode(), PEPPER)


def test_nothing_secret_is_printed():
    entry, key = minted()
    assert key.reveal()[18:61] not in repr((entry, key))
    assert "Confidential(***)" in repr(loaded(entry))


def until(condition) -> None:
    ends = time.monotonic() + 1
    while not condition():
        assert time.monotonic() < ends, "took effect later than a second"
        time.sleep(0.02)


def refusal(of: ApiKeyFile, header: bytes) -> str | None:
    try:
        of.authenticate(header, NOW)
    except Rejected as rejected:
        return rejected.code
    return None


def test_a_revoked_key_is_refused_within_a_second(tmp_path):
    path = tmp_path / "keys.yaml"
    entry, key = minted()
    write(path, KeyFile(version=1, keys=(entry,)).model_dump_json().encode())
    assert path.stat().st_mode & 0o777 == 0o600
    live = ApiKeyFile(path, PEPPER)
    assert refusal(live, bearer(key)) is None
    write(path, b'{"version":1,"keys":[]}')
    until(lambda: refusal(live, bearer(key)) == "key-unknown")
    write(path, KeyFile(version=1, keys=(entry,)).model_dump_json().encode())
    until(lambda: refusal(live, bearer(key)) is None)


@pytest.mark.parametrize("damage", ["remove", "break"])
def test_a_damaged_key_file_lets_nobody_in_until_it_is_mended(tmp_path, damage):
    path = tmp_path / "keys.yaml"
    entry, key = minted()
    data = KeyFile(version=1, keys=(entry,)).model_dump_json().encode()
    write(path, data)
    live = ApiKeyFile(path, PEPPER)
    path.unlink() if damage == "remove" else write(path, b"version: [")
    until(lambda: refusal(live, bearer(key)) == "keys-unavailable")
    with pytest.raises(Unavailable):
        live.authenticate(bearer(key), NOW)
    write(path, data)
    until(lambda: refusal(live, bearer(key)) is None)


def test_a_key_file_that_is_not_there_does_not_start(tmp_path):
    with pytest.raises(ConfigError) as caught:
        ApiKeyFile(tmp_path / "none.yaml", PEPPER)
    assert caught.value.code == "api-keys-missing"


def command(*argv) -> int:
    return run(["apikey", *map(str, argv)], families=[apikey.register])


def test_the_command_makes_lists_and_revokes(tmp_path, capsys):
    path, pepper = tmp_path / "keys.yaml", tmp_path / "pepper"
    pepper.write_bytes(PEPPER.reveal())
    assert command("new", "--keys", path, "--pepper", pepper, "--tenant", "acme") == 0
    key = capsys.readouterr().out.strip().encode()
    now = NOW.replace(year=2026, month=11)
    caller = ApiKeys.load(path.read_bytes(), PEPPER).authenticate(b"Bearer " + key, now)
    assert caller.tenant == "acme"
    assert command("list", "--keys", path, "--json") == 0
    assert caller.key_id in capsys.readouterr().out
    assert command("revoke", "--keys", path, caller.key_id) == 0
    assert command("revoke", "--keys", path, caller.key_id) == 2
    assert "api-key-unknown" in capsys.readouterr().err
    assert ApiKeys.load(path.read_bytes(), PEPPER).entries == {}


@pytest.mark.parametrize("argv", [("--tenant", "A b"), ("--tenant", "a", "--days", "0")])
def test_the_command_refuses_bad_names_and_lives(tmp_path, argv):
    pepper = tmp_path / "pepper"
    pepper.write_bytes(PEPPER.reveal())
    assert command("new", "--keys", tmp_path / "k", "--pepper", pepper, *argv) == 2
    assert not (tmp_path / "k").exists()


def test_the_kit_mints_one_key_a_tenant():
    of, texts = keys("a", "b")
    assert [of.authenticate(f"Bearer {t}".encode(), NOW).tenant for t in texts] == ["a", "b"]
