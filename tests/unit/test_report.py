"""A report carries evidence as it was sent, and what a verifier saw when it kept it."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attestation.binding import KbsBinding
from attestation.errors import Malformed, Refusal, Undecidable
from attestation.report import Report, looks_like_report
from attestation.types import Digest
from tests.appraisal_world import NOW, SPKI, World, intel, policy_text


@pytest.fixture(scope="module")
def report() -> Report:
    world = World()
    return Report.build(world.evidence(), world.guest().endorsements(NOW))


@pytest.fixture(scope="module")
def saved(report) -> Report:
    return report.verified(
        NOW,
        tls_spki=Digest.parse(SPKI),
        policy=policy_text().encode(),
        endorsements=report.endorsements,
    )


def edited(report: Report, **fields) -> bytes:
    return json.dumps(json.loads(report.to_bytes()) | fields).encode()


def test_a_report_reads_as_it_was_written(report, saved):
    for one in (report, saved):
        assert Report.parse(one.to_bytes()) == one


def test_a_report_holds_a_collection_of_conceptual_messages(report):
    evidence = json.loads(report.to_bytes())["evidence"]
    assert evidence["__cmwc_t"] == "tag:tacit.example,2026:evidence#1"
    assert [len(evidence[name]) for name in ("tdx", "eventlog")] == [3, 3]
    assert [evidence[name][2] for name in ("tdx", "eventlog")] == [4, 4]


def test_a_saved_report_keeps_time_policy_and_key(saved):
    kept = Report.parse(saved.to_bytes()).verification
    assert (kept.verified_at, kept.tls_spki) == (NOW, SPKI)
    assert kept.policy == policy_text()


def test_a_report_without_collateral_cannot_be_decided(report):
    bare = Report.parse(edited(report, endorsements=None))
    with pytest.raises(Undecidable, match="endorsements-missing"):
        _ = bare.endorsements


def test_only_evidence_for_a_client_makes_a_report():
    evidence = World().guest().evidence(KbsBinding("bm9uY2U=", {"kty": "EC"}, ""))
    with pytest.raises(TypeError):
        Report.build(evidence, None)


@pytest.mark.parametrize(
    "fields",
    [
        {"version": 2},
        {"nonce": "00"},
        {"nonce": "AA" * 32},
        {"keyset": {}},
        {"evidence": {}},
        {"endorsements": []},
        {"endorsements": ["application/json", "e30", 2]},
        {"verification": {}},
        {"note": "more"},
    ],
)
def test_a_field_of_another_shape_is_malformed(report, fields):
    with pytest.raises(Malformed):
        Report.parse(edited(report, **fields))


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("tdx", ["application/vnd.tacit.tdx-quote", "AA==", 4]),
        ("tdx", ["application/vnd.tacit.tdx-quote", "AB", 4]),
        ("tdx", ["application/vnd.tacit.tdx-quote", "AA", 8]),
        ("tdx", ["application/octet-stream", "AA", 4]),
        ("__cmwc_t", "tag:somebody.example,2026:evidence#1"),
        ("gpu", ["application/json", "AA", 4]),
    ],
)
def test_a_record_of_another_kind_is_malformed(report, name, record):
    evidence = json.loads(report.to_bytes())["evidence"] | {name: record}
    with pytest.raises(Malformed):
        Report.parse(edited(report, evidence=evidence))


def test_a_report_of_more_than_four_mebibytes_is_not_read(report):
    with pytest.raises(Malformed, match="too-large"):
        Report.parse(report.to_bytes() + b" " * 4 * 1024 * 1024)


def test_a_quote_does_not_look_like_a_report(report):
    assert looks_like_report(report.to_bytes())
    assert not looks_like_report(report.quote)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_report_or_a_refusal(data):
    with pytest.raises(Refusal):
        Report.parse(data)


@settings(max_examples=60)
@given(st.data())
def test_a_report_with_any_byte_changed_is_refused_or_says_the_same(data):
    """Every byte of a report is either bound by the quote, signed by Intel or not there."""
    world = World()
    whole = _WHOLE
    at = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(1, 255))
    damaged = whole[:at] + bytes([whole[at] ^ flip]) + whole[at + 1 :]
    try:
        report = Report.parse(damaged)
        result = verified(report, world)
    except Refusal:
        return
    original = Report.parse(whole)
    assert (report.nonce, report.keyset) == (original.nonce, original.keyset)
    assert result.checks == verified(original, world).checks


def verified(report: Report, world: World):
    from attestation.verifier import Verifier

    return Verifier(world.policy).verify(
        report.evidence, report.endorsements, expected_nonce=report.nonce, now=NOW
    )


def _whole() -> bytes:
    world = World()
    assert intel() is world.guest().intel
    return Report.build(world.evidence(), world.guest().endorsements(NOW)).to_bytes()


_WHOLE = _whole()
