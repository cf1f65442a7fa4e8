"""A service and what of it lies on this machine in; canaries, then a search; a `Proof` out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx2

from attestation.appraise import Affirmed
from attestation.binding import KeysetBinding
from attestation.client import AttestedTransport, RelyingParty, Session
from attestation.errors import ConfigError
from attestation.policy import Policy
from attestation.regular import require_regular
from server.retention.asking import Asked, Service
from server.retention.canary import Canaries
from server.retention.crash import crash
from server.retention.places import CoreDumps
from server.retention.proof import Proof, look
from server.retention.search import Search
from server.retention.senders import Sender
from server.retention.sinks import Local, lasting, sinks
from server.retention.tokens import token_ids
from server.retention.wire import Wire
from server.settings import Settings

_TIMEOUT = httpx2.Timeout(600, connect=10)
_NO_TOKENIZER = "token ids: only --config leads to the engines' tokenizers"


@dataclass(frozen=True, slots=True)
class Operator:
    """The listener for operators, and a login with the role to read metrics."""

    url: str
    token: str | None = None
    certificate: Path | None = None
    """PEM of a client certificate and its key."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be proven about which service."""

    url: str
    policy: Policy
    api_key: str
    local: Local
    settings: Settings | None = None
    """Its settings, where they are at hand; they must be those it attests."""
    operator: Operator | None = None

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
    dumps = CoreDumps.of(target.local.pids)
    with _opened(target) as (service, simulated):
        tokens = _token_needles(target, canaries)
        search = Search({**canaries.needles(), **tokens})
        asked = service.ask(canaries)
        found = look(search, sinks(asked, canaries, local=target.local, dumps=dumps, since=since))
        if crash_engine:
            asked, after = _crashed(target, service, asked, canaries)
            places = lasting(after, canaries, local=target.local, dumps=dumps, since=since)
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
    generating = [writer for writer in service.writers(canaries) if writer.generates]
    if not generating:
        missed = "a crash during an answer: no model takes long over one"
        after = Asked((), (), b"", (missed,))
    else:
        after = crash(service.gateway, generating[0], pids=target.local.pids)
    both = Asked(
        (*asked.answers, *after.answers),
        asked.by_engine,
        asked.babble,
        (*asked.not_provoked, *after.not_provoked),
    )
    return both, after


@contextlib.contextmanager
def _opened(target: Target) -> Iterator[tuple[Service, bool]]:
    """Verify the service, and open every way to it."""
    party = RelyingParty(target.url, target.policy)
    session = party.attest()
    _require_attested(target.settings, session.affirmed)
    origin = httpx2.URL(f"https://{party.origin}")
    wire = Wire(origin.host, origin.port or 443, session.tls, target.api_key)
    with contextlib.ExitStack() as stack:

        def sender(url: str, key: str | None, transport: httpx2.BaseTransport) -> Sender:
            headers = {} if key is None else {"authorization": f"Bearer {key}"}
            client = httpx2.Client(
                transport=transport, trust_env=False, timeout=_TIMEOUT, headers=headers
            )
            return Sender(stack.enter_context(client), url)

        operator = target.operator
        operated = (
            None
            if operator is None
            else sender(operator.url.rstrip("/"), operator.token, _pinned(operator, session))
        )
        yield (
            Service(
                sender(f"https://{party.origin}", target.api_key, AttestedTransport(party)),
                wire,
                {n: sender("http://engine", None, _socket(d)) for n, d in target.engines.items()},
                operated,
                target.settings.file.limits if target.settings else None,
            ),
            session.affirmed.claims.simulated,
        )


def _require_attested(settings: Settings | None, affirmed: Affirmed) -> None:
    """Refuse settings that are not the service's own: they say where to look, and where not."""
    binding = affirmed.claims.binding
    if settings is None:
        return
    if not isinstance(binding, KeysetBinding) or binding.keyset.config != str(settings.digest):
        raise ConfigError("prove-config", "--config is not what the service attests")


def _pinned(operator: Operator, session: Session) -> httpx2.BaseTransport:
    if operator.certificate is not None:
        try:
            require_regular(operator.certificate)
            session.tls.load_cert_chain(operator.certificate)
        except OSError:  # ssl.SSLError is one
            raise ConfigError("prove-argument", "--operator-cert is no PEM with its key") from None
    return httpx2.HTTPTransport(verify=session.tls, trust_env=False)


def _socket(directory: Path) -> httpx2.BaseTransport:
    return httpx2.HTTPTransport(uds=str(directory / "engine.sock"))


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
