"""One quote under several collaterals: the first decides, the others say what is coming."""

import json
from datetime import timedelta

import pytest

from attestation.cli import main
from attestation.simulator.intel import Statements
from attestation.simulator.statements import PlatformLevel, TcbInfo, Validity
from attestation.tdx.stated import claimed_begin, claimed_end
from tests.appraisal_world import NOW, World, changed_text, intel, policy_text
from tests.shared_data import vectors

FOLDER = "tdx-v4-b0c06f-tcb-recovery"
BEFORE, AFTER = 1751624191, 1787894484
DAY = timedelta(days=1)
NEWER = PlatformLevel(sgx_svns=(9, *PlatformLevel().sgx_svns[1:]))
OLD = PlatformLevel(status="OutOfDate", date="2025-08-13T00:00:00Z", advisories=("INTEL-SA-01234",))
RECOVERY = TcbInfo(levels=(NEWER, OLD), evaluation=22)


def told(capsys, *arguments):
    code = main(["verify", "quote", *map(str, arguments), "--json"])
    return code, json.loads(capsys.readouterr().out)


def genuine(capsys, first, *others, at):
    folder = vectors(FOLDER)
    sets = [word for name in (first, *others) for word in ("--collateral", folder / name)]
    return told(capsys, folder / "quote.bin", *sets, "--at", at)


def test_a_recovery_is_announced_while_the_older_set_decides(capsys):
    sets = ("collateral-2025-06.json", "collateral-2026-08.json")
    code, document = genuine(capsys, *sets, at=BEFORE)
    (coming,) = document["outlook"]
    assert (code, document["verdict"], document["tcb_status"]) == (0, "authentic", "UpToDate")
    assert (coming["collateral"], coming["tcb_status"]) == (sets[1], "OutOfDate")
    assert (coming["worse"], coming["until"]) == (True, document["expires_at"])
    assert "INTEL-SA-01312" in coming["advisories"]
    assert {one["newest"] - one["present"] for one in coming["tcb_short"]} == {1, 5}
    assert coming["at"] == "2026-08-13T10:45:38Z"  # when its last part begins to hold


def test_what_cannot_be_judged_warns_of_nothing_and_changes_no_verdict(capsys, tmp_path):
    folder, broken = vectors(FOLDER), tmp_path / "broken.json"
    broken.write_text("{}")
    code, document = told(
        capsys,
        *(folder / "quote.bin", "--at", AFTER, "--collateral", folder / "collateral-2026-08.json"),
        *("--collateral", folder / "collateral-2025-06.json", "--collateral", broken),
    )
    assert (code, document["verdict"]) == (0, "authentic")
    assert [(one["verdict"], one["worse"], one["until"]) for one in document["outlook"]] == [
        ("undecidable", False, None),
        ("malformed", False, None),
    ]


def test_the_order_of_the_sets_is_the_choice_of_the_decisive_one(capsys):
    sets = ("collateral-2026-08.json", "collateral-2025-06.json")
    code, document = genuine(capsys, *sets, at=BEFORE)
    (other,) = document["outlook"]
    assert (code, document["verdict"], document["code"]) == (6, "undecidable", "collateral-future")
    assert (other["verdict"], other["tcb_status"], other["worse"]) == (
        "authentic",
        "UpToDate",
        False,
    )


@pytest.fixture
def simulated(tmp_path):
    """Return a function that writes a quote, a policy and two collaterals, and the arguments."""

    def arguments(early: Statements, *, policy: bytes = policy_text().encode()):
        guest = World().guest()
        written = {
            "quote": guest.quote(bytes(64)),
            "log": guest.event_log(),
            "policy": policy,
            "standard": intel().collateral(NOW),
            "early": intel().collateral(NOW, state=early),
        }
        for name, data in written.items():
            (tmp_path / name).write_bytes(data)
        return [
            *(tmp_path / "quote", "--event-log", tmp_path / "log", "--policy", tmp_path / "policy"),
            *("--collateral", tmp_path / "standard", "--collateral", tmp_path / "early"),
            *("--at", int(NOW.timestamp())),
        ]

    return arguments


def test_a_policy_that_will_refuse_names_the_check_and_the_last_day(capsys, simulated):
    code, document = told(capsys, *simulated(Statements(tcb_info=RECOVERY)))
    (coming,) = document["outlook"]
    assert (code, document["verdict"]) == (0, "affirmed")
    assert (coming["verdict"], coming["code"]) == ("refused", "tdx.tcb-status")
    assert (coming["evaluation_number"], coming["failed"]) == (21, ["tdx.tcb-status"])
    assert (coming["worse"], coming["until"]) == (True, document["expires_at"])


def test_a_grace_period_is_the_time_that_is_left(capsys, simulated):
    until = NOW + 10 * DAY
    grace = [{"status": "OutOfDate", "until": until.isoformat()}]
    policy = changed_text("tdx/tcb/grace", grace)
    _, document = told(capsys, *simulated(Statements(tcb_info=RECOVERY), policy=policy))
    (coming,) = document["outlook"]
    assert (coming["verdict"], coming["tcb_status"]) == ("affirmed", "OutOfDate")
    assert (coming["worse"], coming["until"]) == (True, until.isoformat().replace("+00:00", "Z"))


def test_a_set_that_changes_nothing_says_so(capsys, simulated):
    words = list(map(str, simulated(Statements())))
    assert main(["verify", "quote", *words]) == 0
    assert "nothing changes: affirmed" in capsys.readouterr().out


def test_the_sentences_say_what_is_short_and_by_how_much(capsys, simulated):
    assert main(["verify", "quote", *map(str, simulated(Statements(tcb_info=RECOVERY)))]) == 0
    text = capsys.readouterr().out
    assert "early  under early (evaluation 21" in text
    assert "is OutOfDate, advisories INTEL-SA-01234" in text
    assert "short by 4" in text
    assert "the policy would refuse it (tdx.tcb-status)" in text
    assert "you have until" in text


def test_a_single_collateral_has_no_outlook(capsys, simulated):
    words = simulated(Statements())
    del words[-4:-2]
    _, document = told(capsys, *words)
    assert "outlook" not in document


def test_collateral_begins_when_its_last_part_does():
    late = Statements(tcb_info=TcbInfo(validity=Validity(5 * DAY, 30 * DAY)))
    assert claimed_begin(intel().collateral(NOW, state=late)) == NOW + 5 * DAY


def test_collateral_ends_when_its_first_part_does():
    short = Statements(tcb_info=TcbInfo(validity=Validity(-DAY, 2 * DAY)))
    assert claimed_end(intel().collateral(NOW, state=short)) == NOW + 2 * DAY


def test_the_first_collateral_is_judged_as_if_it_were_alone(capsys, simulated):
    both = simulated(Statements(tcb_info=RECOVERY))
    _, with_others = told(capsys, *both)
    _, alone = told(capsys, *both[:-4], *both[-2:])
    assert with_others.pop("outlook")
    assert with_others == alone
