"""Measure what this guest serves into RTMR3, once per boot of the TD, whatever restarts in it.

RTMR3 only extends, and a service may be restarted inside the same TD. So the events are written to
a journal in memory-backed storage before the first is measured; a restart finds there how far RTMR3
got and goes on. The journal needs no trust: the register decides, and a quote signs the register.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from attestation.checks import RUNTIME_DOMAIN
from attestation.codec import Document, canonical_json, parse_document
from attestation.errors import ConfigError, Malformed
from attestation.tdx.collect import TdxGuest
from attestation.tdx.eventlog import RuntimeEvent
from attestation.types import Digest

JOURNAL = "measured.json"


class _Journal(Document):
    version: Literal[1]
    events: Annotated[tuple[tuple[str, str, str], ...], Field(max_length=64)]


def runtime_events(config: Digest, models: Mapping[str, Digest]) -> tuple[RuntimeEvent, ...]:
    """Return the events of a deployment: its configuration, then each model under its name."""
    served = (
        RuntimeEvent(RUNTIME_DOMAIN, "model", f"{name}={models[name]}") for name in sorted(models)
    )
    return (RuntimeEvent(RUNTIME_DOMAIN, "config", str(config)), *served)


def measure(guest: TdxGuest, wanted: Sequence[RuntimeEvent], *, run_directory: Path) -> None:
    """Extend RTMR3 by those of `wanted` that it does not hold yet.

    Raises `ConfigError` `td-measured-other` when this boot of the TD measured another deployment,
    and the refusals of `TdxGuest`.
    """
    journal = run_directory / JOURNAL
    before = _read(journal)
    held = guest.resume(before)
    if held and list(before) != list(wanted):
        raise ConfigError("td-measured-other", f"RTMR3 holds {held} events of another deployment")
    if not held:
        _write(journal, wanted)
    for event in wanted[held:]:
        guest.extend(event)


def _read(journal: Path) -> tuple[RuntimeEvent, ...]:
    try:
        data = journal.read_bytes()
    except FileNotFoundError:
        return ()
    try:
        document = parse_document(_Journal, data)
        return tuple(RuntimeEvent(*words) for words in document.events)
    except Malformed:
        raise ConfigError("td-journal", f"{journal} is not a journal of measured events") from None


def _write(journal: Path, events: Sequence[RuntimeEvent]) -> None:
    document = {"version": 1, "events": [[e.domain, e.operation, e.content] for e in events]}
    staged = journal.with_suffix(".new")
    staged.write_bytes(canonical_json(document))
    staged.replace(journal)
