"""Every sink of a proof finds a canary that was planted in it, and says when it could not look."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from attestation.codec import parse_yaml
from server.retention.asking import Asked
from server.retention.canary import Canaries
from server.retention.places import CoreDumps, search_swap
from server.retention.proof import Looked, Proof, look
from server.retention.search import Search, Searched
from server.retention.senders import Answered
from server.retention.sinks import Local, NotSearched, Sink, lasting, sinks
from server.retention.vectors import Sent
from server.settings import SettingsFile

CANARIES = Canaries.of(bytes(range(50, 66)))
CANARY = CANARIES.at("prompt")
SEARCH = Search(CANARIES.needles())
IDLE = "print('up', flush=True); import sys; sys.stdin.read()"


def answered(position="prompt", status=200, headers="[]", body=b"{}", path="/v1/chat/completions"):
    return Answered(Sent(position, b"", path), status, headers, body, "req_1")


def asked(*answers, by_engine=()) -> Asked:
    metrics = answered("", body=b"vllm:up 1", path="/metrics")
    return Asked(answers or (answered(),), (metrics, *by_engine), b"", ())


@pytest.fixture
def place(tmp_path):
    """Return an installation that keeps nothing: its files, and one process that is idle."""
    for name in ("run", "telemetry", "own", "cwd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "kept").write_text("a number: 7")
    (tmp_path / "log").write_text("req_1 was served")
    return tmp_path


@pytest.fixture
def start(place):
    children = []

    def run(*command, **environment):
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=place / "cwd",
            env={"PATH": os.environ["PATH"], **environment},
            text=True,
        )
        children.append(child)
        assert child.stdout.readline() == "up\n"
        return child.pid

    yield run
    for child in children:
        child.communicate()


def local(place: Path, *pids: int) -> Local:
    return Local(
        pids=pids,
        logs=(place / "log",),
        telemetry=(place / "telemetry",),
        run_directory=place / "run",
        directories=(place / "own",),
    )


def looked(what: Local, answers: Asked | None = None, *, since: int) -> dict[str, Looked]:
    """Search every sink but the whole machine, which takes its time."""
    dumps = CoreDumps.of(what.pids)
    places = sinks(answers or asked(), CANARIES, local=what, dumps=dumps, since=since)
    quick = [place for place in places if not (what.pids and place.name == "this machine")]
    return {sink.name: sink for sink in look(SEARCH, quick)}


def one(name: str, what: Local, answers: Asked | None = None, *, since: int = 0) -> Looked:
    """Search one sink alone."""
    dumps = CoreDumps.of(what.pids)
    places = sinks(answers or asked(), CANARIES, local=what, dumps=dumps, since=since)
    (found,) = look(SEARCH, [sink for sink in places if sink.name == name])
    return found


def idle(start) -> int:
    return start(sys.executable, "-c", IDLE)


def private(start) -> int:
    """Start a process with a mount of its own."""
    words = "mount -t tmpfs none /mnt && echo $0 > /mnt/kept && echo up && read x"
    return start("unshare", "--mount", "sh", "-c", words, "a number: 7")


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts and other processes need root")


@needs_root
def test_a_service_that_keeps_nothing_is_clean_in_every_sink(place, start):
    since = time.time_ns()
    page = answered("", body=b"up 1", path="/metrics")
    found = looked(local(place, private(start)), replace(asked(), metrics=page), since=since)
    assert {name: sink.clean for name, sink in found.items()} == dict.fromkeys(found, True)
    proof = Proof(True, asked(), tuple(found.values()), 36)
    assert proof.verdict == "nothing-found"


FILES = {
    "log and audit": "log",
    "telemetry": "telemetry/kept",
    "run directory": "run/deep",
    "directories": "own/kept",
    "core dumps": "cwd/core",
}


@pytest.mark.parametrize("name", FILES)
def test_a_canary_in_a_file_of_a_sink_is_found(place, start, name):
    since = time.time_ns()
    what = local(place, idle(start))
    with (place / FILES[name]).open("a") as file:
        file.write(CANARY)
    found = one(name, what, since=since)
    assert {where.needle for where in found.searched.found} == {"head as is", "tail as is"}
    assert Proof(True, asked(), (found,), 36).verdict == "found"


@needs_root
def test_a_canary_in_a_mount_of_the_engine_s_own_is_found(place, start):
    words = f"mount -t tmpfs none /mnt && echo {CANARY} > /mnt/kept && echo up && read x"
    pid = start("unshare", "--mount", "sh", "-c", words)
    found = one("mounts of the engine", local(place, pid), since=time.time_ns())
    assert {Path(where.where).name for where in found.searched.found} == {"kept"}
    assert not Path("/mnt/kept").exists()


def test_a_canary_anywhere_on_the_machine_is_found(place, start):
    since = time.time_ns()
    what = local(place, idle(start))  # longer than the tick by which the clock of files is behind
    paths = [Path(f"{parent}/tacit-planted-{os.getpid()}") for parent in ("/var/tmp", "/dev/shm")]
    try:
        for path in paths:
            path.write_text(CANARY)
        found = one("this machine", what, since=since)
    finally:
        for path in paths:
            path.unlink()
    assert {str(path) for path in paths} <= {where.where for where in found.searched.found}


@needs_root
def test_a_canary_in_a_process_is_found(place, start):
    pid = start(sys.executable, "-c", IDLE, KEPT=CANARY)
    found = one("processes", local(place, pid), since=time.time_ns())
    assert {where.where for where in found.searched.found} == {f"/proc/{pid}/environ"}


def test_a_canary_in_swap_is_found(tmp_path):
    area = tmp_path / "a swap"
    area.write_bytes(bytes(4096) + CANARY.encode().ljust(4096, b"\0"))
    listed = str(area).replace(" ", "\\040")
    (tmp_path / "swaps").write_text(f"Filename Type Size Used Priority\n{listed} file 8 0 -2\n")
    assert {found.where for found in search_swap(SEARCH, tmp_path).found} == {str(area)}
    area.unlink()
    assert search_swap(SEARCH, tmp_path).unread == (f"swap area {area}",)


LEAKS = {
    "an error": answered("prompt", 400, body=f'{{"error": "{CANARY}"}}'.encode()),
    "a header": answered("prompt", headers=f"[('x', '{CANARY}')]"),
    "a field": answered("prompt", body=f'{{"user": "{CANARY}", "choices": []}}'.encode()),
    "an event": answered("prompt", body=f'data: {{"choices": [], "id": "{CANARY}"}}\n\n'.encode()),
    "a response": answered(
        "prompt", body=f'{{"object": "response", "output": [], "user": "{CANARY}"}}'.encode()
    ),
    "an event of a response": answered(
        "prompt",
        body=b'event: response.created\ndata: {"type": "response.created", "response": '
        + f'{{"object": "response", "instructions": "{CANARY}"}}}}\n\n'.encode(),
    ),
    "another's answer": answered("stop", body=f'{{"choices": ["{CANARY}"]}}'.encode()),
    "what is no JSON": answered("stop", body=f"event {CANARY}".encode()),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_a_canary_in_an_answer_is_found(place, leak):
    found = one("answers", Local(), asked(LEAKS[leak]))
    assert found.searched.found


@pytest.mark.parametrize(
    "body",
    [
        f'{{"choices": ["{CANARY}"]}}',
        f'{{"object": "response", "output": ["{CANARY}"]}}',
        f'event: x\ndata: {{"type": "response.output_text.delta", "delta": "{CANARY}"}}\n\n',
    ],
)
def test_a_model_may_say_what_it_was_told(body):
    assert one("answers", Local(), asked(answered("prompt", body=body.encode()))).clean


def test_a_canary_in_what_is_said_to_those_who_speak_no_http_is_found():
    said = replace(asked(), babble=f"HTTP/1.1 400 {CANARY}".encode())
    assert one("answers", Local(), said).searched.found


def test_a_canary_in_the_metrics_of_the_engine_is_found():
    page = answered("", body=f'vllm:x{{a="{CANARY}"}} 1'.encode(), path="/metrics")
    found = one("metrics of the engine", Local(), asked(by_engine=(page,)))
    assert found.searched.found


def test_a_canary_in_the_operators_metrics_is_found():
    page = answered("", body=b'x{a="7"} 1', path="/metrics")
    clean = replace(asked(), metrics=page)
    assert one("metrics", Local(), clean).clean
    leaking = replace(page, body=f'x{{a="{CANARY}"}} 1'.encode())
    assert one("metrics", Local(), replace(asked(), metrics=leaking)).searched.found


# -- what was not searched is never a pass


def test_metrics_that_were_refused_were_not_read():
    refused = replace(asked(), metrics=answered("", 403, body=b"{}", path="/metrics"))
    assert one("metrics", Local(), refused).searched.unread


def test_what_the_attested_settings_leave_out_needs_no_search():
    text = (Path(__file__).parents[2] / "configs/simulated.yaml").read_bytes()
    settings = parse_yaml(SettingsFile, text, name="simulated.yaml")
    for name in ("metrics", "telemetry"):
        assert one(name, Local(settings=settings)).clean
        assert one(name, Local()).not_searched


def test_from_elsewhere_only_answers_are_searched():
    found = looked(Local(), replace(asked(), by_engine=()), since=0)
    assert [name for name, sink in found.items() if sink.clean] == ["answers"]
    assert all(sink.not_searched for name, sink in found.items() if name != "answers")
    proof = Proof(True, asked(), tuple(found.values()), 36)
    assert proof.verdict == "undecidable"
    assert "not searched: give --log" in proof.to_text()
    assert "not a pass" in proof.to_text()


def test_a_log_without_our_requests_is_not_the_log(place):
    (place / "log").write_text("another service's words")
    found = one("log and audit", local(place))
    assert not found.clean
    assert found.searched.unread == ("1 of 1 requests are not in the log: it is another's or cut",)


def test_a_place_without_anything_in_it_is_not_clean(place):
    shutil.rmtree(place / "telemetry")
    (place / "own/kept").unlink()
    assert not one("telemetry", local(place)).clean
    assert not one("directories", local(place)).clean


def test_a_process_that_is_gone_was_not_searched(place):
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        pass
    found = one("processes", local(place, child.pid), since=time.time_ns())
    assert found.searched.unread == (f"process {child.pid} is gone",)


def test_a_dump_that_is_piped_away_was_not_searched():
    for pattern, unread in (("|/usr/lib/systemd/systemd-coredump %P", 1), ("|/bin/false", 0)):
        searched = CoreDumps(pattern, ()).search(SEARCH, since=0)
        assert len(searched.unread) == unread


def test_a_request_that_was_not_answered_as_meant_proves_nothing():
    clean = Looked("answers", Searched(places=1))
    refused = asked(answered(status=429))
    assert Proof(True, refused, (clean,), 36).verdict == "undecidable"
    assert "not as it should be: prompt: 429" in Proof(True, refused, (clean,), 36).to_text()


def test_a_form_that_was_not_looked_for_proves_nothing():
    clean = Looked("answers", Searched(places=1))
    assert Proof(True, asked(), (clean,), 36, ("token ids: no",)).verdict == "undecidable"


PLANTED = {
    *FILES,
    "answers",
    "metrics",
    "metrics of the engine",
    "mounts of the engine",
    "processes",
    "swap",
    "this machine",
}
"""Sinks that have a test above which plants a canary in them."""


def test_every_sink_has_a_test_that_plants_a_canary_in_it():
    everything = {"local": Local(), "dumps": CoreDumps("core", ()), "since": 0}
    places = sinks(asked(), CANARIES, **everything)
    assert all(isinstance(sink, Sink | NotSearched) for sink in places)
    assert sorted(sink.name for sink in places) == sorted(PLANTED)


def test_a_crash_leaves_every_sink_but_those_of_live_processes():
    everything = {"local": Local(), "dumps": CoreDumps("core", ()), "since": 0}
    lives = {"metrics", "metrics of the engine", "mounts of the engine", "processes"}
    left = {sink.name for sink in lasting(asked(), CANARIES, **everything)}
    assert left == PLANTED - lives
