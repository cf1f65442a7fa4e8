"""Verification of a report by us beside dcap-qvl's bare check of the quote it carries.

The bare check is what a caller of dcap-qvl does: parse the collateral's JSON, verify the quote.
Ours also parses the report, closes dcap-qvl's gaps, recomputes the binding, replays the event log
and answers every check of a policy that is already loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import dcap_qvl

from attestation.binding import KeysetBinding
from attestation.keyset import Keyset, Posture, ServedModel
from attestation.policy import Policy, intel_roots
from attestation.report import Report
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.intel import MockIntel
from attestation.simulator.policy import policy_yaml
from attestation.tdx.eventlog import RuntimeEvent
from attestation.tdx.quote import verify_quote
from attestation.types import Digest, nonce
from attestation.verifier import Verifier
from scripts.bench_suites._row import Row, interleaved

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
PROMISE = 1.5
GENUINE = Path(__file__).resolve().parents[2].parent / "shared/vectors/tdx-v4-b0c06f-tcb-recovery"


def rows() -> Iterator[Row]:
    """Measure a stapled report of a software TD and, where there is one, a genuine quote."""
    yield _report()
    if GENUINE.is_dir():
        yield _genuine()


def _report() -> Row:
    intel = MockIntel.generate(NOW)
    config, manifest = Digest.sha256(b"configuration"), Digest.sha256(b"manifest")
    guest = SoftwareGuest(intel)
    policy = policy_yaml(guest.report, intel, config=config, models={"qwen3": manifest})
    for event in (("config", str(config)), ("model", f"qwen3={manifest}")):
        guest.extend(RuntimeEvent("tacit.inference/v1", *event))
    posture = Posture(
        retention="none", training="none", operator="Bank", jurisdiction="EU",
        engine="vllm", audit=("time", "status"),
    )  # fmt: skip
    keyset = Keyset(
        version=1,
        tls_spki=str(Digest.sha256(b"key")),
        config=str(config),
        models=(ServedModel(name="qwen3", manifest=str(manifest)),),
        posture=posture,
    )
    challenge = nonce(bytes(range(32)))
    evidence = guest.evidence(KeysetBinding(challenge, keyset))
    staple = guest.endorsements(NOW)
    data = Report.build(evidence, staple).to_bytes()
    verifier = Verifier(Policy.load(policy, name="bench"))

    def ours() -> object:
        report = Report.parse(data)
        return verifier.verify(
            report.evidence, report.endorsements, expected_nonce=challenge, now=NOW
        ).affirmed(NOW)

    bare = _bare(evidence.quote, staple.tdx, root=intel.root_der, now=NOW)
    return _row(f"stapled report of {len(data)} bytes", ours, bare)


def _genuine() -> Row:
    quote = (GENUINE / "quote.bin").read_bytes()
    collateral = (GENUINE / "collateral-2026-08.json").read_bytes()
    now, root = datetime.fromtimestamp(1787894484, UTC), intel_roots().tdx_der

    def ours() -> object:
        return verify_quote(quote, collateral, root_der=root, now=now)

    return _row("genuine quote alone", ours, _bare(quote, collateral, root=root, now=now))


def _bare(quote: bytes, collateral: bytes, *, root: bytes, now: datetime) -> Callable[[], object]:
    seconds = int(now.timestamp())

    def verify() -> object:
        endorsed = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
        return dcap_qvl.verify_with_root_ca(quote, endorsed, root, seconds)

    return verify


def _row(what: str, ours: Callable[[], object], bare: Callable[[], object]) -> Row:
    mine, theirs = interleaved(ours, bare)
    return Row(what, mine, peer_name="dcap-qvl", peer=theirs, at_most=PROMISE)
