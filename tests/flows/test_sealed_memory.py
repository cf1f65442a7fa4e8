"""Loading and verifying sealed weights takes memory for what is in flight, not for the model."""

import json
import shutil
import subprocess

import pytest

from attestation.weights import seal
from scripts.bench_suites._shard import write_model
from tests.chain_kit import ENGINE, ROOT
from tests.sealed_world import DEK, KEY_URI, SIGNER

MIB = 1 << 20
WINDOW, IN_FLIGHT = 32 * MIB, 4
"""Of a load to a GPU: two read ahead, one to come, one in use."""
PIECES = 2 * 2 * MIB
"""Two workers, each with a piece as sealed and one of plaintext that nobody asked for."""
KEPT = 9 * 4 * MIB
"""Chunks that a load keeps which waits: four of the last span, two at the ends, three ahead."""
SLACK = 24 * MIB
"""Threads, allocator, the tag table."""


def sealed(directory, size):
    """Seal `size` bytes; return the package and the digest of its manifest."""
    model, package = write_model(directory / "model", size=size), directory / "package"
    names = {"name": "large", "version": 1, "key_uri": KEY_URI}
    manifest = seal(model, package, dek=DEK, signer=SIGNER, **names)
    shutil.rmtree(model)
    return package, manifest.digest


def taken(*packages):
    """Open packages in a process of their own; return what each took, in bytes."""
    signer = SIGNER.public_key().public_bytes_raw().hex()
    words = [ROOT / "tests/flows/sealed_memory.py", signer, DEK.reveal().hex()]
    done = subprocess.run(
        [ENGINE, *words, *(str(word) for package in packages for word in package)],
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'server/vllm_plugin'}", "MALLOC_ARENA_MAX": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize(
    "large", [256 * MIB, pytest.param(2048 * MIB, marks=pytest.mark.slow)], ids=["256M", "2G"]
)
def test_memory_follows_what_is_in_flight_and_not_the_model(tmp_path, large):
    if not ENGINE.exists():
        pytest.skip("the engine's environment is not installed (scripts/install engine)")
    packages = sealed(tmp_path / "small", 144 * MIB), sealed(tmp_path / "large", large)
    small, found = taken(*packages)
    shutil.rmtree(tmp_path)
    assert found["load"] <= PIECES + SLACK
    assert found["wait"] <= KEPT + PIECES + SLACK
    assert found["window"] <= IN_FLIGHT * WINDOW + PIECES + SLACK
    assert found["verify"] <= 2 * WINDOW + PIECES + SLACK
    for act in found:
        assert found[act] <= small[act] + SLACK
