"""Two tensor-parallel ranks of the real vLLM: each asks for the key once and reads what it needs.

All the while the whole tree is watched: key and plaintext may be in memory and nowhere else.
"""

import asyncio
import base64
import json
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.confidential import data_key
from attestation.keywire import Grant
from attestation.weights import SealedModel, seal
from server.keyagent import KeyAgent
from server.retention.search import Search, Searched, processes_below
from tests.chain_kit import ENGINE, ROOT

pytestmark = pytest.mark.engine

SCRIPT = Path(__file__).with_name("sealed_ranks.py")
READ = re.compile(r"unsealed (\d+) bytes, the weights have (\d+)")
WRITES = re.compile(r'"((?:[^"\\]|\\.)*)", [^)\n]*\bO_(?:WRONLY|RDWR)\b')
HARMLESS = re.compile(r"/dev/(null|tty|shm/.*)|/proc/self/.*")
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"out": {"class": "logging.StreamHandler", "stream": "ext://sys.stdout"}},
    "loggers": {"tacit": {"level": "INFO", "handlers": ["out"]}},
}


@dataclass
class Outcome:
    """What two ranks did with a package, and what could be seen of it from outside."""

    reference: list[float]
    result: dict[str, object] = field(default_factory=dict)
    output: str = ""
    given: int = 0
    given_afterwards: int = 0
    watched: Searched = field(default_factory=Searched)
    """Every process of the tree, several times a second, from its start to its end."""
    left: Searched = field(default_factory=Searched)
    """Every file that came to be."""
    trace: str = ""
    """What strace saw: programs with arguments and environment, files that were opened."""
    key: Search = field(default_factory=lambda: Search({"nothing": b"\0"}))


def needles(key: bytes, weights: bytes) -> Search:
    """Look for the key in any spelling, and for windows of the weights."""
    chance = random.Random(11)  # noqa: S311 - the same windows in every run
    found = {f"weights at {at}": weights[at : at + 24] for at in _places(chance, len(weights))}
    return Search({**spellings(key), **found})


def spellings(key: bytes) -> dict[str, bytes]:
    texts = {
        "hex": key.hex().encode(),
        "base64": base64.b64encode(key).rstrip(b"="),
        "base64url": base64.urlsafe_b64encode(key).rstrip(b"="),
        "decimal": ", ".join(map(str, key)).encode(),
        "escaped": repr(key)[2:-1].encode(),
    }
    return {"key": key, **{f"key in {name}": text for name, text in texts.items()}}


def _places(chance: random.Random, size: int) -> list[int]:
    return [chance.randrange(size // 10, size - 24) for _ in range(100)]


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    if not ENGINE.exists():
        pytest.skip("the engine's environment is not installed (scripts/install engine)")
    directory = tmp_path_factory.mktemp("ranks")
    plain, reference = directory / "plain", directory / "reference.json"
    subprocess.run(
        [ENGINE, SCRIPT, "make", plain, reference], env=surroundings(directory), check=True
    )
    outcome = Outcome(json.loads(reference.read_text()))
    dek, signer = os.urandom(32), Ed25519PrivateKey.generate()
    names = {"name": "ranks", "version": 1, "key_uri": "kbs:///a/b/c"}
    manifest = seal(
        plain,
        directory / "sealed",
        dek=data_key(dek),
        signer=signer,
        chunk_size=1 << 20,
        **names,
    )
    package = SealedModel.open(directory / "sealed", signer=signer.public_key())
    with package.unlock(data_key(dek), manifest=manifest.digest, minimum_version=1) as model:
        model.unseal_small(directory / "small")
    search = needles(dek, (plain / "model.safetensors").read_bytes())
    shutil.rmtree(plain)
    outcome.key = Search(spellings(dek))
    settings = {
        "key_socket": str(directory / "keys.sock"),
        "sealed_dir": str(directory / "sealed"),
        "signer": signer.public_key().public_bytes_raw().hex(),
        "model": "ranks",
    }
    grant = Grant(data_key(dek), manifest.digest, 1)
    asyncio.run(serve(outcome, directory, settings, grant=grant, search=search))
    return outcome


def surroundings(directory: Path) -> dict[str, str]:
    (directory / "logging.json").write_text(json.dumps(LOGGING))
    scratch = directory / "scratch"
    scratch.mkdir(exist_ok=True)
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PYTHONPATH": f"{ROOT}:{ROOT}/server/vllm_plugin",
        "PYTHONDONTWRITEBYTECODE": "1",
        "VLLM_PLUGINS": "tacit",
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_CONFIG_PATH": str(directory / "logging.json"),
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the ranks are processes all the same
        "VLLM_CPU_OMP_THREADS_BIND": "0|1" if (os.cpu_count() or 1) > 1 else "0|0",
        "HF_HUB_OFFLINE": "1",
    }


async def serve(
    outcome: Outcome, directory: Path, settings: dict[str, str], *, grant: Grant, search: Search
) -> None:
    since = time.time_ns()
    line = [str(ENGINE), str(SCRIPT), "serve", str(directory / "small"), json.dumps(settings)]
    process = await asyncio.create_subprocess_exec(
        *tracing(directory),
        *line,
        env=surroundings(directory),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    path = Path(settings["key_socket"])
    watching = asyncio.create_task(watch(outcome, process.pid, search))
    try:
        async with KeyAgent(path, model="ranks", grant=grant, ranks=2) as agent:
            agent.open(process.pid)
            process.stdin.write(b"\n")
            async for said in process.stdout:
                outcome.output += said.decode(errors="replace")
                if said == b"READY\n":
                    break
            outcome.given = len(agent.given)
            agent.close()
            process.stdin.write(b"\n")
            async for said in process.stdout:
                outcome.output += said.decode(errors="replace")
            outcome.given_afterwards = len(agent.given)
    finally:
        watching.cancel()
        if process.returncode is None and await process.wait() != 0:
            print(outcome.output)
    outcome.result = next(
        json.loads(line) for line in outcome.output.splitlines() if line.startswith('{"loaded"')
    )
    outcome.left = search.text("the output", outcome.output.encode())
    for place in (directory, Path("/dev/shm"), Path("/tmp")):
        outcome.left += search.tree(place, since=since)
    if (trace := directory / "trace").exists():
        outcome.trace = trace.read_text(errors="replace")
        trace.unlink()


def tracing(directory: Path) -> Iterator[str]:
    """Run under strace where there is one: it sees what is too short for a look into /proc."""
    wanted = ("-e", "trace=execve,open,openat,creat,memfd_create")
    how = (shutil.which("strace") or "", "-f", "-qq", "--seccomp-bpf", "-v", "-s", "4096", *wanted)
    if how[0] and subprocess.run([*how, "-o", "/dev/null", "true"], check=False).returncode == 0:
        yield from (*how, "-o", str(directory / "trace"))


async def watch(outcome: Outcome, pid: int, search: Search) -> None:
    while True:
        for each in processes_below(pid):
            outcome.watched += search.process(each)
        await asyncio.sleep(0.2)


def test_two_ranks_compute_what_transformers_does(outcome: Outcome) -> None:
    loaded = outcome.result["loaded"]
    assert isinstance(loaded, list)
    assert max(outcome.reference) - min(outcome.reference) > 1  # other weights would say others
    assert loaded == pytest.approx(outcome.reference, abs=0.15)


def test_each_rank_unseals_what_it_needs(outcome: Outcome) -> None:
    ranks = [(int(read), int(whole)) for read, whole in READ.findall(outcome.output)]
    assert len(ranks) == 2
    for read, whole in ranks:
        assert whole // 3 < read < 0.8 * whole


def test_each_rank_has_the_key_once_and_none_after_the_window_closed(outcome: Outcome) -> None:
    assert outcome.given == outcome.given_afterwards == 2


def test_a_reload_without_a_key_is_refused_and_the_old_weights_serve_on(outcome: Outcome) -> None:
    assert outcome.result["reload"] != "done"
    assert outcome.result["afterwards"] == pytest.approx(outcome.result["loaded"], abs=0.01)


def test_key_and_weights_are_in_no_environment_command_line_or_open_file(outcome: Outcome) -> None:
    assert outcome.watched.found == ()
    assert outcome.watched.places > 500, "the tree was hardly looked at"


def test_key_and_weights_are_in_no_file_and_no_output(outcome: Outcome) -> None:
    assert outcome.left.found == ()
    assert outcome.left.size > 50_000_000, "not even the sealed package was read"


@pytest.mark.parametrize("spelling", spellings(bytes(range(100, 132))))
def test_a_key_that_got_out_would_be_found(spelling: str) -> None:
    text = spellings(bytes(range(100, 132)))[spelling]
    process = subprocess.Popen(["sleep", "60"], env={b"LEAK": b"=" + text})
    try:
        while not Path(f"/proc/{process.pid}/environ").read_bytes():
            time.sleep(0.01)  # the kernel shows an environment a moment after the program started
        found = Search(spellings(bytes(range(100, 132)))).process(process.pid).found
    finally:
        process.kill()
        process.wait()
    assert spelling in [each.needle for each in found]


def test_no_program_was_started_with_the_key(outcome: Outcome) -> None:
    if not outcome.trace:
        pytest.skip("strace is not installed or may not trace here")
    assert outcome.trace.count("execve(") > 3
    assert outcome.key.text("trace", outcome.trace.encode()).found == ()


def test_files_are_opened_for_writing_in_private_places_only(outcome: Outcome) -> None:
    if not outcome.trace:
        pytest.skip("strace is not installed or may not trace here")
    written = {path for path in WRITES.findall(outcome.trace) if not HARMLESS.fullmatch(path)}
    assert written, "strace saw nothing"
    assert {path for path in written if "/scratch/" not in path} == set()
