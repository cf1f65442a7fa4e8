"""Requests in, answers out: one after the other, many at once, and hung up on."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx2

from server.retention.vectors import Sent, Writer, user

_JSON = {"content-type": "application/json"}
_BUSY = frozenset({429, 503})
_TRIES = 8
_LONGEST_WAIT_SECONDS = 15
_NEIGHBOURS = 12
CUT = 0
"""Status of an answer that broke off."""


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One request and all that came back."""

    sent: Sent
    status: int
    headers: str
    body: bytes
    request_id: str
    """The id in `x-request-id`, empty where there is none."""

    @property
    def expected(self) -> bool:
        """Whether it was answered as its position should be."""
        return self.status in self.sent.statuses


@dataclass(frozen=True, slots=True)
class Sender:
    """Sends to one service; `client` brings the API key."""

    client: httpx2.Client
    url: str

    def ask(self, sent: Sent, heard: Callable[[], None] = _nothing) -> Answered:
        """Send one request, again while all places are taken; call `heard` as the body comes."""
        answered, pause = self._once(sent, heard)
        for _ in range(_TRIES):
            if answered.expected or answered.status not in _BUSY:
                break
            time.sleep(pause)
            answered, pause = self._once(sent, heard)
        return answered

    def each(self, requests: Iterable[Sent]) -> list[Answered]:
        """Send one after the other."""
        return [self.ask(sent) for sent in requests]

    def at_once(self, writer: Writer) -> list[Answered]:
        """Ask more at once than an engine runs, so that requests wait beside one another."""
        requests = [_neighbour(writer, number) for number in range(_NEIGHBOURS)]
        with ThreadPoolExecutor(len(requests)) as pool:
            return list(pool.map(self.ask, requests))

    def hang_up(self, writer: Writer, *, times: int = 3) -> list[Answered]:
        """Leave in the middle of an answer."""
        return [self._leave(endless(writer, f"hung up {number}")) for number in range(times)]

    def _once(self, sent: Sent, heard: Callable[[], None]) -> tuple[Answered, float]:
        headers = {**(_JSON if sent.body else {}), **sent.headers}
        url = f"{self.url}{sent.path}"
        pause = 0.0
        status, head, identity, body = CUT, "", "", b""
        try:
            with self.client.stream(sent.method, url, content=sent.body, headers=headers) as answer:
                pause = _seconds(answer.headers.get("retry-after", ""))
                head, identity = str(answer.headers.raw), answer.headers.get("x-request-id", "")
                for data in answer.iter_raw():
                    body += data
                    heard()
                status = answer.status_code
        except httpx2.TransportError:
            pass  # it broke off; what arrived is looked at all the same
        return Answered(sent, status, head, body, identity), pause

    def _leave(self, sent: Sent) -> Answered:
        url = f"{self.url}{sent.path}"
        with self.client.stream("POST", url, content=sent.body, headers=_JSON) as answer:
            body = b"".join(itertools.islice(answer.iter_raw(), 2))
            identity = answer.headers.get("x-request-id", "")
            return Answered(sent, answer.status_code, str(answer.headers.raw), body, identity)


def endless(writer: Writer, position: str, statuses: range = range(200, 201)) -> Sent:
    """Return a request for as long a stream as the model's context allows."""
    text = writer.canaries.at(position)
    return writer.chat(
        position,
        statuses,
        messages=[user(text)],
        stream=True,
        max_tokens=writer.context * 3 // 4,
        ignore_eos=True,
        stop=text,
    )


def _neighbour(writer: Writer, number: int) -> Sent:
    position = f"neighbour {number}"
    text = writer.canaries.at(position)
    return writer.chat(
        position,
        messages=[user(f"{text} and {text}")],
        max_tokens=24,
        temperature=1,
        stream=number % 2 == 0,
    )


def _seconds(retry_after: str) -> float:
    return min(float(retry_after), _LONGEST_WAIT_SECONDS) if retry_after.isdecimal() else 0.5
