"""Sessions are single use and bounded; the release log is a chain nobody can mend unseen."""

import datetime as dt
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from attestation.broker.database import postgresql_url, sqlite_url
from attestation.broker.releaselog import EMPTY, GENESIS, Entry, link, verify_chain
from attestation.broker.schema import REVISION, schema
from attestation.broker.store import MAX_RESOURCE_REQUESTS, Challenged, Store
from attestation.errors import ConfigError, Malformed, NotAuthentic, Undecidable
from attestation.types import Digest
from tests.postgres_server import new_database

NOW = dt.datetime(2026, 11, 25, 12, 0, tzinfo=dt.UTC)


def entry(**changes):
    facts = {
        "at": "2026-11-25T12:00:00+00:00",
        "event": "released",
        "code": "ok",
        "session": None,
        "resource": "a/b/c",
        "policy": None,
        "evidence": None,
        "manifest": None,
        "minimum_version": None,
        "simulated": True,
    }
    return Entry.model_validate(facts | changes)


@pytest.fixture(name="url", params=["sqlite", "postgresql"])
def _url(request, tmp_path):
    if request.param == "sqlite":
        return sqlite_url(str(tmp_path / "broker.db"))
    return postgresql_url(new_database(), encrypted=True)


@pytest.fixture(name="store")
def _store(url):
    store = Store.open(url)
    yield store
    store.close()


def challenge(store, name, *, seconds=300, now=NOW, limit=16):
    session = Challenged(name, "n" * 44, now + dt.timedelta(seconds=seconds))
    store.challenge(session, now=now, limit=limit)
    return session


def attest(store, name):
    challenge(store, name)
    store.spend(name, now=NOW)
    store.attest(name, attestation=b"evidence", entry=entry(event="attested", resource=None))


def code(refused):
    return refused.value.code


def test_a_session_goes_from_challenged_to_attested_once(store):
    session = challenge(store, "one")
    assert store.spend("one", now=NOW) == session
    with pytest.raises(NotAuthentic) as refused:
        store.spend("one", now=NOW)
    assert code(refused) == "session-spent"
    with pytest.raises(NotAuthentic) as refused:
        store.attested("one", now=NOW)
    assert code(refused) == "session-unattested"
    store.attest("one", attestation=b"evidence", entry=entry(event="attested"))
    assert store.attested("one", now=NOW).attestation == b"evidence"
    with pytest.raises(NotAuthentic) as refused:
        store.spend("one", now=NOW)
    assert code(refused) == "session-spent"


def test_a_session_nobody_spent_cannot_become_attested(store):
    challenge(store, "one")
    with pytest.raises(NotAuthentic):
        store.attest("one", attestation=b"evidence", entry=entry())
    assert list(store.releases()) == []


def test_a_session_ends_to_the_second(store):
    challenge(store, "one", seconds=10)
    with pytest.raises(NotAuthentic) as refused:
        store.spend("one", now=NOW + dt.timedelta(seconds=10))
    assert code(refused) == "session-expired"


def test_an_unknown_session_is_refused(store):
    with pytest.raises(NotAuthentic) as refused:
        store.spend("none", now=NOW)
    assert code(refused) == "session-unknown"


def test_the_oldest_challenge_makes_way_and_attested_sessions_stay(store):
    attest(store, "attested")
    for number in range(20):
        challenge(store, f"c{number}", seconds=300 + number, limit=4)
    assert store.sessions() == 4
    assert store.attested("attested", now=NOW).id == "attested"
    with pytest.raises(NotAuthentic):
        store.spend("c0", now=NOW)
    assert store.spend("c19", now=NOW).id == "c19"


def test_when_every_session_is_a_guest_the_broker_is_busy(store):
    for number in range(4):
        attest(store, f"g{number}")
    with pytest.raises(Undecidable) as refused:
        challenge(store, "more", limit=4)
    assert code(refused) == "broker-busy"


def test_expired_sessions_are_purged(store):
    for number in range(5):
        challenge(store, f"c{number}")
    challenge(store, "later", now=NOW + dt.timedelta(seconds=301))
    assert store.sessions() == 1


def test_a_session_asks_a_bounded_number_of_times(store):
    attest(store, "one")
    for _ in range(MAX_RESOURCE_REQUESTS):
        store.attested("one", now=NOW)
    with pytest.raises(NotAuthentic) as refused:
        store.attested("one", now=NOW)
    assert code(refused) == "session-exhausted"


def test_a_flood_of_refusals_is_one_row(store):
    for _ in range(50):
        store.tally(act="attest", code="json-malformed", now=NOW)
    assert store.tallies() == (("2026-11-25", "attest", "json-malformed", 50),)


def test_the_log_grows_as_a_chain_and_survives_a_restart(store, url):
    heads = [store.append(entry(code=f"c{n}")) for n in range(5)]
    again = Store.existing(url)
    assert verify_chain(again.releases()) == heads[-1]
    assert verify_chain(again.releases(), known=heads[2].hash) == heads[-1]
    again.close()


CHANGES = {
    "an entry": lambda links: (
        [*links[:2], replace(links[2], entry=entry(code="x").canonical()), *links[3:]]
    ),
    "an entry dropped": lambda links: links[:2] + links[3:],
    "the first dropped": lambda links: links[1:],
    "two swapped": lambda links: [links[1], links[0], *links[2:]],
    "one twice": lambda links: [*links, links[-1]],
    "its hash": lambda links: [*links[:4], replace(links[4], hash=GENESIS)],
    "its place": lambda links: [*links[:4], replace(links[4], index=7)],
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_changed_chain_is_refused(store, change):
    for number in range(5):
        store.append(entry(code=f"c{number}"))
    with pytest.raises(NotAuthentic) as refused:
        verify_chain(change(list(store.releases())))
    assert code(refused) == "release-log-broken"


def test_a_cut_chain_is_refused_by_whoever_noted_a_head(store):
    heads = [store.append(entry(code=f"c{n}")) for n in range(5)]
    cut = list(store.releases())[:3]
    assert verify_chain(cut).size == 3
    with pytest.raises(NotAuthentic) as refused:
        verify_chain(cut, known=heads[-1].hash)
    assert code(refused) == "release-log-cut"


def test_a_chain_of_something_else_is_refused():
    with pytest.raises(Malformed):
        verify_chain([link(EMPTY, b'{"event":"released"}')])


def test_an_older_wrapped_key_does_not_come_back(store):
    imported = entry(event="imported")
    store.adopt("a/b/c", document=Digest.sha256(b"2"), minimum_version=2, entry=imported)
    store.adopt("a/b/c", document=Digest.sha256(b"2"), minimum_version=2, entry=imported)
    store.adopt("a/b/c", document=Digest.sha256(b"3"), minimum_version=3, entry=imported)
    assert len(list(store.releases())) == 2
    with pytest.raises(ConfigError) as refused:
        store.adopt("a/b/c", document=Digest.sha256(b"2"), minimum_version=2, entry=imported)
    assert code(refused) == "wrapped-key-rollback"


def test_a_full_disk_is_undecidable_and_leaves_the_chain_whole(tmp_path):
    store = Store.open(sqlite_url(str(tmp_path / "broker.db")))
    store.append(entry())
    db = sqlite3.connect(tmp_path / "broker.db")
    db.execute("CREATE TRIGGER full AFTER INSERT ON releases BEGIN SELECT RAISE(ABORT, 'x'); END")
    db.commit()
    with pytest.raises(Undecidable) as refused:
        store.append(entry())
    assert code(refused) == "broker-store"
    db.execute("DROP TRIGGER full")
    db.commit()
    db.close()
    assert verify_chain(store.releases()).size == 1
    store.close()


def test_a_store_that_is_not_there_is_no_empty_log(tmp_path):
    with pytest.raises(ConfigError) as refused:
        Store.existing(sqlite_url(str(tmp_path / "none.db")))
    assert code(refused) == "broker-store-url"
    assert not (tmp_path / "none.db").exists()


def test_answers_survive_a_power_cut(store, url):
    with store._database.transaction() as db:
        if url.get_backend_name() == "sqlite":
            assert db.exec_driver_sql("PRAGMA synchronous").scalar() == 2
            assert db.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        else:
            assert db.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"


def test_another_database_is_no_store(tmp_path):
    sqlite3.connect(tmp_path / "other.db").close()
    with pytest.raises(ConfigError) as refused:
        Store.existing(sqlite_url(str(tmp_path / "other.db")))
    assert code(refused) == "broker-store-url"


def test_migrations_make_exactly_the_tables_this_release_reads(store):
    from alembic.autogenerate import compare_metadata
    from alembic.runtime.migration import MigrationContext

    with store._database.transaction(writes=False) as db:
        assert compare_metadata(MigrationContext.configure(db), schema) == []
        assert db.exec_driver_sql("SELECT version_num FROM alembic_version").scalar() == REVISION


def test_a_store_from_before_the_migrations_keeps_its_log(url):
    first = Store.open(url)
    head = first.append(entry())
    with first._database.transaction() as db:
        for table in ("uses", "requests", "approvals", "revoked", "imports", "alembic_version"):
            db.exec_driver_sql(f"DROP TABLE {table}")
    first.close()
    again = Store.open(url)
    assert verify_chain(again.releases()) == head
    assert again.append(entry()).size == 2
    again.close()


def test_a_store_of_a_newer_release_is_left_alone(url):
    store = Store.open(url)
    with store._database.transaction() as db:
        db.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    store.close()
    with pytest.raises(ConfigError) as refused:
        Store.open(url)
    assert code(refused) == "broker-store-newer"


def test_two_brokers_open_an_empty_store_at_once(url):
    with ThreadPoolExecutor(2) as pool:
        stores = list(pool.map(lambda _: Store.open(url), range(2)))
    assert stores[0].append(entry()).size == 1
    assert stores[1].append(entry()).size == 2
    for store in stores:
        store.close()


def test_a_nonce_is_spent_once_whichever_broker_is_asked(store, url):
    other = Store.open(url)
    for number in range(10):
        challenge(store, f"s{number}")

    def spend(work):
        broker, name = work
        try:
            broker.spend(name, now=NOW)
        except NotAuthentic as refused:
            return refused.code
        return "spent"

    asked = [(broker, f"s{number}") for number in range(10) for broker in (store, other) * 2]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(spend, asked))
    assert answers.count("spent") == 10
    assert answers.count("session-spent") == 30
    other.close()


def test_two_brokers_write_one_chain(store, url):
    other = Store.open(url)
    with ThreadPoolExecutor(8) as pool:
        heads = list(pool.map(lambda n: (store, other)[n % 2].append(entry()), range(40)))
    assert sorted(head.size for head in heads) == list(range(1, 41))
    assert verify_chain(store.releases()).size == 40
    other.close()


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://user:secret@/db",
        "postgresql://user@/db?password=secret",
        "postgresql://user@host/db",
        "postgresql://user@host/db?sslmode=require",
        "postgresql://user@host:x/db",
    ],
)
def test_a_database_url_that_would_leak_is_refused(text):
    with pytest.raises(ConfigError) as refused:
        postgresql_url(text, encrypted=True)
    assert code(refused) == "broker-store-url"
    assert "secret" not in str(refused.value)
