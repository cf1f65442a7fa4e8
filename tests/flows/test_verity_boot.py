"""A guest boots with weights on a dm-verity volume, whose kernel is forged at its interface."""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml

from attestation.errors import NotAffirmed, Refusal
from attestation.manifest import MANIFEST
from scripts.chain.installation import MODEL, PEPPER, call, simulator, tacit
from server.audit import AuditEvent
from server.boot import boot
from server.settings import Settings
from tests.block_layer import ROOT, Volume, line
from tests.chain_kit import World
from tests.golden_engine import Answers, environment


class Silent:
    """An audit sink that keeps nothing; nobody asks anything here."""

    async def record(self, event: AuditEvent) -> None:
        """Drop it."""


@pytest.fixture(name="mounted")
def _mounted(installed: World, checkpoint, tmp_path):
    """Yield an installation whose model lies on a volume, not sealed, and that volume."""
    world = installed.fork(tmp_path / "installation")
    volume = shutil.copytree(checkpoint, world.directory / "volume")
    shutil.copy(world.installation.sealed / MANIFEST, volume / MANIFEST)
    shutil.rmtree(world.installation.sealed)
    python = environment(world.directory / "engine", Answers([], []))
    config = yaml.safe_load(world.installation.config.read_text())
    model = config["models"][MODEL]
    del model["sealed"], model["key"]
    model["verity"] = {"directory": str(volume), "root_hash": ROOT.hex()}
    model["engine"]["python"] = str(python)
    world.installation.config.write_text(yaml.safe_dump(config))
    approve(world, volume)
    try:
        yield world, volume
    finally:
        world.remove()


def approve(world: World, volume: Path) -> None:
    """Write the policy from what `tacit measure` says where the volume is not mounted."""
    place = ["--package", f"{MODEL}={volume}", "--json"]
    measured = json.loads(call(tacit, ["measure", world.installation.config, *place]))
    words = ["--config", measured["config"], "--model", f"{MODEL}={measured['models'][MODEL]}"]
    world.installation.policy.write_text(
        call(simulator, ["policy", world.installation.tdx, *words])
    )


def booted(world: World, kernel: Volume):
    """Boot, and return the attested keyset and the arguments of the engine's process."""

    async def go():
        settings = Settings.load(world.installation.config)
        clock, audit = (lambda: datetime.now(UTC)), Silent()
        async with boot(settings, clock=clock, audit=audit, kernel=kernel) as guest:
            return guest.ready.keyset, command_lines(str(world.run_directory).encode())

    with world.software_tdx(), world.broker():
        return asyncio.run(go())


def command_lines(word: bytes) -> list[list[bytes]]:
    """Return those of every process here that hold `word`."""
    lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline")]
    return [line.split(b"\0") for line in lines if word in line]


def released(world: World) -> list[str]:
    """Return what the broker released."""
    with sqlite3.connect(world.installation.broker_config.parent / "broker.db") as store:
        rows = [json.loads(row[0]) for row in store.execute("SELECT entry FROM releases")]
    store.close()
    return [row["resource"] for row in rows if row["event"] == "released"]


def test_a_volume_is_served_as_it_is_and_said_to_be_one(mounted):
    world, volume = mounted
    keyset, lines = booted(world, Volume.at(volume))
    (model,) = keyset.models
    assert (model.name, model.weights) == (MODEL, "verity")
    (engine,) = [line for line in lines if b"--uds" in line]
    assert engine[engine.index(b"--model") + 1] == bytes(volume)
    assert engine[engine.index(b"--load-format") + 1] == b"safetensors"
    # the broker still decides whether this guest may start; it has no key for these weights
    assert released(world) == [PEPPER]


def test_a_guest_that_the_broker_refuses_does_not_serve_a_volume_either(mounted):
    world, volume = mounted
    world.edit_policy(r"sha256:[0-9a-f]{64}", "sha256:" + "0" * 64)
    with pytest.raises(NotAffirmed) as refused:
        booted(world, Volume.at(volume))
    assert refused.value.code == "broker-refused"


@pytest.mark.parametrize("name", ["tokenizer_config.json", "config.json"])
def test_a_volume_with_another_configuration_or_tokenizer_starts_no_engine(mounted, name):
    world, volume = mounted
    (volume / name).write_bytes((volume / name).read_bytes().replace(b"{", b"{ ", 1))
    with pytest.raises(Refusal) as refused:
        booted(world, Volume.at(volume))
    assert refused.value.code in {"weights-size", "weights-content"}


def test_a_volume_under_another_root_hash_starts_no_engine(mounted):
    world, volume = mounted
    kernel = Volume.at(volume)
    kernel.parameters = line(bytes(32))
    with pytest.raises(NotAffirmed) as refused:
        booted(world, kernel)
    assert refused.value.code == "verity-root"


def test_the_command_refuses_a_directory_that_is_only_a_directory(mounted):
    world, _ = mounted
    outcome = world.serve()
    assert (outcome.code, outcome.status, outcome.opened) == ("verity-not-mounted", 5, False)
