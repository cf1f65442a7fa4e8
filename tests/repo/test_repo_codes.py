"""Every code that the source raises has a row in the table, and every row is used."""

import ast
from pathlib import Path

from attestation.codes import CODES

ROOT = Path(__file__).parents[2]
KINDS = {"Malformed", "NotAuthentic", "NotAffirmed", "Undecidable", "ConfigError"}


def sources():
    for package in ("attestation", "server"):
        yield from (ROOT / package).rglob("*.py")


def raised():
    """Return (file, code) of every literal code handed to a refusal or listed beside its kind."""
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                name, arguments = node.func, node.args
            elif isinstance(node, ast.Tuple):  # tables of (…, kind, code, …)
                names = [getattr(item, "id", None) for item in node.elts]
                at = next((i for i, item in enumerate(names) if item in KINDS), len(names))
                name, arguments = ast.Name("Malformed"), node.elts[at + 1 : at + 2]
            else:
                continue
            if getattr(name, "id", None) not in KINDS or not arguments:
                continue
            if isinstance(arguments[0], ast.Constant) and isinstance(arguments[0].value, str):
                yield path.relative_to(ROOT), arguments[0].value


def test_every_code_that_is_raised_says_what_to_do_next():
    missing = sorted({f"{path}: {code}" for path, code in raised() if code not in CODES})
    assert missing == []


def test_the_scan_finds_the_codes_it_is_meant_to_find():
    found = {code for _, code in raised()}
    assert {"quote-malformed", "tdx-debug", "json-malformed", "config-invalid"} <= found


def test_next_steps_are_one_line_each_and_instruct():
    for code, step in CODES.items():
        assert step.strip() == step, code
        assert "\n" not in step, code
        assert not step.endswith("."), code
