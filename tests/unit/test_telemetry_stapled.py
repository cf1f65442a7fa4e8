"""When stapled statements end is told from the last report, and from nothing that is none."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from attestation.gpu.evidence import GpuEndorsements
from attestation.report import Report
from attestation.tdx.stated import claimed_end
from attestation.types import nonce
from server.telemetry.stapled import Ends, Stapled
from tests.appraisal_world import NOW, World
from tests.gpu_world import GpuWorld, nvidia

ASKED = nonce(bytes(32))
HELD = World().guest().endorsements(NOW)
GPUS = GpuWorld()


def sending(report: bytes) -> Stapled:
    async def collect(asked):
        assert asked == ASKED
        return report

    return Stapled(collect)


async def ends(report: bytes) -> Ends:
    stapled = sending(report)
    assert await stapled.ends() == Ends()
    assert await stapled.report(ASKED) == report
    return await stapled.ends()


def reporting(store: GpuEndorsements) -> bytes:
    return Report.build(GPUS.sent(), replace(HELD, gpu=store.to_bytes())).to_bytes()


async def test_the_end_is_that_of_the_last_report():
    found = await ends(Report.build(World().evidence(), HELD).to_bytes())
    assert found == Ends(intel=claimed_end(HELD.tdx))
    assert found.intel > NOW > datetime(2020, 1, 1, tzinfo=UTC)


async def test_a_report_is_parsed_once_however_often_its_ends_are_asked_for():
    stapled = sending(Report.build(World().evidence(), HELD).to_bytes())
    await stapled.report(ASKED)
    assert await stapled.ends() is await stapled.ends()


async def test_nvidias_word_ends_with_the_first_certificate_that_has_no_newer_response():
    store = GPUS.store()
    whole = await ends(reporting(store))
    assert whole.intel == claimed_end(HELD.tdx)
    assert whole.nvidia > NOW
    earlier = nvidia().endorsements(GPUS.gpus(), now=NOW - timedelta(hours=2))
    assert (await ends(reporting(earlier))).nvidia == whole.nvidia - timedelta(hours=2)
    both = GpuEndorsements.of(store.rims, (*earlier.ocsp, *store.ocsp))
    assert (await ends(reporting(both))).nvidia == whole.nvidia
    one_is_old = GpuEndorsements.of(store.rims, (earlier.ocsp[0], *store.ocsp[1:]))
    assert (await ends(reporting(one_is_old))).nvidia == whole.nvidia - timedelta(hours=2)


@pytest.mark.parametrize(
    "report",
    [b"", b"{}", b"\xff", Report.build(World().evidence(), None).to_bytes()],
    ids=["empty", "no report", "no text", "no collateral"],
)
async def test_without_statements_there_is_no_end(report):
    assert await ends(report) == Ends()
