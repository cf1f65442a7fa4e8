"""`tacit verify`, `explain`, `inspect` and `policy` as an auditor runs them."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from attestation.appraise import appraise_facts
from attestation.binding import KeysetBinding
from attestation.cli import main
from attestation.draft import Draft
from attestation.facts import Facts
from attestation.policy import Policy, intel_roots
from attestation.report import Report
from attestation.simulator.guest import SoftwareGuest
from attestation.tdx.eventlog import NO_EVENTS
from attestation.tdx.quote import verify_quote
from attestation.types import Digest, nonce
from tests.appraisal_world import (
    CONFIG_EVENT,
    KEYSET,
    MODEL_EVENT,
    NOW,
    World,
    changed_text,
    intel,
    policy_text,
)
from tests.shared_data import vectors
from tests.tls_service import answered, identity, service

RECOVERY = "tdx-v4-b0c06f-tcb-recovery"
NONCE = re.compile(rb"nonce=([0-9a-f]{64})")


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return identity(tmp_path_factory.mktemp("tls"))


@pytest.fixture
def policy(tmp_path):
    path = tmp_path / "policy.yaml"
    path.write_text(policy_text())
    return path


@pytest.fixture
def saved(tmp_path, policy):
    path = tmp_path / "report.json"
    path.write_bytes(saved_report(World()).to_bytes())
    return path


def saved_report(world: World, *, seen: str = KEYSET.tls_spki) -> Report:
    staple = world.guest().endorsements(NOW)
    report = Report.build(world.evidence(), staple)
    return report.verified(
        NOW, tls_spki=Digest.parse(seen), policy=policy_text().encode(), endorsements=staple
    )


def told(capsys, *arguments: object) -> tuple[int, dict]:
    """Run a command with --json and return its exit code and document."""
    code = main([*map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def honest(spki: Digest, *, stale: bool = False):
    """Return a service that answers each nonce with a report of a guest holding `spki`'s key."""

    def answer(head: bytes):
        asked = nonce(bytes(32)) if stale else nonce(bytes.fromhex(NONCE.search(head)[1].decode()))
        now = datetime.now(UTC)
        guest = SoftwareGuest(intel())
        for event in (CONFIG_EVENT, MODEL_EVENT):
            guest.extend(event)
        keyset = KEYSET.model_copy(update={"tls_spki": str(spki)})
        evidence = guest.evidence(KeysetBinding(asked, keyset))
        staple = guest.endorsements(max(now, NOW))
        return [answered(Report.build(evidence, staple).to_bytes())]

    return answer


# -- verify service -------------------------------------------------------------------------------


def test_a_service_is_affirmed_and_the_saved_report_gives_the_same_answer(
    tls, policy, tmp_path, capsys
):
    context, _, spki = tls
    kept = tmp_path / "kept.json"
    with service(context, honest(spki)) as (url, _):
        code, now = told(capsys, "verify", "service", url, "--policy", policy, "--save", kept)
    assert (code, now["verdict"], now["simulated"]) == (0, "affirmed", True)
    code, later = told(capsys, "verify", "report", kept, "--policy", policy)
    assert (code, later) == (0, now)


def test_a_relayed_report_is_refused_because_somebody_else_ends_tls(tls, policy, capsys, tmp_path):
    kept = tmp_path / "kept.json"
    elsewhere = Digest.sha256(b"the key of the guest that is being relayed")
    with service(tls[0], honest(elsewhere)) as (url, _):
        code, document = told(capsys, "verify", "service", url, "--policy", policy, "--save", kept)
    assert (code, document["verdict"], document["code"]) == (4, "refused", "tls-key-mismatch")
    code, document = told(capsys, "verify", "report", kept, "--policy", policy)
    assert (code, document["code"]) == (4, "tls-key-mismatch")


def test_a_replayed_report_is_refused(tls, policy, capsys):
    with service(tls[0], honest(tls[2], stale=True)) as (url, _):
        code, document = told(capsys, "verify", "service", url, "--policy", policy)
    assert (code, document["verdict"], document["code"]) == (4, "refused", "nonce-mismatch")


def test_a_service_that_is_down_is_undecidable(tls, policy, capsys):
    with service(tls[0], lambda _: [answered(b"", "503 Busy")]) as (url, _):
        code, document = told(capsys, "verify", "service", url, "--policy", policy)
    assert (code, document["verdict"], document["code"]) == (6, "undecidable", "report-unavailable")


def test_a_service_that_answers_nonsense_is_malformed(tls, policy, capsys):
    with service(tls[0], lambda _: [answered(b"<html>")]) as (url, _):
        code, document = told(capsys, "verify", "service", url, "--policy", policy)
    assert (code, document["verdict"]) == (3, "malformed")


# -- verify report --------------------------------------------------------------------------------


def test_a_saved_report_is_affirmed_as_of_its_time(saved, policy, capsys):
    assert main(["verify", "report", str(saved), "--policy", str(policy)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("SIMULATED")
    assert "as of 2026-11-25T12:00:00Z" in out


def test_a_saved_report_can_be_judged_at_another_time(saved, policy, capsys):
    late = (NOW + timedelta(days=60)).isoformat()
    code, document = told(capsys, "verify", "report", saved, "--policy", policy, "--at", late)
    assert (code, document["verdict"]) == (6, "undecidable")


def test_a_policy_that_names_another_image_refuses_with_exit_5(saved, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_bytes(changed_text("tdx/guests/0/mrtd", "5a" * 48))
    code, document = told(capsys, "verify", "report", saved, "--policy", other)
    assert (code, document["verdict"], document["code"]) == (5, "refused", "tdx.mrtd")


def test_a_simulated_report_is_not_authentic_without_its_policy(saved, capsys):
    """The policy inside the file is the sender's word; only Intel's root is built in."""
    code, document = told(capsys, "verify", "report", saved)
    assert (code, document["verdict"], document["simulated"]) == (4, "refused", False)


def test_a_report_saved_under_another_policy_is_noted(saved, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_text(policy_text() + "# reviewed again\n")
    assert main(["verify", "report", str(saved), "--policy", str(other)]) == 0
    assert "another policy" in capsys.readouterr().err


def test_a_missing_file_is_the_operators_to_mend(policy, tmp_path, capsys):
    assert main(["verify", "report", str(tmp_path / "none"), "--policy", str(policy)]) == 2
    assert "file-unreadable" in capsys.readouterr().err


# -- verify quote: genuine hardware ---------------------------------------------------------------


def genuine(vector: str, collateral: str, at: int) -> list:
    folder = vectors(vector)
    return [folder / "quote.bin", "--collateral", folder / collateral, "--at", at]


def accepting(vector: str, collateral: str, at: int, **changes) -> bytes:
    """Return a production policy that accepts a genuine quote, with fields changed by path."""
    folder = vectors(vector)
    tdx = verify_quote(
        (folder / "quote.bin").read_bytes(),
        (folder / collateral).read_bytes(),
        root_der=intel_roots().tdx_der,
        now=datetime.fromtimestamp(at, UTC),
    )
    draft = Draft.of(tdx.report, KEYSET, name="genuine", evaluation=1, root_pem=None)
    text = draft.to_yaml()
    for path, value in changes.items():
        text = changed_text(path, value, text=text).decode()
    return text.encode()


def test_a_genuine_quote_is_authentic_and_no_more_without_a_policy(capsys):
    code, document = told(
        capsys, "verify", "quote", *genuine(RECOVERY, "collateral-2025-06.json", 1751624191)
    )
    assert (code, document["verdict"], document["code"]) == (0, "authentic", None)
    assert (document["simulated"], document["tcb_status"]) == (False, "UpToDate")
    assert document["claims"]["binding"] is None


def test_a_genuine_out_of_date_quote_is_authentic_and_its_status_told(capsys):
    code, document = told(
        capsys, "verify", "quote", *genuine(RECOVERY, "collateral-2026-08.json", 1787894484)
    )
    assert (code, document["verdict"], document["tcb_status"]) == (0, "authentic", "OutOfDate")


def tdx_failures(collateral: str, at: int, policy: bytes) -> list[str]:
    folder = vectors(RECOVERY)
    now = datetime.fromtimestamp(at, UTC)
    tdx = verify_quote(
        (folder / "quote.bin").read_bytes(),
        (folder / collateral).read_bytes(),
        root_der=intel_roots().tdx_der,
        now=now,
    )
    facts = Facts(simulated=False, tdx=tdx, runtime=(), events=NO_EVENTS, binding=None)
    done = appraise_facts(facts, Policy.load(policy, name="p"), now=now)
    return [check.id for check in done.failed if not check.id.startswith("runtime.")]


def test_after_a_tcb_recovery_the_same_machine_is_refused_for_its_status():
    policy = accepting(RECOVERY, "collateral-2025-06.json", 1751624191)
    assert tdx_failures("collateral-2025-06.json", 1751624191, policy) == []
    assert tdx_failures("collateral-2026-08.json", 1787894484, policy) == ["tdx.tcb-status"]


def test_collateral_from_before_the_recovery_is_refused_by_its_evaluation_number():
    policy = accepting(
        RECOVERY,
        "collateral-2025-06.json",
        1751624191,
        **{"tdx/tcb/minimum_evaluation_number": 20},
    )
    assert tdx_failures("collateral-2025-06.json", 1751624191, policy) == ["tdx.evaluation-number"]


def test_a_bare_quote_without_its_log_is_refused_for_what_it_does_not_show(tmp_path, capsys):
    path = tmp_path / "genuine.yaml"
    path.write_bytes(accepting(RECOVERY, "collateral-2025-06.json", 1751624191))
    key = tmp_path / "security.pem"
    assert main(["keygen", str(key)]) == 0
    assert main(["policy", "sign", str(path), "--key", str(key), "--number", "1"]) == 0
    capsys.readouterr()
    arguments = genuine(RECOVERY, "collateral-2025-06.json", 1751624191)
    signed = ["--policy", f"{path}.dsse.json", "--policy-signer", key.with_suffix(".pub")]
    code, document = told(capsys, "verify", "quote", *arguments, *signed)
    assert (code, document["verdict"], document["code"]) == (5, "refused", "runtime.events")


def test_a_production_policy_that_nobody_signed_is_not_relied_on(tmp_path, capsys):
    path = tmp_path / "genuine.yaml"
    path.write_bytes(accepting(RECOVERY, "collateral-2025-06.json", 1751624191))
    arguments = genuine(RECOVERY, "collateral-2025-06.json", 1751624191)
    assert main([str(a) for a in ("verify", "quote", *arguments, "--policy", path)]) == 2
    assert "policy-unsigned" in capsys.readouterr().err


def test_a_genuine_quote_is_not_authentic_under_a_simulators_root(policy, capsys):
    arguments = genuine(RECOVERY, "collateral-2025-06.json", 1751624191)
    code, document = told(capsys, "verify", "quote", *arguments, "--policy", policy)
    assert (code, document["verdict"]) == (4, "refused")


def test_a_genuine_event_log_is_replayed_and_another_is_refused(tmp_path, capsys):
    name = "tdx-v4-90c06f-dstack-eventlog"
    arguments = genuine(name, "collateral-2026-06.json", 1782215795)
    log = vectors(name, "event_log.json")
    code, document = told(capsys, "verify", "quote", *arguments, "--event-log", log)
    assert (code, document["claims"]["event_log"]) == (0, True)
    other = tmp_path / "log.json"
    other.write_text(log.read_text().replace("3763bc34", "3763bc35", 1))
    code, document = told(capsys, "verify", "quote", *arguments, "--event-log", other)
    assert (code, document["verdict"]) == (4, "refused")


def test_a_genuine_debug_guest_is_refused_with_exit_5(capsys):
    arguments = genuine("tdx-v4-50806f-debug-td", "collateral-2026-03.json", 1774995904)
    code, document = told(capsys, "verify", "quote", *arguments)
    assert (code, document["code"]) == (5, "tdx-debug")


def test_an_sgx_quote_is_malformed_here(capsys):
    code, document = told(
        capsys, "verify", "quote", *genuine("sgx-v3-not-tdx", "collateral.json", 1751624924)
    )
    assert (code, document["verdict"]) == (3, "malformed")


def test_report_data_is_compared_when_it_is_given(capsys):
    arguments = genuine(RECOVERY, "collateral-2025-06.json", 1751624191)
    code, document = told(capsys, "verify", "quote", *arguments, "--report-data", "00" * 64)
    assert (code, document["code"]) == (4, "binding-mismatch")


def test_a_bare_quote_of_the_simulator_can_meet_a_policy_and_says_what_it_lacks(
    tmp_path, policy, capsys
):
    guest = World().guest()
    for name, data in {
        "quote": guest.quote(bytes(64)),
        "collateral": guest.endorsements(NOW).tdx,
        "log": guest.event_log(),
    }.items():
        (tmp_path / name).write_bytes(data)
    arguments = ["verify", "quote", tmp_path / "quote", "--collateral", tmp_path / "collateral"]
    arguments += ["--at", NOW.isoformat(), "--event-log", tmp_path / "log", "--policy", policy]
    assert main(list(map(str, arguments))) == 0
    assert "nothing here ties the quote to a key or a nonce" in capsys.readouterr().out


# -- explain, inspect, policy ---------------------------------------------------------------------


def test_explain_shows_one_check_of_a_saved_report(saved, capsys):
    assert main(["explain", str(saved), "tdx.mrtd"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("SIMULATED")
    assert "the policy kept in this file" in out
    assert "✓ tdx.mrtd" in out
    assert "tdx.rtmr0" not in out


def test_explain_exits_5_when_a_check_it_shows_fails(saved, tmp_path, capsys):
    other = tmp_path / "other.yaml"
    other.write_bytes(changed_text("tdx/guests/0/mrtd", "5a" * 48))
    assert main(["explain", str(saved), "tdx.mrtd", "--policy", str(other)]) == 5
    assert "next:" in capsys.readouterr().out
    assert main(["explain", str(saved), "tdx.rtmr0", "--policy", str(other)]) == 0


def test_explain_knows_no_other_check(saved, capsys):
    assert main(["explain", str(saved), "tdx.mrdt"]) == 2
    assert "argument-invalid" in capsys.readouterr().err


def test_inspect_never_says_verified(saved, tmp_path, capsys):
    quote = tmp_path / "quote.bin"
    quote.write_bytes(World().evidence().quote)
    for path, extra in ((saved, ["--events", "3"]), (quote, [])):
        assert main(["inspect", str(path), *extra]) == 0
        out = capsys.readouterr().out
        assert out.startswith("unchecked")
        assert World().guest().report.mrtd.hex() in out
        for word in ("verified", "affirmed", "authentic"):
            assert word not in out
        code, document = told(capsys, "inspect", path, *extra)
        assert (code, document["unchecked"]) == (0, True)


def test_inspect_refuses_what_is_neither(tmp_path, capsys):
    other = tmp_path / "other"
    other.write_bytes(b"neither")
    assert main(["inspect", str(other)]) == 3


def test_a_drafted_policy_accepts_the_guest_it_was_drafted_from(saved, tmp_path, capsys):
    root = tmp_path / "root.pem"
    root.write_bytes(intel().root_pem)
    command = ["policy", "new", "--from", str(saved), "--name", "drafted"]
    assert main([*command, "--simulated-root", str(root)]) == 0
    captured = capsys.readouterr()
    assert "Compare MRTD" in captured.err
    drafted = tmp_path / "drafted.yaml"
    drafted.write_text(captured.out)
    assert main(["verify", "report", str(saved), "--policy", str(drafted)]) == 0


def test_a_policy_is_not_drafted_from_a_report_that_is_not_authentic(saved, capsys):
    assert main(["policy", "new", "--from", str(saved)]) == 4
    assert capsys.readouterr().out == ""


def test_a_template_is_refused_until_it_is_filled_in(tmp_path, capsys):
    assert main(["policy", "new"]) == 0
    template = tmp_path / "template.yaml"
    template.write_text(capsys.readouterr().out)
    assert main(["policy", "check", str(template)]) == 2
    assert "policy-blank" in capsys.readouterr().err


def test_policy_check_tells_name_and_digest(policy, capsys):
    code, document = told(capsys, "policy", "check", policy)
    assert (code, document["name"]) == (0, "bank")
    assert document["digest"] == str(Policy.load(policy.read_bytes(), name="p").digest)
