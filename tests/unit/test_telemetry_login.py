"""What a push to a collector logs in by: files that may be renewed, and nothing without them."""

from __future__ import annotations

import os
import threading
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from attestation.errors import ConfigError
from server.telemetry.exporter import Target
from server.telemetry.login import CollectorLogin
from server.telemetry.settings import Collector
from server.tls import ClientAuthority
from tests.collector import collecting
from tests.logins import Authority

TRACES = "/v1/traces"
NOW = datetime.now(UTC)


def target(collector, directory, **login) -> Target:
    settings = Collector(url=collector.url, ca="ca.pem", interval_seconds=1, **login)
    found = CollectorLogin.of(settings, directory=directory)
    return Target.of(settings, authority=collector.identity.certificate, login=found)


def test_a_token_is_read_anew_for_every_push(tmp_path):
    file = tmp_path / "token"
    file.write_text("first.token==\n")
    with collecting() as collector:
        to = target(collector, tmp_path, token="token")
        assert to.post(TRACES, b"{}") == 200
        file.write_text("second.token")
        assert to.post(TRACES, b"{}") == 200
        assert collector.logins == ["Bearer first.token==", "Bearer second.token"]
        file.unlink()
        assert to.post(TRACES, b"{}") is None
        assert len(collector.logins) == 2  # nothing leaves without the login that settings name


def test_a_certificate_is_presented_and_may_be_renewed(tmp_path):
    ca, other = Authority(NOW), Authority(NOW)
    file, _ = ca.issue(tmp_path)
    wrong, _ = other.issue(tmp_path)
    renewed, _ = ca.issue(tmp_path)
    with collecting(clients=ClientAuthority(ca.pem, required=True)) as collector:
        assert target(collector, tmp_path).post(TRACES, b"{}") is None
        to = target(collector, tmp_path, certificate=file.name)
        assert to.post(TRACES, b"{}") == 200
        file.write_bytes(wrong.read_bytes())
        assert to.post(TRACES, b"{}") is None
        file.write_bytes(renewed.read_bytes())
        assert to.post(TRACES, b"{}") == 200
        assert len(collector.bodies) == 2


@pytest.mark.parametrize(
    "text", [b"", b"two words", b"a\nb", b"a\r\nX: y", b"\xff", b"a=b", b"t" * 16_385]
)
def test_what_is_no_token_stops_the_start(tmp_path, text):
    (tmp_path / "token").write_bytes(text)
    with collecting() as collector, pytest.raises(ConfigError) as refused:
        target(collector, tmp_path, token="token")
    assert refused.value.code == "telemetry-login"


def test_an_encrypted_key_asks_nobody_and_stops_the_start(tmp_path):
    file, _ = Authority(NOW).issue(tmp_path)
    certificate = file.read_bytes().partition(b"-----BEGIN PRIVATE KEY")[0]
    key = ec.generate_private_key(ec.SECP256R1())
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"word"))
    for data in (b"", certificate, certificate + locked):
        file.write_bytes(data)
        with collecting() as collector, pytest.raises(ConfigError) as refused:
            target(collector, tmp_path, certificate=file.name)
        assert refused.value.code == "telemetry-login"


@pytest.mark.parametrize("what", ["token", "certificate"])
def test_a_pipe_or_nothing_in_place_of_a_file_is_not_waited_for(tmp_path, what):
    os.mkfifo(tmp_path / "pipe")
    before = set(threading.enumerate())
    with collecting() as collector:
        for name in ("pipe", "nothing", "."):
            with pytest.raises(ConfigError) as refused:
                target(collector, tmp_path, **{what: name})
            assert refused.value.code == "telemetry-login"
    assert set(threading.enumerate()) <= before


def test_no_engine_and_no_message_reaches_the_files(tmp_path):
    login = CollectorLogin(tmp_path / "token", tmp_path / "cert")
    assert login.files == (tmp_path / "token", tmp_path / "cert")
    assert CollectorLogin(None, None).files == ()
    (tmp_path / "token").write_text("secret word")
    with pytest.raises(ConfigError) as refused:
        login.headers()
    assert "secret" not in str(refused.value)
