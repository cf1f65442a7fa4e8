"""SECURITY.md and README.md name only what exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    line.split("|")[1:4]
    for line in (ROOT / "SECURITY.md").read_text().splitlines()
    if line.startswith("| ") and not line.startswith("| claim")
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip()[:40])
def test_a_claim_is_enforced_by_files_and_proven_by_tests_that_exist(row):
    claim, enforced, proven = row
    named = re.findall(r"`([^`]+)`", enforced)
    tests = re.findall(r"`([^`]+)`", proven)
    assert claim.strip()
    assert named
    assert tests
    for path in named:
        assert (ROOT / path).is_file(), path
    for name in tests:
        path, _, test = name.partition("::")
        assert (ROOT / path).is_file(), path
        if test:
            assert test in functions(ROOT / path), name


def functions(path: Path) -> set[str]:
    """Return the names of all functions in a file."""
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for node in ast.walk(tree) if isinstance(node, kinds)}


def test_the_map_of_the_code_names_what_exists():
    text = (ROOT / "README.md").read_text()
    rows = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    assert rows
    for row in rows:
        for name in re.findall(r"`([^`]+)`", row):
            head, brace, rest = name.partition("{")
            inner, _, tail = rest.partition("}")
            for part in inner.split(",") if brace else [""]:
                assert (ROOT / f"{head}{part}{tail}").exists(), name


def test_the_readme_commands_exist_and_can_be_run():
    text = (ROOT / "README.md").read_text()
    commands = set(re.findall(r"^(scripts/[a-z-]+)", text, re.MULTILINE))
    assert {"scripts/up", "scripts/test"} <= commands
    for command in commands:
        assert (ROOT / command).stat().st_mode & 0o111, command
