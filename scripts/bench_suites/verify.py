"""Verification of a report by us beside dcap-qvl's bare check of the quote it carries.

The bare check is what a caller of dcap-qvl does: parse the collateral's JSON, verify the quote.
Ours also parses the report, closes dcap-qvl's gaps, recomputes the binding, replays the event log
and answers every check of a policy that is already loaded.

`first` rows see collateral, machine, log and GPU certificates for the first time: each has a new
verifier. `again` rows are what a broker and a client do all day: the verifier has seen the same
collateral, machine, log, manifests and certificates, with which it skips parsing and, for NVIDIA's
certificates and manifests, signatures it has checked. The report and its quote are parsed, and all
signatures of quote, collateral, CRLs, GPU reports and OCSP responses are checked, every time. What
was promised holds for `again`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import dcap_qvl

from attestation.authenticate import Roots
from attestation.binding import KeysetBinding
from attestation.gpu.evidence import GpuEndorsements, GpuEvidence, bound_nonce
from attestation.gpu.verify import GpuRoots, verify_gpu
from attestation.keyset import Keyset, Posture, ServedModel
from attestation.policy import Policy, intel_roots
from attestation.report import Report
from attestation.simulator.guest import SoftwareGuest
from attestation.simulator.intel import MockIntel
from attestation.simulator.nvidia import MockNvidia
from attestation.simulator.policy import policy_yaml
from attestation.tdx.eventlog import RuntimeEvent
from attestation.tdx.quote import QuoteVerifier, verify_quote
from attestation.tdx.stated import Root
from attestation.types import Digest, nonce
from attestation.verifier import Verifier
from scripts.bench_suites._row import Row, interleaved

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
PROMISE = 1.5
GPU_PROMISE_S = 0.050
CHALLENGE = nonce(bytes(range(32)))
GENUINE = Path(__file__).resolve().parents[2].parent / "shared/vectors/tdx-v4-b0c06f-tcb-recovery"


def rows() -> Iterator[Row]:
    """Measure a stapled report of a software TD, a genuine quote where there is one, and GPUs."""
    keyset = _keyset()
    yield from _report(keyset)
    if GENUINE.is_dir():
        yield from _genuine()
    yield from _gpus(keyset)


def _keyset() -> Keyset:
    posture = Posture(
        retention="none", training="none", operator="Bank", jurisdiction="EU",
        engine="vllm", audit=("time", "status"), filters=(), telemetry=(),
    )  # fmt: skip
    return Keyset(
        version=1,
        tls_spki=str(Digest.sha256(b"key")),
        config=str(Digest.sha256(b"configuration")),
        models=(
            ServedModel(name="qwen3", manifest=str(Digest.sha256(b"manifest")), weights="sealed"),
        ),
        posture=posture,
    )


def _report(keyset: Keyset) -> Iterator[Row]:
    intel = MockIntel.generate(NOW)
    guest = SoftwareGuest(intel)
    model = keyset.models[0]
    manifest = Digest.parse(model.manifest)
    text = policy_yaml(
        guest.report, intel, config=Digest.parse(keyset.config), models={model.name: manifest}
    )
    for event in (("config", keyset.config), ("model", f"{model.name}={model.manifest}")):
        guest.extend(RuntimeEvent("tacit.inference/v1", *event))
    evidence = guest.evidence(KeysetBinding(CHALLENGE, keyset))
    staple = guest.endorsements(NOW)
    data = Report.build(evidence, staple).to_bytes()
    policy = Policy.load(text, name="bench")

    def verified(policy: Policy) -> object:
        report = Report.parse(data)
        return (
            Verifier(policy)
            .verify(report.evidence, report.endorsements, expected_nonce=CHALLENGE, now=NOW)
            .affirmed(NOW)
        )

    def first() -> object:
        roots = Roots(policy.roots.tdx_der, simulated=True)
        return verified(replace(policy, roots=roots))

    bare = _bare(evidence.quote, staple.tdx, root=intel.root_der, now=NOW)
    what = f"stapled report of {len(data)} bytes"
    yield _row(f"{what}, first", first, bare)
    yield _row(f"{what}, again", partial(verified, policy), bare, at_most=PROMISE)


def _genuine() -> Iterator[Row]:
    quote = (GENUINE / "quote.bin").read_bytes()
    collateral = (GENUINE / "collateral-2026-08.json").read_bytes()
    now, root = datetime.fromtimestamp(1787894484, UTC), intel_roots().tdx_der
    first = partial(verify_quote, quote, collateral, root_der=root, now=now)
    again = partial(QuoteVerifier(Root.parse(root)).verify, quote, collateral, now=now)
    bare = _bare(quote, collateral, root=root, now=now)
    yield _row("genuine quote alone, first", first, bare)
    yield _row("genuine quote alone, again", again, bare, at_most=PROMISE)


def _gpus(keyset: Keyset) -> Iterator[Row]:
    nvidia = MockNvidia.generate(NOW)
    bound = bound_nonce(KeysetBinding(CHALLENGE, keyset))
    yield from _board(nvidia, bound, "8 GPUs", switches=0, first_at_most=1.0)
    yield from _board(nvidia, bound, "8 GPUs and 4 switches", switches=4, first_at_most=None)


def _board(
    nvidia: MockNvidia, bound: bytes, what: str, *, switches: int, first_at_most: float | None
) -> Iterator[Row]:
    evidence = nvidia.evidence(bound, gpus=8, switches=switches)
    store, sent = nvidia.endorsements(evidence).to_bytes(), evidence.to_bytes()
    roots = nvidia.roots

    def verified(roots: GpuRoots) -> object:
        return verify_gpu(
            GpuEvidence.parse(sent), GpuEndorsements.parse(store), nonce=bound, roots=roots, now=NOW
        )

    def first() -> object:
        return verified(GpuRoots(roots.device_der, roots.rim_der))

    def nothing() -> None:
        """Stand for a peer: the promise is a time."""

    for name, act, limit in (
        ("first", first, first_at_most),
        ("again", partial(verified, roots), 1.0),
    ):
        mine, _ = interleaved(act, nothing, rounds=40)
        yield Row(f"{what}, {name}", mine, "promise", GPU_PROMISE_S, limit)


def _bare(quote: bytes, collateral: bytes, *, root: bytes, now: datetime) -> Callable[[], object]:
    seconds = int(now.timestamp())

    def verify() -> object:
        endorsed = dcap_qvl.QuoteCollateralV3.from_json(collateral.decode())
        return dcap_qvl.verify_with_root_ca(quote, endorsed, root, seconds)

    return verify


def _row(
    what: str,
    ours: Callable[[], object],
    bare: Callable[[], object],
    *,
    at_most: float | None = None,
) -> Row:
    mine, theirs = interleaved(ours, bare)
    return Row(what, mine, peer_name="dcap-qvl", peer=theirs, at_most=at_most)
