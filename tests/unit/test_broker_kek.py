"""A KEK file opens what it wrapped, under the name it wrapped it for, and for its owner alone."""

import stat

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation.broker.kek import create_file_kek, open_kek
from attestation.broker.keyfile import model_key_aad, parse_wrapped, secret_aad
from attestation.codec import b64
from attestation.confidential import Confidential
from attestation.errors import ConfigError, Malformed, NotAuthentic

DEK = Confidential(bytes(range(32)))


@pytest.fixture(name="kek")
def _kek(tmp_path):
    return create_file_kek(tmp_path / "kek")


def test_a_wrapped_key_opens_with_the_same_name_only(kek):
    aad = model_key_aad("a/b/c", manifest="sha256:" + "11" * 32, minimum_version=2)
    wrapped = kek.wrap(DEK, aad=aad)
    assert kek.unwrap(wrapped, aad=aad).reveal() == DEK.reveal()
    for other in (
        model_key_aad("a/b/d", manifest="sha256:" + "11" * 32, minimum_version=2),
        model_key_aad("a/b/c", manifest="sha256:" + "22" * 32, minimum_version=2),
        model_key_aad("a/b/c", manifest="sha256:" + "11" * 32, minimum_version=1),
        secret_aad("a/b/c"),
    ):
        with pytest.raises(NotAuthentic) as refused:
            kek.unwrap(wrapped, aad=other)
        assert refused.value.code == "kek-mismatch"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(place=st.integers(0, 59), flip=st.integers(1, 255))
def test_no_changed_byte_opens(kek, place, flip):
    damaged = bytearray(kek.wrap(DEK, aad=b"name"))
    damaged[place] ^= flip
    with pytest.raises(NotAuthentic):
        kek.unwrap(bytes(damaged), aad=b"name")


def test_a_stump_is_malformed(kek):
    with pytest.raises(Malformed):
        kek.unwrap(bytes(28), aad=b"")


def test_the_file_is_the_owner_s_and_opens_by_uri(tmp_path, kek):
    path = tmp_path / "kek"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    again = open_kek(f"file:{path}")
    assert again.id == kek.id
    assert again.unwrap(kek.wrap(DEK, aad=b"n"), aad=b"n").reveal() == DEK.reveal()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_file_others_could_read_is_refused(tmp_path, kek, mode):
    path = tmp_path / "kek"
    path.chmod(mode)
    with pytest.raises(ConfigError) as refused:
        open_kek(f"file:{path}")
    assert refused.value.code == "kek-permissions"


def test_an_existing_kek_is_never_replaced(tmp_path, kek):
    before = (tmp_path / "kek").read_bytes()
    with pytest.raises(ConfigError):
        create_file_kek(tmp_path / "kek")
    assert (tmp_path / "kek").read_bytes() == before


@pytest.mark.parametrize("data", [b"", b"x" * 32, b"tacit-kek-v1:AA\n", b"tacit-kek-v1:\xff"])
def test_another_file_is_no_kek(tmp_path, data):
    path = tmp_path / "other"
    path.write_bytes(data)
    path.chmod(0o600)
    with pytest.raises(ConfigError) as refused:
        open_kek(f"file:{path}")
    assert refused.value.code == "kek-file"


@pytest.mark.parametrize("uri", ["", "kek", "file:", "vault:x", ":x"])
def test_an_unknown_provider_is_refused(uri):
    with pytest.raises(ConfigError) as refused:
        open_kek(uri)
    assert refused.value.code == "kek-uri"


WRAPPED = (
    b'{"version":1,"kind":"model-key","resource":"a/b/c","model":"qwen3","manifest":"sha256:%s",'
    b'"minimum_version":1,"kek":"file:00","wrapped":"%s","created":"2026-11-25T00:00:00Z"}'
)
GOOD = WRAPPED % (b"11" * 32, b64(bytes(60)).encode())


def test_a_wrapped_key_file_is_read():
    assert parse_wrapped(GOOD, name="key.json").resource == "a/b/c"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"a/b/c"', b'"a/b"'),
        (b'"minimum_version":1', b'"minimum_version":0'),
        (b'"version":1', b'"version":2'),
        (b"sha256:", b"sha384:"),
        (b'"kek"', b'"more":1,"kek"'),
        (b"AAAA", b"!!!!"),
        (b"model-key", b"other"),
        (b"model-key", b"secret"),
    ],
)
def test_a_wrapped_key_file_of_another_shape_is_refused(old, new):
    with pytest.raises(ConfigError) as refused:
        parse_wrapped(GOOD.replace(old, new, 1), name="key.json")
    assert refused.value.code == "wrapped-key"
