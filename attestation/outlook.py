"""A verdict and what another collateral comes to in; an early warning, as JSON and sentences, out.

Intel publishes the tables of a TCB recovery twice: with `update=early` on the day, with
`update=standard` months later. Who decides by the standard set learns from the early one what is
coming, while there is time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from attestation.explain import Answer
from attestation.policy_file import stamp
from attestation.tdx.claims import Tcb, TcbStatus

_GOOD = ("affirmed", "authentic")


@dataclass(frozen=True, slots=True)
class Outlook:
    """What one further collateral says of the same quote; it decides nothing."""

    collateral: str
    """Name of the file."""
    at: datetime
    """When it was judged: at the time asked, or when it begins if that is later."""
    answer: Answer
    decided: Answer
    """What the collateral came to that decides."""

    @property
    def tcb(self) -> Tcb | None:
        """The TCB as this collateral sees it, `None` where it could not be judged."""
        return None if self.answer.facts is None else self.answer.facts.tdx.tcb

    @property
    def worse(self) -> bool:
        """Say whether this collateral, once it decides, takes away what is accepted now.

        Without a policy that is any other status than the present one but UpToDate. Collateral that
        could not be judged warns of nothing.
        """
        tcb, facts = self.tcb, self.decided.facts
        if self.decided.verdict not in _GOOD or facts is None:
            return False
        if self.answer.verdict == "refused":
            return True
        if tcb is None:
            return False
        return tcb.status not in (facts.tdx.tcb.status, TcbStatus.UP_TO_DATE)

    @property
    def until(self) -> datetime | None:
        """Return how long there is time: the end of what decides, or of a grace that follows."""
        if not self.worse:
            return None
        tolerated = self.answer.verdict in _GOOD and self.answer.policy is not None
        return self.answer.expires_at if tolerated else self.decided.expires_at

    def to_json(self) -> dict[str, Any]:
        """Return one entry of `outlook` in `tacit verify quote --json`."""
        tcb, until = self.tcb, self.until
        return {
            "collateral": self.collateral,
            "at": stamp(self.at),
            "verdict": self.answer.verdict,
            "code": self.answer.code,
            "failed": [check.id for check in self.answer.checks if not check.passed],
            "tcb_status": tcb.status.value if tcb else None,
            "evaluation_number": tcb.evaluation if tcb else None,
            "advisories": list(tcb.advisories) if tcb else [],
            "tcb_short": [
                {"what": one.what, "present": one.present, "newest": one.newest}
                for one in (tcb.short if tcb else ())
            ],
            "worse": self.worse,
            "until": stamp(until) if until else None,
        }

    def sentences(self) -> Iterator[str]:
        """Say what is coming, what is short and how long there is time."""
        tcb, verdict = self.tcb, self.answer.verdict
        if tcb is None:
            why = self.answer.why
            yield f"  early  {self.collateral} could not be judged ({self.answer.code}): {why}"
            return
        seen = f"{self.collateral} (evaluation {tcb.evaluation}, as of {stamp(self.at)})"
        listed = f", advisories {', '.join(tcb.advisories)}" if tcb.advisories else ""
        yield f"  early  under {seen} this platform is {tcb.status.value}{listed}"
        for one in tcb.short:
            lacking = one.newest - one.present
            yield f"         {one.what} at {one.present} of {one.newest}, short by {lacking}"
        if verdict == "refused":
            yield f"         the policy would refuse it ({self.answer.code})"
        until = self.until
        if until is not None:
            yield f"         you have until {stamp(until)} to update the platform"
        elif verdict in _GOOD:
            yield f"         nothing changes: {verdict}"
