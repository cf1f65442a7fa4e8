"""A gateway that is watched: what a scraper and a collector learn of requests full of canaries."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import httpx2
import pytest
from cryptography import x509

from attestation.confidential import Confidential
from server.access import OperatorCertificates
from server.app import create_app, operator_table
from server.engine.client import EngineClient
from server.engine.protocol import EngineBroken
from server.listener import Address, listening
from server.operator import create_operator_app, identify_by
from server.telemetry.engine import PASSED, families
from server.telemetry.settings import Collector, TelemetrySettings
from server.telemetry.vocabulary import Vocabulary
from server.tls import ClientAuthority, server_context
from tests.chain_kit import MODEL as SERVED
from tests.collector import collecting
from tests.collector import said as attributes
from tests.gateway_kit import MODEL, EchoEngine, chat, counted, keys, prepared
from tests.logins import Authority, with_certificate
from tests.promtool import promtool

CANARY = "CANARY-51ab"
NOW = datetime.now(UTC)
RUNNING = b'vllm:num_requests_running{engine="0",model_name="CANARY-51ab"} 2.0\n'


@dataclass
class Watched:
    """A gateway, its telemetry, and clients of both listeners."""

    gateway: object
    telemetry: object
    api: httpx2.AsyncClient
    operator: httpx2.AsyncClient

    async def numbers(self) -> str:
        answer = await self.operator.get("/metrics")
        assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
        return answer.text

    async def until(self, line: str) -> None:
        """Scrape until `line` is there, at most ten seconds."""
        for _ in range(200):
            if line in await self.numbers():
                return
            await asyncio.sleep(0.05)
        raise AssertionError(line)


@contextlib.asynccontextmanager
async def watched(tmp_path, engine=None, *, collector=None, tenants=False):
    gateway = prepared(engine or EchoEngine(numbers=RUNNING))
    loaded, gateway.api_keys = keys("acme", "globex", now=NOW)
    gateway.ready = replace(gateway.ready, clock=lambda: datetime.now(UTC), keys=loaded)
    otlp = collector and Collector(url=collector.url, ca="ca.pem", interval_seconds=1)
    settings = TelemetrySettings(tenants=tenants, engine=True, otlp=otlp or None)
    authority = None if collector is None else collector.identity.certificate
    private = gateway.ready
    telemetry = counted(gateway, settings, authority)
    ca = Authority(NOW)
    scraper, _ = ca.issue(tmp_path, x509.DNSName("scraper"))
    login = OperatorCertificates(kind="mtls", ca="ca.pem", people={"dns:scraper": ("metrics",)})
    table = operator_table(private, telemetry)
    operators = create_operator_app(private, identify_by(login, ca.pem), table=table)
    clients = ClientAuthority(ca.pem, required=True)
    anywhere = Address("127.0.0.1", 0)
    public = listening(
        create_app(gateway.ready), anywhere, context=server_context(gateway.identity)
    )
    own = listening(operators, anywhere, context=server_context(gateway.identity, clients))
    key = {"authorization": f"Bearer {gateway.api_keys[0]}"}
    async with (
        telemetry.pushing(),
        public as api,
        own as operated,
        httpx2.AsyncClient(
            base_url=f"https://127.0.0.1:{api.port}", verify=gateway.trust(), headers=key
        ) as client,
        httpx2.AsyncClient(
            base_url=f"https://127.0.0.1:{operated.port}",
            verify=with_certificate(gateway.trust(), scraper),
        ) as operator,
    ):
        yield Watched(gateway, telemetry, client, operator)


async def ask_everything(client: httpx2.AsyncClient) -> None:
    """Ask in every way that ends differently, with a canary in each place."""
    messages = [{"role": "user", "content": CANARY}]
    headers = {
        "x-request-id": CANARY,
        "user-agent": CANARY,
        "traceparent": f"00-{'ab' * 16}-{'cd' * 8}-01",
        "tracestate": f"x={CANARY}",
        "baggage": f"k={CANARY}",
    }
    path = "/v1/chat/completions"
    for stream in (True, False):
        body = chat(messages=messages, stream=stream, user=CANARY)
        assert (await client.post(path, json=body, headers=headers)).status_code in {200, 400}
        body = chat(messages=messages, stream=stream)
        assert (await client.post(path, json=body, headers=headers)).status_code == 200
    assert (await client.post(path, json=chat(model=CANARY))).status_code == 404
    assert (await client.post(path, json={CANARY: CANARY})).status_code == 400
    assert (await client.post(path, content=CANARY)).status_code == 400
    assert (await client.get(f"/{CANARY}?q={CANARY}")).status_code == 404
    assert (await client.get(f"/v1/models/{CANARY}")).status_code == 404
    bad = {"authorization": f"Bearer {CANARY}"}
    assert (await client.get("/v1/models", headers=bad)).status_code == 401


async def test_a_scraper_and_a_collector_learn_counts_and_no_content(tmp_path):
    with collecting() as collector:
        async with watched(tmp_path, collector=collector) as service:
            await ask_everything(service.api)
            text = await service.numbers()
        spans = collector.spans()
        assert collector.metrics()["tacit.requests"].sum.data_points
        pushed = b"".join(collector.bodies)
    for found in (text.encode(), pushed):
        assert CANARY.encode() not in found
        assert b"acme" not in found
        assert service.gateway.api_keys[0].encode() not in found
    generated = [span for span in spans if span.name == f"chat {MODEL}"]
    assert {attributes(span).get("gen_ai.usage.output_tokens") for span in generated} >= {3}
    assert {span.trace_id.hex() for span in spans} & {"ab" * 16} == set()
    assert 'http_response_status_code="404",http_route="_OTHER"' in text
    assert 'error_type="key-malformed"' in text or 'error_type="key-unknown"' in text
    assert "gen_ai_server_time_to_first_token_seconds_count{" in text


async def test_promtool_accepts_what_a_running_service_exposes(tmp_path):
    async with watched(tmp_path, tenants=True) as service:
        await ask_everything(service.api)
        text = await service.numbers()
    assert 'tacit_tenant_requests_total{tacit_tenant="acme"}' in text
    assert f'vllm:num_requests_running{{model_name="{MODEL}",engine="0"}} 2' in text
    assert f'tacit_engine_up{{gen_ai_request_model="{MODEL}"}} 1' in text
    assert "tacit_simulated 1" in text
    _, said = await asyncio.to_thread(promtool, "check", "metrics", text=text.encode())
    assert [line for line in said if "should not contain ':'" not in line] == []  # vLLM's names


async def test_scrapers_do_not_count_as_requests(tmp_path):
    async with watched(tmp_path) as service:
        for _ in range(3):
            text = await service.numbers()
    assert "tacit_requests_total{" not in text


async def test_a_generation_under_way_is_counted_as_active(tmp_path):
    async with watched(tmp_path, EchoEngine(delay=0.5)) as service:
        asked = asyncio.ensure_future(service.api.post("/v1/chat/completions", json=chat()))
        await service.until("tacit_requests_active 1")
        assert (await asked).status_code == 200
        assert "tacit_requests_active 0" in await service.numbers()


class Counting(EchoEngine):
    """An engine that counts how often it is scraped, and never answers."""

    scrapes = 0

    async def metrics(self) -> bytes:
        self.scrapes += 1
        raise EngineBroken


async def test_an_engine_that_does_not_answer_is_down_and_is_not_scraped_by_every_scraper(tmp_path):
    engine = Counting()
    async with watched(tmp_path, engine) as service:
        texts = await asyncio.gather(*(service.numbers() for _ in range(5)))
    assert all(f'tacit_engine_up{{gen_ai_request_model="{MODEL}"}} 0' in text for text in texts)
    assert engine.scrapes == 1


async def test_a_dead_collector_slows_no_request_and_is_told_in_numbers(tmp_path):
    with collecting() as collector:
        pass
    async with watched(tmp_path, collector=collector) as service:
        for _ in range(3):
            assert (await service.api.get("/v1/models")).status_code == 200
        await service.until('tacit_telemetry_dropped_total{tacit_signal="traces"} 3')


@pytest.mark.engine
async def test_the_real_engine_counts_and_its_numbers_are_the_listed_ones(service):
    socket = service.world.run_directory / "engine-0" / "engine.sock"
    body = {"model": SERVED, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
    engine = EngineClient(str(socket))
    answer = await engine.call("/v1/chat/completions", Confidential(json.dumps(body).encode()))
    assert answer.status == 200
    text = await engine.metrics()
    vocabulary = Vocabulary.of(models=[SERVED], routes=[], tenants=False)
    read = families(text, model=SERVED, vocabulary=vocabulary)
    found = {family.instrument.name.removeprefix("vllm."): family for family in read}
    assert set(found) == set(PASSED)
    assert found["generation_tokens"].points[0].value >= 4
