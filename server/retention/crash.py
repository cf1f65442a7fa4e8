"""An engine in the middle of answers in; the same engine crashed, and what its clients got, out.

Only for whoever may end the processes of a service on its own machine; it serves nothing for this.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from server.retention.asking import Asked
from server.retention.places import family
from server.retention.search import processes_below
from server.retention.senders import CUT, Answered, Sender, endless
from server.retention.vectors import Writer

_AT_ONCE = 4
_BEGINNING_SECONDS = 120
_ENDING_SECONDS = 60


def crash(sender: Sender, writer: Writer, *, pids: Iterable[int]) -> Asked:
    """Abort the processes of the engines below `pids` while they answer canaries.

    SIGABRT is what an assertion or a fault of the driver comes to: where dumps are possible, the
    kernel dumps the memory then. It comes once each answer has begun, or one of them has ended, or
    two minutes are over; if none was under way and was cut, that is named as not provoked.
    """
    roots = tuple(pids)
    requests = [endless(writer, f"crashed {number}", range(600)) for number in range(_AT_ONCE)]
    heard = [threading.Event() for _ in requests]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked = [
            pool.submit(sender.ask, sent, event.set)
            for sent, event in zip(requests, heard, strict=True)
        ]
        ends = time.monotonic() + _BEGINNING_SECONDS
        while not (all(event.is_set() for event in heard) or any(one.done() for one in asked)):
            if time.monotonic() > ends:
                break
            time.sleep(0.01)
        begun = [event.is_set() and not one.done() for event, one in zip(heard, asked, strict=True)]
        _abort(roots)
        answers = [one.result() for one in asked]
    _wait_for_the_end(roots)
    cut = any(was and _cut(answer) for was, answer in zip(begun, answers, strict=True))
    missed = () if cut else ("a crash during an answer: none was under way",)
    return Asked(tuple(answers), (), b"", missed)


def leaves(roots: Iterable[int]) -> frozenset[int]:
    """Return the processes that start no others: the workers and cores of engines."""
    tops = frozenset(roots)
    return frozenset(pid for pid in family(tops) - tops if processes_below(pid) == {pid})


def _abort(roots: tuple[int, ...]) -> None:
    for pid in leaves(roots):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGABRT)


def _wait_for_the_end(roots: tuple[int, ...]) -> None:
    """Return once the engines are gone, with all that their ends print and clean up."""
    ends = time.monotonic() + _ENDING_SECONDS
    while leaves(roots) and time.monotonic() < ends:
        time.sleep(0.2)


def _cut(answer: Answered) -> bool:
    return answer.status in {200, CUT} and b"data: [DONE]" not in answer.body
