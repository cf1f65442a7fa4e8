"""The supervisor and the bootstrap, with real processes and namespaces."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path

import pytest

from attestation.confidential import Confidential
from attestation.errors import ConfigError, NotAuthentic, Undecidable
from server.engine.client import EngineClient
from server.engine.isolation import probe
from server.engine.launch import Launch
from tests.engine_kit import (
    COMPLETE,
    NONE,
    descendants,
    fake_launch,
    gone,
    grown,
    ready,
    running,
    supervised,
    surroundings,
)

ROOT = Path(__file__).parents[2]
ISOLATIONS = [pytest.param(COMPLETE, id="isolated"), pytest.param(NONE, id="bare")]


@pytest.fixture(scope="session")
def granted():
    found = asyncio.run(probe(str(Path(sys.executable).resolve())))
    if not found.complete:
        pytest.skip(f"this machine grants no {', '.join(found.missing)} namespace")


@pytest.fixture
def directory(tmp_path):
    own = tmp_path / "run" / "fake"
    own.mkdir(parents=True)
    return own


@pytest.fixture(params=ISOLATIONS)
def isolation(request):
    if request.param.complete:
        request.getfixturevalue("granted")
    return request.param


def mode_of(path):
    path = Path(path)
    return path.stat().st_mode & 0o777 if path.exists() else None


def command_of(pid):
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def shared_memory():
    return {path.name for path in Path("/dev/shm").glob("psm_fake_*")}


async def test_an_engine_sees_nothing_but_what_the_launch_names(directory, granted, tmp_path):
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    (secrets / "quote").write_text("CANARY")
    (directory.parent / "other-engine").mkdir()
    launch = fake_launch(directory, hidden=[secrets], look_at=[secrets, directory.parent])
    supervisor = supervised(launch)
    before = shared_memory()
    await ready(supervisor)
    try:
        seen = await surroundings(launch)
        mine = await asyncio.to_thread(descendants, supervisor.pid)
    finally:
        await supervisor.stop(drain_seconds=5)
    assert seen["environment"].keys() <= {"ONLY", "LC_CTYPE"}
    assert seen["cwd"] == launch.scratch
    assert seen["umask"] == 0o077
    assert seen["core"] == [1, 1]
    assert seen["devices"] == ["lo"]
    assert seen["loopback"]
    assert seen["processes"][0] == 1
    assert len(seen["processes"]) == 3
    assert len(mine) == 3
    assert [name for name in seen["shm"] if not name.startswith("psm_fake")] == []
    assert seen["listing"] == {str(secrets): [], str(directory.parent): ["fake"]}
    assert set(seen["capabilities"]) == {"0" * 16}
    assert seen["no_new_privileges"]
    assert shared_memory() == before


async def test_the_socket_is_for_this_user_alone(directory, isolation):
    launch = fake_launch(directory)
    supervisor = supervised(launch, isolation)
    await ready(supervisor)
    mode = mode_of(launch.socket)
    await supervisor.stop(drain_seconds=5)
    assert mode == 0o700
    assert mode_of(launch.socket) is None


async def test_nothing_is_left_of_an_engine_that_drained(directory, isolation):
    launch = fake_launch(directory)
    supervisor = supervised(launch, isolation)
    before = shared_memory()
    await ready(supervisor)
    tree = {supervisor.pid} | descendants(supervisor.pid)
    assert len(tree) >= 3
    await supervisor.stop(drain_seconds=5)
    assert not running(tree)
    assert not supervisor.alive
    assert shared_memory() == before
    assert mode_of(launch.scratch) is None


async def test_an_open_stream_is_finished_before_the_engine_ends(directory, isolation):
    launch = fake_launch(directory)
    supervisor = supervised(launch, isolation)
    await ready(supervisor)
    body = Confidential(b'{"events": 10, "pause": 0.1}')
    stream = EngineClient(launch.socket).stream("/v1/completions", body)
    first = await anext(stream)
    stopping = asyncio.create_task(supervisor.stop(drain_seconds=10))
    rest = [event async for event in stream]
    await stopping
    assert first.reveal() == b'{"n": 0}'
    assert len(rest) == 9


async def test_an_engine_that_ignores_sigterm_is_killed_with_its_tree(directory, isolation):
    supervisor = supervised(fake_launch(directory, "stubborn"), isolation)
    await ready(supervisor)
    tree = {supervisor.pid} | descendants(supervisor.pid)
    started = asyncio.get_running_loop().time()
    await supervisor.stop(drain_seconds=0.3)
    assert asyncio.get_running_loop().time() - started < 3
    assert not running(tree)


async def test_an_engine_that_is_still_loading_is_ended_at_once(directory, isolation):
    supervisor = supervised(fake_launch(directory, "silent"), isolation)
    await supervisor.start()
    tree = await grown(supervisor, 2 + isolation.complete)
    started = asyncio.get_running_loop().time()
    await supervisor.stop(drain_seconds=60)
    assert asyncio.get_running_loop().time() - started < 3
    assert not running(tree)


async def test_workers_do_not_outlive_the_engine(directory, isolation):
    supervisor = supervised(fake_launch(directory), isolation)
    await ready(supervisor)
    tree = descendants(supervisor.pid)
    engine = next(pid for pid in tree if "fake_engine" in command_of(pid))
    os.kill(engine, signal.SIGKILL)
    async with asyncio.timeout(5):
        await supervisor.exited.wait()
    assert await gone(tree)
    await supervisor.stop(drain_seconds=1)


GATEWAY = """
import asyncio, sys
from pathlib import Path
from tests.engine_kit import COMPLETE, NONE, fake_launch, ready, supervised

async def main():
    launch = fake_launch(Path(sys.argv[1]))
    supervisor = supervised(launch, COMPLETE if sys.argv[2] == "isolated" else NONE)
    await ready(supervisor)
    print(supervisor.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""


async def test_a_killed_gateway_takes_its_engine_with_it(directory, isolation):
    name = "isolated" if isolation.complete else "bare"
    before = shared_memory()
    gateway = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", GATEWAY, str(directory), name),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        pid = int(await gateway.stdout.readline())
        tree = {pid} | descendants(pid)
        assert len(running(tree)) >= 3
    finally:
        gateway.kill()
        await gateway.communicate()
    assert await gone(tree)
    assert isolation.complete == (shared_memory() == before)
    # and the next gateway starts where the last one stopped
    supervisor = supervised(fake_launch(directory), isolation)
    await ready(supervisor)
    await supervisor.stop(drain_seconds=5)
    assert shared_memory() == before


async def test_only_levels_and_places_of_the_output_are_logged(directory, caplog):
    caplog.set_level(logging.DEBUG)
    supervisor = supervised(fake_launch(directory, "die"), NONE)
    await supervisor.start()
    with pytest.raises(ConfigError, match=r"status 3, last error at fake_engine.py:77") as caught:
        await supervisor.wait_ready(seconds=10, refusal=lambda: None)
    await supervisor.stop(drain_seconds=1)
    assert caught.value.code == "engine-exited"
    said = [
        (record.engine_level, record.place)
        for record in caplog.records
        if record.getMessage() == "engine said"
    ]
    assert said == [("INFO", "fake_engine.py:1"), ("ERROR", "fake_engine.py:77")]
    assert not any("CANARY" in str(record.__dict__) for record in caplog.records)
    assert "CANARY" not in str(caught.value)


async def test_a_refusal_of_a_worker_is_what_boot_reports(directory):
    supervisor = supervised(fake_launch(directory, "silent"), NONE)
    await supervisor.start()
    with pytest.raises(NotAuthentic) as caught:
        await supervisor.wait_ready(seconds=10, refusal=lambda: "weights-chunk")
    await supervisor.stop(drain_seconds=0)
    assert caught.value.code == "weights-chunk"


async def test_an_engine_that_never_answers_is_undecidable(directory):
    supervisor = supervised(fake_launch(directory, "silent"), NONE)
    await supervisor.start()
    with pytest.raises(Undecidable) as caught:
        await supervisor.wait_ready(seconds=0.6, refusal=lambda: None)
    await supervisor.stop(drain_seconds=0)
    assert caught.value.code == "engine-slow"


async def test_a_second_gateway_does_not_take_the_socket_of_the_first(directory):
    first = supervised(fake_launch(directory), NONE)
    await ready(first)
    with pytest.raises(ConfigError) as caught:
        await supervised(fake_launch(directory), NONE).start()
    await first.stop(drain_seconds=5)
    assert caught.value.code == "engine-orphan"


async def test_an_interpreter_that_is_not_there_is_named(directory):
    found = fake_launch(directory)
    launch = Launch(
        **{name: getattr(found, name) for name in Launch.__slots__} | {"python": "/nowhere/python"}
    )
    with pytest.raises(ConfigError) as caught:
        await supervised(launch, NONE).start()
    assert caught.value.code == "engine-python"


async def test_isolation_that_cannot_be_set_up_starts_nothing(directory, granted):
    found = fake_launch(directory)
    launch = Launch(
        **{name: getattr(found, name) for name in Launch.__slots__}
        | {"kept": (str(directory / "absent"),)}
    )
    supervisor = supervised(launch, COMPLETE)
    await supervisor.start()
    with pytest.raises(ConfigError, match=r"at enter.py:\d+") as caught:
        await supervisor.wait_ready(seconds=10, refusal=lambda: None)
    await supervisor.stop(drain_seconds=0)
    assert caught.value.code == "engine-isolation"
