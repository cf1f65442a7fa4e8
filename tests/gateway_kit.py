"""A gateway under test: a real TLS server on loopback in front of an engine that echoes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import ssl
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import httpx2
import uvloop

from attestation.confidential import Confidential
from attestation.keyset import Keyset, Posture
from attestation.keyset import ServedModel as Served
from attestation.types import Digest, Nonce
from server.admission import Admission
from server.apikeys import Change, FreshKey, KeyFile, KeyRing
from server.app import create_app, public_routes
from server.audit import AUDIT_FIELDS, AuditEvent
from server.auth import ApiKeys, Caller
from server.engine.protocol import EngineAnswer, EngineBroken, EngineStatus
from server.engine.tasks import Task
from server.listener import Address, serve
from server.logins import ClientLogins
from server.quota import Quotas, Unmetered
from server.ready import Ready, ServedModel
from server.settings import LimitSettings
from server.telemetry.service import Telemetry, telemetry
from server.telemetry.settings import TelemetrySettings
from server.tls import TlsIdentity, new_tls_identity

MODEL = "qwen3-test"
NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)
PEPPER = Confidential(bytes(range(32)))


@dataclass
class EchoEngine:
    """An engine with vLLM's shapes that answers with the last message, word by word."""

    delay: float = 0.0
    """Seconds between words, and before a complete answer."""
    status: int = 200
    break_after: int | None = None
    """Words after which the stream breaks."""
    say_error_after: int | None = None
    """Words after which the stream says `error`, as vLLM does."""
    say_status: int = 500
    reasoning: str | None = None
    numbers: bytes = b""
    """What its `/metrics` says."""
    bodies: list[dict] = field(default_factory=list)
    open: int = 0
    aborted: int = 0

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
        chat = path.endswith("/chat/completions")
        choice = {"index": 0, "finish_reason": "stop", "logprobs": None, "stop_reason": None}
        if chat:
            message = {"role": "assistant", "content": self._said(request), "tool_calls": []}
            message["reasoning"] = self.reasoning
            if request.get("tools"):
                message |= {"content": None, "tool_calls": [_call(request)]}
                choice["finish_reason"] = "tool_calls"
            choice["message"] = message
        else:
            choice["text"] = self._said(request)
        answer = _envelope("chat.completion" if chat else "text_completion")
        answer |= {"choices": [choice | {"token_ids": [1, 2]}], "usage": _usage(request)}
        return EngineAnswer(200, Confidential(json.dumps(answer).encode()))

    async def metrics(self) -> bytes:
        return self.numbers

    async def stream(
        self, path: str, body: Confidential[bytes]
    ) -> AsyncGenerator[Confidential[bytes], None]:
        request = self._seen(body)
        if self.status != 200:
            raise EngineStatus(self.status, Confidential(b'{"error":"CANARY engine words"}'))
        self.open += 1
        finished = False
        try:
            async for payload in self._payloads(path, request):
                yield Confidential(json.dumps(payload).encode())
            finished = True
        finally:
            self.open -= 1
            self.aborted += not finished

    async def _payloads(self, path, request):
        chat = path.endswith("/chat/completions")
        kind = "chat.completion.chunk" if chat else "text_completion"
        if request.get("tools"):
            for delta in _call_deltas(request):
                yield _envelope(kind) | {"choices": [{"index": 0, "delta": delta}]}
        if chat and self.reasoning:
            delta = {"reasoning": self.reasoning}
            yield _envelope(kind) | {"choices": [{"index": 0, "delta": delta}]}
        for number, word in enumerate(self._said(request).split(" ")):
            if number == self.break_after:
                raise EngineBroken
            if number == self.say_error_after:
                yield {"error": {"message": "CANARY engine words", "code": self.say_status}}
            said = {"delta": {"content": word + " "}} if chat else {"text": word + " "}
            choice = {"index": 0, **said, "finish_reason": None, "token_ids": [7]}
            yield _envelope(kind) | {"choices": [choice], "prompt_token_ids": [1]}
            await asyncio.sleep(self.delay)
        yield _envelope(kind) | {"choices": [], "usage": _usage(request)}

    def _seen(self, body: Confidential[bytes]) -> dict:
        request = json.loads(body.reveal())
        self.bodies.append(request)
        return request

    def _said(self, request: dict) -> str:
        if "messages" in request:
            return str(request["messages"][-1]["content"])
        prompt = request["prompt"]
        return prompt if isinstance(prompt, str) else prompt[0]


def _envelope(kind: str) -> dict:
    return {
        "id": "engine-internal-id",
        "object": kind,
        "created": 1,
        "model": "engine-internal-name",
        "system_fingerprint": "vllm-0.32.0",
        "kv_transfer_params": None,
        "metrics": {"queue_time_ms": 1.0},
    }


def _usage(request: dict) -> dict:
    return {
        "prompt_tokens": 5,
        "completion_tokens": 3,
        "total_tokens": 8,
        "prompt_tokens_details": {"cached_tokens": 4},
    }


def _call(request: dict) -> dict:
    name = request["tools"][0]["function"]["name"]
    function = {"name": name, "arguments": '{"city":"Bern"}'}
    return {"id": "chatcmpl-tool-1", "type": "function", "function": function}


def _call_deltas(request: dict) -> list[dict]:
    call = _call(request)
    name = call["function"]["name"]
    head = {"index": 0, "id": call["id"], "type": "function"}
    head["function"] = {"name": name, "arguments": ""}
    tail = {"index": 0, "function": {"arguments": call["function"]["arguments"]}}
    return [{"role": "assistant", "tool_calls": [head]}, {"tool_calls": [tail]}]


@dataclass
class Record:
    """An audit sink that remembers, or fails."""

    events: list[AuditEvent] = field(default_factory=list)
    broken: bool = False

    async def record(self, event: AuditEvent) -> None:
        if self.broken:
            raise OSError("disk full")
        self.events.append(event)


def limits(**changes: int) -> LimitSettings:
    """Return test limits."""
    values = {
        "body_bytes": 256 * 1024,
        "concurrent_requests": 8,
        "request_seconds": 20,
        "read_seconds": 5,
        "drain_seconds": 5,
    }
    return LimitSettings(**(values | changes))


def counted(
    gateway: Gateway, settings: TelemetrySettings | None = None, authority: bytes | None = None
) -> Telemetry:
    """Return the telemetry of a gateway that does not run yet, and let it see the requests."""
    found = telemetry(
        settings,
        gateway.ready,
        routes=public_routes(gateway.ready),
        certificate_expires=gateway.identity.expires,
        simulated=True,
        authority=authority,
        directory=Path(),
    )
    gateway.ready = found.observed()
    return found


class KeysInMemory:
    """A key store without a file."""

    def __init__(self, ring: KeyRing) -> None:
        self.ring = ring

    def authenticate(self, header: bytes | None, now: datetime) -> Caller:
        return ApiKeys.of(self.ring).authenticate(header, now)

    def listed(self) -> KeyFile:
        return self.ring.file

    def change(self, change: Change) -> KeyFile:
        self.ring = change(self.ring)
        return self.ring.file


def keys(*tenants: str, now: datetime = NOW) -> tuple[KeysInMemory, list[str]]:
    """Make one key a tenant."""
    ring, made = KeyRing.empty(PEPPER), []
    for number, tenant in enumerate(tenants):
        fresh = FreshKey(f"key{number:05d}", Confidential(os.urandom(32)))
        since, life = now - timedelta(days=1), timedelta(days=2)
        ring = ring.create(fresh, tenant=tenant, name="test", now=since, life=life)
        made.append(fresh.text().reveal())
    return KeysInMemory(ring), made


def keyset(spki: Digest) -> Keyset:
    """Return a keyset of a guest that serves `MODEL` behind `spki`."""
    digest = str(Digest.sha256(b"test"))
    posture = Posture(
        retention="none",
        training="none",
        operator="Test Operator",
        jurisdiction="CH",
        engine="echo 1",
        audit=AUDIT_FIELDS,
        filters=(),
        telemetry=(),
    )
    served = (Served(name=MODEL, manifest=digest, weights="sealed"),)
    return Keyset(version=1, tls_spki=str(spki), config=digest, models=served, posture=posture)


@dataclass
class Gateway:
    """A running gateway and what a test may look at."""

    ready: Ready
    engine: EchoEngine
    record: Record
    identity: TlsIdentity
    api_keys: list[str]
    port: int = 0
    notice: float = 0.0
    stop: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def trust(self) -> ssl.SSLContext:
        return ssl.create_default_context(cadata=self.identity.certificate.decode())

    def client(self, **options) -> httpx2.Client:
        headers = {"authorization": f"Bearer {self.api_keys[0]}"}
        return httpx2.Client(
            base_url=self.url, verify=self.trust(), headers=headers, timeout=20, **options
        )


def prepared(
    engine: EchoEngine | None = None,
    *,
    report: Callable | None = None,
    reasoning: bool = False,
    device: str = "cpu",
    quotas: Quotas | None = None,
    logins: ClientLogins | None = None,
    tasks: Mapping[str, Task] = MappingProxyType({MODEL: "generate"}),
    **changes: int,
) -> Gateway:
    """Return a gateway that does not run yet; `tasks` are its models, `changes` limits."""
    engine = engine or EchoEngine()
    identity = new_tls_identity(datetime.now(UTC), ("gateway.test",))
    loaded, api_keys = keys("acme", "globex")
    record = Record()

    async def evidence(nonce: Nonce) -> bytes:
        return json.dumps({"nonce": nonce.hex()}).encode()

    bounds = limits(**changes)
    ready = Ready(
        models={
            name: ServedModel(
                engine, device, task, reasoning=reasoning, max_model_len=4096, max_queued=64
            )
            for name, task in tasks.items()
        },
        keys=loaded,
        logins=logins or ClientLogins(),
        keyset=keyset(identity.spki),
        report=report or evidence,
        limits=bounds,
        clock=lambda: NOW,
        audit=record,
        admission=Admission(bounds.concurrent_requests),
        healthy=lambda: True,
        quotas=quotas or Unmetered(),
    )
    return Gateway(ready, engine, record, identity, api_keys)


@contextlib.contextmanager
def running(gateway: Gateway) -> Iterator[Gateway]:
    """Serve `gateway` from a thread with its own event loop until the block ends."""
    started = threading.Event()
    failure: list[BaseException] = []

    def thread() -> None:
        async def main() -> None:
            loop = asyncio.get_running_loop()
            stop = asyncio.Event()
            # asyncio primitives belong to the loop that runs them
            admission = Admission(gateway.ready.limits.concurrent_requests)
            gateway.ready = replace(gateway.ready, admission=admission)
            gateway.stop = lambda: loop.call_soon_threadsafe(stop.set)

            def bound(port: int) -> None:
                gateway.port = port
                started.set()

            await serve(
                create_app(gateway.ready),
                Address("127.0.0.1", 0),
                identity=gateway.identity,
                clients=gateway.ready.logins.certificates,
                limits=gateway.ready.limits,
                admission=admission,
                started=bound,
                stop=stop,
                notice_seconds=gateway.notice,
            )

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(main())
        except BaseException as error:
            failure.append(error)
        finally:
            started.set()

    worker = threading.Thread(target=thread, name="gateway")
    worker.start()
    started.wait(20)
    try:
        if failure:
            raise failure[0]
        yield gateway
    finally:
        gateway.stop()
        worker.join(20)
    if failure:
        raise failure[0]


def chat(**fields) -> dict:
    """Return a valid chat request."""
    return {"model": MODEL, "messages": [{"role": "user", "content": "hello world"}], **fields}
