"""Two replicas behind a balancer that sees no content: clients stay, and go on when one is gone."""

import contextlib
import secrets
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.attested_gateway import CANARY, client_of, prompt, service
from tests.balancer import balancing
from tests.chain_kit import free_port
from tests.gateway_kit import running
from tests.watched import Tap


def chats(gateway):
    return sum(event.route == "/v1/chat/completions" for event in gateway.record.events)


def replica(of):
    """Return another guest of the same service: keys of its own, the same API keys."""
    made = service()
    made.ready, made.api_keys = replace(made.ready, keys=of.ready.keys), of.api_keys
    return made


def ask(client, gateway, url):
    """Ask once on a connection of its own; every replica of a service knows the same API keys."""
    headers = {"Authorization": f"Bearer {gateway.api_keys[0]}", "Connection": "close"}
    return client.post(f"{url}/v1/chat/completions", json=prompt(), headers=headers)


@pytest.fixture(scope="module")
def pair():
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(running(service()))
        second = stack.enter_context(running(replica(first)))
        url = stack.enter_context(balancing([first.port, second.port], port=free_port()))
        yield first, second, url


def test_a_label_keeps_a_client_on_one_replica_and_labels_use_both(pair):
    first, second, url = pair
    homes = []
    for _ in range(8):
        before = chats(first), chats(second)
        with client_of(url, affinity=secrets.token_hex(8)) as client:
            for _ in range(3):
                assert ask(client, first, url).status_code == 200
        after = chats(first) - before[0], chats(second) - before[1]
        assert sorted(after) == [0, 3]
        homes.append(after.index(3))
    assert set(homes) == {0, 1}


def test_the_same_label_finds_the_same_replica_from_another_process_of_the_client(pair):
    first, second, url = pair
    label = secrets.token_hex(8)
    before = chats(first), chats(second)
    for _ in range(4):
        with client_of(url, affinity=label) as client:
            assert ask(client, first, url).status_code == 200
    assert sorted((chats(first) - before[0], chats(second) - before[1])) == [0, 4]


def test_many_clients_at_once_are_answered(pair):
    first, _, url = pair

    def one(_):
        with client_of(url, affinity=secrets.token_hex(8)) as client:
            return [ask(client, first, url).status_code for _ in range(2)]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(one, range(16))) == [[200, 200]] * 16


def test_the_balancer_sees_a_label_and_no_content():
    with contextlib.ExitStack() as stack:
        gateway = stack.enter_context(running(service()))
        tap = stack.enter_context(Tap(gateway.port))
        url = stack.enter_context(balancing([tap.port, tap.port], port=free_port()))
        client = stack.enter_context(client_of(url, affinity="k3f9c2"))
        assert ask(client, gateway, url).status_code == 200
        assert tap.saw("k3f9c2")
        assert not tap.saw(CANARY)


def test_a_client_goes_on_when_its_replica_is_gone():
    with contextlib.ExitStack() as stack:
        survivor = stack.enter_context(running(service()))
        dying = stack.enter_context(contextlib.ExitStack())
        gone = dying.enter_context(running(replica(survivor)))
        url = stack.enter_context(balancing([survivor.port, gone.port], port=free_port()))
        while True:  # a client that lives on the one that will go
            client = stack.enter_context(client_of(url, affinity=secrets.token_hex(8)))
            assert ask(client, survivor, url).status_code == 200
            if chats(gone):
                break
        before = chats(survivor)
        dying.close()
        assert [ask(client, survivor, url).status_code for _ in range(3)] == [200] * 3
        assert chats(survivor) == before + 3
        verified = [e for e in survivor.record.events if e.route == "/v1/attestation/report"]
        assert verified  # by its own evidence, before a prompt was sent to it
