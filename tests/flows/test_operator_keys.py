"""Key administration on the operator listener, seen from the public one: at once, and audited."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx2
import pytest

from attestation.confidential import Confidential
from server.access import OperatorTokens, TenantSettings
from server.apikeys import FreshKey, KeyRing
from server.app import create_app, operator_table
from server.keyfile import ApiKeyFile, write
from server.listener import Address, listening
from server.operator import create_operator_app, identify_by
from server.quota import TenantQuotas
from server.tls import server_context
from tests.disk import full_disk
from tests.gateway_kit import MODEL, PEPPER, counted, prepared
from tests.logins import AUDIENCE, ISSUER, Provider

NOW = datetime.now(UTC)
KEYS, ROTATE, REVOKE = "/v1/admin/keys", "/v1/admin/keys/rotate", "/v1/admin/keys/revoke"


class Served:
    """A gateway with both listeners and its key file."""

    def __init__(self, gateway, file, operators, public) -> None:
        self.gateway, self.file = gateway, file
        self.operators, self.public = operators, public

    async def act(self, path, body=None, **options):
        method = "GET" if body is None and not options else "POST"
        answer = await self.operators.request(method, path, json=body, **options)
        return answer.status_code, answer.json()

    async def status(self, key) -> int:
        headers = {"authorization": f"Bearer {key}"}
        return (await self.public.get("/v1/models", headers=headers)).status_code

    def acts(self):
        found = [event for event in self.gateway.record.events if event.operator is not None]
        return [(e.operator, e.route, e.status, e.code, e.tenant, e.key) for e in found]


@contextlib.asynccontextmanager
async def served(directory, *, roles=("admin",)):
    idp = Provider(NOW)
    login = OperatorTokens(
        kind="jwt",
        jwks="jwks.json",
        issuer=ISSUER,
        audience=AUDIENCE,
        roles_claim="groups",
        roles={"ops": roles},
    )
    tenant = TenantSettings(
        requests_per_minute=100, tokens_per_minute=10_000, concurrent_requests=2, models=(MODEL,)
    )
    file = directory / "keys.yaml"
    write(file, KeyRing.empty(PEPPER).file)
    quotas = TenantQuotas({"acme": tenant}, lambda: 0)
    gateway = prepared(quotas=quotas)
    keys = ApiKeyFile(file, PEPPER)
    gateway.ready = replace(gateway.ready, keys=keys, clock=lambda: NOW.replace(microsecond=0))
    table = operator_table(gateway.ready, counted(gateway))
    operators = create_operator_app(gateway.ready, identify_by(login, idp.jwks()), table=table)
    context, anywhere = server_context(gateway.identity), Address("127.0.0.1", 0)
    async with (
        listening(operators, anywhere, context=context) as door,
        listening(create_app(gateway.ready), anywhere, context=context) as port,
        client(gateway, door, f"Bearer {idp.token(groups=['ops'])}") as first,
        client(gateway, port, "") as second,
    ):
        yield Served(gateway, file, first, second)


def client(gateway, opened, authorization):
    return httpx2.AsyncClient(
        base_url=f"https://127.0.0.1:{opened.port}",
        verify=gateway.trust(),
        headers={"authorization": authorization},
    )


async def test_a_key_is_made_rotated_and_revoked_without_a_wait(tmp_path):
    async with served(tmp_path) as at:
        status, made = await at.act(KEYS, {"tenant": "acme", "name": "ci", "days": 7})
        assert (status, made["tenant"], made["name"], made["serial"]) == (200, "acme", "ci", 2)
        assert await at.status(made["key"]) == 200
        status, after = await at.act(ROTATE, {"id": made["id"], "hours": 1})
        assert status == 200
        assert (await at.status(made["key"]), await at.status(after["key"])) == (200, 200)
        status, listed = await at.act(KEYS)
        ends = NOW.replace(microsecond=0) + timedelta(hours=1)
        assert [key["id"] for key in listed["keys"]] == [made["id"], after["id"]]
        assert datetime.fromisoformat(listed["keys"][0]["expires"]) == ends
        assert "key" not in listed["keys"][0]
        assert "tag" not in listed["keys"][0]
        assert (await at.act(REVOKE, {"id": made["id"]}))[0] == 200
        assert (await at.status(made["key"]), await at.status(after["key"])) == (401, 200)
    assert at.acts() == [
        ("ada", KEYS, 200, None, "acme", made["id"]),
        ("ada", ROTATE, 200, None, "acme", made["id"]),
        ("ada", KEYS, 200, None, None, None),
        ("ada", REVOKE, 200, None, None, made["id"]),
    ]
    ring = KeyRing.load(at.file.read_bytes(), PEPPER, name="keys")
    assert (ring.file.serial, len(ring.file.keys)) == (4, 1)


async def test_what_another_program_wrote_is_kept(tmp_path):
    async with served(tmp_path) as at:
        ring = KeyRing.load(at.file.read_bytes(), PEPPER, name="keys")
        fresh = FreshKey("offline0", Confidential(os.urandom(32)))
        write(
            at.file,
            ring.create(fresh, tenant="acme", name="cli", now=NOW, life=timedelta(days=1)).file,
        )
        assert (await at.act(KEYS, {"tenant": "acme", "name": "ci", "days": 7}))[0] == 200
        _, listed = await at.act(KEYS)
        assert [key["name"] for key in listed["keys"]] == ["cli", "ci"]
        assert await at.status(fresh.text().reveal()) == 200


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        (KEYS, {"tenant": "acme", "name": "ci", "days": 0}, (400, "admin-request")),
        (KEYS, {"tenant": "acme", "name": "ci", "days": 1101}, (400, "admin-request")),
        (KEYS, {"tenant": "A b", "name": "ci", "days": 1}, (400, "admin-request")),
        (KEYS, {"tenant": "acme", "name": "a\nb", "days": 1}, (400, "admin-request")),
        (KEYS, {"tenant": "acme", "name": "ci", "days": 1, "x": 1}, (400, "admin-request")),
        (KEYS, {"tenant": "globex", "name": "ci", "days": 1}, (403, "tenant-unknown")),
        (KEYS, [], (400, "admin-request")),
        (ROTATE, {"id": "unknown0", "hours": 1}, (404, "admin-key-unknown")),
        (ROTATE, {"id": "unknown0", "hours": -1}, (400, "admin-request")),
        (REVOKE, {"id": "unknown0"}, (404, "admin-key-unknown")),
        (REVOKE, {"id": "../../etc"}, (400, "admin-request")),
        ("/v1/admin/status", {}, (405, "method-not-allowed")),
    ],
)
async def test_what_does_not_fit_changes_nothing_and_is_audited(tmp_path, path, body, expected):
    async with served(tmp_path) as at:
        before = at.file.read_bytes()
        status, answer = await at.act(path, body)
        assert (status, answer["error"]["code"]) == expected
        assert at.file.read_bytes() == before
    assert [(act[0], act[1], act[2], act[3]) for act in at.acts()] == [("ada", path, *expected)]


async def test_a_body_that_is_huge_or_no_json_is_refused(tmp_path):
    async with served(tmp_path) as at:
        status, answer = await at.act(KEYS, content=b"x" * 100_000)
        assert (status, answer["error"]["code"]) == (413, "body-too-large")
        status, answer = await at.act(KEYS, content=b"\xff{")
        assert (status, answer["error"]["code"]) == (400, "admin-request")


async def test_a_role_without_keys_reaches_none(tmp_path):
    async with served(tmp_path, roles=("metrics",)) as at:
        for path, body in ((KEYS, None), (KEYS, {}), (ROTATE, {}), (REVOKE, {})):
            status, answer = await at.act(path, body)
            assert (status, answer["error"]["code"]) == (403, "operator-role")
        assert (await at.operators.get("/metrics")).status_code == 200


async def test_a_file_that_cannot_be_written_or_trusted_is_said_and_lets_nobody_in(tmp_path):
    async with served(tmp_path) as at:
        _, made = await at.act(KEYS, {"tenant": "acme", "name": "ci", "days": 7})
        with full_disk():
            status, answer = await at.act(REVOKE, {"id": made["id"]})
        assert (status, answer["error"]["code"]) == (503, "admin-keys-unwritable")
        assert await at.status(made["key"]) == 200
        at.file.write_bytes(at.file.read_bytes().replace(b"acme", b"evil"))
        status, answer = await at.act(REVOKE, {"id": made["id"]})
        assert (status, answer["error"]["code"]) == (503, "keys-unavailable")


async def test_an_act_that_cannot_be_recorded_is_not_answered_with_a_key(tmp_path):
    async with served(tmp_path) as at:
        at.gateway.record.broken = True
        status, answer = await at.act(KEYS, {"tenant": "acme", "name": "ci", "days": 7})
        assert (status, answer["error"]["code"]) == (503, "audit-unavailable")
        assert "key" not in answer
