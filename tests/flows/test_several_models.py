"""Three engines behind one endpoint: an embedder, a reranker, whose numbers are transformers' own,
and a model that talks.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import signal
import struct
import subprocess
import time
from pathlib import Path

import httpx2
import hypothesis
import openai
import pytest
from hypothesis import HealthCheck, given
from openai import AsyncOpenAI, OpenAI

from attestation.client import attested_async_client, attested_client
from scripts.chain.installation import key_of
from server.retention.run import Target, prove
from server.retention.sinks import Local
from server.schemas.openapi import document
from server.settings import Settings
from tests.chain_kit import ENGINE, Service, World
from tests.schema_walk import values

pytestmark = pytest.mark.engine

EMBED, RERANK, CHAT = "qwen3-embedding", "qwen3-reranker", "qwen3-thinking"
LENGTH = 256
WALK_SECONDS = 2
PAST_THE_GUARD = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/pooling",
    "/score",
    "/v1/score",
    "/rerank",
    "/v1/rerank",
    "/v2/embed",
    "/tokenize",
    "/invocations",
)
"""What vLLM has where it pools, or elsewhere, that no engine of ours answers then."""


@pytest.fixture(scope="module")
def models(tmp_path_factory, demo_checkpoint) -> tuple[Path, dict]:
    """Return two checkpoints made of the demonstration's, and what transformers says of them."""
    directory = tmp_path_factory.mktemp("pooling")
    script = Path(__file__).with_name("pooling_models.py")
    done = subprocess.run(
        [ENGINE, script, demo_checkpoint, directory],
        env={"PATH": os.environ["PATH"], "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "2"},
        capture_output=True,
        check=True,
        timeout=300,
    )
    return directory, json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def pooling(tmp_path_factory, models, demo_checkpoint) -> Service:
    """Serve all of them; the test that ends an engine comes last."""
    made, _ = models
    directory = tmp_path_factory.mktemp("several") / "installation"
    checkpoints = {EMBED: made / "embedding", RERANK: made / "reranker", CHAT: demo_checkpoint}
    tasks = {
        EMBED: {"task": "embed"},
        RERANK: {"task": "rerank"},
        CHAT: {"task": "generate", "reasoning": True, "tool_call_parser": "hermes"},
    }
    served = {name: settings(directory, name, task=task) for name, task in tasks.items()}
    world = World(directory, checkpoint=checkpoints, changes={"models": served})
    with Service.running(world) as running:
        yield running


def settings(directory: Path, name: str, *, task: dict) -> dict:
    engine = {
        "python": str(ENGINE),
        "device": "cpu",
        "isolation": "best-effort",
        "dtype": "float32",
        "max_model_len": LENGTH,
        "max_sequences": 8,
        "max_queued": 32,
        "tensor_parallel_size": 1,
        "kv_cache_gib": 1,
        "start_seconds": 600,
        **task,
    }
    return {
        "sealed": str(directory / "sealed" / name),
        "signer": str(directory / "keys" / "model-signer.pub"),
        "key": key_of(name),
        "engine": engine,
    }


@pytest.fixture(scope="module")
def verified(pooling):
    headers = {"authorization": f"Bearer {pooling.api_key}"}
    with attested_client(pooling.url, pooling.policy) as client:
        client.headers.update(headers)
        yield client


@pytest.fixture(scope="module")
def client(pooling, verified) -> OpenAI:
    return OpenAI(
        base_url=f"{pooling.url}/v1",
        api_key=pooling.api_key,
        http_client=verified,
        max_retries=0,
    )


def cosine(one: list[float], other: list[float]) -> float:
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


def refused(client: OpenAI, code: str, given: object = "x", **fields) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.embeddings.create(**{"model": EMBED, "input": given, **fields})
    assert caught.value.code == code


def test_vectors_are_those_of_transformers(client, models):
    _, said = models
    answer = client.embeddings.create(model=EMBED, input=said["texts"])
    for item, expected in zip(answer.data, said["vectors"], strict=True):
        assert cosine(item.embedding, expected) > 0.9999
        assert math.isclose(math.hypot(*item.embedding), 1, rel_tol=1e-4)
    assert cosine(answer.data[0].embedding, said["vectors"][1]) < 0.99
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > len(said["texts"])


def test_scores_are_those_of_transformers_in_their_order(pooling, verified, models):
    _, said = models
    body = {"model": RERANK, "query": said["query"], "documents": said["documents"]}
    answer = verified.post(f"{pooling.url}/v1/rerank", json=body)
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    order = sorted(range(len(said["scores"])), key=lambda place: -said["scores"][place])
    assert [result["index"] for result in results] == order
    for result in results:
        expected = said["scores"][result["index"]]
        assert result["relevance_score"] == pytest.approx(expected, abs=1e-3)
    assert len(set(said["scores"])) == len(said["scores"])
    assert answer.json()["usage"]["prompt_tokens"] > 4 * 40


def test_floats_and_base64_and_the_asynchronous_client_say_the_same(pooling, client):
    floats = client.embeddings.create(model=EMBED, input="hello", encoding_format="float")
    packed = client.embeddings.create(model=EMBED, input="hello", encoding_format="base64")
    text = packed.data[0].embedding
    unpacked = struct.unpack(f"<{len(floats.data[0].embedding)}f", base64.b64decode(text))
    assert list(unpacked) == floats.data[0].embedding

    async def both() -> list:
        async with attested_async_client(pooling.url, pooling.policy) as http:
            base = f"{pooling.url}/v1"
            asking = AsyncOpenAI(base_url=base, api_key=pooling.api_key, http_client=http)
            create = asking.embeddings.create
            return await asyncio.gather(*(create(model=EMBED, input="hello") for _ in range(4)))

    for answer in asyncio.run(both()):
        assert cosine(answer.data[0].embedding, floats.data[0].embedding) > 0.9999


def test_fewer_dimensions_are_the_first_ones_normalised_again(client):
    whole = client.embeddings.create(model=EMBED, input="hello").data[0].embedding
    short = client.embeddings.create(model=EMBED, input="hello", dimensions=16).data[0].embedding
    assert len(short) == 16
    assert cosine(short, whole[:16]) > 0.9999
    assert math.isclose(math.hypot(*short), 1, rel_tol=1e-4)


def test_token_ids_are_the_model_s_own(client):
    one, batch = [5, 6, 7], [[5, 6, 7], [8]]
    single = client.embeddings.create(model=EMBED, input=one).data[0].embedding
    several = client.embeddings.create(model=EMBED, input=batch)
    assert cosine(several.data[0].embedding, single) > 0.9999
    assert several.usage.prompt_tokens == 4


def test_what_the_engine_cannot_do_is_named(client):
    refused(client, "vectors-refused", [2**20])
    refused(client, "vectors-refused", dimensions=4096)
    refused(client, "context_length_exceeded", "word " * LENGTH)
    refused(client, "batch-too-large", ["x"] * 33)
    refused(client, "model-task", model=RERANK)
    assert client.embeddings.create(model=EMBED, input=["x"] * 32).data[31].index == 31


def test_a_conversation_and_its_vectors_come_from_one_endpoint_at_once(pooling, verified):
    async def both() -> tuple:
        async with attested_async_client(pooling.url, pooling.policy) as http:
            base = f"{pooling.url}/v1"
            asking = AsyncOpenAI(base_url=base, api_key=pooling.api_key, http_client=http)
            question = [{"role": "user", "content": "What does Tacit keep of my prompt?"}]
            say = asking.chat.completions.create
            return await asyncio.gather(
                say(model=CHAT, messages=question, temperature=0, max_tokens=200),
                asking.embeddings.create(model=EMBED, input=question[0]["content"]),
            )

    words, vectors = asyncio.run(both())
    assert words.model == CHAT
    assert "othing" in words.choices[0].message.content
    assert vectors.model == EMBED
    assert len(vectors.data[0].embedding) > 16
    refused = verified.post(
        f"{pooling.url}/v1/embeddings",
        headers={"authorization": f"Bearer {pooling.api_key}"},
        json={"model": CHAT, "input": "x"},
    )
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model-task")


def test_a_conversation_with_a_model_of_numbers_is_refused(client):
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=EMBED, messages=[{"role": "user", "content": "x"}])
    assert caught.value.code == "model-task"


def test_all_models_are_listed_with_their_tasks_and_attested(client, pooling):
    listed = {model.id: model.task for model in client.models.list()}
    assert listed == {EMBED: "embed", RERANK: "rerank", CHAT: "generate"}
    with attested_client(pooling.url, pooling.policy) as http:
        keyset = http.get(f"{pooling.url}/.well-known/tacit/keyset").json()
    assert [model["name"] for model in keyset["models"]] == sorted([EMBED, RERANK, CHAT])


def test_each_engine_answers_its_own_routes_and_no_other(pooling):
    own = {0: "/v1/embeddings", 1: "/classify"}  # the third is that of all other tests
    for number, route in own.items():
        path = pooling.world.run_directory / f"engine-{number}" / "engine.sock"
        transport = httpx2.HTTPTransport(uds=str(path))
        with httpx2.Client(transport=transport, base_url="http://engine", timeout=60) as engine:
            name = (EMBED, RERANK)[number]
            body = {"model": name, "input": "x", "messages": [{"role": "user", "content": "x"}]}
            assert engine.post(route, json={"model": name, "input": "x"}).status_code == 200
            for other in (*PAST_THE_GUARD, own[1 - number]):
                assert engine.post(other, json=body).status_code == 404, other


@pytest.mark.parametrize(
    ("path", "kind", "model"),
    [("/v1/embeddings", "EmbeddingsRequest", EMBED), ("/v1/rerank", "RerankRequest", RERANK)],
)
def test_no_documented_body_makes_the_service_fail(pooling, verified, path, kind, model):
    found = document()["components"]["schemas"]
    ends, statuses = time.monotonic() + WALK_SECONDS, set()

    @hypothesis.settings(max_examples=200, database=None, suppress_health_check=list(HealthCheck))
    @given(values(found[kind], found))
    def walk(body):
        if time.monotonic() > ends:
            return
        answer = verified.post(f"{pooling.url}{path}", json=body | {"model": model})
        statuses.add(answer.status_code)
        assert answer.status_code in {200, 400}, answer.text

    walk()
    assert 200 in statuses


@pytest.mark.skipif(os.geteuid() != 0, reason="hardened processes are open to root only")
def test_no_sink_holds_a_canary_of_a_text_or_a_query(pooling, tmp_path):
    loaded = Settings.load(pooling.world.installation.config)
    with pooling.logged(tmp_path / "log") as log:
        local = Local(
            pids=pooling.pids,
            logs=(log,),
            run_directory=pooling.world.run_directory,
            directories=(pooling.world.directory,),
            settings=loaded.file,
        )
        target = Target(pooling.url, pooling.policy, pooling.api_key, local, loaded)
        proof = prove(target, random=os.urandom(16), since=time.time_ns())
    assert proof.verdict == "nothing-found", proof.to_text()
    assert proof.asked.unexpected == ()
    served = [a.sent for a in proof.asked.answers if a.status == 200 and a.sent.method == "POST"]
    assert {sent.path for sent in served} >= {
        "/v1/embeddings",
        "/v1/rerank",
        "/v1/chat/completions",
    }
    assert {a.sent.path for a in proof.asked.by_engine} >= {
        "/v1/embeddings",
        "/classify",
        "/v1/chat/completions",
    }


def test_an_engine_that_dies_takes_the_replica_out_of_rotation(pooling, verified):
    assert verified.get(f"{pooling.url}/readyz").status_code == 200
    serve = next(running for running in pooling.chain.services if running.name == "serve")
    os.kill(engine_process(pooling.world, number=1), signal.SIGKILL)
    ends = time.monotonic() + 60
    while not serve.ended:
        assert time.monotonic() < ends, "the gateway serves on with an engine less"
        time.sleep(0.1)
    assert not pooling.world.port_is_open()
    assert serve.process.returncode != 0


def engine_process(world: World, *, number: int) -> int:
    """Return vLLM's API server of one engine."""
    socket = f"{world.run_directory}/engine-{number}/engine.sock".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        words = (entry / "cmdline").read_bytes().split(b"\0")
        if b"--uds" in words and socket in words:
            return int(entry.name)
    raise AssertionError("no such engine runs")
