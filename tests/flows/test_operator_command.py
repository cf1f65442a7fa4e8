"""`tacit apikey` on a running guest: verified first, logged in by certificate, at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from cryptography import x509

from attestation.cli import run
from server.access import OperatorCertificates
from server.app import operator_table
from server.commands import apikey
from server.listener import Address, listening
from server.operator import create_operator_app, identify_by
from server.tls import ClientAuthority, server_context
from tests.attested_gateway import policy_text, service
from tests.gateway_kit import KeysInMemory, counted, running
from tests.logins import Authority

NOW = datetime.now(UTC)


@contextlib.asynccontextmanager
async def guest(directory, **evidence):
    """Serve a guest with both listeners; yield it and the arguments that reach its operators."""
    ca = Authority(NOW)
    file, name = ca.issue(directory, x509.DNSName("ops"))
    login = OperatorCertificates(kind="mtls", ca="ca.pem", people={name: ("admin",)})
    gateway = service(**evidence)
    gateway.ready = replace(gateway.ready, clock=lambda: datetime.now(UTC))
    (directory / "policy.yaml").write_bytes(policy_text())
    with running(gateway):
        table = operator_table(gateway.ready, counted(gateway))
        app = create_operator_app(gateway.ready, identify_by(login, ca.pem), table=table)
        context = server_context(gateway.identity, ClientAuthority(ca.pem, required=True))
        async with listening(app, Address("127.0.0.1", 0), context=context) as opened:
            yield (
                gateway,
                {
                    "--operators": f"https://127.0.0.1:{opened.port}",
                    "--service": gateway.url,
                    "--policy": directory / "policy.yaml",
                    "--cert": file,
                },
            )


async def command(*words, reach) -> int:
    argv = ["apikey", *words, *(str(word) for pair in reach.items() for word in pair)]
    return await asyncio.to_thread(run, argv, families=lambda: [apikey.register])


async def test_keys_are_made_listed_rotated_and_revoked(tmp_path, capsys):
    async with guest(tmp_path) as (gateway, reach):
        assert await command("new", "--tenant", "acme", "--name", "ci", "--json", reach=reach) == 0
        made = json.loads(capsys.readouterr().out)
        keys: KeysInMemory = gateway.ready.keys
        assert keys.authenticate(b"Bearer " + made["key"].encode(), NOW).tenant == "acme"
        assert await command("rotate", made["id"], "--hours", "1", reach=reach) == 0
        key = capsys.readouterr().out.strip().encode()
        after = keys.authenticate(b"Bearer " + key, NOW).key_id
        assert await command("list", "--json", reach=reach) == 0
        listed = json.loads(capsys.readouterr().out)
        assert {made["id"], after} <= {entry["id"] for entry in listed}
        assert await command("revoke", made["id"], reach=reach) == 0
        assert await command("revoke", made["id"], reach=reach) == 3
        assert "operators-refused" in capsys.readouterr().err
        assert made["id"] not in {entry.id for entry in keys.listed().keys}


async def test_no_login_leaves_for_a_guest_that_does_not_verify(tmp_path, capsys):
    async with guest(tmp_path, debug=True) as (gateway, reach):
        assert await command("list", reach=reach) in {4, 5}
        assert not [event for event in gateway.record.events if event.operator is not None]


async def test_a_stranger_in_place_of_the_operator_listener_gets_no_login(tmp_path, capsys):
    async with guest(tmp_path) as (_, reach), guest(tmp_path) as (other, elsewhere):
        mixed = reach | {"--operators": elsewhere["--operators"]}
        assert await command("list", reach=mixed) == 6
        assert "operators-unreachable" in capsys.readouterr().err
        assert not [event for event in other.record.events if event.operator is not None]


@pytest.mark.parametrize("left_out", ["--service", "--policy"])
async def test_a_guest_cannot_be_reached_without_saying_what_it_must_be(tmp_path, capsys, left_out):
    async with guest(tmp_path) as (_, reach):
        rest = {name: value for name, value in reach.items() if name != left_out}
        assert await command("list", reach=rest) == 2
        assert "operators-arguments" in capsys.readouterr().err


async def test_the_file_is_not_reached_without_its_arguments(tmp_path, capsys):
    for words in (("list",), ("new", "--tenant", "a"), ("revoke", "abcd1234")):
        assert await command(*words, reach={}) == 2
        assert "operators-arguments" in capsys.readouterr().err
