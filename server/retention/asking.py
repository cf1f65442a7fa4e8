"""A service in; everything a client can send to it sent, and every answer out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from attestation.errors import Undecidable
from server.retention import engine_vectors, gateway_vectors, pooling_vectors
from server.retention.canary import Canaries
from server.retention.senders import CUT, Answered, Sender, endless
from server.retention.vectors import Sent, Writer
from server.retention.wire import Wire
from server.settings import LimitSettings

OPEN = ("/v1/models", "/healthz", "/readyz", f"/v1/attestation/report?nonce={'7' * 64}")
"""Routes that answer without a body."""
_METRICS = Sent("", b"", "/metrics", "GET")
_CUT_OR_LATE = (CUT, 504)
_LONGEST_TIMEOUT_SECONDS = 120
_USUAL_READ_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Asked:
    """What was sent and answered, through the gateway and past it."""

    answers: tuple[Answered, ...]
    by_engine: tuple[Answered, ...]
    babble: bytes
    """What the service said to those who speak no HTTP."""
    not_provoked: tuple[str, ...]
    """Situations that could not be brought about, and why."""
    metrics: Answered | None = None
    """The page that operators read afterwards."""

    @property
    def everything(self) -> tuple[Answered, ...]:
        """Return every answer."""
        return (*self.answers, *self.by_engine)

    @property
    def unexpected(self) -> tuple[str, ...]:
        """Return what was not answered as it should be: it may not have got to its place."""
        return tuple(
            f"{answer.sent.position}: {answer.status}"
            for answer in self.everything
            if not answer.expected
        )


@dataclass(frozen=True, slots=True)
class Service:
    """A service as those who ask see it."""

    gateway: Sender
    wire: Wire
    engines: Mapping[str, Sender] = field(default_factory=dict)
    """The sockets of its engines by model, for whoever is on the same machine."""
    operator: Sender | None = None
    """Its listener for operators, with a login."""
    limits: LimitSettings | None = None
    """What its settings say; a client cannot know."""

    def writers(self, canaries: Canaries) -> list[Writer]:
        """Return who writes to each of the models that it lists."""
        answer = self.gateway.ask(Sent("models", b"", "/v1/models", "GET"))
        if not answer.expected:
            raise Undecidable("prove-models", f"the list of models was answered {answer.status}")
        try:
            return [
                Writer(canaries, m["id"], int(m["max_model_len"]), m["task"])
                for m in json.loads(answer.body)["data"]
            ]
        except (ValueError, KeyError, TypeError):
            raise Undecidable("prove-models", "the list of models is not one of ours") from None

    def ask(self, canaries: Canaries) -> Asked:
        """Send everything, to every model."""
        answers: list[Answered] = []
        by_engine: list[Answered] = []
        not_provoked: list[str] = []
        writers = self.writers(canaries)
        with ThreadPoolExecutor(1) as pool:
            patience = 10 + (self.limits.read_seconds if self.limits else _USUAL_READ_SECONDS)
            stalled = pool.submit(self.wire.stall, canaries, patience=patience)
            babble = self.wire.babble(canaries)
            for writer in writers:
                answers += self._model(writer)
                answers += self._timeout(writer, not_provoked)
                by_engine += self._past_the_gateway(writer)
            answers += self.gateway.each(Sent("", b"", path, "GET") for path in OPEN)
            answers.append(stalled.result())
        if not self.engines:
            not_provoked.append(
                "requests past the gateway: only --config opens the engine's socket"
            )
        metrics = self.operator.ask(_METRICS) if self.operator else None
        return Asked(tuple(answers), tuple(by_engine), babble, tuple(not_provoked), metrics)

    def _model(self, writer: Writer) -> list[Answered]:
        groups = (
            (gateway_vectors.served, gateway_vectors.refused, gateway_vectors.wrong)
            if writer.generates
            else (pooling_vectors.served, pooling_vectors.refused, pooling_vectors.wrong)
        )
        answers = [answer for group in groups for answer in self.gateway.each(group(writer))]
        answers += self.gateway.each(gateway_vectors.outside(writer))
        if writer.generates:
            answers += self.gateway.at_once(writer)
            answers += self.gateway.hang_up(writer)
        return answers

    def _past_the_gateway(self, writer: Writer) -> list[Answered]:
        engine = self.engines.get(writer.model)
        if engine is None:
            return []
        kind = engine_vectors if writer.generates else pooling_vectors
        return [*engine.each(kind.behind_the_gateway(writer)), engine.ask(_METRICS)]

    def _timeout(self, writer: Writer, not_provoked: list[str]) -> list[Answered]:
        """Ask for more than fits the time of a request, where that is known and short."""
        if not writer.generates:  # what fits its context is answered in one pass
            return []
        where = f"time limit of a request to {writer.model}"
        if self.limits is None:
            not_provoked.append(f"{where}: not known without --config")
            return []
        if self.limits.request_seconds > _LONGEST_TIMEOUT_SECONDS:
            not_provoked.append(f"{where}: {self.limits.request_seconds} s is too long to wait for")
            return []
        answer = self.gateway.ask(endless(writer, "timed out", range(600)))
        if answer.status not in _CUT_OR_LATE:
            not_provoked.append(f"{where}: the model ended before it")
        return [answer]
