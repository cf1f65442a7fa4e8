"""API keys: who gets in, and what a host that writes the file can and cannot do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.cli import run
from attestation.confidential import Confidential
from attestation.errors import ConfigError
from server.apikeys import FreshKey, KeyEntry, KeyRing, moment
from server.auth import ApiKeys, Caller
from server.commands import apikey
from server.errors import Rejected, Unauthenticated, Unavailable
from server.keyfile import ApiKeyFile, write
from tests.disk import full_disk
from tests.gateway_kit import NOW, PEPPER, keys


def fresh(key_id="abcd1234") -> FreshKey:
    return FreshKey(key_id, Confidential(os.urandom(32)))


def minted(*, tenant="acme", key_id="abcd1234", pepper=PEPPER):
    """Return a ring of one key, and the key."""
    made = fresh(key_id)
    ring = KeyRing.empty(pepper).create(
        made, tenant=tenant, name="ci", now=NOW, life=timedelta(days=1)
    )
    return ring, made.text()


def loaded(ring) -> ApiKeys:
    return ApiKeys.of(KeyRing.load(data(ring), PEPPER, name="keys"))


def data(ring) -> bytes:
    return ring.file.model_dump_json().encode()


NOBODY = KeyRing.empty(PEPPER)


def bearer(key: Confidential[str]) -> bytes:
    return b"Bearer " + key.reveal().encode()


def code(of: ApiKeys, header: bytes | None, now=NOW) -> str:
    with pytest.raises(Unauthenticated) as caught:
        of.authenticate(header, now)
    return caught.value.code


def test_a_key_names_its_tenant():
    ring, key = minted()
    assert loaded(ring).authenticate(bearer(key), NOW) == Caller("acme", "abcd1234")
    assert loaded(ring).authenticate(bearer(key).replace(b"Bearer", b"bearer"), NOW)


def test_a_key_has_the_documented_shape():
    _, key = minted()
    head, checksum = key.reveal().rsplit("-", 1)
    assert head.startswith("sk-tacit-abcd1234-")
    assert len(key.reveal()) == 70
    assert checksum == f"{zlib.crc32(head.encode()):08x}"


def test_the_file_holds_no_secret():
    ring, key = minted()
    secret = key.reveal()[18:61]
    assert secret not in ring.file.model_dump_json()


@pytest.mark.parametrize("header", [None, b"", b"Basic x", b"sk-tacit-x", b"Bearer"])
def test_no_bearer_key_is_a_missing_key(header):
    assert code(loaded(NOBODY), header) == "key-missing"


@given(st.binary(max_size=90))
def test_any_other_text_is_malformed(text):
    assert code(loaded(NOBODY), b"Bearer " + text) == "key-malformed"


@given(st.integers(9, 69), st.integers(1, 255))
def test_a_key_with_one_byte_changed_is_refused(place, flip):
    ring, key = minted()
    wrong = bytearray(key.reveal().encode())
    wrong[place] ^= flip
    assert code(loaded(ring), b"Bearer " + bytes(wrong)) in {"key-malformed", "key-unknown"}


def test_a_key_with_a_right_checksum_and_a_wrong_secret_is_unknown():
    ring, _ = minted()
    _, other = minted()
    assert code(loaded(ring), bearer(other)) == "key-unknown"


def test_an_unknown_id_is_unknown():
    _, key = minted()
    assert code(loaded(NOBODY), bearer(key)) == "key-unknown"


def test_a_key_ends_with_its_last_second():
    ring, key = minted()
    ends = NOW + timedelta(days=1)
    assert loaded(ring).authenticate(bearer(key), ends - timedelta(seconds=1))
    assert code(loaded(ring), bearer(key), ends) == "key-expired"


def forged(ring, **changes) -> str:
    """Return the code with which a changed file is refused; the host keeps the MAC it has."""
    document = ring.file.model_dump(mode="json") | changes
    with pytest.raises(ConfigError) as caught:
        KeyRing.load(json.dumps(document).encode(), PEPPER, name="keys")
    return caught.value.code


def test_a_host_cannot_mint_a_key_without_the_pepper():
    ring, _ = minted(pepper=Confidential(bytes(32)))
    with pytest.raises(ConfigError) as caught:
        loaded(ring)
    assert caught.value.code == "api-keys-forged"


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "globex"},
        {"name": "other"},
        {"id": "zzzz9999"},
        {"expires": "2036-11-25T12:00:00Z"},
        {"created": "2020-11-25T12:00:00Z"},
        {"tag": "00" * 32},
    ],
)
def test_a_host_cannot_change_what_an_entry_says(change):
    ring, _ = minted()
    assert forged(ring, keys=[ring.file.keys[0].model_dump() | change]) == "api-keys-forged"


def test_a_host_cannot_drop_reorder_or_mix_entries_nor_raise_the_serial():
    ring, _ = minted()
    two = ring.create(fresh("efgh5678"), tenant="globex", name="x", now=NOW, life=timedelta(days=1))
    first, second = (entry.model_dump() for entry in two.file.keys)
    assert forged(two, keys=[first]) == "api-keys-forged"
    assert forged(two, keys=[second, first]) == "api-keys-forged"
    assert forged(two, serial=two.file.serial + 1) == "api-keys-forged"
    assert forged(two.revoke("abcd1234"), keys=[first, second]) == "api-keys-forged"
    assert forged(two, mac=ring.file.mac) == "api-keys-forged"


@pytest.mark.parametrize("size", [0, 16, 31])
def test_a_short_pepper_does_not_load(size):
    with pytest.raises(ConfigError) as caught:
        KeyRing.load(data(NOBODY), Confidential(bytes(size)), name="keys")
    assert caught.value.code == "api-key-pepper"


def test_two_keys_of_one_id_do_not_load():
    ring, _ = minted()
    entry = ring.file.keys[0].model_dump()
    assert forged(ring, keys=[entry, dict(entry)]) == "config-invalid"
    with pytest.raises(ConfigError):
        ring.create(fresh(), tenant="acme", name="x", now=NOW, life=timedelta(days=1))


def test_a_rotated_key_works_beside_its_successor_and_then_ends():
    ring, old = minted()
    after = fresh("next0000")
    rotated = ring.rotate("abcd1234", after, now=NOW, overlap=timedelta(hours=2))
    of, later = loaded(rotated), NOW + timedelta(hours=2)
    assert of.authenticate(bearer(old), NOW) == Caller("acme", "abcd1234")
    assert of.authenticate(bearer(after.text()), later) == Caller("acme", "next0000")
    assert code(of, bearer(old), later) == "key-expired"
    assert rotated.file.serial == ring.file.serial + 1
    assert moment(rotated.file.entry("next0000").expires) == NOW + timedelta(days=1)


def test_rotation_lengthens_no_life_and_can_end_a_key_at_once():
    ring, old = minted()
    long = ring.rotate("abcd1234", fresh("next0000"), now=NOW, overlap=timedelta(days=9))
    assert long.file.entry("abcd1234").expires == ring.file.entry("abcd1234").expires
    now = NOW + timedelta(hours=1)
    at_once = ring.rotate("abcd1234", fresh("next0000"), now=now, overlap=timedelta(0))
    assert code(loaded(at_once), bearer(old), now) == "key-expired"
    with pytest.raises(ConfigError) as caught:
        ring.rotate("unknown0", fresh("next0000"), now=NOW, overlap=timedelta(0))
    assert caught.value.code == "api-key-unknown"


def test_nothing_secret_is_printed():
    ring, key = minted()
    assert key.reveal()[18:61] not in repr((ring, key))
    assert "Confidential(***)" in repr(loaded(ring))


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
    ring, key = minted()
    write(path, ring.file)
    assert path.stat().st_mode & 0o777 == 0o600
    live = ApiKeyFile(path, PEPPER)
    assert refusal(live, bearer(key)) is None
    write(path, ring.revoke("abcd1234").file)
    until(lambda: refusal(live, bearer(key)) == "key-unknown")


def test_an_older_key_file_revives_no_key_of_a_running_gateway(tmp_path, caplog):
    path = tmp_path / "keys.yaml"
    ring, key = minted()
    revoked = ring.revoke("abcd1234")
    write(path, revoked.file)
    live = ApiKeyFile(path, PEPPER)
    for older in (ring, KeyRing.empty(PEPPER)):
        write(path, older.file)
        until(lambda: refusal(live, bearer(key)) == "keys-unavailable")
    other = ring.create(fresh("fork0000"), tenant="a", name="x", now=NOW, life=timedelta(days=1))
    assert other.file.serial == revoked.file.serial
    write(path, other.file)
    time.sleep(0.6)
    assert refusal(live, bearer(key)) == "keys-unavailable"
    write(path, revoked.file)
    until(lambda: refusal(live, bearer(key)) == "key-unknown")
    assert {record.code for record in caplog.records if hasattr(record, "code")} == {
        "api-keys-older"
    }


@pytest.mark.parametrize("damage", ["remove", "break", "forge"])
def test_a_damaged_key_file_lets_nobody_in_until_it_is_mended(tmp_path, damage):
    path = tmp_path / "keys.yaml"
    ring, key = minted()
    write(path, ring.file)
    live = ApiKeyFile(path, PEPPER)
    if damage == "remove":
        path.unlink()
    else:
        text = path.read_text()
        path.write_text("{" if damage == "break" else text.replace("acme", "evil"))
    until(lambda: refusal(live, bearer(key)) == "keys-unavailable")
    with pytest.raises(Unavailable):
        live.authenticate(bearer(key), NOW)
    write(path, ring.file)
    until(lambda: refusal(live, bearer(key)) is None)


def test_changes_of_several_programs_at_once_are_all_kept(tmp_path):
    path = tmp_path / "keys.yaml"
    write(path, NOBODY.file)
    files = [ApiKeyFile(path, PEPPER) for _ in range(4)]

    def add(number: int) -> None:
        made = fresh(f"key{number:05d}")
        files[number % 4].change(
            lambda ring: ring.create(made, tenant="a", name="x", now=NOW, life=timedelta(days=1))
        )

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(add, range(16)))
    assert files[0].listed().serial == 17
    assert len(files[0].listed().keys) == 16


def test_a_killed_program_leaves_the_file_as_it_was_or_as_it_became(tmp_path):
    path, pepper = tmp_path / "keys.yaml", tmp_path / "pepper"
    pepper.write_bytes(PEPPER.reveal())
    write(path, NOBODY.file)
    words = [sys.executable, "-c", _ADD_FOR_EVER, path, pepper]
    serials = []
    for seconds in (0.05, 0.02):
        with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
            assert process.stdout.readline() == b"begun\n"
            time.sleep(seconds)
            process.kill()
        serials.append(KeyRing.load(path.read_bytes(), PEPPER, name="keys").file.serial)
    assert sorted(set(serials)) == serials
    live = ApiKeyFile(path, PEPPER)
    after = live.change(lambda ring: ring.revoke(ring.file.keys[0].id))
    assert after.serial == serials[-1] + 1


_ADD_FOR_EVER = """
import datetime, sys, pathlib
from attestation.confidential import Confidential
from server.keyfile import ApiKeyFile, fresh_key
path, pepper = map(pathlib.Path, sys.argv[1:])
file = ApiKeyFile(path, Confidential(pepper.read_bytes()))
now, life = datetime.datetime(2026, 11, 25, tzinfo=datetime.UTC), datetime.timedelta(days=1)
def add(ring):
    return ring.create(fresh_key(ring.file), tenant="a", name="x", now=now, life=life)
file.change(add)
print("begun", flush=True)
while True:
    file.change(add)
"""


def entries(count: int) -> tuple[KeyEntry, ...]:
    return tuple(
        KeyEntry(
            id=f"k{number:07d}",
            tenant="acme",
            name="ci",
            created="2026-01-01T00:00:00Z",
            expires="2027-01-01T00:00:00Z",
            tag="00" * 32,
        )
        for number in range(count)
    )


def ring_of(count: int) -> KeyRing:
    return KeyRing(NOBODY.file.model_copy(update={"keys": entries(count)}), PEPPER)


def test_a_key_in_a_full_file_costs_what_it_costs_in_a_small_one():
    full = ring_of(10_000)
    spent: dict[int, list[float]] = {999: [], 9_999: []}
    for ring in (ring_of(1000).revoke("k0000000"), full.revoke("k0000000")) * 3:
        held = data(ring)
        begun = time.process_time()
        of = ApiKeys.of(KeyRing.load(held, PEPPER, name="keys"))
        spent[len(of.entries)].append(time.process_time() - begun)
    assert min(spent[9_999]) < 40 * min(spent[999])  # 10 times, but for a square of it
    with pytest.raises(ConfigError) as caught:
        full.create(fresh(), tenant="a", name="x", now=NOW, life=timedelta(days=1))
    assert caught.value.code == "api-key-invalid"


def test_a_full_disk_changes_nothing(tmp_path):
    path = tmp_path / "keys.yaml"
    ring, key = minted()
    write(path, ring.file)
    live = ApiKeyFile(path, PEPPER)
    with full_disk(), pytest.raises(ConfigError) as caught:
        live.change(lambda ring: ring.revoke("abcd1234"))
    assert caught.value.code == "api-keys-unwritable"
    assert refusal(live, bearer(key)) is None
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [".keys.yaml.lock", "keys.yaml"]


def test_a_key_file_that_is_not_there_does_not_start(tmp_path):
    with pytest.raises(ConfigError) as caught:
        ApiKeyFile(tmp_path / "none.yaml", PEPPER)
    assert caught.value.code == "api-keys-missing"


def test_a_pipe_in_place_of_keys_lock_or_pepper_is_refused_and_not_waited_for(tmp_path, capsys):
    pipe, path, pepper = tmp_path / "pipe", tmp_path / "keys", tmp_path / "pepper"
    os.mkfifo(pipe)
    with pytest.raises(ConfigError, match="a pipe or device"):
        ApiKeyFile(pipe, PEPPER)
    pepper.write_bytes(PEPPER.reveal())
    pair = [(path, pipe, "api-key-pepper"), (pipe, pepper, "api-keys-missing")]
    os.mkfifo(tmp_path / ".locked.lock")
    for keys_at, pepper_at, refused in [
        *pair,
        (tmp_path / "locked", pepper, "api-keys-unwritable"),
    ]:
        words = ("--keys", keys_at, "--pepper", pepper_at, "--tenant", "acme")
        assert command("new", *words) == 2
        assert f"({refused})" in capsys.readouterr().err
    assert not path.exists()


def test_a_pepper_is_used_whole_or_refused(tmp_path, capsys):
    (tmp_path / "pepper").write_bytes(bytes(4097))
    words = ("--keys", tmp_path / "keys", "--pepper", tmp_path / "pepper", "--tenant", "acme")
    assert command("new", *words) == 2
    assert "pepper is over 4096 bytes (api-key-pepper)" in capsys.readouterr().err


def command(*argv) -> int:
    return run(["apikey", *map(str, argv)], families=lambda: [apikey.register])


def test_the_command_makes_lists_rotates_and_revokes(tmp_path, capsys):
    path, pepper = tmp_path / "keys.yaml", tmp_path / "pepper"
    pepper.write_bytes(PEPPER.reveal())
    both = ("--keys", path, "--pepper", pepper)
    assert command("new", *both, "--tenant", "acme", "--name", "ci of acme") == 0
    key = capsys.readouterr().out.strip().encode()
    caller = read_back(path).authenticate(b"Bearer " + key, datetime.now(UTC))
    assert caller.tenant == "acme"
    assert command("list", "--keys", path, "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["id"], listed["name"]) == (caller.key_id, "ci of acme")
    assert "tag" not in listed
    assert command("rotate", *both, caller.key_id, "--hours", "0", "--json") == 0
    after = json.loads(capsys.readouterr().out)
    now = datetime.now(UTC) + timedelta(seconds=1)
    assert read_back(path).authenticate(b"Bearer " + after["key"].encode(), now)
    assert command("revoke", *both, after["id"]) == 0
    assert command("revoke", *both, after["id"]) == 2
    assert "api-key-unknown" in capsys.readouterr().err
    pepper.write_bytes(bytes(32))
    assert command("new", *both, "--tenant", "acme") == 2
    assert "api-keys-forged" in capsys.readouterr().err


def read_back(path) -> ApiKeys:
    return ApiKeys.of(KeyRing.load(path.read_bytes(), PEPPER, name="keys"))


@pytest.mark.parametrize(
    "argv",
    [("--tenant", "A b"), ("--tenant", "a", "--days", "0"), ("--tenant", "a", "--name", "\n")],
)
def test_the_command_refuses_bad_names_and_lives(tmp_path, argv):
    pepper = tmp_path / "pepper"
    pepper.write_bytes(PEPPER.reveal())
    assert command("new", "--keys", tmp_path / "k", "--pepper", pepper, *argv) == 2
    assert not (tmp_path / "k").exists()


def test_the_kit_mints_one_key_a_tenant():
    of, texts = keys("a", "b")
    assert [of.authenticate(f"Bearer {t}".encode(), NOW).tenant for t in texts] == ["a", "b"]
