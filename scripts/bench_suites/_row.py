"""Two ways to do one thing in, the time each took in the same seconds out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: ours beside a peer or ceiling, in seconds each."""

    what: str
    ours: float
    peer_name: str
    peer: float
    at_most: float | None = None
    """The ratio ours / peer that was promised; `None` where none was."""
    floor: float | None = None
    """Seconds that the steps which nobody can leave out take alone on this machine."""

    @property
    def ratio(self) -> float:
        """How many times the peer's time ours takes."""
        return self.ours / self.peer

    @property
    def kept(self) -> bool:
        """Say whether the promise, if any, was kept in this run."""
        return self.at_most is None or self.ratio <= self.at_most

    @property
    def reachable(self) -> bool:
        """Say whether any code could keep the promise on this machine."""
        if self.at_most is None or self.floor is None:
            return True
        return self.floor / self.peer <= self.at_most

    @property
    def broken(self) -> bool:
        """Say whether the code broke a promise that it could have kept here."""
        return not self.kept and self.reachable


def interleaved(
    ours: Callable[[], object], peer: Callable[[], object], *, rounds: int = 1000
) -> tuple[float, float]:
    """Time both by turns and return the fastest hundredth of each, in seconds of CPU time.

    By turns, because a shared machine's speed changes within a second; CPU time of this thread,
    because others may run between; the fastest, because what is slower is interference: neighbours
    on the machine empty its caches, which costs many small objects more than one long computation.
    """
    times: tuple[list[int], list[int]] = ([], [])
    for _ in range(rounds):
        for act, spent in zip((ours, peer), times, strict=True):
            start = time.thread_time_ns()
            act()
            spent.append(time.thread_time_ns() - start)
    first, second = (sorted(spent)[rounds // 100] / 1e9 for spent in times)
    return first, second


def by_turns(
    acts: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    clocks: Sequence[Callable[[], float]],
    before: Callable[[], object] = lambda: None,
) -> list[dict[str, float]]:
    """Run each in turn, `before` ahead of it; return lower quartiles, in seconds of each clock."""
    times = [{name: list[float]() for name in acts} for _ in clocks]
    for _ in range(rounds):
        for name, act in acts.items():
            before()
            begun = [clock() for clock in clocks]
            act()
            for seen, clock, start in zip(times, clocks, begun, strict=True):
                seen[name].append(clock() - start)
    return [{name: sorted(spent)[rounds // 4] for name, spent in seen.items()} for seen in times]
