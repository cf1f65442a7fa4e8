"""What was asked and what was found in; the verdict a script reads and a person reads out.

`nothing-found` needs every sink searched, each with something in it to read, and every request
answered as it should be. A canary anywhere is `found`; everything else is `undecidable`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

from attestation.explain import printable
from server.retention.asking import Asked
from server.retention.search import Search, Searched
from server.retention.sinks import Absent, NotSearched, Place

Verdict = Literal["nothing-found", "found", "undecidable"]
EXIT = {"nothing-found": 0, "found": 5, "undecidable": 6}
_MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class Looked:
    """One sink after the search."""

    name: str
    searched: Searched
    not_searched: str = ""
    """Why nobody looked."""
    absent: str = ""
    """Why there is nothing to look at."""

    @property
    def clean(self) -> bool:
        """Whether something was read, all of it, and nothing was found."""
        if self.absent:
            return True
        searched = self.searched
        return searched.places > 0 and not (searched.found or searched.unread or self.not_searched)

    def to_json(self) -> dict[str, Any]:
        """Return this sink as `tacit prove-retention --json` shows it."""
        return {
            "sink": self.name,
            "places": self.searched.places,
            "bytes": self.searched.size,
            "found": [{"where": f.where, "spelling": f.needle} for f in self.searched.found],
            "unread": list(self.searched.unread),
            "not_searched": self.not_searched or None,
            "absent": self.absent or None,
        }


def look(search: Search, places: Iterable[Place], *, when: str = "") -> list[Looked]:
    """Search every place that can be searched; `when` is added to the names."""
    return [_looked(search, place, name=place.name + when) for place in places]


def _looked(search: Search, place: Place, *, name: str) -> Looked:
    if isinstance(place, NotSearched):
        return Looked(name, Searched(), not_searched=place.why)
    if isinstance(place, Absent):
        return Looked(name, Searched(), absent=place.why)
    return Looked(name, place.look(search))


@dataclass(frozen=True, slots=True)
class Proof:
    """One run of canaries through a service."""

    simulated: bool
    asked: Asked
    sinks: tuple[Looked, ...]
    spellings: int
    """In how many ways each canary was looked for."""
    not_looked_for: tuple[str, ...] = ()
    """Forms of a canary that were not looked for, and why."""

    @property
    def verdict(self) -> Verdict:
        """Return what the run came to."""
        if any(sink.searched.found for sink in self.sinks):
            return "found"
        whole = all(sink.clean for sink in self.sinks)
        return "nothing-found" if whole and not self._open else "undecidable"

    @property
    def _open(self) -> bool:
        return bool(self.asked.unexpected or self.not_looked_for)

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON of `tacit prove-retention --json`."""
        return {
            "verdict": self.verdict,
            "simulated": self.simulated,
            "requests": len(self.asked.everything),
            "answered": sum(answer.status == 200 for answer in self.asked.everything),
            "unexpected": list(self.asked.unexpected),
            "not_provoked": list(self.asked.not_provoked),
            "spellings": self.spellings,
            "not_looked_for": list(self.not_looked_for),
            "sinks": [sink.to_json() for sink in self.sinks],
        }

    def to_text(self) -> str:
        """Return the sentences."""
        return printable(self._lines())

    def _lines(self) -> Iterator[str]:
        everything = self.asked.everything
        served = sum(answer.status == 200 for answer in everything)
        past = len(self.asked.by_engine)
        yield (
            f"sent {len(everything)} requests with canaries, {past} of them past the gateway;"
            f" {served} were served, the others refused or broken off"
        )
        yield from _some(self.asked.unexpected, "  not as it should be: ")
        yield from _some(self.asked.not_provoked, "  not provoked: ")
        yield f"looked for each in {self.spellings} spellings"
        yield from _some(self.not_looked_for, "  not looked for: ")
        for sink in self.sinks:
            yield from _sentences(sink)
        yield {
            "nothing-found": "nothing found: every sink was searched and none holds a canary",
            "found": "FOUND: content is kept or repeated at the places above",
            "undecidable": "undecidable: nothing was found where it was looked, and that was not"
            " everywhere; this is not a pass",
        }[self.verdict]


def _sentences(sink: Looked) -> Iterator[str]:
    searched = sink.searched
    if sink.not_searched:
        yield f"  {sink.name:24} not searched: {sink.not_searched}"
        return
    if sink.absent:
        yield f"  {sink.name:24} none: {sink.absent}"
        return
    state = "ok" if sink.clean else "FOUND" if searched.found else "not read"
    state = "nothing there to read" if not searched.places and not searched.unread else state
    yield f"  {sink.name:24} {searched.places:6} places {searched.size:12,} bytes  {state}"
    yield from _some((f"{f.where} ({f.needle})" for f in searched.found), "    found in ")
    yield from _some(searched.unread, "    not read: ")


def _some(items: Iterable[str], before: str) -> Iterator[str]:
    listed = list(items)
    yield from (before + item for item in listed[:_MOST_LINES])
    if len(listed) > _MOST_LINES:
        yield f"{before}and {len(listed) - _MOST_LINES} more; see --json"
