"""Key releases of a broker over TLS beside bare verifications, its log's appends beside fsync.

The broker is a process of its own, and what it spends is its CPU time of both kinds, so that
clients and whatever else runs on the machine do not count. Over KBS a guest costs two
verifications, when it attests and when it is given the key; natively one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from attestation.binding import KbsBinding
from attestation.broker.client import NativeClient
from attestation.broker.protocol import tee_pubkey
from attestation.codec import b64
from attestation.evidence import Evidence
from attestation.verifier import Verifier
from scripts.bench_suites._row import Row, by_turns, interleaved
from tests.broker_world import MODEL_KEY, World, bound

GUESTS = 60
APPENDS = 200


def rows() -> Iterator[Row]:
    """Measure each protocol, one verification, and the log."""
    with tempfile.TemporaryDirectory() as directory:
        world = World.create(Path(directory), now=datetime.now(UTC))
        open_door = {"sessions": 1024, "session_seconds": 300, "per_minute": 60_000, "burst": 1000}
        world.write_config(limits=open_door)
        bare = _bare(world)
        with _running(world) as (process, url):
            for name, act in (("KBS", _kbs(world, url)), ("native", _native(world, url))):
                spent = _spent(process, act)
                print(f"  {name}: {1 / spent:.0f} releases a second and core")
                yield Row(f"{name} release, whole broker", spent, "one verification", bare)
        yield from _log(world)


def _kbs(world: World, url: str) -> Callable[[], object]:
    def release() -> None:
        with world.client(url) as client:
            client.attest(bound(client, client.challenge(), world.guest()))
            client.model_key(MODEL_KEY)

    return release


def _native(world: World, url: str) -> Callable[[], object]:
    key = load_pem_private_key(world.path("token.pem").read_bytes(), None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TypeError("the broker signs with an elliptic curve")

    def collect(nonce: str, public: Mapping[str, str]) -> Evidence:
        return world.guest().evidence(KbsBinding(nonce, public, ""))

    def release() -> None:
        pem = world.path("tls.crt").read_text()
        with NativeClient(url, certificate_pem=pem, key=key.public_key()) as client:
            client.release(MODEL_KEY, collect)

    return release


@contextmanager
def _running(world: World) -> Iterator[tuple[int, str]]:
    command = [sys.executable, "-m", "attestation.cli", "broker", str(world.path("broker.yaml"))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        line = process.stderr.readline() if process.stderr else ""
        if "ready on" not in line:
            raise RuntimeError("the broker did not start")
        yield process.pid, line.split()[4]
    finally:
        process.kill()
        process.communicate()


def _spent(process: int, act: Callable[[], object]) -> float:
    """Return the CPU seconds of `process` for one `act`, once it is warm."""
    for _ in range(5):
        act()
    before = _cpu(process)
    for _ in range(GUESTS):
        act()
    return (_cpu(process) - before) / GUESTS


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # proc(5): utime, stime


def _bare(world: World) -> float:
    broker = world.broker()
    key = tee_pubkey(ec.generate_private_key(ec.SECP256R1()).public_key())
    nonce = b64(bytes(32))
    evidence = world.guest().evidence(KbsBinding(nonce, key, ""))
    verifier = Verifier(broker.policy)
    now = broker.clock()
    endorsements = broker.endorser.endorsements(evidence.quote)

    def verify() -> None:
        verifier.verify(evidence, endorsements, expected_nonce=nonce, now=now)

    spent, _ = interleaved(verify, lambda: None, rounds=100)
    broker.close()
    return spent


def _log(world: World) -> Iterator[Row]:
    broker = world.broker()
    entry = broker.act_entry("bench", "keys.list")
    size = len(entry.model_dump_json())
    with (world.directory / "plain").open("ab", buffering=0) as plain:

        def written() -> None:
            plain.write(bytes(size))
            os.fsync(plain.fileno())

        acts = {"ours": lambda: broker.store.append(entry), "peer": written}
        clocks = (time.perf_counter,)  # a disk's time is no CPU time
        (spent,) = by_turns(acts, rounds=APPENDS, clocks=clocks)
    broker.close()
    ours, peer = spent["ours"], spent["peer"]
    print(f"  log: {1 / ours:.0f} appends a second, one after the other")
    yield Row(f"append {size} bytes to the log, durably", ours, "write and fsync", peer)
