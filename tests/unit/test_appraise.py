"""Every check of the table has a case that only it refuses."""

import struct
from datetime import timedelta

import pytest

from attestation.appraise import AttestationResult, appraise
from attestation.authenticate import authenticate
from attestation.binding import KbsBinding, KeysetBinding, report_data
from attestation.checks import RULES
from attestation.checks_keyset import KEYSET_RULES
from attestation.codes import CODES
from attestation.errors import NotAffirmed
from attestation.evidence import Evidence
from attestation.policy import Policy
from attestation.simulator.guest import SEPT_VE_DISABLE, XFAM
from attestation.simulator.intel import Statements
from attestation.simulator.statements import IsvLevel, PlatformLevel, QeIdentity, TcbInfo
from attestation.tdx.eventlog import RuntimeEvent
from tests.appraisal_world import (
    CONFIG,
    CONFIG_EVENT,
    DOMAIN,
    KEYSET,
    MANIFEST,
    MODEL_EVENT,
    NONCE,
    NOW,
    OTHER,
    World,
    changed_policy,
    policy_text,
    simulated_roots,
    with_posture,
)

HEX48 = "5a" * 48
PKS = (1 << 30 | 1 << 28).to_bytes(8, "little")
OLDER = PlatformLevel(status="OutOfDate", date="2025-08-13T00:00:00Z")
OUT_OF_DATE = Statements(tcb_info=TcbInfo(levels=(OLDER,)))
ADVISED = Statements(tcb_info=TcbInfo(levels=(PlatformLevel(advisories=("INTEL-SA-01234",)),)))
OLD_QE = Statements(
    qe_identity=QeIdentity(levels=(IsvLevel(svn=4, status="OutOfDateConfigurationNeeded"),))
)


def launched(**measurements: bytes) -> World:
    return World(launch={"measurements": measurements})


def judged(path: str, value: object) -> World:
    return World(policy=changed_policy(path, value))


KIND = {"sgx_types": ["scalable"], "dynamic": "any", "cached_keys": "any", "smt": "any"}
REFUSED_BY_ONE = {
    "root.simulated": lambda: World(
        policy=Policy.load(policy_text(simulated=False).encode(), name="production")
    ),
    "tdx.tcb-status": lambda: World(state=OUT_OF_DATE),
    "tdx.qe-status": lambda: World(state=OLD_QE),
    "tdx.advisories": lambda: World(
        state=ADVISED, policy=changed_policy("tdx/tcb/denied_advisories", ["INTEL-SA-01234"])
    ),
    "tdx.evaluation-number": lambda: World(state=Statements(tcb_info=TcbInfo(evaluation=20))),
    "tdx.collateral-age": lambda: World(
        now=NOW + timedelta(days=20), policy=changed_policy("tdx/tcb/collateral_max_age_days", 20)
    ),
    "tdx.attributes": lambda: World(launch={"attributes": PKS}),
    "tdx.xfam": lambda: World(launch={"xfam": bytes([3]) + XFAM[1:]}),
    "tdx.platform": lambda: judged("tdx/platforms", ["ee" * 16]),
    "tdx.platform-kind": lambda: judged("tdx/platform_kind", KIND | {"smt": "refused"}),
    "tdx.module-signer": lambda: judged("tdx/module/signer", [HEX48]),
    "tdx.module-measurement": lambda: judged("tdx/module/measurement", [HEX48]),
    "tdx.mrtd": lambda: launched(mrtd=b"\1" * 48),
    "tdx.rtmr0": lambda: judged("tdx/guests/0/rtmr0", HEX48),
    "tdx.rtmr1": lambda: judged("tdx/guests/0/rtmr1", HEX48),
    "tdx.rtmr2": lambda: judged("tdx/guests/0/rtmr2", HEX48),
    "tdx.mr-config-id": lambda: World(launch={"mr_config_id": b"\1" * 48}),
    "tdx.mr-owner": lambda: launched(mr_owner=b"\1" * 48),
    "tdx.mr-owner-config": lambda: launched(mr_owner_config=b"\1" * 48),
    "runtime.events": lambda: World(events=(MODEL_EVENT, CONFIG_EVENT)),
    "runtime.config": lambda: judged("runtime/config", [OTHER]),
    "runtime.model": lambda: judged("runtime/models", {"qwen3-demo": [OTHER]}),
    "keyset.retention": lambda: World(keyset=with_posture(retention="thirty days")),
    "keyset.training": lambda: World(keyset=with_posture(training="opt-out")),
    "keyset.operator": lambda: World(keyset=with_posture(operator="Somebody else")),
    "keyset.jurisdiction": lambda: World(keyset=with_posture(jurisdiction="elsewhere")),
    "keyset.audit-fields": lambda: World(keyset=with_posture(audit=("time", "prompt"))),
    "keyset.filters": lambda: World(keyset=with_posture(filters=("onlooker",))),
    "keyset.telemetry": lambda: World(keyset=with_posture(telemetry=("tacit.prompt",))),
    "keyset.config-measured": lambda: World(keyset=KEYSET.model_copy(update={"config": OTHER})),
    "keyset.models-measured": lambda: World(
        keyset=KEYSET.model_copy(
            update={"models": (KEYSET.models[0].model_copy(update={"name": "other"}),)}
        )
    ),
}

TABLE = [rule.id for rule in (*RULES, *KEYSET_RULES)]


def refusals(world: World) -> list[str]:
    return [check.id for check in world.result().failed]


def test_the_table_and_the_cases_name_the_same_checks():
    assert sorted(TABLE) == sorted(REFUSED_BY_ONE)
    assert set(TABLE) <= set(CODES)


def test_the_expected_guest_is_affirmed():
    result = World().result()
    assert [check.id for check in result.checks] == TABLE
    assert not result.failed
    assert result.affirmed(NOW).expires_at == result.expires_at


@pytest.mark.parametrize("check", TABLE)
def test_each_check_alone_refuses_its_case(check):
    result = REFUSED_BY_ONE[check]().result()
    assert [failed.id for failed in result.failed] == [check]
    assert result.code == check
    with pytest.raises(NotAffirmed) as refusal:
        result.affirmed(NOW)
    assert refusal.value.code == check


@pytest.mark.parametrize("check", TABLE)
def test_each_refusal_says_what_was_expected_and_what_to_do(check):
    (failed,) = REFUSED_BY_ONE[check]().result().failed
    assert failed.why
    assert failed.next == CODES[check]
    assert failed.expected != failed.actual


def test_a_result_has_no_truth_value():
    with pytest.raises(TypeError):
        bool(World().result())


def test_a_result_without_checks_is_not_affirmed():
    result = World().result()
    empty = AttestationResult(
        result.policy, result.policy_digest, (), result.expires_at, result.guest, result.claims
    )
    with pytest.raises(NotAffirmed, match="result-empty"):
        empty.affirmed(NOW)


def test_a_result_ends_with_its_collateral():
    result = World().result()
    result.affirmed(result.expires_at - timedelta(seconds=1))
    with pytest.raises(NotAffirmed, match="result-expired"):
        result.affirmed(result.expires_at)


def test_a_maximum_age_ends_the_result_before_the_collateral_does():
    result = judged("tdx/tcb/collateral_max_age_days", 3).result()
    assert result.expires_at == NOW - timedelta(days=1) + timedelta(days=3)


def test_a_grace_period_ends_on_its_day():
    until = NOW + timedelta(days=2)
    grace = [{"status": "OutOfDate", "until": until.isoformat()}]
    policy = changed_policy("tdx/tcb/grace", grace)
    result = World(state=OUT_OF_DATE, policy=policy).result()
    assert not result.failed
    assert result.expires_at == until
    assert refusals(World(state=OUT_OF_DATE, policy=policy, now=until)) == ["tdx.tcb-status"]


def test_an_old_platform_and_old_collateral_have_different_codes():
    late = World(
        now=NOW + timedelta(days=20), policy=changed_policy("tdx/tcb/collateral_max_age_days", 20)
    )
    assert (late.result().code, World(state=OUT_OF_DATE).result().code) == (
        "tdx.collateral-age",
        "tdx.tcb-status",
    )


def test_values_of_two_reference_sets_do_not_mix():
    """A guest with the firmware of one image and the kernel of another matches neither set."""
    mine = World().guest().report
    common = {
        "rtmr0": mine.rtmrs[0].hex(),
        "rtmr2": mine.rtmrs[2].hex(),
        "mr_config_id": "unset",
        "mr_owner": "unset",
        "mr_owner_config": "unset",
    }
    first = {"name": "first", "mrtd": mine.mrtd.hex(), "rtmr1": HEX48, **common}
    second = {"name": "second", "mrtd": HEX48, "rtmr1": mine.rtmrs[1].hex(), **common}
    result = judged("tdx/guests", [first, second]).result()
    assert [check.id for check in result.failed] == ["tdx.rtmr1"]
    assert result.guest == "first"
    third = {"name": "third", "mrtd": mine.mrtd.hex(), "rtmr1": mine.rtmrs[1].hex(), **common}
    result = judged("tdx/guests", [first, second, third]).result()
    assert (result.code, result.guest) == (None, "third")


def test_a_refusal_is_reported_against_the_closest_set():
    mine = World().guest().report
    near = {
        "name": "near",
        "mrtd": [HEX48, "5b" * 48],
        **{f"rtmr{i}": mine.rtmrs[i].hex() for i in range(3)},
        **dict.fromkeys(("mr_config_id", "mr_owner", "mr_owner_config"), "unset"),
    }
    far = {**near, "name": "far", "rtmr0": HEX48, "rtmr1": HEX48}
    (failed,) = judged("tdx/guests", [far, near]).result().failed
    assert failed.expected == f"{HEX48} or {'5b' * 48} (guest near)"
    assert failed.actual == mine.mrtd.hex()


@pytest.mark.parametrize(
    "events",
    [
        (),
        (CONFIG_EVENT,),
        (MODEL_EVENT,),
        (CONFIG_EVENT, CONFIG_EVENT, MODEL_EVENT),
        (CONFIG_EVENT, MODEL_EVENT, MODEL_EVENT),
        (CONFIG_EVENT, MODEL_EVENT, RuntimeEvent("tacit.inference/v1", "debug", "shell")),
        (CONFIG_EVENT, MODEL_EVENT, RuntimeEvent("someone/else", "model", MODEL_EVENT.content)),
        (CONFIG_EVENT, MODEL_EVENT, RuntimeEvent(DOMAIN, "model", f"qwen3-demo={OTHER}")),
    ],
)
def test_rtmr3_holds_one_config_and_a_model_per_name_and_nothing_else(events):
    assert "runtime.events" in refusals(World(events=events))


@pytest.mark.parametrize(
    ("check", "events"),
    [
        ("runtime.model", (CONFIG_EVENT, RuntimeEvent(DOMAIN, "model", f"{MODEL_EVENT.content} "))),
        ("runtime.model", (CONFIG_EVENT, RuntimeEvent(DOMAIN, "model", MANIFEST))),
        ("runtime.config", (RuntimeEvent(DOMAIN, "config", CONFIG.upper()), MODEL_EVENT)),
    ],
)
def test_a_measured_content_is_compared_to_the_letter(check, events):
    assert check in refusals(World(events=events))


def test_collateral_of_exactly_the_maximum_age_is_too_old():
    policy = changed_policy("tdx/tcb/collateral_max_age_days", 20)
    issued = World().result().claims.tdx.collateral.issued
    at = issued + timedelta(days=20)
    assert refusals(World(now=at, policy=policy)) == ["tdx.collateral-age"]
    assert refusals(World(now=at - timedelta(seconds=1), policy=policy)) == []


def test_an_event_on_rtmr3_that_nobody_can_explain_is_refused():
    """Its digest is measured and replays; what it stands for is anybody's guess."""
    guest = World().guest()
    digest = b"\5" * 48
    guest.extend_register(3, digest)
    record = struct.pack("<IIIH", 4, 0xD, 1, 0xC) + digest + struct.pack("<I", 4) + b"what"
    log = guest.event_log() + record
    binding = KeysetBinding(NONCE, KEYSET)
    quote = guest.quote(report_data(binding, event_log=log, gpu_evidence=b""))
    claims = authenticate(
        Evidence(quote, log, b"", binding),
        guest.endorsements(NOW),
        roots=simulated_roots(),
        expected_nonce=NONCE,
        now=NOW,
    )
    (failed,) = appraise(claims, World().policy, now=NOW).failed
    assert (failed.id, failed.actual) == ("runtime.events", "config, model, unexplained")


def test_a_second_approved_model_is_accepted_when_it_is_stated():
    second = RuntimeEvent(DOMAIN, "model", f"embedder={OTHER}")
    models = (
        *KEYSET.models,
        KEYSET.models[0].model_copy(update={"name": "embedder", "manifest": OTHER}),
    )
    policy = changed_policy("runtime/models", {"qwen3-demo": [MANIFEST], "embedder": [OTHER]})
    world = World(
        events=(CONFIG_EVENT, MODEL_EVENT, second),
        keyset=KEYSET.model_copy(update={"models": models}),
        policy=policy,
    )
    assert not world.result().failed
    silent = World(events=(CONFIG_EVENT, MODEL_EVENT, second), policy=policy)
    assert refusals(silent) == ["keyset.models-measured"]


def test_a_model_approved_under_another_name_is_refused():
    swapped = RuntimeEvent(DOMAIN, "model", f"qwen3-demo={OTHER}")
    policy = changed_policy("runtime/models", {"qwen3-demo": [MANIFEST], "embedder": [OTHER]})
    assert "runtime.model" in refusals(World(events=(CONFIG_EVENT, swapped), policy=policy))


def test_evidence_without_an_event_log_is_refused_for_what_it_does_not_show():
    guest = World().guest()
    binding = KbsBinding("bm9uY2U=", {"kty": "EC"}, "")
    evidence = guest.evidence(binding)
    bare = type(evidence)(evidence.quote, b"", b"", binding)
    claims = authenticate(
        bare, guest.endorsements(NOW), roots=simulated_roots(), expected_nonce="bm9uY2U=", now=NOW
    )
    failed = [check.id for check in appraise(claims, World().policy, now=NOW).failed]
    assert failed == ["runtime.events", "runtime.config", "runtime.model"]


@pytest.mark.parametrize(
    ("check", "path", "field"),
    [
        ("keyset.audit-fields", "keyset/audit_fields", "audit"),
        ("keyset.telemetry", "keyset/telemetry", "telemetry"),
    ],
)
def test_what_is_told_of_a_request_may_be_less_than_accepted_and_not_more(check, path, field):
    named = changed_policy(path, ["time", "status"])
    for stated in ((), ("status",), ("status", "time")):
        assert refusals(World(keyset=with_posture(**{field: stated}), policy=named)) == []
    more = with_posture(**{field: ("status", "time", "prompt")})
    assert refusals(World(keyset=more, policy=named)) == [check]
    assert refusals(World(keyset=more, policy=changed_policy(path, "any"))) == []
    assert refusals(World(keyset=more, policy=changed_policy(path, "none"))) == [check]


def test_filters_are_those_that_the_policy_names_and_all_of_them():
    named = changed_policy("keyset/filters", ["cards", "names"])
    for stated in (("cards", "names"), ("names", "cards")):
        assert refusals(World(keyset=with_posture(filters=stated), policy=named)) == []
    for stated in ((), ("cards",), ("cards", "cards"), ("cards", "names", "onlooker")):
        world = World(keyset=with_posture(filters=stated), policy=named)
        assert refusals(world) == ["keyset.filters"]
    any_filter = changed_policy("keyset/filters", "any")
    assert refusals(World(keyset=with_posture(filters=("cards",)), policy=any_filter)) == []


def test_a_broker_is_answered_the_same_checks_but_those_of_the_keyset():
    guest = World().guest()
    binding = KbsBinding("bm9uY2U=", {"kty": "EC"}, "")
    claims = authenticate(
        guest.evidence(binding),
        guest.endorsements(NOW),
        roots=simulated_roots(),
        expected_nonce="bm9uY2U=",
        now=NOW,
    )
    result = appraise(claims, World().policy, now=NOW)
    assert [check.id for check in result.checks] == [rule.id for rule in RULES]
    result.affirmed(NOW)


def test_bits_outside_the_mask_are_left_open():
    mask = {"mask": "ff00001000000000", "value": "0000001000000000"}
    policy = changed_policy("tdx/td_attributes", mask)
    assert not World(launch={"attributes": PKS}, policy=policy).result().failed
    assert SEPT_VE_DISABLE.hex() == mask["value"]


def test_the_nonce_of_the_world_is_bound():
    assert World().result().claims.binding.nonce == NONCE
