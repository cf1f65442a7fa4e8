"""The boot: settings in, `Ready` out, and nothing that could serve in between.

harden → signed manifests → measure → keys of this boot → GPUs, then the quote → broker → GPUs take
work → unseal → engine → golden output → Ready. Every step needs what the one before it returned,
so the order is not a convention. Whatever fails, no port was open and no plaintext weight was on a
disk.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from attestation.binding import KeysetBinding
from attestation.broker.protocol import ModelKey
from attestation.codec import unb64
from attestation.confidential import data_key
from attestation.endorse import Endorser
from attestation.errors import ConfigError, Undecidable
from attestation.keyset import Keyset
from attestation.keyset import ServedModel as AttestedModel
from attestation.keywire import Grant
from attestation.report import Report
from attestation.types import Digest, Nonce
from attestation.weights import BlockLayer, MountedModel, SealedModel, is_memory_backed
from server.admission import Admission
from server.attester import Attester
from server.audit import AuditSink
from server.engine.client import EngineClient
from server.engine.isolation import decide, probe
from server.engine.launch import (
    SHUTDOWN_SECONDS,
    TRUSTED_DEVICES,
    EngineSpec,
    MountedWeights,
    SealedWeights,
    launch,
)
from server.engine.supervisor import EngineSupervisor
from server.golden import check
from server.keyagent import KeyAgent
from server.keyfile import ApiKeyFile
from server.logins import ClientLogins
from server.measure import measure, runtime_events
from server.packages import KERNEL, open_packages, signer
from server.posture import posture
from server.quota import quotas
from server.ready import Clock, Ready, ServedModel
from server.settings import EngineSettings, Settings
from server.telemetry.login import CollectorLogin
from server.tls import TlsIdentity, new_tls_identity
from server.unlock import Unlocked, unlock

_EXIT_SECONDS = 10
"""What vLLM takes to leave after its last stream, before its tree is killed."""


@dataclass(frozen=True, slots=True)
class Booted:
    """A guest that may open its port, and the key it opens it with."""

    ready: Ready
    identity: TlsIdentity
    engines: tuple[EngineSupervisor, ...]

    async def engine_ended(self) -> None:
        """Return when the first engine ends; this guest cannot serve on then."""
        waits = [asyncio.ensure_future(engine.exited.wait()) for engine in self.engines]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


@contextlib.asynccontextmanager
async def boot(
    settings: Settings, *, clock: Clock, audit: AuditSink, kernel: BlockLayer = KERNEL
) -> AsyncIterator[Booted]:
    """Boot once and yield; on leaving, drain the engines and remove what they left in memory.

    Raises a `Refusal` or `ConfigError` whose code names the step that failed.
    """
    with _run_directory(settings) as run_directory:
        logins = ClientLogins.of(settings)
        packages = await asyncio.to_thread(open_packages, settings, kernel=kernel)
        manifests = {name: package.manifest.digest for name, package in packages.items()}
        endorser = settings.endorser(clock=clock)
        attester = Attester.of(settings, endorser, clock=clock)
        events = runtime_events(settings.digest, manifests)
        await asyncio.to_thread(measure, attester.tdx, events, run_directory=run_directory)
        identity = new_tls_identity(clock(), settings.file.listen.hostnames)
        unlocked = await _unlocked(settings, attester)
        await asyncio.to_thread(attester.gpus.accept_work)
        async with contextlib.AsyncExitStack() as stack:
            engines: dict[str, EngineSupervisor] = {}
            models: dict[str, ServedModel] = {}
            for name, package in packages.items():
                engine = settings.file.models[name].engine
                spec = _spec(settings, name, package, run_directory=run_directory)
                _make_private(spec.directory)
                if isinstance(package, SealedModel):
                    grant = _grant(unlocked.model_keys[name].reveal())
                    await asyncio.to_thread(_unseal_small, package, grant, Path(spec.model))
                    engines[name] = await _start_sealed(stack, spec, engine, grant=grant)
                else:
                    supervisor = engines[name] = await _start(stack, spec, engine)
                    await supervisor.wait_ready(seconds=engine.start_seconds, refusal=lambda: None)
                client = EngineClient(str(spec.socket))
                if (golden := package.manifest.golden) is not None:
                    await check(client, golden, model=name, seconds=engine.start_seconds)
                models[name] = _served(client, engine)
            keyset = await _keyset(settings, identity, packages)
            ready = Ready(
                models=models,
                keys=ApiKeyFile(settings.path(settings.file.api_keys), unlocked.api_key_pepper),
                logins=logins,
                keyset=keyset,
                report=_Reporter(attester, keyset, endorser).report,
                limits=settings.file.limits,
                clock=clock,
                audit=audit,
                admission=Admission(settings.file.limits.concurrent_requests),
                quotas=quotas(settings.file.tenants, time.monotonic_ns),
                healthy=lambda: all(engine.alive for engine in engines.values()),
            )
            yield Booted(ready, identity, tuple(engines.values()))


def _served(client: EngineClient, engine: EngineSettings) -> ServedModel:
    return ServedModel(
        client,
        engine.device,
        engine.task,
        reasoning=engine.task == "generate" and engine.reasoning,
        max_model_len=engine.max_model_len,
        max_queued=engine.max_queued,
    )


async def _keyset(
    settings: Settings, identity: TlsIdentity, packages: Mapping[str, SealedModel | MountedModel]
) -> Keyset:
    models = (
        AttestedModel(
            name=name,
            manifest=str(packages[name].manifest.digest),
            weights="sealed" if isinstance(packages[name], SealedModel) else "verity",
        )
        for name in sorted(packages)
    )
    return Keyset(
        version=1,
        tls_spki=str(identity.spki),
        config=str(settings.digest),
        models=tuple(models),
        posture=await posture(settings),
    )


def _grant(key: ModelKey) -> Grant:
    secret = data_key(unb64(key.dek, what="dek"))
    return Grant(secret, Digest.parse(key.manifest), key.minimum_version)


@dataclass(frozen=True, slots=True)
class _Reporter:
    """Collects fresh evidence over the keyset of this boot."""

    attester: Attester
    keyset: Keyset
    endorser: Endorser

    async def report(self, nonce: Nonce) -> bytes:
        return await asyncio.to_thread(self._collect, nonce)

    def _collect(self, nonce: Nonce) -> bytes:
        evidence = self.attester.for_client(KeysetBinding(nonce, self.keyset))
        try:
            endorsements = self.endorser.endorsements(evidence.quote)
        except Undecidable:
            endorsements = None  # the client brings its own; without any it cannot decide either
        return Report.build(evidence, endorsements).to_bytes()


async def _unlocked(settings: Settings, attester: Attester) -> Unlocked:
    abandoned = threading.Event()
    try:
        return await asyncio.to_thread(unlock, settings, attester, abandoned=abandoned)
    finally:
        abandoned.set()  # when this boot was cancelled, the thread must not keep asking


async def _start(
    stack: contextlib.AsyncExitStack, spec: EngineSpec, settings: EngineSettings
) -> EngineSupervisor:
    """Start an engine, which `stack` will stop."""
    isolation = decide(await probe(str(spec.python)), wanted=settings.isolation)
    supervisor = EngineSupervisor(launch(spec), isolation=isolation, files=_engine_files(spec))
    await supervisor.start()
    stack.push_async_callback(supervisor.stop, drain_seconds=SHUTDOWN_SECONDS + _EXIT_SECONDS)
    return supervisor


async def _start_sealed(
    stack: contextlib.AsyncExitStack, spec: EngineSpec, settings: EngineSettings, *, grant: Grant
) -> EngineSupervisor:
    """Start an engine whose workers fetch the key from an agent that closes when it is ready."""
    ranks = spec.tensor_parallel_size
    async with KeyAgent(Path(spec.key_socket), model=spec.name, grant=grant, ranks=ranks) as agent:
        supervisor = await _start(stack, spec, settings)
        agent.open(supervisor.pid)
        await supervisor.wait_ready(seconds=settings.start_seconds, refusal=agent.refusal)
    return supervisor


def _spec(
    settings: Settings, name: str, package: SealedModel | MountedModel, *, run_directory: Path
) -> EngineSpec:
    engine = settings.file.models[name].engine
    index = sorted(settings.file.models).index(name)
    return EngineSpec(
        python=_absolute(settings, engine.python),
        name=name,
        # numbered: a socket path has 107 bytes, a model name may have 128
        directory=PurePosixPath(run_directory) / f"engine-{index}",
        weights=_weights(settings, name, package),
        device=engine.device,
        dtype=engine.dtype,
        max_model_len=engine.max_model_len,
        max_sequences=engine.max_sequences,
        max_queued=engine.max_queued,
        tensor_parallel_size=engine.tensor_parallel_size,
        kv_cache_gib=engine.kv_cache_gib,
        work=engine.work,
        hash_seed=secrets.randbelow(2**32),
        run_directory=PurePosixPath(run_directory),
        hidden=_hidden(settings),
        first_gpu=settings.file.first_gpu(name),
        counts=settings.file.telemetry is not None and settings.file.telemetry.engine,
    )


def _weights(
    settings: Settings, name: str, package: SealedModel | MountedModel
) -> SealedWeights | MountedWeights:
    directory = PurePosixPath(os.path.normpath(package.directory.absolute()))
    if isinstance(package, MountedModel):
        return MountedWeights(directory)
    return SealedWeights(directory, signer(settings, name).public_bytes_raw())


def _hidden(settings: Settings) -> tuple[str, ...]:
    """Return what an engine that is broken into must not reach: quotes, registers, secrets."""
    paths = [settings.path(settings.file.api_keys)]
    if settings.file.attestation.mode == "insecure-simulated":
        paths.append(settings.path(settings.file.attestation.directory))
    if settings.file.gpu.mode == "insecure-simulated":
        paths.append(settings.path(settings.file.gpu.directory))
    told = settings.file.telemetry
    if told is not None and told.otlp is not None:
        paths += CollectorLogin.of(told.otlp, directory=settings.directory).files
    return (*TRUSTED_DEVICES, *(os.path.normpath(path.absolute()) for path in paths))


def _make_private(directory: PurePosixPath) -> None:
    Path(directory).mkdir(mode=0o700, exist_ok=True)


def _unseal_small(package: SealedModel, grant: Grant, into: Path) -> None:
    """Put configuration, tokenizer and template where the engine reads them: in memory."""
    shutil.rmtree(into, ignore_errors=True)  # of a gateway that was killed
    opened = package.unlock(
        grant.key, manifest=grant.manifest, minimum_version=grant.minimum_version
    )
    with opened as model:
        model.unseal_small(into)


@contextlib.contextmanager
def _run_directory(settings: Settings) -> Iterator[Path]:
    """Hold the run directory: for the owner alone, in memory, and for one gateway at a time."""
    directory = settings.path(settings.file.run_directory)
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
        directory.chmod(0o700)
        backed = is_memory_backed(directory)
        lock = (directory / "lock").open("wb")
    except OSError as error:
        raise ConfigError("run-directory", f"{directory}: {error.strerror}") from None
    with lock:
        if not backed:  # it will hold what is unsealed
            raise ConfigError("run-directory", f"{directory} is not in memory (tmpfs)")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError("run-directory", f"{directory} is used by another gateway") from None
        yield directory.resolve()


def _absolute(settings: Settings, text: str) -> PurePosixPath:
    """Resolve `..` by words only: the interpreter of an environment is a link that must stay."""
    return PurePosixPath(os.path.normpath(settings.path(text)))


def _engine_files(spec: EngineSpec) -> frozenset[str]:
    """Return the file names of the engine's own code, which its log lines may point to."""
    environment = Path(spec.python).parent.parent
    packages = ("vllm", "tacit_vllm")
    names = (
        path.name
        for package in packages
        for path in environment.glob(f"lib/python3*/site-packages/{package}/**/*.py")
    )
    return frozenset((*names, "loader.py", "guard.py"))
