"""A KEK in a real PKCS #11 token: it never leaves, it binds names, and it may be gone."""

import os
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from attestation.broker.hsm import open_hsm
from attestation.broker.kek import open_kek
from attestation.broker.keyfile import model_key_aad, secret_aad
from attestation.confidential import Confidential
from attestation.errors import ConfigError, Malformed, NotAuthentic, Undecidable
from tests.softhsm import PIN, new_token

DEK = Confidential(bytes(range(32)))
AAD = model_key_aad("a/b/c", manifest="sha256:" + "11" * 32, minimum_version=2)


@pytest.fixture(name="uri", scope="module")
def _uri(tmp_path_factory):
    before = os.environ.get("SOFTHSM2_CONF")
    uri = new_token(tmp_path_factory.mktemp("hsm"))
    open_kek(uri).create()
    yield uri
    if before is None:
        os.environ.pop("SOFTHSM2_CONF", None)
    else:
        os.environ["SOFTHSM2_CONF"] = before


@pytest.fixture(name="kek")
def _kek(uri):
    kek = open_kek(uri)
    yield kek
    kek.close()


def code(refused):
    return refused.value.code


def test_a_wrapped_key_opens_with_the_same_name_only(kek):
    kek.check()
    wrapped = kek.wrap(DEK, aad=AAD)
    assert kek.unwrap(wrapped, aad=AAD).reveal() == DEK.reveal()
    for other in (secret_aad("a/b/c"), AAD[:-1], AAD + b"x"):
        with pytest.raises(NotAuthentic) as refused:
            kek.unwrap(wrapped, aad=other)
        assert code(refused) == "kek-mismatch"
    assert kek.unwrap(wrapped, aad=AAD).reveal() == DEK.reveal()
    assert kek.id == "pkcs11:tacit/kek"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(place=st.integers(0, 59), flip=st.integers(1, 255))
def test_no_changed_byte_opens(kek, place, flip):
    damaged = bytearray(kek.wrap(DEK, aad=AAD))
    damaged[place] ^= flip
    with pytest.raises(NotAuthentic):
        kek.unwrap(bytes(damaged), aad=AAD)


def test_a_stump_is_malformed(kek):
    with pytest.raises(Malformed):
        kek.unwrap(bytes(28), aad=AAD)


def test_the_key_does_not_leave_the_token(uri):
    import pkcs11

    module = uri.split("module-path=")[1].split("&")[0]
    with pkcs11.lib(module).get_token(token_label="tacit").open(user_pin=PIN) as session:
        (key,) = session.get_objects({pkcs11.Attribute.LABEL: "kek"})
        with pytest.raises(pkcs11.AttributeSensitive):
            key[pkcs11.Attribute.VALUE]


def test_a_key_that_could_leave_is_refused(uri):
    import pkcs11

    module = uri.split("module-path=")[1].split("&")[0]
    with pkcs11.lib(module).get_token(token_label="tacit").open(user_pin=PIN, rw=True) as session:
        session.generate_key(
            pkcs11.KeyType.AES,
            256,
            label="weak",
            store=True,
            template={pkcs11.Attribute.EXTRACTABLE: True},
        )
    with pytest.raises(ConfigError) as refused:
        open_kek(uri.replace("object=kek", "object=weak")).check()
    assert code(refused) == "kek-weak"


def test_a_session_that_ended_is_opened_again(uri, kek):
    wrapped = kek.wrap(DEK, aad=AAD)
    other = open_kek(uri)
    other.check()
    kek.close()
    other.close()  # logs the whole process out
    assert kek.unwrap(wrapped, aad=AAD).reveal() == DEK.reveal()


def test_an_existing_key_is_never_replaced(uri, kek):
    wrapped = kek.wrap(DEK, aad=AAD)
    with pytest.raises(ConfigError) as refused:
        open_kek(uri).create()
    assert code(refused) == "kek-exists"
    assert kek.unwrap(wrapped, aad=AAD).reveal() == DEK.reveal()


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("token=tacit", "token=other", "kek-missing"),
        ("object=kek", "object=other", "kek-missing"),
        ("libsofthsm2", "libabsent", "kek-unreachable"),
        ("/pin", "/absent", "kek-denied"),
    ],
)
def test_a_token_that_cannot_be_used_is_undecidable(uri, old, new, expected):
    with pytest.raises(Undecidable) as refused:
        open_kek(uri.replace(old, new)).check()
    assert code(refused) == expected


def test_a_wrong_pin_is_undecidable_and_noticed_in_time(uri, tmp_path):
    (tmp_path / "pin").write_text("0000\n")
    (tmp_path / "pin").chmod(0o600)
    location = uri.removeprefix("pkcs11:").rpartition("pin-source=")[0] + "pin-source=pin"
    # in a process of its own: a login counts for all sessions of a process
    script = (
        "import sys; from pathlib import Path; from attestation.broker.hsm import open_hsm\n"
        "from attestation.errors import Undecidable\n"
        "try: open_hsm(sys.argv[1], directory=Path(sys.argv[2])).check()\n"
        "except Undecidable as refusal: print(refusal.code)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, location, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "kek-denied"


@pytest.mark.parametrize(
    "location",
    [
        "token=a",
        "object=a?module-path=m&pin-source=p",
        "token=a;object=b?module-path=m",
        "token=a;object=b?module-path=m&pin-source=p&pin-value=1",
        "token=a;token=b;object=b?module-path=m&pin-source=p",
        "token=a%2Fb;object=b?module-path=m&pin-source=p",
    ],
)
def test_a_uri_of_another_form_is_refused(location, tmp_path):
    with pytest.raises(ConfigError) as refused:
        open_hsm(location, directory=tmp_path)
    assert code(refused) == "kek-uri"
