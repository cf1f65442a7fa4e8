"""The unchanged openai SDK over an attested connection: chats, threads, expiry and restarts."""

import asyncio
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import anyio
import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from attestation import attested_async_client, attested_client
from attestation.errors import NotAffirmed, Undecidable
from tests.attested_gateway import (
    CANARY,
    STARTED,
    Clock,
    async_client_of,
    client_of,
    policy,
    prompt,
    service,
)
from tests.gateway_kit import running
from tests.watched import Tap, TlsService, onward


@pytest.fixture(scope="module")
def gateway():
    with running(service()) as started:
        yield started


@pytest.fixture(scope="module")
def later(gateway):
    """Another boot, with keys of its own and collateral of nine days later."""
    with running(service(stapled_at=STARTED + timedelta(days=9))) as started:
        yield started


@pytest.fixture(scope="module")
def restarted():
    """Another boot of the same image."""
    with running(service()) as started:
        yield started


@pytest.fixture
def tapped(gateway):
    with Tap(gateway.port) as tap:
        yield tap


def sdk(url, gateway, http, **options):
    options = {"max_retries": 0, **options}
    return OpenAI(base_url=f"{url}/v1", api_key=gateway.api_keys[0], http_client=http, **options)


def async_sdk(url, gateway, http, **options):
    options = {"max_retries": 0, **options}
    return AsyncOpenAI(
        base_url=f"{url}/v1", api_key=gateway.api_keys[0], http_client=http, **options
    )


def a_week():
    """Return the policy under which collateral is good for a week."""
    return policy({b"collateral_max_age_days: 30": b"collateral_max_age_days: 7"})


def said(completion) -> str:
    return completion.choices[0].message.content


def reports_in(gateway) -> int:
    return sum(event.route == "/v1/attestation/report" for event in gateway.record.events)


def test_a_chat_is_answered_and_nothing_of_it_is_readable_on_the_wire(gateway, tapped):
    with sdk(tapped.url, gateway, attested_client(tapped.url, policy())) as client:
        completion = client.chat.completions.create(**prompt())
        models = [model.id for model in client.models.list()]
    assert said(completion) == f"say {CANARY}"
    assert models == ["qwen3-test"]
    assert CANARY.encode() not in b"".join(map(bytes, tapped.sent))


def test_a_stream_is_answered_word_by_word(gateway, tapped):
    with (
        sdk(tapped.url, gateway, attested_client(tapped.url, policy())) as client,
        client.chat.completions.create(**prompt(stream=True)) as stream,
    ):
        words = [chunk.choices[0].delta.content for chunk in stream if chunk.choices]
    assert "".join(word or "" for word in words).strip() == f"say {CANARY}"
    assert len(words) > 1


async def test_the_async_sdk_chats_and_streams(gateway, tapped):
    http = await asyncio.to_thread(attested_async_client, tapped.url, policy())
    async with async_sdk(tapped.url, gateway, http) as client:
        completion = await client.chat.completions.create(**prompt())
        stream = await client.chat.completions.create(**prompt(stream=True))
        words = [chunk.choices[0].delta.content async for chunk in stream if chunk.choices]
    assert said(completion) == f"say {CANARY}"
    assert "".join(word or "" for word in words).strip() == f"say {CANARY}"


def test_threads_share_one_client_and_one_verification(gateway, tapped):
    before = reports_in(gateway)
    with (
        sdk(tapped.url, gateway, attested_client(tapped.url, policy())) as client,
        ThreadPoolExecutor(4) as threads,
    ):
        chats = [
            threads.submit(client.chat.completions.create, **prompt(stop=f"never-{number}"))
            for number in range(24)
        ]
        assert {said(chat.result(20)) for chat in chats} == {f"say {CANARY}"}
    assert reports_in(gateway) == before + 1


def test_an_ended_affirmation_is_renewed_once_however_many_threads_ask(gateway, later, tapped):
    clock, before = Clock(), reports_in(later)
    with client_of(tapped.url, policy=a_week(), clock=clock) as http:
        sdk(tapped.url, gateway, http).chat.completions.create(**prompt())
        tapped.become(later.port)  # the same address with next week's collateral
        clock.offset = timedelta(days=10)
        client = sdk(tapped.url, later, http)
        with ThreadPoolExecutor(4) as threads:
            chats = [threads.submit(client.chat.completions.create, **prompt()) for _ in range(8)]
            assert {said(chat.result(20)) for chat in chats} == {f"say {CANARY}"}
    assert reports_in(later) == before + 1


def test_an_ended_affirmation_that_cannot_be_renewed_ends_the_service(gateway, tapped):
    clock, before = Clock(), len(gateway.engine.bodies)
    with client_of(tapped.url, policy=a_week(), clock=clock) as http:
        client = sdk(tapped.url, gateway, http)
        clock.offset = timedelta(days=10)
        with pytest.raises(openai.APIConnectionError) as failed:
            client.chat.completions.create(**prompt())
    assert isinstance(failed.value.__cause__, NotAffirmed)
    assert failed.value.__cause__.code == "tdx.collateral-age"
    assert len(gateway.engine.bodies) == before


async def test_a_verification_in_an_async_client_holds_up_no_other_task(gateway, later, tapped):
    clock, before = Clock(), reports_in(later)
    async with async_client_of(tapped.url, policy=a_week(), clock=clock) as http:
        client = async_sdk(tapped.url, later, http)
        clock.offset = timedelta(days=10)
        asked, release = threading.Event(), threading.Event()

        def held(request):
            asked.set()
            if not release.wait(8):
                return ()
            return onward(later.port)(request)

        # ends TLS with the very key of the gateway: what a slow service looks like
        with TlsService(later.identity, held) as slow:
            tapped.become(slow.port)
            chats = [
                asyncio.ensure_future(client.chat.completions.create(**prompt())) for _ in range(4)
            ]
            await asyncio.to_thread(asked.wait, 10)
            assert not any(chat.done() for chat in chats)
            release.set()  # reached only by a loop that runs on while evidence is awaited
            assert {said(chat) for chat in await asyncio.gather(*chats)} == {f"say {CANARY}"}
            assert slow.lines.count("GET /v1/attestation/report") == 1
    assert reports_in(later) == before + 1


async def test_a_cancelled_chat_does_not_wait_for_the_verification(gateway, tapped):
    clock = Clock()
    async with async_client_of(tapped.url, policy=a_week(), clock=clock) as http:
        client = async_sdk(tapped.url, gateway, http)
        clock.offset = timedelta(days=10)
        release, began = threading.Event(), time.monotonic()
        with TlsService(gateway.identity, lambda _: release.wait(10) and ()) as silent:
            tapped.become(silent.port)
            with anyio.move_on_after(0.5) as scope:
                await client.chat.completions.create(**prompt())
            assert scope.cancelled_caught
            assert time.monotonic() - began < 8
            release.set()


@pytest.mark.parametrize("stream", [False, True])
def test_a_service_that_restarted_with_new_keys_is_verified_again(
    gateway, restarted, tapped, stream
):
    before = reports_in(restarted)
    with client_of(tapped.url) as http:
        sdk(tapped.url, gateway, http).chat.completions.create(**prompt())
        tapped.become(restarted.port)
        client = sdk(tapped.url, restarted, http)
        for _ in range(2):
            if stream:
                words = list(client.chat.completions.create(**prompt(stream=True)))
                assert len(words) > 1
            else:
                assert said(client.chat.completions.create(**prompt())) == f"say {CANARY}"
    assert reports_in(restarted) == before + 1


async def test_the_async_client_follows_a_restart_too(gateway, restarted, tapped):
    async with async_client_of(tapped.url) as http:
        await async_sdk(tapped.url, gateway, http).chat.completions.create(**prompt())
        tapped.become(restarted.port)
        client = async_sdk(tapped.url, restarted, http)
        chats = [client.chat.completions.create(**prompt()) for _ in range(4)]
        assert {said(chat) for chat in await asyncio.gather(*chats)} == {f"say {CANARY}"}


def test_a_stream_under_way_ends_on_the_keys_it_began_with(gateway, later, tapped):
    clock = Clock()
    with (
        client_of(tapped.url, policy=a_week(), clock=clock) as http,
        sdk(tapped.url, gateway, http).chat.completions.create(**prompt(stream=True)) as stream,
    ):
        next(stream)
        clock.offset = timedelta(days=10)
        tapped.target = later.port
        assert said(sdk(tapped.url, later, http).chat.completions.create(**prompt()))
        assert len(list(stream)) > 0


def test_what_the_environment_says_of_proxies_and_keys_is_not_heard(
    gateway, tapped, tmp_path, monkeypatch
):
    log = tmp_path / "keys"
    with Tap(gateway.port) as proxy:
        for name in ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        monkeypatch.setenv("SSLKEYLOGFILE", str(log))
        with sdk(tapped.url, gateway, attested_client(tapped.url, policy())) as client:
            assert said(client.chat.completions.create(**prompt())) == f"say {CANARY}"
        assert proxy.sent == []
    assert not log.exists()


def test_a_service_that_is_away_is_a_connection_error_and_then_works_again(gateway, tapped):
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        closed = nobody.getsockname()[1]
    with client_of(tapped.url) as http:
        client = sdk(tapped.url, gateway, http)
        tapped.become(closed)
        with pytest.raises(openai.APIConnectionError) as failed:
            client.chat.completions.create(**prompt())
        assert isinstance(failed.value.__cause__, Undecidable)
        assert failed.value.__cause__.code == "service-unreachable"
        tapped.become(gateway.port)
        assert said(client.chat.completions.create(**prompt())) == f"say {CANARY}"
