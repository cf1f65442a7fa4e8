"""Every genuine TDX, SGX and CCEL vector: inside, before and after its collateral's window."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from attestation.errors import Refusal
from attestation.tdx.eventlog import EventLog
from attestation.tdx.quote import verify_quote
from tests.shared_data import SHARED, vectors

# folder -> what a verifier that has the right time says: a TCB status or a refusal's code
INSIDE = {
    "sgx-v3-not-tdx": ("quote-unsupported",),
    "tdx-v4-00806f-gcp-cos-ccel": ("UpToDate", "OutOfDate"),
    "tdx-v4-00806f-out-of-date": ("OutOfDate",),
    "tdx-v4-20a06f-dstack": ("UpToDate",),
    "tdx-v4-50806f-debug-td": ("tdx-debug", "tdx-debug"),
    "tdx-v4-90c06f-azure-2026-02": ("UpToDate",),
    "tdx-v4-90c06f-dstack-eventlog": ("UpToDate",),
    "tdx-v4-b0c06f-swapped-collateral": ("collateral-mismatch", "collateral-mismatch"),
    "tdx-v4-b0c06f-tcb-recovery": ("UpToDate", "OutOfDate"),
    "tdx-v5-td15-90c06f-service-td": ("tdx-service-td",),
    "tdx-v5-td15-90c06f-uptodate": ("UpToDate",),
}
OUTSIDE = {"before": "collateral-future", "after": "collateral-expired"}
EXCEPTIONS = {
    ("sgx-v3-not-tdx", "before"): "quote-unsupported",
    ("sgx-v3-not-tdx", "after"): "quote-unsupported",
    # this quote's PCK certificate is younger than its collateral
    ("tdx-v5-td15-90c06f-service-td", "before"): "tdx-certificate-time",
}


def _cases():
    for folder, verdicts in INSIDE.items():
        path = SHARED / "vectors" / folder / "expected.json"
        if not path.exists():
            yield pytest.param(folder, None, None, id=folder)
            continue
        inside = iter(verdicts)
        for case in json.loads(path.read_text())["cases"]:
            when = case["when"]
            verdict = next(inside) if when == "inside" else OUTSIDE[when]
            verdict = EXCEPTIONS.get((folder, when), verdict)
            yield pytest.param(folder, case, verdict, id=f"{folder}-{when}-{case['now']}-{verdict}")
        assert next(inside, None) is None, f"{folder} has fewer cases inside than the table"


def root() -> bytes:
    return vectors("intel-root", "intel_sgx_root_ca.der").read_bytes()


def verdict_of(folder: str, collateral: str, now: int) -> str:
    quote = vectors(folder, "quote.bin").read_bytes()
    endorsed = vectors(folder, collateral).read_bytes()
    moment = datetime.fromtimestamp(now, UTC)
    try:
        return verify_quote(quote, endorsed, root_der=root(), now=moment).tcb.status.value
    except Refusal as refusal:
        return refusal.code


@pytest.mark.parametrize(("folder", "case", "verdict"), list(_cases()))
def test_a_genuine_vector_has_its_verdict(folder, case, verdict):
    vectors(folder)
    assert verdict_of(folder, case["collateral"], case["now"]) == verdict


@pytest.mark.parametrize(
    ("folder", "case"),
    [c.values[:2] for c in _cases() if c.values[1] and c.values[2] in {"UpToDate", "OutOfDate"}],
)
def test_the_claims_are_those_of_the_vector(folder, case):
    expected = json.loads(vectors(folder, "expected.json").read_text())["quote"]
    said = case["dcap_qvl_0_7_0"]
    claims = verify_quote(
        vectors(folder, "quote.bin").read_bytes(),
        vectors(folder, case["collateral"]).read_bytes(),
        root_der=root(),
        now=datetime.fromtimestamp(case["now"], UTC),
    )
    report, tcb, platform = claims.report, claims.tcb, claims.platform
    assert claims.quote_version == expected["version"]
    assert platform.fmspc.hex().upper() == expected["fmspc"]
    assert [r.hex() for r in report.rtmrs] == expected["rtmr"]
    assert report.mrtd.hex() == expected["mr_td"]
    assert report.mr_seam.hex() == expected["mr_seam"]
    assert report.mr_config_id.hex() == expected["mr_config_id"]
    assert report.td_attributes.hex() == expected["td_attributes"]
    assert report.xfam.hex() == expected["xfam"]
    assert report.tee_tcb_svn.hex() == expected["tee_tcb_svn"]
    assert report.report_data.hex() == expected["report_data"]
    assert list(tcb.advisories) == said["advisory_ids"]
    assert tcb.evaluation == said["tcb_eval_data_number"]
    assert tcb.quoting_enclave.status.value == said["qe_status"]
    assert f"{tcb.platform.date:%Y-%m-%dT%H:%M:%SZ}" == said["tcb_date"]
    assert str(platform.dynamic) == said["pck_flags"]["dynamic_platform"]
    assert str(platform.cached_keys) == said["pck_flags"]["cached_keys"]
    assert str(platform.smt) == said["pck_flags"]["smt_enabled"]
    assert platform.sgx_type == said["pck_flags"]["sgx_type"]
    until = datetime.fromisoformat(case["collateral_valid_until"])
    assert claims.collateral.expires == until


def test_a_quote_of_body_td15_says_how_new_its_module_is_now():
    claims = verify_quote(
        vectors("tdx-v5-td15-90c06f-uptodate", "quote.bin").read_bytes(),
        vectors("tdx-v5-td15-90c06f-uptodate", "collateral-2026-02.json").read_bytes(),
        root_der=root(),
        now=datetime.fromtimestamp(1771028279, UTC),
    )
    assert claims.report.tee_tcb_svn2 is not None
    assert claims.report.tee_tcb_svn2 >= claims.report.tee_tcb_svn


def test_collateral_is_refused_from_the_very_second_it_ends():
    folder = "tdx-v4-b0c06f-tcb-recovery"
    ends = datetime(2025, 7, 19, 10, 0, 35, tzinfo=UTC)
    last = int((ends - timedelta(seconds=1)).timestamp())
    assert verdict_of(folder, "collateral-2025-06.json", last) == "UpToDate"
    assert verdict_of(folder, "collateral-2025-06.json", last + 1) == "crl-expired"


@pytest.mark.parametrize("log", ["ccel_ovmf.bin", "ccel_grub.bin"])
def test_a_firmware_log_replays_to_the_published_registers(log):
    expected = json.loads(vectors("ccel-ovmf-grub", "expected.json").read_text())["logs"][log]
    parsed = EventLog.parse(vectors("ccel-ovmf-grub", log).read_bytes())
    assert [r.hex() for r in parsed.replay()] == expected["replayed_rtmr"]
    assert parsed.used == expected["bytes_used"]
    assert len(parsed.events) == expected["events"] - 1  # the Spec ID event is not measured
    assert parsed.summary().duplicate_separators == (0,)
    assert parsed.runtime_events() == ()


def test_the_log_of_a_cloud_guest_replays_to_its_quote():
    folder = "tdx-v4-00806f-gcp-cos-ccel"
    expected = json.loads(vectors(folder, "expected.json").read_text())
    parsed = EventLog.parse(vectors(folder, "ccel_data.bin").read_bytes())
    assert [r.hex() for r in parsed.replay()] == expected["quote"]["rtmr"]
    assert parsed.used == expected["ccel"]["bytes_used"]
    assert parsed.summary().duplicate_separators == ()


def test_a_dstack_log_replays_to_its_quote_and_explains_rtmr3():
    folder = "tdx-v4-90c06f-dstack-eventlog"
    expected = json.loads(vectors(folder, "expected.json").read_text())["quote"]["rtmr"]
    log = EventLog.parse_dstack(vectors(folder, "event_log.json").read_bytes())
    assert [r.hex() for r in log.replay()] == expected
    events = log.runtime_events()
    assert [event.operation for event in events][:3] == [
        "system-preparing",
        "app-id",
        "compose-hash",
    ]
    assert {event.domain for event in events} == {"dstack"}
    assert log.summary().unexplained_rtmr3 == 0


def test_a_dstack_payload_that_was_not_measured_is_refused():
    entries = json.loads(vectors("tdx-v4-90c06f-dstack-eventlog", "event_log.json").read_text())
    (app,) = (entry for entry in entries if entry["event"] == "app-id")
    app["event_payload"] = "00" + app["event_payload"][2:]
    log = EventLog.parse_dstack(json.dumps(entries).encode())
    with pytest.raises(Refusal) as refused:
        log.runtime_events()
    assert refused.value.code == "eventlog-payload"
