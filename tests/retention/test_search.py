"""The search for canaries finds one that was planted, in every sink and every spelling."""

import base64
import bz2
import gzip
import html
import json
import lzma
import os
import sqlite3
import struct
import subprocess
import sys
import urllib.parse
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.retention.canary import Canaries, token_spellings
from server.retention.search import Search, Searched, processes_below

CANARIES = Canaries.of(bytes(range(100, 116)))
CANARY = CANARIES.at("prompt")
TOKENS = {"head": [7, 300, 1999, 90_000, 200, 5, 3], "tail": [1, 2, 3, 4, 5, 6]}
SEARCH = Search(CANARIES.needles(tokens=TOKENS))
NOISE = st.text(st.characters(codec="utf-8"), max_size=20)


def names(searched: Searched) -> set[str]:
    return {found.needle for found in searched.found}


def parts(how: str) -> set[str]:
    return {f"head {how}", f"tail {how}"}


# -- spellings


@given(before=NOISE, after=NOISE)
def test_base64_of_any_text_around_a_canary_is_found(before, after):
    data = f"{before}{CANARY}{after}".encode()
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        found = names(SEARCH.text("x", encode(data)))
        assert any(name.startswith("head in base64") for name in found)
        assert any(name.startswith("tail in base64") for name in found)


@given(before=NOISE, after=NOISE)
def test_wide_characters_and_hex_of_any_text_around_a_canary_are_found(before, after):
    text = f"{before}{CANARY}{after}"
    for codec in ("utf-16-le", "utf-16-be"):
        assert parts("in UTF-16") <= names(SEARCH.text("x", text.encode(codec)))
    for codec in ("utf-32-le", "utf-32-be"):
        assert parts("in UTF-32") <= names(SEARCH.text("x", text.encode(codec)))
    data = text.encode()
    assert parts("in hex") <= names(SEARCH.text("x", data.hex().encode()))
    assert parts("in hex, capitals") <= names(SEARCH.text("x", data.hex().upper().encode()))
    assert parts("in hex, spaced") <= names(SEARCH.text("x", data.hex(" ").encode()))


@pytest.mark.parametrize(
    "line",
    [
        json.dumps({"prompt": f'"\n{CANARY}'}),
        repr(CANARY),
        urllib.parse.quote(CANARY),
        html.escape(CANARY),
        CANARY.upper(),
        "".join(f"\\u{ord(c):04x}" for c in CANARY),
        "".join(f"%{ord(c):02X}" for c in CANARY),
        "".join(f"\\x{ord(c):02x}" for c in CANARY),
        "".join(f"&#{ord(c)};" for c in CANARY),
        f"cut {CANARY[:12]}…",
        f"…{CANARY[-12:]} cut",
    ],
)
def test_a_canary_in_a_log_line_is_found(line):
    assert SEARCH.text("log", f"2026-11-25 ERROR {line}\n".encode()).found


@pytest.mark.parametrize("part", ["head", "tail"])
def test_the_token_ids_of_a_canary_are_found(part):
    ids = [11, *TOKENS[part], 12]
    for data in (
        json.dumps(ids),
        str(tuple(ids)),
        " ".join(map(str, ids)),
        ",".join(map(str, ids)),
    ):
        assert any(
            name.startswith(f"{part} in ids") for name in names(SEARCH.text("x", data.encode()))
        )
    packed = struct.pack(f"<{len(ids)}i", *ids)
    assert f"{part} in 32-bit ids" in names(SEARCH.text("x", packed))
    packed = struct.pack(f"<{len(ids)}q", *ids)
    assert f"{part} in 64-bit ids" in names(SEARCH.text("x", packed))


def test_message_pack_ids_have_every_width():
    packed = token_spellings(TOKENS["head"])["in MessagePack ids"]
    assert packed == bytes.fromhex("07cd012ccd07cfce00015f90ccc80503")


def test_a_few_tokens_are_no_canary():
    with pytest.raises(ValueError, match="too few"):
        CANARIES.needles(tokens={"head": [1, 2, 3]})


def test_each_position_and_each_run_has_its_own_canary():
    assert CANARIES.at("prompt") != CANARIES.at("system")
    assert CANARIES.at("prompt") == CANARY
    assert Canaries.of(os.urandom(16)).head not in CANARY
    assert not SEARCH.text("x", Canaries.of(os.urandom(16)).at("prompt").encode()).found
    with pytest.raises(ValueError, match="random bytes"):
        Canaries.of(b"few")


# -- files


def test_a_clean_tree_holds_nothing_and_was_read(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1000)
    searched = SEARCH.tree(tmp_path)
    assert (searched.found, searched.unread) == ((), ())
    assert searched.size == 1000 + len("a")


@pytest.mark.parametrize("place", ["file", "deep/er/file", ".hidden"])
def test_a_canary_in_a_file_is_found(tmp_path, place):
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"before {CANARY} after")
    assert parts("as is") == names(SEARCH.tree(tmp_path))


@pytest.mark.parametrize("offset", range(-40, 1, 8))
def test_a_canary_across_two_reads_is_found(tmp_path, offset):
    chunk = 1024 * 1024
    for reads in (1, 4):
        data = bytes(reads * chunk + offset) + CANARY.encode() + bytes(chunk)
        (tmp_path / "file").write_bytes(data)
        assert parts("as is") == names(SEARCH.tree(tmp_path))


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_a_canary_in_a_packed_file_is_found(tmp_path, pack):
    packed = pack(b"a line\n" * 1000 + CANARY.encode())
    (tmp_path / "log.1").write_bytes(packed)
    searched = SEARCH.tree(tmp_path)
    assert parts("as is") == names(searched)
    assert searched.unread == ()
    (tmp_path / "log.1").write_bytes(packed[:-20])
    assert SEARCH.tree(tmp_path).unread
    (
        tmp_path / "log.1"
    ).unlink()  # a search of the whole machine, beside this test, would say so too


@pytest.mark.parametrize("head", [b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"LPKSHHRH"])
def test_a_file_packed_in_another_way_is_not_called_read(tmp_path, head):
    (tmp_path / "log").write_bytes(head + bytes(100))
    assert len(SEARCH.tree(tmp_path).unread) == 1
    (tmp_path / "log").unlink()


def test_a_search_can_stay_on_top_or_on_one_device(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep/file").write_text(CANARY)
    assert not SEARCH.tree(tmp_path, deep=False).found
    device = tmp_path.stat().st_dev
    assert SEARCH.tree(tmp_path, device=device).found
    assert not SEARCH.tree(tmp_path, device=device + 1).found


def test_a_canary_in_a_database_and_in_its_log_is_found(tmp_path):
    with sqlite3.connect(tmp_path / "x.db") as database:
        database.execute("pragma journal_mode=wal")
        database.execute("create table t (c text)")
        database.execute("insert into t values (?)", (CANARY,))
        database.commit()
        wal = {found.where for found in SEARCH.tree(tmp_path).found}
        assert wal == {str(tmp_path / "x.db-wal")}
    database.close()
    assert {found.where for found in SEARCH.tree(tmp_path).found} == {str(tmp_path / "x.db")}


def test_a_canary_in_a_name_or_a_link_is_found(tmp_path):
    (tmp_path / CANARY).mkdir()
    (tmp_path / "link").symlink_to(f"/nowhere/{CANARY}")
    assert {found.where for found in SEARCH.tree(tmp_path).found} == {
        f"name of {tmp_path / CANARY}",
        f"target of {tmp_path / 'link'}",
    }


def test_what_did_not_change_since_is_left_out(tmp_path):
    path = tmp_path / "file"
    path.write_text(CANARY)
    changed = path.stat().st_ctime_ns
    assert SEARCH.tree(tmp_path, since=changed).found
    assert not SEARCH.tree(tmp_path, since=changed + 1).found


def test_a_copy_that_kept_an_old_time_counts_as_new(tmp_path):
    path = tmp_path / "file"
    path.write_text(CANARY)
    os.utime(path, (1, 1))
    assert SEARCH.tree(tmp_path, since=path.stat().st_ctime_ns).found


def test_another_link_to_an_old_file_does_not_count_as_new(tmp_path):
    path = tmp_path / "file"
    path.write_text(CANARY)
    written = path.stat().st_mtime_ns
    path.with_name("link").hardlink_to(path)
    assert SEARCH.tree(tmp_path, since=written).found
    assert not SEARCH.tree(tmp_path, since=written + 1).found


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_cannot_be_read_is_said(tmp_path):
    (tmp_path / "file").touch(mode=0o000)
    (tmp_path / "closed").mkdir(mode=0o000)
    assert set(SEARCH.tree(tmp_path).unread) == {str(tmp_path / "file"), str(tmp_path / "closed")}


def test_a_canary_in_shared_memory_is_found():
    path = Path(f"/dev/shm/{os.getpid()}-canary")
    try:
        path.write_text(CANARY)
        assert str(path) in {found.where for found in SEARCH.tree(Path("/dev/shm")).found}
    finally:
        path.unlink()


# -- processes

IDLE = "import sys; print('up', flush=True); sys.stdin.read()"
UNNAMED = (
    "import sys, tempfile; kept = tempfile.TemporaryFile();"
    "kept.write(sys.stdin.readline().encode()); kept.flush();"
    "print('up', flush=True); sys.stdin.read()"
)
PARENT = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-c', sys.argv[1]],"
    "env={'KEPT': sys.stdin.readline()}); child.wait()"
)


@pytest.fixture
def start():
    children = []

    def run(*words, say="", environment=None):
        child = subprocess.Popen(
            [sys.executable, "-c", *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment or {},
        )
        children.append(child)
        child.stdin.write(f"{say}\n")
        child.stdin.flush()
        assert child.stdout.readline() == "up\n"
        return child.pid

    yield run
    for child in children:
        child.communicate()


def test_a_process_that_keeps_nothing_is_clean(start):
    searched = SEARCH.process(start(IDLE, say=CANARY))  # it reads the line and forgets it
    assert (searched.found, searched.unread) == ((), ())
    assert searched.places >= 3


def test_a_canary_in_an_environment_is_found(start):
    pid = start(IDLE, environment={"KEPT": CANARY})
    assert {found.where for found in SEARCH.process(pid).found} == {f"/proc/{pid}/environ"}


def test_a_canary_on_a_command_line_is_found(start):
    pid = start(IDLE, CANARY)
    assert {found.where for found in SEARCH.process(pid).found} == {f"/proc/{pid}/cmdline"}


def test_a_canary_in_an_open_file_without_a_name_is_found(start):
    pid = start(UNNAMED, say=CANARY)
    (where,) = {found.where for found in SEARCH.process(pid).found}
    assert where.startswith(f"/proc/{pid}/fd/")
    assert where.endswith("(deleted)")


def test_a_canary_in_a_child_of_a_process_is_found(start):
    below = processes_below(start(PARENT, IDLE, say=CANARY))
    searched = sum((SEARCH.process(pid) for pid in below), Searched())
    assert len(below) == 2
    assert {found.where.rpartition("/")[2] for found in searched.found} == {"environ"}


def test_a_process_that_ended_holds_nothing():
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    assert SEARCH.process(child.pid) == Searched()
