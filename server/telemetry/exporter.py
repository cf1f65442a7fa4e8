"""The exporter: rebuilt items in, OTLP requests to one pinned collector out, on its own thread.

Queues are bounded. What does not fit, and what the collector does not take, is dropped and counted;
no request of the API waits for any of it.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import ssl
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from attestation.errors import ConfigError
from server.telemetry import otlp
from server.telemetry.login import CollectorLogin
from server.telemetry.otlp import LogEvent, Reading, Resource, Span
from server.telemetry.settings import Collector

MAX_QUEUED = 4096
"""Spans, and log events, that wait at most; about 4 MiB."""
_BATCH = 128
"""Items of a request: encoding more at once would hold the interpreter for milliseconds."""
_TIMEOUT_SECONDS = 10
_STOP_SECONDS = 3
_MAX_BACKOFF_SECONDS = 60
_MAX_ANSWER = 64 * 1024
_LATER = frozenset({429, 502, 503, 504})
"""Statuses after which OTLP/HTTP lets a client send the same again."""

log = logging.getLogger("tacit.telemetry")


@dataclass(frozen=True, slots=True)
class Target:
    """The one address that telemetry may leave to."""

    host: str
    port: int
    context: ssl.SSLContext
    login: CollectorLogin

    @classmethod
    def of(cls, collector: Collector, *, authority: bytes, login: CollectorLogin) -> Target:
        """Return the target; raises `ConfigError` `telemetry-collector` or `telemetry-login`."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a leaf may be pinned
        try:
            context.load_verify_locations(cadata=authority.decode("ascii"))
            parts = urlsplit(collector.url)
            port = parts.port or 443
        except (ssl.SSLError, ValueError):
            raise ConfigError("telemetry-collector", "otlp.url or otlp.ca cannot be read") from None
        if not parts.hostname or not context.cert_store_stats()["x509"]:
            raise ConfigError(
                "telemetry-collector", "otlp.ca holds no certificate, or otlp.url no host"
            )
        login.headers()
        login.certify(context)
        return cls(parts.hostname, port, context, login)

    def post(self, path: str, body: bytes) -> int | None:
        """POST `body` and return the status, None when no whole answer came. Never redirected.

        Without the login that the settings name, nothing is sent either.
        """
        try:
            headers = {"Content-Type": "application/json", **self.login.headers()}
            self.login.certify(self.context)
        except ConfigError:
            return None
        connection = http.client.HTTPSConnection(
            self.host, self.port, timeout=_TIMEOUT_SECONDS, context=self.context
        )
        try:
            connection.request("POST", path, body, headers)
            with connection.getresponse() as answer:
                answer.read(_MAX_ANSWER)
                return answer.status
        except (OSError, http.client.HTTPException, UnicodeError):
            return None
        finally:
            connection.close()


class Exporter:
    """Sends what it is offered every `seconds`, in batches, until it is stopped."""

    def __init__(
        self, post: Callable[[str, bytes], int | None], resource: Resource, *, seconds: float
    ) -> None:
        self._post = post
        self._resource = resource
        self._seconds = seconds
        self._lock = threading.Lock()
        self._spans: deque[Span] = deque()
        self._events: deque[LogEvent] = deque()
        self._reading: Reading | None = None
        self._dropped: Counter[str] = Counter()
        self._stop = threading.Event()
        self._failing = False

    def span(self, span: Span) -> None:
        """Offer a span."""
        with self._lock:
            if len(self._spans) >= MAX_QUEUED:
                self._dropped["traces"] += 1
            else:
                self._spans.append(span)

    def event(self, event: LogEvent) -> None:
        """Offer a log event."""
        with self._lock:
            if len(self._events) >= MAX_QUEUED:
                self._dropped["logs"] += 1
            else:
                self._events.append(event)

    def reading(self, reading: Reading) -> None:
        """Offer a reading of all metrics; it replaces one that was not sent yet."""
        with self._lock:
            if self._reading is not None:
                self._dropped["metrics"] += 1
            self._reading = reading

    def dropped(self) -> dict[str, int]:
        """Return how many items were lost, by signal."""
        with self._lock:
            return dict(self._dropped)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run the thread inside the block; what is queued at its end is sent once, or dropped."""
        thread = threading.Thread(target=self._run, name="telemetry", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join(_STOP_SECONDS)  # within what Kubernetes gives beyond the drain

    def _run(self) -> None:
        wait = self._seconds
        while not self._stop.wait(wait):
            wait = self._seconds if self._flush() else min(2 * wait, _MAX_BACKOFF_SECONDS)
        self._flush()

    def _flush(self) -> bool:
        """Send everything that is queued now; False when the collector wants it later."""
        while True:
            with self._lock:
                spans = [self._spans.popleft() for _ in range(min(_BATCH, len(self._spans)))]
                events = [self._events.popleft() for _ in range(min(_BATCH, len(self._events)))]
                reading, self._reading = self._reading, None
            if not spans and not events and reading is None:
                return True
            sent = [
                self._send("traces", otlp.traces(self._resource, spans), len(spans)),
                self._send("logs", otlp.logs(self._resource, events), len(events)),
            ]
            if reading is not None:
                sent.append(self._send("metrics", otlp.metrics(self._resource, reading), 1))
            if not all(sent):
                return False

    def _send(self, signal: str, body: bytes, count: int) -> bool:
        if not count:
            return True
        status = self._post(otlp.PATHS[signal], body)
        if status == http.client.OK:
            self._say(failing=False)
            return True
        with self._lock:
            self._dropped[signal] += count
        self._say(failing=True)
        return status is not None and status not in _LATER

    def _say(self, *, failing: bool) -> None:
        if failing and not self._failing:
            log.warning("telemetry refused")
        elif self._failing and not failing:
            log.info("telemetry resumed")
        self._failing = failing
