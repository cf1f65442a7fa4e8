"""Vectors and rankings through the gateway, before engines with the shapes of vLLM's answers."""

import asyncio
import base64
import json
import struct
from dataclasses import dataclass

import httpx2
import openai
import pytest

from attestation.confidential import Confidential
from server.access import TenantSettings
from server.engine.protocol import EngineAnswer
from server.quota import TenantQuotas
from server.routes import router
from server.schemas.answers import BadAnswer, Rebuilt, Stamp
from server.schemas.pooling import EmbeddingsRequest, RerankRequest
from server.schemas.pooling_answers import rebuild
from server.schemas.target import Target
from server.telemetry.vocabulary import OPERATIONS
from tests.gateway_kit import MODEL, EchoEngine, chat, prepared, running

EMBED, RERANK = "qwen3-embedding", "qwen3-reranker"
VECTORS, RANKING = "/v1/embeddings", "/v1/rerank"


@dataclass
class PoolingEngine(EchoEngine):
    """Answers as vLLM's embedding and classification routes do."""

    width: int = 4
    number: float = 0.5
    changes: tuple = ()
    """What the answer says otherwise, by member."""

    async def call(self, path: str, body: Confidential[bytes]) -> EngineAnswer:
        request = self._seen(body)
        if self.status != 200:
            return EngineAnswer(self.status, Confidential(b'{"error":"CANARY engine words"}'))
        self.open += 1
        try:
            await asyncio.sleep(self.delay)
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        finally:
            self.open -= 1
        given = request["input"]
        inputs = [given] if isinstance(given, str) or isinstance(given[0], int) else given
        one = self._score if path == "/classify" else self._vector
        answer = {
            "id": "engine-internal-id",
            "object": "list",
            "created": 1,
            "model": "engine-internal-name",
            "data": [one(index, request) for index in range(len(inputs))],
            "usage": {"prompt_tokens": 7, "total_tokens": 7, "completion_tokens": 0},
        }
        return EngineAnswer(200, Confidential(json.dumps(answer | dict(self.changes)).encode()))

    def _vector(self, index: int, request: dict) -> dict:
        width = request.get("dimensions", self.width)
        packed = struct.pack(f"<{width}f", *[self.number + index] * width)
        return {
            "index": index,
            "object": "embedding",
            "embedding": base64.b64encode(packed).decode(),
        }

    def _score(self, index: int, request: dict) -> dict:
        score = 0.9 if "<Document>: relevant" in request["input"][index] else 0.1
        return {"index": index, "label": "LABEL_0", "probs": [score], "num_classes": 1}


def gateway(engine: EchoEngine | None = None, **options):
    """Return a gateway that serves a chat, an embedding and a reranking model."""
    tasks = {MODEL: "generate", EMBED: "embed", RERANK: "rerank"}
    return running(prepared(engine or PoolingEngine(), tasks=tasks, **options))


@pytest.fixture(scope="module")
def standing():
    """A gateway whose engine no request of a test should reach."""
    with gateway() as at, at.client() as http:
        yield at, http


def vectors(given="hello", **fields) -> dict:
    return {"model": EMBED, "input": given, **fields}


def ranking(**fields) -> dict:
    return {"model": RERANK, "query": "what?", "documents": ["no", "relevant"], **fields}


def rebuilt(engine: PoolingEngine, request: EmbeddingsRequest | RerankRequest) -> Rebuilt:
    """Return what a client gets of the engine's answer to `request`."""
    target = Target(model=request.model, reasoning=False, seeds=False, cache_salt="x")
    answer = asyncio.run(engine.call(request.engine_path, request.engine_body(target)))
    return rebuild(answer.body, Stamp("rerank-1", request.model, 1), request=request)


def refusal(answer: httpx2.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


@pytest.mark.parametrize("how", [{}, {"encoding_format": "float"}, {"encoding_format": "base64"}])
def test_the_sdk_gets_the_same_vectors_in_either_encoding(how):
    with (
        gateway() as at,
        openai.OpenAI(
            base_url=f"{at.url}/v1",
            api_key=at.api_keys[0],
            http_client=httpx2.Client(verify=at.trust(), timeout=20),
        ) as client,
    ):
        answer = client.embeddings.create(model=EMBED, input=["one", "two"], **how)
    found = [item.embedding for item in answer.data]
    if how.get("encoding_format") == "base64":
        found = [list(struct.unpack("<4f", base64.b64decode(text))) for text in found]
    assert found == [[0.5] * 4, [1.5] * 4]
    assert [item.index for item in answer.data] == [0, 1]
    assert (answer.model, answer.usage.prompt_tokens, answer.usage.total_tokens) == (EMBED, 7, 7)


def test_the_engine_gets_a_body_of_ours_and_the_client_an_answer_of_ours():
    with gateway() as at, at.client() as http:
        answer = http.post(VECTORS, json=vectors([1, 2, 3], dimensions=2, user="CANARY"))
    assert answer.json().keys() == {"object", "data", "model", "usage"}
    (body,) = at.engine.bodies
    assert body.pop("cache_salt")
    assert body == {
        "model": EMBED,
        "input": [1, 2, 3],
        "dimensions": 2,
        "encoding_format": "base64",
        "embed_dtype": "float32",
        "endianness": "little",
    }


def test_two_tenants_have_two_salts_and_one_tenant_has_one():
    with gateway() as at, at.client() as http:
        other = {"authorization": f"Bearer {at.api_keys[1]}"}
        for headers in ({}, other, {}):
            http.post(VECTORS, json=vectors(), headers=headers)
    first, second, third = (body["cache_salt"] for body in at.engine.bodies)
    assert first == third != second


def test_documents_come_back_as_places_in_the_order_of_their_relevance():
    with gateway() as at, at.client() as http:
        whole = http.post(RANKING, json=ranking()).json()
        documents = ["no", {"text": "relevant"}, "relevant too"]
        first = http.post(RANKING, json=ranking(documents=documents, top_n=1)).json()
    assert whole["results"] == [
        {"index": 1, "relevance_score": 0.9},
        {"index": 0, "relevance_score": 0.1},
    ]
    assert whole["usage"] == {"prompt_tokens": 7, "total_tokens": 7}
    assert (whole["model"], whole["id"][:7]) == (RERANK, "rerank-")
    assert first["results"] == [{"index": 1, "relevance_score": 0.9}]


def test_each_document_is_asked_about_in_the_words_of_the_model_card():
    with gateway() as at, at.client() as http:
        http.post(RANKING, json=ranking(instruction="Find it", documents=["this"]))
    (body,) = at.engine.bodies
    (text,) = body["input"]
    assert "<Instruct>: Find it\n<Query>: what?\n<Document>: this<|im_end|>\n" in text
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert body["add_special_tokens"] is False


def test_a_model_of_another_task_is_named_as_such_on_every_route():
    requests = (
        (VECTORS, vectors(), (MODEL, RERANK)),
        (RANKING, ranking(), (MODEL, EMBED)),
        ("/v1/chat/completions", chat(), (EMBED, RERANK)),
        ("/v1/completions", {"prompt": "x"}, (EMBED, RERANK)),
        ("/v1/responses", {"input": "x"}, (EMBED, RERANK)),
    )
    with gateway() as at, at.client() as http:
        for path, body, models in requests:
            for model in models:
                answer = http.post(path, json=body | {"model": model})
                assert refusal(answer) == (400, "model-task")
                assert answer.json()["error"]["param"] == "model"
        assert refusal(http.post(VECTORS, json=vectors() | {"model": "x"}))[0] == 404
    assert at.engine.bodies == []


def test_the_list_of_models_says_the_task_of_each():
    with gateway() as at, at.client() as http:
        listed = http.get("/v1/models").json()["data"]
    tasks = {MODEL: "generate", EMBED: "embed", RERANK: "rerank"}
    assert {model["id"]: model["task"] for model in listed} == tasks


@pytest.mark.parametrize(
    ("path", "body", "code"),
    [
        (VECTORS, vectors(""), "field-invalid"),
        (VECTORS, vectors([]), "field-invalid"),
        (VECTORS, vectors([""]), "field-invalid"),
        (VECTORS, vectors([[]]), "field-invalid"),
        (VECTORS, vectors([-1]), "field-invalid"),
        (VECTORS, vectors([1.5]), "field-invalid"),
        (VECTORS, vectors([True]), "field-invalid"),
        (VECTORS, vectors(["a", 1]), "field-invalid"),
        (VECTORS, vectors({"CANARY": 1}), "field-invalid"),
        (VECTORS, vectors(dimensions=0), "field-invalid"),
        (VECTORS, vectors(encoding_format="bytes"), "field-invalid"),
        (VECTORS, vectors(stream=True), "unknown-field"),
        (VECTORS, vectors(CANARY=1), "unknown-field"),
        (VECTORS, vectors(cache_salt="x"), "engine-control-refused"),
        (VECTORS, vectors(messages=[]), "template-refused"),
        (VECTORS, vectors(["a"] * 65), "batch-too-large"),
        (VECTORS, {"model": EMBED}, "field-missing"),
        (RANKING, ranking(documents=[]), "field-invalid"),
        (RANKING, ranking(documents=[{"CANARY": 1}]), "field-missing"),
        (RANKING, ranking(query=""), "field-invalid"),
        (RANKING, ranking(query="x" * 8193), "too-many"),
        (RANKING, ranking(top_n=0), "field-invalid"),
        (RANKING, ranking(return_documents=True), "echo-refused"),
        (RANKING, ranking(truncate_prompt_tokens=5), "engine-control-refused"),
        (RANKING, ranking(chat_template="CANARY"), "template-refused"),
    ],
)
def test_what_no_engine_should_see_is_refused_by_its_own_code(standing, path, body, code):
    at, http = standing
    answer = http.post(path, json=body)
    assert refusal(answer) == (400, code)
    assert "CANARY" not in answer.text
    assert at.engine.bodies == []


@pytest.mark.parametrize(
    "changes",
    [
        {"data": []},
        {"data": None},
        {"data": [{"embedding": "AAAA"}]},
        {"data": [{"embedding": "no base64"}]},
        {"data": [{"embedding": [0.1]}]},
        {"data": [{}]},
        {"data": [{"embedding": base64.b64encode(struct.pack("<f", float("nan"))).decode()}]},
        {"usage": {}},
        {"usage": {"prompt_tokens": "7"}},
    ],
)
def test_an_answer_that_is_no_vector_is_no_answer(changes):
    request = EmbeddingsRequest(model=EMBED, input="hello")
    with pytest.raises(BadAnswer):
        rebuilt(PoolingEngine(changes=tuple(changes.items())), request)


@pytest.mark.parametrize("probs", [None, [], [0.1, 0.9], [1.5], [-1], ["x"]])
def test_an_answer_that_is_no_score_is_no_answer(probs):
    request = RerankRequest(model=RERANK, query="what?", documents=("x",))
    with pytest.raises(BadAnswer):
        rebuilt(PoolingEngine(changes=(("data", [{"probs": probs}]),)), request)


def test_a_vector_of_another_length_than_asked_for_never_leaves():
    packed = base64.b64encode(struct.pack("<2f", 1, 0)).decode()
    engine = PoolingEngine(changes=(("data", [{"embedding": packed}]),))
    with gateway(engine) as at, at.client() as http:
        assert http.post(VECTORS, json=vectors(dimensions=2)).status_code == 200
        assert refusal(http.post(VECTORS, json=vectors(dimensions=3)))[0] == 502


@pytest.mark.parametrize(
    ("status", "expected"),
    [(400, (400, "vectors-refused")), (503, (429, "engine-busy")), (500, (502, "engine-failed"))],
)
def test_the_engine_s_own_words_never_leave(status, expected):
    with gateway(PoolingEngine(status=status)) as at, at.client() as http:
        for path, body in ((VECTORS, vectors()), (RANKING, ranking())):
            answer = http.post(path, json=body)
            assert refusal(answer) == expected
            assert "CANARY" not in answer.text


def test_a_client_that_hangs_up_ends_the_engine_s_work():
    with gateway(PoolingEngine(delay=20)) as at:
        with pytest.raises(httpx2.ReadTimeout), at.client() as http:
            http.post(VECTORS, json=vectors(), timeout=0.5)
        for _ in range(100):
            if at.engine.aborted:
                break
            with at.client() as http:
                http.get("/healthz")
    assert (at.engine.aborted, at.engine.open) == (1, 0)
    assert at.record.events[0].code == "client-gone"


def test_what_was_used_is_recorded_and_paid_for():
    tenant = TenantSettings(
        requests_per_minute=100,
        tokens_per_minute=10_000,
        concurrent_requests=4,
        models=(MODEL, EMBED),
    )
    quotas = TenantQuotas({"acme": tenant}, lambda: 0)
    with gateway(quotas=quotas) as at, at.client() as http:
        answer = http.post(VECTORS, json=vectors("word " * 100))
        hidden = http.post(RANKING, json=ranking())
        too_much = http.post(VECTORS, json=vectors(["x" * 4000] * 4))
    # what was reserved covers each byte of the body; what is kept is what the engine counted
    assert answer.headers["x-ratelimit-remaining-tokens"] == "9993"
    assert refusal(hidden) == (404, "model-not-found")
    assert refusal(too_much) == (400, "over-quota")
    event = at.record.events[0]
    assert (event.route, event.model, event.stream) == (VECTORS, EMBED, False)
    assert (event.input_tokens, event.output_tokens) == (7, 0)


def test_every_route_of_a_model_has_its_operation_in_the_telemetry():
    routes = [route.endpoint for route in router(prepared().ready).routes]
    assert {route.route for route in routes if route.method == "POST"} == set(OPERATIONS)
