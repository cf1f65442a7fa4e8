"""Tenants over real TLS: quotas, their headers, and models that a tenant may not see."""

from __future__ import annotations

import asyncio
import threading
import time

import httpx2
import openai
import pytest

from server.access import TenantSettings
from server.quota import TenantQuotas
from server.routes import router
from tests.gateway_kit import MODEL, EchoEngine, chat, prepared, running

CHAT = "/v1/chat/completions"
EMBED, RERANK = "qwen3-embedding", "qwen3-reranker"
TASKS = {MODEL: "generate", EMBED: "embed", RERANK: "rerank"}


def tenant(**changes) -> TenantSettings:
    values = {
        "requests_per_minute": 1000,
        "tokens_per_minute": 100_000,
        "concurrent_requests": 4,
        "models": tuple(TASKS),
    }
    return TenantSettings(**(values | changes))


def gateway(engine=None, *, globex=None, **changes):
    tenants = {"acme": tenant(**changes)}
    if globex is not None:
        tenants["globex"] = globex
    still = TenantQuotas(tenants, lambda: 0)  # nothing flows in while a test counts
    return running(prepared(engine, quotas=still, tasks=TASKS))


def code(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def left(answer: httpx2.Response) -> int:
    return int(answer.headers["x-ratelimit-remaining-tokens"])


def test_an_answer_costs_what_it_used_and_says_what_is_left():
    with gateway() as served, served.client() as http:
        whole = http.post(CHAT, json=chat(max_tokens=50))
        assert (whole.status_code, left(whole)) == (200, 99_992)
        streamed = http.post(CHAT, json=chat(stream=True, max_tokens=50))
        assert streamed.status_code == 200
        assert left(streamed) < 99_992 - 50  # said when the first word was
        models = http.get("/v1/models")
    assert left(models) == 99_984
    assert models.headers["x-ratelimit-limit-tokens"] == "100000"
    assert models.headers["x-ratelimit-remaining-requests"] == "997"


class LingeringEngine(EchoEngine):
    """An engine that takes a while to close what it has finished."""

    async def stream(self, path, body):
        try:
            async for frame in super().stream(path, body):
                yield frame
        finally:
            await asyncio.sleep(0.2)


def test_who_has_an_answer_has_its_place_back_though_the_engine_is_not_done():
    with (
        gateway(LingeringEngine(), concurrent_requests=1) as served,
        served.client() as first,
        served.client() as second,
    ):
        for http in (first, second) * 3:
            answer = http.post(CHAT, json=chat(stream=True))
            assert answer.status_code == 200
            assert b"[DONE]" in answer.content


def test_the_sdk_sees_a_rate_limit_and_its_headers():
    with (
        gateway(requests_per_minute=1) as served,
        openai.OpenAI(
            base_url=f"{served.url}/v1",
            api_key=served.api_keys[0],
            http_client=httpx2.Client(verify=served.trust(), timeout=20),
            max_retries=0,
        ) as client,
    ):
        client.models.list()
        with pytest.raises(openai.RateLimitError) as caught:
            client.chat.completions.create(**chat())
    assert caught.value.code == "rate_limit_exceeded"
    headers = caught.value.response.headers
    assert headers["retry-after"] == "60"
    assert headers["x-ratelimit-remaining-requests"] == "0"
    assert headers["x-ratelimit-reset-requests"] == "1m0s"
    assert served.engine.bodies == []


def test_tokens_are_reserved_before_the_engine_sees_a_request():
    with gateway(tokens_per_minute=8000) as served, served.client() as http:
        # no max_tokens: the whole context may be used, and more than that once over
        assert http.post(CHAT, json=chat()).status_code == 200
        assert code(http.post(CHAT, json=chat(n=8))) == (400, "over-quota")
        assert http.post(CHAT, json=chat(max_tokens=5, n=8)).status_code == 200
    assert len(served.engine.bodies) == 2


def test_a_request_that_fails_before_the_engine_costs_no_tokens():
    with gateway() as served, served.client() as http:
        assert http.post(CHAT, json=chat(temperature=9)).status_code == 400
        assert http.post(CHAT, json=chat() | {"model": "other"}).status_code == 404
        assert left(http.get("/v1/models")) == 100_000


def test_an_engine_that_refuses_costs_nothing_and_one_that_breaks_costs_the_reservation():
    for status, spent in ((429, False), (500, True)):
        with gateway(EchoEngine(status=status)) as served, served.client() as http:
            answer = http.post(CHAT, json=chat(max_tokens=50))
            assert (left(answer) < 100_000) is spent


def test_a_stream_that_is_cut_keeps_its_reservation_and_gives_its_place_back():
    with gateway(EchoEngine(delay=0.2), concurrent_requests=1) as served, served.client() as http:
        said = [{"role": "user", "content": "word " * 100}]
        body = chat(stream=True, max_tokens=50, messages=said)
        with http.stream("POST", CHAT, json=body) as answer:
            lines = answer.iter_lines()  # closing it would close the connection
            next(lines)
            assert code(sent(served, chat())) == (429, "tenant-busy")
        ends = time.monotonic() + 5
        while (again := http.get("/v1/models")).status_code == 429:
            assert time.monotonic() < ends
        assert int(again.headers["x-ratelimit-remaining-tokens"]) < 100_000 - 50


def sent(served, body):
    with served.client() as other:
        return other.post(CHAT, json=body)


def test_one_tenant_takes_no_place_and_no_quota_of_another():
    engine = EchoEngine(delay=0.5)
    globex = tenant()
    with gateway(engine, globex=globex, concurrent_requests=1) as served:
        first = threading.Thread(target=sent, args=(served, chat()))
        first.start()
        ends = time.monotonic() + 5
        while not engine.open:
            assert time.monotonic() < ends
            time.sleep(0.01)
        with served.client() as http:
            assert code(http.post(CHAT, json=chat())) == (429, "tenant-busy")
            http.headers["authorization"] = f"Bearer {served.api_keys[1]}"
            answer = http.post(CHAT, json=chat(max_tokens=50))
            assert answer.status_code == 200
            left = http.get("/v1/models").headers["x-ratelimit-remaining-requests"]
            assert left == "998"
        first.join()


def test_a_model_that_a_tenant_may_not_use_does_not_exist_for_it():
    with gateway(models=("another",)) as served, served.client() as http:
        assert code(http.post(CHAT, json=chat())) == (404, "model-not-found")
        assert http.get("/v1/models").json()["data"] == []
        assert code(http.get(f"/v1/models/{MODEL}")) == (404, "model-not-found")


def test_a_key_of_a_tenant_that_is_not_listed_opens_nothing():
    with gateway() as served, served.client() as http:
        http.headers["authorization"] = f"Bearer {served.api_keys[1]}"
        assert code(http.get("/v1/models")) == (403, "tenant-unknown")
        assert http.get("/healthz").status_code == 200
        assert "x-ratelimit-limit-requests" not in http.get("/healthz").headers


BODIES = {
    CHAT: chat(max_tokens=50),
    "/v1/completions": {"model": MODEL, "prompt": "hello", "max_tokens": 50},
    "/v1/responses": {"model": MODEL, "input": "hello", "max_output_tokens": 50},
    "/v1/embeddings": {"model": EMBED, "input": "hello"},
    "/v1/rerank": {"model": RERANK, "query": "hello", "documents": ["hello"]},
}
"""One request for each route that makes the engine work; a new route needs a row."""


def test_every_route_that_makes_the_engine_work_reserves_first():
    with gateway(EchoEngine(status=500)) as served:
        routes = [route.endpoint for route in router(served.ready).routes]
        assert {route.route for route in routes if route.method == "POST"} == set(BODIES)
        with served.client() as http:
            left = 100_000
            for path, body in BODIES.items():
                assert http.post(path, json=body).status_code == 502
                before, left = left, remaining(http)
                assert 50 < before - left < 50 + 4096


def remaining(http: httpx2.Client) -> int:
    return int(http.get("/v1/models").headers["x-ratelimit-remaining-tokens"])
