"""`kill -9` of any process at any point leaves no plaintext weights, no orphan, a clean start."""

from __future__ import annotations

import base64
import contextlib
import os
import random
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest

from attestation.broker.app import open_broker
from attestation.broker.kek import open_kek
from attestation.broker.keyfile import WrappedKey, parse_wrapped
from attestation.broker.releaselog import verify_chain
from attestation.broker.settings import BrokerSettings
from attestation.client import attested_client
from attestation.codec import parse_json, unb64
from attestation.policy import Policy
from scripts.chain.installation import MODEL
from scripts.chain.processes import ROOT, Running
from scripts.chain.services import Chain
from server.retention.search import Search, Searched, processes_below
from tests.chain_kit import World

pytestmark = pytest.mark.engine

CHAT = "/v1/chat/completions"
WINDOWS, WINDOW = 200, 64
SECONDS_TO_BE_GONE = 15
KEY_GIVEN = re.compile(r'"event":"key given".*?"pid":(\d+)')
KILLS = ("engine while loading", "gateway while loading", "gateway", "engine")


@pytest.fixture(scope="module")
def own_checkpoint(demo_checkpoint: Path, tmp_path_factory) -> Iterator[Path]:
    """Return the demonstration model with weights that no other file on this machine has.

    The last bit of every bfloat16 is drawn anew, which the model hardly notices: a window of 64
    bytes is another copy's once in 2^32. The plaintext is removed once it was sealed.
    """
    own = tmp_path_factory.mktemp("own") / "checkpoint"
    shutil.copytree(demo_checkpoint, own)
    data = (own / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    size = len(data) - start
    noise = int.from_bytes(os.urandom(size)) & int.from_bytes(b"\1\0" * (size // 2))
    drawn = (int.from_bytes(data[start:]) ^ noise).to_bytes(size)
    (own / "model.safetensors").write_bytes(data[:start] + drawn)
    yield own
    shutil.rmtree(own)


def plaintext(checkpoint: Path) -> Search:
    """Search for windows of the weights that are too varied to occur anywhere else."""
    data = (checkpoint / "model.safetensors").read_bytes()
    chance = random.Random(11)  # noqa: S311 - the same windows in every run
    windows: dict[str, bytes] = {}
    while len(windows) < WINDOWS:
        start = chance.randrange(len(data) - WINDOW)
        window = data[start : start + WINDOW]
        if len(set(window)) > WINDOW // 3:
            windows[f"weights at {start}"] = window
    return Search(windows)


def data_key(world: World) -> Search:
    """Search for the key of the weights, in the spellings programs print bytes in."""
    installation = world.installation
    wrapped = parse_wrapped(
        (installation.sealed.parent / f"{MODEL}.key.json").read_bytes(), name="k"
    )
    assert isinstance(wrapped, WrappedKey)
    kek = open_kek(f"file:{installation.broker_config.parent}/kek")
    key = kek.unwrap(unb64(wrapped.wrapped, what="wrapped"), aad=wrapped.aad).reveal()
    return Search(
        {
            "key": key,
            "key in hex": key.hex().encode(),
            "key in base64": base64.b64encode(key).rstrip(b"="),
            "key in base64url": base64.urlsafe_b64encode(key).rstrip(b"="),
        }
    )


@dataclass(frozen=True, slots=True)
class Aftermath:
    """What was left when a process had been killed."""

    before: int
    """Processes of the gateway's tree when it happened."""
    left: tuple[str, ...]
    """Command lines of those that still run."""
    status: int | None
    """How the gateway ended, if it did."""
    opened: bool
    """Whether the port still took connections."""
    weights: Searched
    """Plaintext of them and of their key, in files."""
    output: str


@dataclass(frozen=True, slots=True)
class Story:
    """Everything that was observed, in one software TD from its boot to its end."""

    after: dict[str, Aftermath]
    whole: list[bool]
    """Whether the answers during which the broker was killed came to their end."""
    cut: list[bool]
    """Whether the answers during which something they need was killed did so, too."""
    processes: Searched
    """Environments, command lines and open files of all processes while they started."""
    released: tuple[str, ...]
    """Events of the broker's release log, whose chain was verified."""


class Stage:
    """One installation in one software TD, on which `tacit serve` is started again and again."""

    def __init__(self, world: World, chain: Chain, search: Search) -> None:
        self.world = world
        self._chain = chain
        self._search = search
        self._since = time.time_ns()
        self.processes = Searched()
        chain.tdx()
        self._broker = chain.broker()

    def loading(self) -> tuple[Running, int]:
        """Start the gateway; return when the process that loads the weights has the key."""
        gateway = self._chain.gateway()
        ends = time.monotonic() + 300
        while (given := KEY_GIVEN.search("".join(gateway.output))) is None:
            assert not gateway.ended, "".join(gateway.output)
            assert time.monotonic() < ends, "no key was given"
            time.sleep(0.01)
        return gateway, int(given[1])

    def serving(self, *, kill_broker: bool = False) -> tuple[Running, int]:
        """Start the gateway, and see it answer; return the process that has the key, too."""
        gateway, loader = self.loading()
        if kill_broker:
            self.kill_broker()
        while not gateway.ready.wait(2) and not gateway.ended:
            tree = processes_below(gateway.process.pid)
            self.processes += sum((self._search.process(each) for each in tree), Searched())
        gateway.wait_ready(seconds=900)
        with self.client() as client:
            assert client.post(CHAT, json=chat(max_tokens=8)).json()["usage"]["completion_tokens"]
        return gateway, loader

    def kill_broker(self) -> None:
        """End the broker at once, and start it again over what it left."""
        os.kill(self._broker.process.pid, signal.SIGKILL)
        self._broker.process.wait()
        self._broker = self._chain.broker()

    def kill(self, gateway: Running, pid: int) -> Aftermath:
        """Kill `pid`, wait for the whole tree of `gateway` to go, and look around."""
        tree = {each: begun(each) for each in processes_below(gateway.process.pid)}
        os.kill(pid, signal.SIGKILL)
        ends = time.monotonic() + SECONDS_TO_BE_GONE
        while (left := still(tree)) and time.monotonic() < ends:
            gateway.process.poll()  # reaps it; a zombie still has its start time
            time.sleep(0.1)
        status, opened = gateway.process.poll(), self.world.port_is_open()
        gateway.stop()
        output = "".join(gateway.output)
        weights = self._weights() + self._search.text("output", output.encode())
        return Aftermath(len(tree), tuple(left), status, opened, weights, output)

    def _weights(self) -> Searched:
        """Look for plaintext where a process of ours may write, and in every file that is new."""
        since, self._since = self._since, time.time_ns()
        searched = self._search.tree(self.world.directory)
        searched += self._search.tree(self.world.run_directory)
        places = {tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm", Path.home(), ROOT}
        for place in places:
            searched += self._search.tree(Path(place), since=since)
        return searched

    @contextlib.contextmanager
    def client(self) -> Iterator[httpx2.Client]:
        """Give a client that verified what serves now."""
        installation = self.world.installation
        url = f"https://127.0.0.1:{self.world.port}"
        policy = Policy.load(installation.policy.read_bytes(), name="policy.yaml")
        with attested_client(url, policy) as client:
            client.base_url = url
            client.headers["authorization"] = f"Bearer {installation.api_key.read_text()}"
            yield client

    def released(self) -> tuple[str, ...]:
        """Verify the broker's release log and return its events."""
        settings = BrokerSettings.load(self.world.installation.broker_config)
        broker = open_broker(settings, clock=lambda: datetime.now(UTC))
        try:
            links = tuple(broker.store.releases())
        finally:
            broker.store.close()
        verify_chain(links)
        return tuple(parse_json(link.entry)["event"] for link in links)


def chat(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "What is Tacit?"}]
    return {"model": MODEL, "messages": messages, "temperature": 0, **fields}


def begun(pid: int) -> tuple[str, str]:
    """Return when a process began, which tells it from a later one with its id, and its words."""
    proc = Path(f"/proc/{pid}")
    try:
        # the start time is the 20th field after the command, which may hold anything
        since = (proc / "stat").read_text().rpartition(")")[2].split()[19]
        return since, (proc / "cmdline").read_text().replace("\0", " ")[:200]
    except (FileNotFoundError, ProcessLookupError):
        return "", ""


def still(tree: dict[int, tuple[str, str]]) -> list[str]:
    return [words for pid, (since, words) in tree.items() if since and begun(pid)[0] == since]


@contextlib.contextmanager
def streaming(stage: Stage, ended: list[bool]) -> Iterator[None]:
    """Hold a long answer open during the block; afterwards note whether it came to its end."""
    body = chat(stream=True, max_tokens=700, ignore_eos=True)
    with stage.client() as client, client.stream("POST", CHAT, json=body) as stream:
        assert stream.status_code == 200
        parts = stream.iter_raw()
        text = next(parts)
        yield
        with contextlib.suppress(httpx2.TransportError):
            for part in parts:
                text += part
    ended.append(b"[DONE]" in text)


@pytest.fixture(scope="module")
def story(tmp_path_factory, own_checkpoint) -> Iterator[Story]:
    """Kill one process after the other; each start proves that the one before left nothing."""
    world = World(tmp_path_factory.mktemp("kill") / "installation", checkpoint=own_checkpoint)
    search = Search({**plaintext(own_checkpoint).needles, **data_key(world).needles})
    (own_checkpoint / "model.safetensors").unlink()
    after: dict[str, Aftermath] = {}
    whole: list[bool] = []
    cut: list[bool] = []
    with contextlib.ExitStack() as stack:
        stack.callback(world.remove)
        stage = Stage(world, Chain(world.installation, stack), search)
        gateway, loader = stage.loading()
        after["engine while loading"] = stage.kill(gateway, loader)
        gateway, _ = stage.loading()
        after["gateway while loading"] = stage.kill(gateway, gateway.process.pid)
        gateway, _ = stage.serving(kill_broker=True)
        with streaming(stage, whole):
            stage.kill_broker()
        with streaming(stage, cut):
            after["gateway"] = stage.kill(gateway, gateway.process.pid)
        gateway, loader = stage.serving()
        with streaming(stage, cut):
            after["engine"] = stage.kill(gateway, loader)
        yield Story(after, whole, cut, stage.processes, stage.released())


@pytest.mark.parametrize("kill", KILLS)
def test_no_process_is_left(story, kill):
    assert story.after[kill].before >= 5, "the tree was not whole when it was killed"
    assert story.after[kill].left == ()


@pytest.mark.parametrize("kill", KILLS)
def test_the_port_is_closed(story, kill):
    assert not story.after[kill].opened


@pytest.mark.parametrize("kill", KILLS)
def test_no_plaintext_of_the_weights_or_their_key_is_in_any_file(story, kill):
    weights = story.after[kill].weights
    assert weights.size > 1_000_000, "not even the sealed package was read"
    assert weights.found == ()


def test_none_is_in_an_environment_or_on_a_command_line(story):
    assert story.processes.places > 100, "hardly any process was looked at"
    assert story.processes.found == ()


def test_the_search_would_find_the_weights(demo_checkpoint, tmp_path):
    data = (demo_checkpoint / "model.safetensors").read_bytes()
    (tmp_path / "left").write_bytes(b"\0" + data)
    assert len(plaintext(demo_checkpoint).tree(tmp_path).found) == WINDOWS
    (tmp_path / "left").write_bytes(data[len(data) // 2 :])
    assert len(plaintext(demo_checkpoint).tree(tmp_path).found) > WINDOWS // 4


def test_a_gateway_whose_engine_was_killed_while_loading_says_so_and_ends(story):
    after = story.after["engine while loading"]
    assert after.status == 2
    assert "(engine-exited)" in after.output
    assert "ready on" not in after.output


def test_a_gateway_whose_engine_was_killed_drains_and_ends(story):
    after = story.after["engine"]
    assert after.status == 1
    assert "tacit: an engine ended; draining" in after.output


def test_an_answer_that_was_cut_does_not_look_whole(story):
    assert story.cut == [False, False]


def test_a_killed_broker_interrupts_nobody(story):
    assert story.whole == [True]


def test_each_start_got_its_keys_from_a_broker_whose_log_is_whole(story):
    starts, resources = 4, 2
    assert story.released.count("released") == starts * resources
