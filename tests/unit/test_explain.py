"""A verdict is the same JSON for every script and plain sentences for a person."""

import json
from datetime import timedelta

import pytest

from attestation.errors import ConfigError, Malformed, NotAffirmed, NotAuthentic, Undecidable
from attestation.explain import (
    SIMULATED,
    as_of,
    of_authentic,
    of_refusal,
    of_result,
    policy_sentences,
    printable,
    weights_words,
)
from attestation.policy import Policy
from tests.appraisal_world import (
    CONFIG,
    KEYSET,
    MANIFEST,
    NOW,
    SPKI,
    World,
    changed_policy,
    policy_text,
)

FIELDS = [
    "verdict",
    "code",
    "simulated",
    "tcb_status",
    "advisories",
    "expires_at",
    "checks",
    "claims",
]
CHECK_FIELDS = ["id", "passed", "expected", "actual", "why", "next"]


def affirmed():
    return of_result(World().result(), now=NOW)


def refused():
    return of_result(World(launch={"measurements": {"mrtd": b"\1" * 48}}).result(), now=NOW)


def answers():
    facts = World().result().claims
    yield affirmed()
    yield refused()
    yield of_authentic(facts)
    yield of_refusal(Malformed("json-malformed", "no JSON"), simulated=False)


def test_the_json_has_the_same_fields_whatever_the_verdict():
    for answer in answers():
        document = answer.to_json()
        assert list(document) == FIELDS
        assert all(list(check) == CHECK_FIELDS for check in document["checks"])
        json.dumps(document)


def test_the_json_of_an_affirmed_guest():
    document = affirmed().to_json()
    assert (document["verdict"], document["code"]) == ("affirmed", None)
    assert document["simulated"] is True
    assert document["tcb_status"] == "UpToDate"
    assert document["expires_at"] == "2026-12-24T12:00:00Z"
    assert document["claims"]["binding"]["keyset"]["tls_spki"] == SPKI
    assert [e["operation"] for e in document["claims"]["runtime"]] == ["config", "model"]


def test_the_claims_say_what_a_platform_is_and_what_its_log_repeats():
    claims = affirmed().to_json()["claims"]
    said = {name: claims["tdx"][name] for name in ("sgx_type", "dynamic_platform", "smt", "td_id")}
    assert said == {"sgx_type": 1, "dynamic_platform": True, "smt": True, "td_id": None}
    assert (claims["tdx"]["cached_keys"], claims["duplicate_separators"]) == (True, [])


def test_the_json_of_a_refused_guest_names_the_check():
    document = refused().to_json()
    assert (document["verdict"], document["code"]) == ("refused", "tdx.mrtd")
    (failed,) = [check for check in document["checks"] if not check["passed"]]
    assert failed["actual"] == "01" * 48


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        (Malformed, "malformed"),
        (NotAuthentic, "refused"),
        (NotAffirmed, "refused"),
        (Undecidable, "undecidable"),
    ],
)
def test_a_refusal_has_a_verdict_of_its_kind(kind, verdict):
    answer = of_refusal(
        kind("nonce-mismatch", "the evidence answers another nonce"), simulated=True
    )
    assert (answer.to_json()["verdict"], answer.to_json()["code"]) == (verdict, "nonce-mismatch")
    assert "the evidence answers another nonce" in answer.to_text()
    assert "next" in answer.to_text()


def test_a_simulated_verdict_says_so_before_anything_else():
    for answer in (affirmed(), refused()):
        assert answer.to_text().startswith(SIMULATED)


def test_the_sentences_say_who_what_where_and_keeps():
    text = affirmed().to_text()
    for word in ("who", "what", "where", "keeps", CONFIG, MANIFEST, SPKI, "retention none"):
        assert word in text
    assert "31 of 31 checks of policy bank" in text


def test_whether_the_host_may_read_the_weights_is_a_sentence():
    (model,) = KEYSET.models
    assert f"{model.name}: weights sealed, the host can neither" in affirmed().to_text()
    mounted = model.model_copy(update={"weights": "verity"})
    assert weights_words(mounted).endswith("the host cannot change them and may read them")


def test_a_failed_check_is_told_in_full_and_the_rest_counted():
    text = refused().to_text()
    assert "✗ tdx.mrtd" in text
    assert "01" * 48 in text
    assert "30 other checks passed" in text
    assert "keeps" not in text  # nothing a refused guest states is repeated as if it held


def test_a_verdict_about_another_time_says_so():
    assert "as of 2026-11-25T12:00:00Z" in as_of(affirmed(), NOW).to_text()


def test_a_result_past_its_end_is_not_shown_as_affirmed():
    late = of_result(World().result(), now=NOW + timedelta(days=60))
    assert (late.verdict, late.code) == ("refused", "result-expired")


def test_authentic_is_less_than_affirmed():
    text = of_authentic(World().result().claims).to_text()
    assert "no policy was applied" in text
    assert "affirmed" not in text


def test_a_stranger_cannot_steer_the_terminal():
    assert printable(["a\x1b[2Jb\x9b31mc\u202ed", "e"]) == "a\ufffd[2Jb\ufffd31mc\ufffdd\ne"


def test_a_posture_with_control_characters_is_shown_without_them():
    posture = KEYSET.posture.model_copy(update={"operator": "Bank\x9b2J"})
    keyset = KEYSET.model_copy(update={"posture": posture})
    policy = changed_policy("keyset/operators", "any")
    text = of_result(World(keyset=keyset, policy=policy).result(), now=NOW).to_text()
    assert "Bank\ufffd2J" in text


def test_a_policy_is_told_with_its_lenient_words():
    text = "\n".join(policy_sentences(Policy.load(policy_text().encode(), name="p").file))
    assert "a simulator's root: proves nothing" in text
    assert "platforms  any" in text
    assert MANIFEST in text


def test_a_configuration_error_is_no_verdict():
    assert not issubclass(ConfigError, Malformed)
