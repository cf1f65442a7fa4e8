"""A service under mixed load, many clients hanging up: it ends as it began, then drains and ends.

`scripts/test -m slow tests/flows/test_soak.py --soak-seconds 90` takes less than the half hour.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from attestation.client import RelyingParty, attested_client
from server.retention.search import processes_below
from tests import engine_socket
from tests.chain_kit import MODEL, Service, World

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(7200)]

CLIENTS = 4
WARM_PART = 4
"""One part of the time in this many goes by before anything is measured."""
GATEWAY_GROWTH = 16 * 1024 * 1024
ENGINE_GROWTH = 96 * 1024 * 1024
"""Bytes; torch's allocator and the prefix cache's book-keeping settle late."""
GAUGES = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
CHAT = "/v1/chat/completions"
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
SHAPE = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}
MIX = {
    "stream": 200,
    "whole": 200,
    "hang up": 200,
    "hang up early": 200,
    "responses": 200,
    "schema": 200,
    "several": 200,
    "too long": 400,
    "malformed": 400,
}
"""Kind of request -> the status that it is answered with."""


@pytest.fixture(scope="module")
def soaked(tmp_path_factory, demo_checkpoint):
    """Return a service of its own, which the last test ends."""
    directory = tmp_path_factory.mktemp("soak") / "installation"
    with Service.running(World(directory, checkpoint=demo_checkpoint)) as running:
        yield running


def wanted(kind: str, number: int) -> tuple[str, dict]:
    """Return the path and body of one request of the mix; no two prompts are alike."""
    if kind == "responses":
        said = f"Question {number}"
        body = {"model": MODEL, "input": said, "max_output_tokens": 32, "stream": bool(number % 2)}
        return "/v1/responses", body
    said = f"Question {number}: " + "what is kept? " * (number % 40 + 1)
    fields = {
        "stream": {"stream": True},
        "whole": {},
        "hang up": {"stream": True, "ignore_eos": True},
        "hang up early": {"ignore_eos": True},
        "schema": {"response_format": SHAPE},
        "several": {"n": 3, "temperature": 1},
        "too long": {"messages": [{"role": "user", "content": "word " * 3000}]},
        "malformed": {"temperature": "hot"},
    }
    messages = [{"role": "user", "content": said}]
    return CHAT, {"model": MODEL, "messages": messages, "max_tokens": 48, **fields[kind]}


async def send(client: httpx2.AsyncClient, kind: str, chance: random.Random) -> None:
    """Send one request of the mix and hang up on it where that is its kind."""
    path, body = wanted(kind, chance.randrange(10**6))
    if kind == "hang up early":
        patience = httpx2.Timeout(120, read=chance.random() / 10)
        with contextlib.suppress(httpx2.ReadTimeout):
            await client.post(path, json=body, timeout=patience)
        return
    async with client.stream("POST", path, json=body) as response:
        assert response.status_code == MIX[kind], (kind, response.status_code)
        chunks = response.aiter_raw()
        if kind != "hang up":
            async for _ in chunks:
                pass
            return
        for _ in range(chance.randrange(4)):
            await anext(chunks)


async def load(service: Service, seconds: float, seed: int) -> Counter:
    """Send the mix for `seconds`; return how many requests of each kind ended as they must."""
    trust = RelyingParty(service.url, service.policy).attest().tls
    login = {"authorization": f"Bearer {service.api_key}"}
    ends, done = time.monotonic() + seconds, Counter()

    async def one(client: httpx2.AsyncClient, chance: random.Random) -> None:
        while time.monotonic() < ends:
            kind = chance.choice(list(MIX))
            await send(client, kind, chance)
            done[kind] += 1

    async with (
        httpx2.AsyncClient(
            base_url=service.url, verify=trust, headers=login, timeout=120, trust_env=False
        ) as client,
        asyncio.TaskGroup() as group,
    ):
        for number in range(CLIENTS):
            group.create_task(one(client, random.Random(seed + number)))  # noqa: S311
    return done


@dataclass(frozen=True)
class Held:
    """What processes hold at rest; `resident` counts shared pages in full, `share` in part."""

    resident: int
    share: int
    descriptors: int
    threads: int

    @classmethod
    def by(cls, pids: frozenset[int]) -> Held:
        """Add up what the kernel says of each."""
        rollups = [_numbers(Path(f"/proc/{pid}/smaps_rollup")) for pid in pids]
        return cls(
            sum(numbers["Rss"] for numbers in rollups) * 1024,
            sum(numbers["Pss"] for numbers in rollups) * 1024,
            sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids),
            sum(_numbers(Path(f"/proc/{pid}/status"))["Threads"] for pid in pids),
        )


def _numbers(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {
        words[0].rstrip(":"): int(words[1])
        for words in lines
        if len(words) > 1 and words[1].isdecimal()
    }


def at_rest(service: Service) -> tuple[Held, Held]:
    """Wait until the engine has nothing to do; return what the gateway and the engine hold."""
    ends = time.monotonic() + 60
    busy = {"unasked": 1.0}
    while any(busy.values()):
        assert time.monotonic() < ends, busy
        time.sleep(1)
        busy = {name: engine_socket.counter(service.world, name) for name in GAUGES}
    gateway = frozenset({service.chain.services[-1].process.pid})
    time.sleep(6)  # connections that nobody uses are closed
    return Held.by(gateway), Held.by(processes_below(min(gateway)) - gateway)


def test_memory_descriptors_and_blocks_are_what_they_were(soaked, request):
    seconds = request.config.getoption("--soak-seconds")
    asyncio.run(load(soaked, seconds / WARM_PART, seed=1))
    before = at_rest(soaked)
    done = asyncio.run(load(soaked, seconds - seconds / WARM_PART, seed=100))
    after = at_rest(soaked)
    print(f"{sum(done.values())} requests {dict(done)}; {before}, then {after}")
    assert set(done) == set(MIX)
    for now, then, growth in zip(after, before, (GATEWAY_GROWTH, ENGINE_GROWTH), strict=True):
        assert now.resident - then.resident < growth
        assert now.share - then.share < growth
        assert now.descriptors <= then.descriptors + CLIENTS
        assert now.threads <= then.threads + CLIENTS


def test_asked_to_end_it_finishes_its_streams_and_takes_no_new_ones(soaked):
    gateway = soaked.chain.services[-1].process
    path, body = wanted("hang up", 7)
    with attested_client(soaked.url, soaked.policy) as client:
        client.headers["authorization"] = f"Bearer {soaked.api_key}"
        with client.stream("POST", soaked.url + path, json=body | {"max_tokens": 600}) as stream:
            parts = stream.iter_raw()
            text = next(parts)
            assert client.get(f"{soaked.url}/readyz").status_code == 200
            gateway.send_signal(signal.SIGTERM)
            ends = time.monotonic() + 5
            while client.get(f"{soaked.url}/readyz").status_code == 200:  # over the same connection
                assert time.monotonic() < ends
            refused = client.post(soaked.url + path, json=body)
            text += b"".join(parts)
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert text.endswith(b"data: [DONE]\n\n")
    assert gateway.wait(60) == 0
    assert not soaked.world.port_is_open()
