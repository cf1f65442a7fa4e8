"""Whoever must update a platform is told which part of it lags, and by how much."""

from datetime import UTC, datetime

import pytest

from attestation.policy import intel_roots
from attestation.simulator.intel import Statements
from attestation.simulator.statements import IsvLevel, Module, PlatformLevel, TcbInfo
from attestation.tdx.quote import verify_quote
from tests.appraisal_world import World
from tests.shared_data import vectors

RECOVERY = "tdx-v4-b0c06f-tcb-recovery"


def short(vector: str, collateral: str, at: int) -> list[tuple[str, int, int]]:
    folder = vectors(vector)
    tdx = verify_quote(
        (folder / "quote.bin").read_bytes(),
        (folder / collateral).read_bytes(),
        root_der=intel_roots().tdx_der,
        now=datetime.fromtimestamp(at, UTC),
    )
    return [(one.what, one.present, one.newest) for one in tdx.tcb.short]


@pytest.mark.parametrize(
    ("vector", "collateral", "at"),
    [
        (RECOVERY, "collateral-2025-06.json", 1751624191),
        ("tdx-v4-00806f-gcp-cos-ccel", "collateral-2025-06.json", 1750325734),
        ("tdx-v4-20a06f-dstack", "collateral.json", 1758093775),
        ("tdx-v5-td15-90c06f-uptodate", "collateral-2026-02.json", 1771028279),
    ],
)
def test_a_genuine_platform_that_is_up_to_date_lacks_nothing(vector, collateral, at):
    assert short(vector, collateral, at) == []


def test_a_genuine_platform_after_a_tcb_recovery_is_told_what_to_update():
    assert short(RECOVERY, "collateral-2026-08.json", 1787894484) == [
        ("SGX component 0 (Early Microcode Update)", 3, 4),
        ("SGX component 1 (SGX Late Microcode Update)", 3, 4),
        ("TDX component 2 (TDX Late Microcode Update)", 3, 4),
        ("TDX module TDX_01", 6, 11),
    ]


def test_the_module_is_compared_with_its_identity_and_not_with_the_platforms_level():
    """Since TDX 1.5 the level's first two components are those of another module's numbering."""
    level = PlatformLevel(tdx_svns=(9, 9, 3) + (0,) * 13)
    state = Statements(tcb_info=TcbInfo(levels=(level,)))
    assert World(state=state).result().claims.tdx.tcb.short == ()


def test_an_old_module_is_named_in_the_check_of_the_status():
    module = Module(levels=(IsvLevel(svn=8), IsvLevel(svn=7, status="OutOfDate")))
    result = World(state=Statements(tcb_info=TcbInfo(modules=(module,)))).result()
    (failed,) = result.failed
    assert (failed.id, failed.actual) == (
        "tdx.tcb-status",
        "OutOfDate (TDX module TDX_01 at 7 of 8)",
    )


def test_a_low_pce_svn_is_named():
    levels = (PlatformLevel(pce_svn=200), PlatformLevel(status="OutOfDate"))
    result = World(state=Statements(tcb_info=TcbInfo(levels=levels))).result()
    assert [one.what for one in result.claims.tdx.tcb.short] == ["PCE"]
