"""Strangers at the broker's two listeners: dawdling, hoarding, double framing, twisted paths."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import threading
import time

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc.jwk import ECKey

from attestation.broker import accepting, connection
from attestation.broker.app import MAX_CONNECTIONS, BrokerServer
from tests.broker_world import SECRET, World, bound, write_tls

AUTH = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'


@pytest.fixture(name="served", scope="module")
def _served(tmp_path_factory):
    """Yield (world, broker, port, admin port) of a broker with both listeners."""
    world = World.create(tmp_path_factory.mktemp("connections"))
    write_tls(world.path("admin.crt"), world.path("admin.key"))
    public = ECKey.import_key(ec.generate_private_key(ec.SECP256R1())).as_dict(private=False)
    world.path("jwks.json").write_text(json.dumps({"keys": [public | {"kid": "one"}]}))
    login = {
        "kind": "jwt",
        "jwks": "jwks.json",
        "issuer": "https://idp.example",
        "audience": "tacit-broker",
        "roles_claim": "groups",
        "roles": {"ops": ["viewer"]},
    }
    tls = {"certificate": "admin.crt", "key": "admin.key"}
    listen = {"host": "127.0.0.1", "port": 0}
    world.write_config(admin={"listen": listen, "tls": tls, "login": login})
    broker, ports, listening = world.broker(), [], threading.Event()

    def ready(port):
        ports.append(port)
        listening.set()

    server = BrokerServer(broker, world.settings(), ready=ready)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert listening.wait(20)
        yield world, broker, ports[0], server.admin_port
    finally:
        for client in world.clients:
            client.close()
        server.should_exit = True
        thread.join(20)
        broker.close()


def dial(port, host="127.0.0.1"):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(host, 0))
    try:
        return context.wrap_socket(plain)
    except BaseException:
        plain.close()
        raise


def everything(sock):
    """Return what comes until the peer ends it, cleanly or not."""
    parts = []
    with contextlib.suppress(OSError):
        while part := sock.recv(65536):
            parts.append(part)
    return b"".join(parts)


def count_open(socks):
    """Count those that the peer has not ended, of which none is sent anything."""
    time.sleep(0.5)
    poller = select.poll()
    for sock in socks:
        poller.register(sock, select.POLLIN)
    return len(socks) - len(poller.poll(0))


def head(*lines, path="/kbs/v0/auth", method="POST"):
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: b", *lines, "", ""]).encode()


def trickle(sock, byte, stop):
    with contextlib.suppress(OSError):
        while not stop.is_set():
            sock.sendall(byte)
            time.sleep(0.2)


def test_who_dawdles_is_cut_at_both_listeners_and_a_guest_is_served_meanwhile(served):
    world, _, *ports = served
    stop, threads, held = threading.Event(), [], []
    with contextlib.ExitStack() as stack:
        for port in ports:
            silent, dripping, endless = [stack.enter_context(dial(port)) for _ in range(3)]
            dripping.sendall(b"POST /kbs/v0/auth HTTP/1.1\r\nx: ")
            # is answered at once (404) and goes on sending a body that nobody reads
            endless.sendall(head("content-length: 1000000", path="/other") + b"x")
            threads += [
                threading.Thread(target=trickle, args=(sock, b"x", stop))
                for sock in (dripping, endless)
            ]
            nothing = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30))
            held += [silent, dripping, nothing, endless]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        with world.client(f"https://127.0.0.1:{ports[0]}") as client:
            client.attest(bound(client, client.challenge(), world.guest()))
            assert client.resource(SECRET)
        assert time.monotonic() - begun < connection.HEAD_SECONDS
        answers = [everything(sock) for sock in held]
        assert accepting.HANDSHAKE_SECONDS == connection.HEAD_SECONDS
        assert time.monotonic() - begun < connection.HEAD_SECONDS + 10
        stop.set()
        for thread in threads:
            thread.join(10)
    for silent, dripping, nothing, endless in (answers[:4], answers[4:]):
        assert silent == dripping == nothing == b""
        assert endless.startswith(b"HTTP/1.1 404 ")


def test_one_source_cannot_hoard_connections_and_another_is_served(served):
    world, _, port, _ = served
    with contextlib.ExitStack() as stack:
        hoard = [stack.enter_context(dial(port, "127.0.0.9")) for _ in range(70)]
        assert count_open(hoard) <= connection.PER_SOURCE
        with world.client(f"https://127.0.0.1:{port}") as client:
            assert client.challenge()


def test_who_only_holds_connections_makes_room_for_who_asks(served):
    world, _, port, _ = served
    with contextlib.ExitStack() as stack:
        for number in range(MAX_CONNECTIONS + 20):
            stack.enter_context(dial(port, f"127.0.1.{number // 50}"))
        with world.client(f"https://127.0.0.1:{port}") as client:
            assert client.challenge()


@pytest.mark.parametrize(
    ("lines", "body", "code"),
    [
        (("content-length: 5", "transfer-encoding: chunked"), b"0\r\n\r\nGET", b"http-framing"),
        (("transfer-encoding: chunked", "content-length: 0"), b"0\r\n\r\n", b"http-framing"),
        (("content-length: 5", "content-length: 6"), b"hello!", b"Invalid HTTP"),
        (("content-length: +5",), b"hello", b"Invalid HTTP"),
        (("content-length: 5, 5",), b"", b""),
        (("transfer-encoding: gzip, chunked",), b"0\r\n\r\n", b""),
        (("transfer-encoding : chunked",), b"0\r\n\r\n", b"Invalid HTTP"),
        (("x: y\x00",), b"", b"Invalid HTTP"),
        (("x: a", " folded: b", "content-length: 0"), b"", b""),
        ((f"x: {'a' * 200_000}",), b"", b"Invalid HTTP"),
        (tuple(f"x{n}: {'a' * 90}" for n in range(1000)), b"", b"Invalid HTTP"),
    ],
    ids=range(11),
)
def test_a_request_that_two_readers_would_divide_differently_is_refused(served, lines, body, code):
    _, _, *ports = served
    for port in ports:
        with dial(port) as sock:
            with contextlib.suppress(OSError):
                sock.sendall(head(*lines) + body + head("connection: close", path="/smuggled"))
            answer = everything(sock)
        statuses = [line for line in answer.split(b"\r\n") if line.startswith(b"HTTP/1.1 ")]
        assert code in answer
        assert all(int(line.split()[1]) in range(400, 502) for line in statuses), statuses
        if code:
            assert len(statuses) <= 1, statuses


@pytest.mark.parametrize(
    "path",
    [
        "/kbs/v0/resource/tacit/demo/pepper/",
        "/kbs/v0/resource//tacit/demo/pepper",
        "/kbs/v0/resource/tacit/demo/x/../pepper",
        "/kbs/v0/resource/tacit/demo/x/%2e%2e/pepper",
        "/kbs/v0/resource/tacit/demo/pepper%00",
        "/kbs/v0/resource/tacit/demo/pepper%20",
        "/kbs/v0/resource/TACIT/demo/pepper",
        "/kbs/v0/resource/tacit%5cdemo%5cpepper",
        "/kbs/v0/resource/tacit/demo/p%65pper;x",
        "/kbs/v0/resource/http://127.0.0.1/demo/pepper",
        "/kbs/v0/resource/file:///etc/passwd",
        "/kbs/v0/resource/tacit/demo/%EF%BD%90epper",
        "//kbs/v0/resource/tacit/demo/pepper",
    ],
)
def test_a_resource_has_one_name(served, path):
    world, _, port, _ = served
    with world.client(f"https://127.0.0.1:{port}") as client:
        client.attest(bound(client, client.challenge(), world.guest()))
        cookie = f"cookie: kbs-session-id={client._cookie}"
    with dial(port) as sock:
        sock.sendall(head(cookie, "connection: close", path=path, method="GET"))
        answer = everything(sock)
    assert answer.startswith(b"HTTP/1.1 404 "), answer


def test_heads_that_arrive_together_are_answered_in_order(served):
    _, _, port, _ = served
    one = head(f"content-length: {len(AUTH)}") + AUTH
    with dial(port) as sock:
        sock.sendall(one + one + head("connection: close", path="/healthz", method="GET"))
        answer = everything(sock)
    assert answer.count(b"HTTP/1.1 200 ") == 3
    assert answer.endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01\x02\x00\x01"], ids=["nothing", "a beginning"])
def test_handshakes_that_nobody_finishes_make_room_for_who_asks(served, sent):
    world, _, *ports = served
    for port in ports:
        with contextlib.ExitStack() as stack:
            held = []
            for number in range(accepting.MAX_HANDSHAKES + 40):
                where = (f"127.0.2.{number // accepting.PER_SOURCE}", 0)
                held.append(
                    stack.enter_context(
                        socket.create_connection(("127.0.0.1", port), source_address=where)
                    )
                )
                held[-1].sendall(sent)
            with dial(port) as sock:
                sock.sendall(head("connection: close", path="/healthz", method="GET"))
                assert everything(sock).startswith(b"HTTP/1.1 ")
            assert count_open(held) <= accepting.MAX_HANDSHAKES
            with world.client(f"https://127.0.0.1:{ports[0]}") as client:
                assert client.challenge()


def test_one_source_begins_so_many_handshakes_and_no_more(served):
    _, _, port, _ = served
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(
                socket.create_connection(("127.0.0.1", port), source_address=("127.0.3.1", 0))
            )
            for _ in range(accepting.PER_SOURCE + 10)
        ]
        dial(port, "127.0.3.2").close()  # everyone before was accepted by now
        assert count_open(held) == accepting.PER_SOURCE
