"""When stapled collateral ends is told from the last report, and from nothing that is none."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from attestation.report import Report
from attestation.tdx.stated import claimed_end
from attestation.types import nonce
from server.telemetry.stapled import Stapled
from tests.appraisal_world import NOW, World

ASKED = nonce(bytes(32))


def sending(report: bytes) -> Stapled:
    async def collect(asked):
        assert asked == ASKED
        return report

    return Stapled(collect)


async def test_the_end_is_that_of_the_last_report():
    world = World()
    endorsements = world.guest().endorsements(NOW)
    stapled = sending(Report.build(world.evidence(), endorsements).to_bytes())
    assert await stapled.ends() is None
    assert await stapled.report(ASKED)
    ends = await stapled.ends()
    assert ends == claimed_end(endorsements.tdx)
    assert ends > NOW > datetime(2020, 1, 1, tzinfo=UTC)
    assert await stapled.ends() == ends


@pytest.mark.parametrize(
    "report",
    [b"", b"{}", b"\xff", Report.build(World().evidence(), None).to_bytes()],
    ids=["empty", "no report", "no text", "no collateral"],
)
async def test_without_collateral_there_is_no_end(report):
    stapled = sending(report)
    await stapled.report(ASKED)
    assert await stapled.ends() is None
