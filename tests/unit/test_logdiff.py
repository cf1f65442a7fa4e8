"""Which event changed: what an engineer asks when an RTMR is not the expected one."""

import json

import pytest

from attestation.cli import main
from attestation.report import Report
from attestation.tdx.eventlog import EventLog, RuntimeEvent
from attestation.tdx.logdiff import differences, event_type_name
from attestation.types import Digest
from tests.appraisal_world import (
    CONFIG_EVENT,
    DOMAIN,
    KEYSET,
    MODEL_EVENT,
    NOW,
    OTHER,
    World,
    policy_text,
)
from tests.shared_data import vectors

LOG = EventLog.parse(World().evidence().event_log)


def without(log: EventLog, index: int) -> EventLog:
    return EventLog(log.events[:index] + log.events[index + 1 :], log.used)


def changed(log: EventLog, index: int) -> EventLog:
    event = log.events[index]._replace(digest=bytes(48))
    return EventLog((*log.events[:index], event, *log.events[index + 1 :]), log.used)


def test_a_log_does_not_differ_from_itself():
    assert differences(LOG, LOG) == ()


@pytest.mark.parametrize("index", range(len(LOG.events)))
def test_one_event_that_changed_went_or_came_is_the_one_that_is_named(index):
    event = LOG.events[index]
    (one,) = differences(changed(LOG, index), LOG)
    assert (one.change, one.rtmr, one.expected) == ("changed", event.rtmr, event)
    assert one.actual.digest == bytes(48)
    position = sum(e.rtmr == event.rtmr for e in LOG.events[:index])
    assert one.position == position
    (gone,) = differences(without(LOG, index), LOG)
    assert (gone.change, gone.rtmr, gone.actual) == ("removed", event.rtmr, None)
    (new,) = differences(LOG, without(LOG, index))
    assert (new.change, new.rtmr, new.expected) == ("added", event.rtmr, None)


def test_two_genuine_firmware_logs_differ_where_grub_measured():
    ovmf, grub = (
        EventLog.parse(vectors("ccel-ovmf-grub", name).read_bytes())
        for name in ("ccel_ovmf.bin", "ccel_grub.bin")
    )
    found = differences(grub, ovmf)
    assert {"EV_IPL"} <= {event_type_name(one.actual) for one in found if one.actual}
    for rtmr in range(4):
        same = ovmf.replay()[rtmr] == grub.replay()[rtmr]
        assert same is not any(one.rtmr == rtmr for one in found)


@pytest.fixture
def files(tmp_path):
    """Return a saved report of a guest whose configuration is not the reference's."""
    other = RuntimeEvent(DOMAIN, "config", OTHER)
    world = World(events=(other, MODEL_EVENT), keyset=KEYSET.model_copy(update={"config": OTHER}))
    staple = world.guest().endorsements(NOW)
    report = Report.build(world.evidence(), staple).verified(
        NOW,
        tls_spki=Digest.parse(KEYSET.tls_spki),
        policy=policy_text().encode(),
        endorsements=staple,
    )
    (tmp_path / "report.json").write_bytes(report.to_bytes())
    (tmp_path / "reference.bin").write_bytes(World().evidence().event_log)
    return tmp_path


def explained(files, capsys, *extra: str) -> str:
    arguments = ["--reference-log", str(files / "reference.bin"), *extra]
    assert main(["explain", str(files / "report.json"), "runtime.config", *arguments]) == 5
    return capsys.readouterr().out


def test_explain_names_the_event_that_changed(files, capsys):
    text = explained(files, capsys)
    assert "1 event(s) differ" in text
    assert "RTMR3 event 0: changed" in text
    assert CONFIG_EVENT.content in text
    assert OTHER in text


def test_explain_lists_differences_as_json(files, capsys):
    document = json.loads(explained(files, capsys, "--json"))
    (one,) = document["differences"]
    assert (one["rtmr"], one["position"], one["change"]) == (3, 0, "changed")
    assert one["expected"]["digest"] == CONFIG_EVENT.digest.hex()
    assert document["checks"][0]["id"] == "runtime.config"
