"""The OpenAPI document says what the gateway does: its routes, and bodies that it takes."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from starlette.routing import Route

from server.errors import Rejected
from server.routes import OPEN, router
from server.schemas.openapi import document
from server.schemas.requests import ChatRequest, CompletionRequest, parse
from server.schemas.responses import ResponsesRequest
from tests.gateway_kit import prepared
from tests.schema_walk import values

KINDS = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
    "/v1/responses": ResponsesRequest,
}
FIELDS = {"fields-conflict", "tool-unknown", "schema-too-large", "field-missing", "field-invalid"}
"""Codes of rules between fields and of limits that a JSON Schema does not say."""


async def test_every_route_of_the_table_is_documented_and_no_other():
    table = {
        (route.path.replace(":path", ""), route.endpoint.method.lower())
        for route in router(prepared().ready).routes
        if isinstance(route, Route)
    }
    paths = document()["paths"]
    assert {(path, method) for path, methods in paths.items() for method in methods} == table
    for path, methods in paths.items():
        for operation in methods.values():
            assert ("security" in operation) == (path not in OPEN), path


def test_what_is_refused_is_not_offered():
    chat = document()["components"]["schemas"]["ChatRequest"]["properties"]
    assert "messages" in chat
    assert {"cache_salt", "chat_template", "store", "seed"} & set(chat) == {"seed"}


@pytest.mark.parametrize("path", KINDS)
def test_a_documented_body_is_taken_but_for_rules_between_fields(path):
    found = document()["components"]["schemas"]
    taken, codes = 0, set()

    @settings(max_examples=60, suppress_health_check=list(HealthCheck))
    @given(values(found[KINDS[path].__name__], found))
    def walk(body):
        nonlocal taken
        try:
            parse(KINDS[path], json.dumps(body).encode(), limit=1 << 20)
            taken += 1
        except Rejected as refusal:
            codes.add(refusal.code)

    walk()
    assert taken
    assert codes <= FIELDS | {"media-refused", "store-refused"}
