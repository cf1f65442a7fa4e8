"""A service and what of it lies on this machine in; canaries, then a search; a `Proof` out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from attestation.checks import Facts
from attestation.client import AttestedTransport, RelyingParty
from attestation.policy import Policy
from server.retention.asking import Asked, Service
from server.retention.canary import Canaries
from server.retention.crash import crash
from server.retention.places import CoreDumps
from server.retention.proof import Proof, look
from server.retention.search import Search
from server.retention.senders import Sender
from server.retention.sinks import Local, sinks, sinks_after_crash
from server.retention.tokens import token_ids
from server.retention.vectors import Writer
from server.retention.wire import Wire
from server.settings import Settings

_TIMEOUT = httpx2.Timeout(600, connect=10)
_NO_TOKENIZER = "token ids: only --config leads to the engines' tokenizers"


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be proven about which service."""

    url: str
    policy: Policy
    api_key: str
    local: Local
    settings: Settings | None = None
    """Its settings, where they are at hand."""

    @property
    def engines(self) -> Mapping[str, Path]:
        """Return the directory of each engine, by the model it serves (`server.boot`)."""
        if self.settings is None:
            return {}
        run_directory = self.settings.path(self.settings.file.run_directory)
        names = sorted(self.settings.file.models)
        return {name: run_directory / f"engine-{index}" for index, name in enumerate(names)}


def prove(target: Target, *, random: bytes, since: int, crash_engine: bool = False) -> Proof:
    """Send canaries made of `random`, search every sink, and again after a crash if asked for.

    `since` is the present time, in nanoseconds since the epoch. Raises a `Refusal` when the service
    does not verify.
    """
    canaries = Canaries.of(random)
    tokens = _token_needles(target, canaries)
    search = Search({**canaries.needles(), **tokens})
    dumps = CoreDumps.of(target.local.pids)
    with _opened(target) as (service, simulated):
        asked = service.ask(canaries)
        found = look(search, sinks(asked, canaries, local=target.local, dumps=dumps, since=since))
        if crash_engine:
            asked, after = _crashed(target, service, asked, canaries)
            places = sinks_after_crash(after, local=target.local, dumps=dumps, since=since)
            found += look(search, places, when=", after a crash")
    return Proof(
        simulated,
        asked,
        tuple(found),
        len(search.needles) // 2,
        () if tokens else (_NO_TOKENIZER,),
    )


def _crashed(
    target: Target, service: Service, asked: Asked, canaries: Canaries
) -> tuple[Asked, Asked]:
    """Return everything that was asked, and what was asked of the engine that crashed."""
    name, context = next(iter(service.served().items()))
    after = crash(service.gateway, Writer(canaries, name, context), pids=target.local.pids)
    both = Asked(
        (*asked.answers, *after.answers),
        asked.by_engine,
        asked.babble,
        (*asked.not_provoked, *after.not_provoked),
    )
    return both, after


@contextlib.contextmanager
def _opened(target: Target) -> Iterator[tuple[Service, bool]]:
    party = RelyingParty(target.url, target.policy)
    session = party.attest()
    origin = httpx2.URL(f"https://{party.origin}")
    wire = Wire(origin.host, origin.port or 443, session.tls, target.api_key)
    limits = target.settings.file.limits if target.settings else None
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(
            httpx2.Client(
                transport=AttestedTransport(party),
                trust_env=False,
                timeout=_TIMEOUT,
                headers={"authorization": f"Bearer {target.api_key}"},
            )
        )
        engines = tuple(
            Sender(stack.enter_context(_engine_client(directory)), "http://engine")
            for directory in target.engines.values()
        )
        gateway = Sender(client, f"https://{party.origin}")
        service = Service(gateway, wire, engines, limits)
        yield service, Facts.of(session.affirmed.claims).simulated


def _engine_client(directory: Path) -> httpx2.Client:
    transport = httpx2.HTTPTransport(uds=str(directory / "engine.sock"))
    return httpx2.Client(transport=transport, timeout=_TIMEOUT, trust_env=False)


def _token_needles(target: Target, canaries: Canaries) -> dict[str, bytes]:
    """Return the canaries as the tokens of every model that is served."""
    found: dict[str, bytes] = {}
    if target.settings is None:
        return found
    parts = {"head": canaries.head, "tail": canaries.tail}
    for name, directory in target.engines.items():
        python = target.settings.path(target.settings.file.models[name].engine.python)
        ids = token_ids(python.absolute(), directory / "model" / "tokenizer.json", parts)
        plain = canaries.needles()
        spelled = canaries.needles(tokens=ids)
        found |= {f"{n}, {name}": needle for n, needle in spelled.items() if n not in plain}
    return found
