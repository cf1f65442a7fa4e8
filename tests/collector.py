"""An OTLP/HTTP receiver for tests: it decodes what arrives with OpenTelemetry's own protobuf."""

from __future__ import annotations

import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from google.protobuf import json_format
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from server.tls import ClientAuthority, TlsIdentity, new_tls_identity, server_context

KINDS = {
    "/v1/traces": ExportTraceServiceRequest,
    "/v1/metrics": ExportMetricsServiceRequest,
    "/v1/logs": ExportLogsServiceRequest,
}


@dataclass
class Collector:
    """What has arrived, raw and decoded."""

    identity: TlsIdentity
    status: int = 200
    port: int = 0
    bodies: list[bytes] = field(default_factory=list)
    messages: list = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    logins: list[str | None] = field(default_factory=list)
    """The header that each request brought."""

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def spans(self) -> list:
        return [
            span
            for message in self.messages
            if isinstance(message, ExportTraceServiceRequest)
            for resource in message.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def events(self) -> list:
        return [
            record
            for message in self.messages
            if isinstance(message, ExportLogsServiceRequest)
            for resource in message.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def metrics(self) -> dict:
        """Return the metrics of the last reading by name."""
        readings = [one for one in self.messages if isinstance(one, ExportMetricsServiceRequest)]
        scope = readings[-1].resource_metrics[0].scope_metrics[0]
        return {metric.name: metric for metric in scope.metrics}


def with_ids(value):
    """Return `value` as protobuf's own JSON has it: OTLP writes ids in hexadecimal instead."""
    if isinstance(value, list):
        return [with_ids(item) for item in value]
    if not isinstance(value, dict):
        return value
    ids = {"traceId": 16, "spanId": 8}
    found = {}
    for name, item in value.items():
        if name in ids:
            raw = bytes.fromhex(item)
            assert len(raw) == ids[name]
            found[name] = base64.b64encode(raw).decode()
        else:
            found[name] = with_ids(item)
    return found


def said(item) -> dict:
    """Return the attributes of a span, log record or data point."""
    return {
        pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in item.attributes
    }


@contextlib.contextmanager
def collecting(*, status: int = 200, clients: ClientAuthority | None = None) -> Iterator[Collector]:
    """Receive over TLS on loopback inside the block, from `clients` alone if there are some."""
    collector = Collector(new_tls_identity(datetime.now(UTC), ("localhost",)), status)

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            collector.paths.append(self.path)
            collector.logins.append(self.headers["authorization"])
            collector.bodies.append(body)
            kind = KINDS.get(self.path)
            if kind is not None:
                assert self.headers["content-type"] == "application/json"
                collector.messages.append(json_format.ParseDict(with_ids(json.loads(body)), kind()))
            self.send_response(collector.status)
            if collector.status == 307:
                self.send_header("location", f"{collector.url}/elsewhere")
            self.send_header("content-length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    context: ssl.SSLContext = server_context(collector.identity, clients)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    collector.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
