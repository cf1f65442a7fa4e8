"""A service in; everything a client can send to it sent, and every answer out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from attestation.errors import Undecidable
from server.retention import engine_vectors, gateway_vectors
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
    engines: tuple[Sender, ...] = ()
    """The sockets of its engines, for whoever is on the same machine."""
    operator: Sender | None = None
    """Its listener for operators, with a login."""
    limits: LimitSettings | None = None
    """What its settings say; a client cannot know."""

    def served(self) -> Mapping[str, int]:
        """Return the models it lists and the tokens each can hold."""
        answer = self.gateway.ask(Sent("models", b"", "/v1/models", "GET"))
        if not answer.expected:
            raise Undecidable("prove-models", f"the list of models was answered {answer.status}")
        try:
            return {m["id"]: int(m["max_model_len"]) for m in json.loads(answer.body)["data"]}
        except (ValueError, KeyError, TypeError):
            raise Undecidable("prove-models", "the list of models is not one of ours") from None

    def ask(self, canaries: Canaries) -> Asked:
        """Send everything, to every model."""
        answers: list[Answered] = []
        by_engine: list[Answered] = []
        not_provoked: list[str] = []
        writers = [Writer(canaries, name, context) for name, context in self.served().items()]
        with ThreadPoolExecutor(1) as pool:
            patience = 10 + (self.limits.read_seconds if self.limits else _USUAL_READ_SECONDS)
            stalled = pool.submit(self.wire.stall, canaries, patience=patience)
            babble = self.wire.babble(canaries)
            for writer in writers:
                answers += self._model(writer)
                answers += self._timeout(writer, not_provoked)
            for engine in self.engines:
                for writer in writers:
                    by_engine += engine.each(engine_vectors.behind_the_gateway(writer))
                by_engine.append(engine.ask(_METRICS))
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
            gateway_vectors.served,
            gateway_vectors.refused,
            gateway_vectors.wrong,
            gateway_vectors.outside,
        )
        answers = [answer for group in groups for answer in self.gateway.each(group(writer))]
        answers += self.gateway.at_once(writer)
        answers += self.gateway.hang_up(writer)
        return answers

    def _timeout(self, writer: Writer, not_provoked: list[str]) -> list[Answered]:
        """Ask for more than fits the time of a request, where that is known and short."""
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
