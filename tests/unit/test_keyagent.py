"""The key agent over its real socket, asked by real processes: who gets the key, and how often."""

import asyncio
import logging
import os
import socket
import subprocess
import sys

import pytest

from attestation.confidential import data_key
from attestation.keywire import MAX_LINE, Ask, Grant, Noted, Refused, decode_answer, encode
from attestation.types import Digest
from server.keyagent import KeyAgent, Peer, Window, _parent_of, descends

SECRET = bytes(range(32))
GRANT = Grant(data_key(SECRET), Digest.sha256(b"manifest"), 3)

# Every process asks once and repeats the answer; the middle one starts the two below it.
WORKER = """
import socket, subprocess, sys
path, depth, line = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode() + b"\\n"
if depth:
    for _ in range(int(sys.argv[4])):
        below = [path, str(depth - 1), *sys.argv[3:]]
        subprocess.run([sys.executable, "-I", "-S", "-c", sys.argv[5], *below])
else:
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path); s.sendall(line); print(s.makefile().read(), end="", flush=True)
"""


@pytest.fixture
async def agent(tmp_path):
    async with KeyAgent(tmp_path / "keys.sock", model="qwen3", grant=GRANT, ranks=2) as agent:
        yield agent


def path_of(agent):
    return str(agent._path)


def mode_of(path):
    return path.stat().st_mode & 0o777 if path.exists() else None


async def ask_from_below(agent, line, *, times=1, depth=1, opened=True):
    """Start a supervised process whose grandchildren send `line`; return what they were told."""
    arguments = [path_of(agent), str(depth), line.decode().strip(), str(times), WORKER]
    gate = "import os,sys; sys.stdin.read(1); os.execv(sys.executable, sys.argv[1:])"
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", "-c", gate),
        *(sys.executable, "-I", "-S", "-c", WORKER, *arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if opened:
        agent.open(child.pid)
    output, _ = await child.communicate(b"g")
    return [decode_answer(text + b"\n") for text in output.splitlines()]


async def ask_from_here(agent, data):
    reader, writer = await asyncio.open_unix_connection(path_of(agent))
    writer.write(data)
    writer.write_eof()
    answer = await reader.read()
    writer.close()
    return decode_answer(answer)


async def test_a_worker_of_the_engine_gets_the_key_and_what_it_belongs_to(agent):
    (answer,) = await ask_from_below(agent, encode(Ask("qwen3")))
    assert answer.key.reveal() == SECRET
    assert (answer.manifest, answer.minimum_version) == (GRANT.manifest, 3)
    assert len(agent.given) == 1


async def test_no_more_workers_than_ranks_get_the_key(agent):
    answers = await ask_from_below(agent, encode(Ask("qwen3")), times=4)
    assert [type(answer) for answer in answers] == [Grant, Grant, Refused, Refused]
    assert answers[2] == Refused("key-spent")


async def test_a_process_of_this_user_that_is_no_part_of_the_engine_gets_nothing(agent):
    agent.open(2**22)  # no process has this id
    assert await ask_from_here(agent, encode(Ask("qwen3"))) == Refused("key-peer")
    assert agent.given == frozenset()


async def test_nobody_gets_the_key_before_the_engine_is_known(agent):
    answers = await ask_from_below(agent, encode(Ask("qwen3")), opened=False)
    assert answers == [Refused("key-peer")]


async def test_nobody_gets_the_key_after_the_window_closed(agent):
    agent.close()
    assert await ask_from_below(agent, encode(Ask("qwen3"))) == [Refused("key-window")]


async def test_the_key_of_another_model_is_not_here(agent):
    assert await ask_from_below(agent, encode(Ask("other"))) == [Refused("key-model")]


@pytest.mark.parametrize("line", [b"{}", b"CANARY", b'{"v":2,"want":"data-key","model":"qwen3"}'])
async def test_a_malformed_line_gets_a_code_and_no_key(agent, line):
    (answer,) = await ask_from_below(agent, line)
    assert isinstance(answer, Refused)
    assert agent.given == frozenset()


async def test_the_first_refusal_to_load_is_kept_for_boot(agent):
    assert agent.refusal() is None
    line = encode(Refused("weights-chunk"))
    assert await ask_from_below(agent, line) == [Noted()]
    assert agent.refusal() == "weights-chunk"
    agent._note(Peer(2, os.geteuid()), Refused("weights-size"))
    assert agent.refusal() == "weights-chunk"


async def test_a_stranger_cannot_make_boot_fail(agent):
    agent.open(2**22)
    await ask_from_here(agent, encode(Refused("weights-chunk")))
    assert agent.refusal() is None


async def test_the_log_says_who_got_the_key_and_not_the_key(agent, caplog):
    caplog.set_level(logging.DEBUG)
    await ask_from_below(agent, encode(Ask("qwen3")))
    given = [record for record in caplog.records if record.getMessage() == "key given"]
    assert [record.pid for record in given] == list(agent.given)
    everything = str([record.__dict__ for record in caplog.records])
    assert encode(GRANT).decode().split('"')[3] not in everything


async def test_the_socket_is_for_this_user_alone_and_goes_with_the_agent(tmp_path):
    path = tmp_path / "keys.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    async with KeyAgent(path, model="qwen3", grant=GRANT, ranks=1):
        assert mode_of(path) == 0o600
    assert mode_of(path) is None


async def test_a_file_that_is_no_socket_is_not_removed(tmp_path):
    path = tmp_path / "keys.sock"
    path.write_text("mine")
    with pytest.raises(OSError, match="in use"):
        async with KeyAgent(path, model="qwen3", grant=GRANT, ranks=1):
            pass
    assert path.read_text() == "mine"


async def test_a_line_that_does_not_end_is_refused_at_its_limit(agent):
    agent.open(2**22)
    assert isinstance(await ask_from_here(agent, b"x" * MAX_LINE), Refused)


def test_one_process_gets_the_key_once():
    window = Window("qwen3", 4, GRANT, root=10)
    peer = Peer(20, os.geteuid())
    assert window.ask(peer, "qwen3") is GRANT
    assert window.ask(peer, "qwen3") == Refused("key-spent")


TREE = {30: 20, 20: 10, 10: 1, 40: 1, 50: 51, 51: 50}


@pytest.mark.parametrize(
    ("pid", "root", "expected"),
    [
        (30, 10, True),
        (20, 10, True),
        (10, 10, False),  # the supervised process itself is the bootstrap; it loads nothing
        (40, 10, False),
        (99, 10, False),
        (0, 10, False),  # a process that this PID namespace cannot see
        (50, 10, False),  # a table that changed underneath
        (30, 1, False),
        (30, 0, False),
    ],
)
def test_only_descendants_of_the_supervised_process_are_peers(pid, root, expected):
    assert descends(Peer(pid, os.geteuid()), root, parent_of=TREE.get) is expected


def test_a_descendant_of_another_user_is_no_peer():
    assert not descends(Peer(30, os.geteuid() + 1), 10, parent_of=TREE.get)


def test_a_command_with_parentheses_does_not_forge_a_parent(tmp_path):
    # the second field of /proc/PID/stat is the command's name, and a program chooses that
    code = (
        "import sys; open('/proc/self/comm','w').write(') S 77 ('); print(1, flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert _parent_of(child.pid) == os.getpid()
        child.communicate(b"\n")
