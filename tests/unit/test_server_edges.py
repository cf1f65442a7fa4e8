"""The small parts of the gateway: identity, admission, disconnects, reports, errors, sampling."""

from __future__ import annotations

import asyncio
import json
import signal
import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from attestation.types import Digest
from server.admission import Admission
from server.audit import AUDIT_FIELDS
from server.disconnect import ClientGone, until_gone
from server.errors import MESSAGES, BadRequest, Overloaded, Rejected, Unavailable
from server.listener import stop_on_signals
from server.reports import MAX_WAITING, Reports, parse_nonce
from server.tls import new_tls_identity, server_context
from tests.gateway_kit import NOW, keyset


def test_a_tls_identity_names_its_hosts_and_its_own_key():
    identity = new_tls_identity(NOW, ("llm.bank.test", "10.0.0.7"))
    certificate = x509.load_pem_x509_certificate(identity.certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["llm.bank.test", "localhost"]
    addresses = [str(a) for a in names.get_values_for_type(x509.IPAddress)]
    assert addresses == ["10.0.0.7", "127.0.0.1"]
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    assert identity.spki.matches(Digest.sha256(spki))
    assert identity.key.reveal().decode() not in repr(identity)


def test_two_boots_have_two_keys():
    first, second = (new_tls_identity(NOW, ()) for _ in range(2))
    assert not first.spki.matches(second.spki)


def test_the_key_is_loaded_without_a_file_and_the_descriptor_is_closed():
    before = set(Path("/proc/self/fd").iterdir())
    context = server_context(new_tls_identity(datetime.now(UTC), ()))
    assert context.minimum_version is ssl.TLSVersion.TLSv1_3
    left = set(Path("/proc/self/fd").iterdir()) - before
    assert not [link for link in left if link.exists() and "memfd" in str(link.readlink())]


def test_the_audit_vocabulary_fits_the_attested_posture():
    assert keyset(Digest.sha256(b"x")).posture.audit == AUDIT_FIELDS
    assert not {"prompt", "content", "body", "user", "address"} & set(AUDIT_FIELDS)


async def test_a_termination_signal_stops_the_listener_and_not_the_process():
    stop = asyncio.Event()
    stop_on_signals(stop)
    loop = asyncio.get_running_loop()
    try:
        signal.raise_signal(signal.SIGTERM)
        async with asyncio.timeout(1):
            await stop.wait()
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


async def test_places_are_given_back():
    admission = Admission(1)
    with admission.place(), pytest.raises(Overloaded), admission.place():
        pass
    with admission.place():
        assert not await admission.idle(seconds=0.01)
    assert await admission.idle(seconds=0.01)
    admission.drain()
    with pytest.raises(Unavailable), admission.place():
        pass


async def test_work_ends_when_the_client_does():
    ended = asyncio.Event()
    incoming: asyncio.Queue[dict] = asyncio.Queue()

    async def work():
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0)
            ended.set()

    asyncio.get_running_loop().call_later(0.01, incoming.put_nowait, {"type": "http.disconnect"})
    with pytest.raises(ClientGone):
        await until_gone(incoming.get, work(), seconds=5)
    assert ended.is_set()


async def test_work_that_finishes_or_fails_is_not_disturbed():
    incoming: asyncio.Queue[dict] = asyncio.Queue()

    async def works():
        return 7

    async def fails():
        raise BadRequest("content-type")

    async def sleeps():
        await asyncio.sleep(60)

    assert await until_gone(incoming.get, works(), seconds=5) == 7
    with pytest.raises(BadRequest):
        await until_gone(incoming.get, fails(), seconds=5)
    with pytest.raises(TimeoutError):
        await until_gone(incoming.get, sleeps(), seconds=0.01)


async def test_a_quote_that_began_ends_before_the_next_even_if_nobody_waits():
    running_now, most, made = 0, 0, 0

    async def collect(nonce):
        nonlocal running_now, most, made
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.02)
        running_now -= 1
        made += 1
        return nonce

    reports = Reports(collect)
    asked = parse_nonce(b"nonce=" + b"0f" * 32)
    first = asyncio.ensure_future(reports.report(asked))
    await asyncio.sleep(0.005)
    first.cancel()
    assert await reports.report(asked) == bytes([15] * 32)
    assert (most, made) == (1, 2)


async def test_the_queue_for_reports_is_bounded_and_empties():
    gate = asyncio.Event()

    async def collect(nonce):
        await gate.wait()
        return b""

    reports = Reports(collect)
    asked = parse_nonce(b"nonce=" + b"00" * 32)
    waiting = [asyncio.ensure_future(reports.report(asked)) for _ in range(MAX_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await reports.report(asked)
    gate.set()
    await asyncio.gather(*waiting)
    assert await reports.report(asked) == b""


@pytest.mark.parametrize("query", [b"", b"nonce=0", b"nonce=" + b"0" * 64 + b"&x=1", b"x=1"])
def test_a_nonce_is_64_digits_and_nothing_else(query):
    with pytest.raises(BadRequest):
        parse_nonce(query)


def test_every_kind_of_rejection_is_openai_shaped():
    for kind in Rejected.__subclasses__():
        error = json.loads(kind("overloaded", param="n").body())["error"]
        assert error["message"] == MESSAGES["overloaded"]
        assert (error["code"], error["param"]) == ("overloaded", "n")
        assert 400 <= kind.status < 600
        assert error["type"].endswith("_error")


def test_a_code_outside_the_table_cannot_be_raised():
    with pytest.raises(KeyError):
        BadRequest("what the client wrote")
