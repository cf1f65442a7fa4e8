"""Damaged evidence of a TD: no splice and no flipped bit is ever accepted."""

import json
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attestation.authenticate import Roots, authenticate
from attestation.binding import KeysetBinding
from attestation.errors import Refusal
from attestation.evidence import Evidence
from attestation.keyset import Keyset, Posture, ServedModel
from attestation.simulator.guest import SoftwareGuest
from attestation.tdx.eventlog import RuntimeEvent
from attestation.tdx.quote import verify_quote
from attestation.types import Endorsements, Nonce
from tests.shared_data import vectors
from tests.simulated_tdx import NOW, mock_intel

SAMPLE = 300
INTEL = mock_intel()
GUEST = SoftwareGuest(INTEL)
GUEST.extend(RuntimeEvent("tacit.inference/v1", "config", "sha256:" + "ab" * 32))
NONCE = Nonce(bytes(range(32)))
KEYSET = Keyset(
    version=1,
    tls_spki="sha256:" + "01" * 32,
    config="sha256:" + "02" * 32,
    models=(ServedModel(name="qwen3", manifest="sha256:" + "03" * 32, weights="sealed"),),
    posture=Posture(
        retention="none",
        training="none",
        operator="an operator",
        jurisdiction="nowhere",
        engine="vllm 0",
        audit=("status",),
        filters=(),
        telemetry=(),
    ),
)
EVIDENCE = GUEST.evidence(KeysetBinding(NONCE, KEYSET))
GENUINE = (EVIDENCE.quote, GUEST.endorsements().tdx, EVIDENCE.event_log)
PARTS = ("quote", "collateral", "event log")


def authenticated(quote, collateral, log):
    return authenticate(
        Evidence(quote, log, b"", EVIDENCE.binding),
        Endorsements(collateral),
        roots=Roots(INTEL.root_der, simulated=True),
        expected_nonce=NONCE,
        now=NOW,
    )


def spliced(data, *, mode, at, junk):
    """Cut, extend or overwrite genuine bytes, which reaches deeper than random ones."""
    at %= len(data)
    return {
        "cut": data[:at],
        "insert": data[:at] + junk + data[at:],
        "overwrite": data[:at] + junk + data[at + len(junk) :],
    }[mode]


def same_json(one, other):
    try:
        return json.loads(one) == json.loads(other)
    except ValueError:
        return False


@pytest.mark.parametrize("part", range(3), ids=PARTS)
@given(
    mode=st.sampled_from(["cut", "insert", "overwrite"]),
    at=st.integers(min_value=0, max_value=1 << 20),
    junk=st.one_of(st.binary(min_size=1, max_size=8), st.just(b"\xff\xff\xff\xff")),
)
def test_damaged_evidence_is_refused(part, mode, at, junk):
    given_parts = list(GENUINE)
    given_parts[part] = spliced(GENUINE[part], mode=mode, at=at, junk=junk)
    if given_parts[part] == GENUINE[part]:
        return
    if part == 0 and given_parts[0].rstrip(b"\0") == GENUINE[0].rstrip(b"\0"):
        return  # more or fewer zeros behind the quote: how much the quoting service pads
    if part == 1 and same_json(given_parts[1], GENUINE[1]):
        return  # white space between JSON tokens, inside which everything is signed
    with pytest.raises(Refusal):
        authenticated(*given_parts)


def test_the_evidence_before_damage_is_authentic():
    assert authenticated(*GENUINE).simulated


def flips(data, part):
    """Return (position, flipped copy) of a sample of bits that is the same in every run."""
    everything = range(8 * len(data))
    for bit in random.Random(part).sample(everything, SAMPLE):  # noqa: S311 - not a secret
        yield bit, flipped(data, bit)


def flipped(data, bit):
    copy = bytearray(data)
    copy[bit // 8] ^= 1 << bit % 8
    return bytes(copy)


def survivors(candidates, part):
    """Return the bits whose flip was accepted; anything but a refusal is raised."""
    accepted = []
    for bit, damaged in candidates:
        parts = [*GENUINE[:part], damaged, *GENUINE[part + 1 :]]
        try:
            authenticated(*parts)
        except Refusal:
            continue
        accepted.append(bit)
    return accepted


@pytest.mark.parametrize("part", range(3), ids=PARTS)
def test_no_flipped_bit_is_authenticated(part):
    assert survivors(flips(GENUINE[part], part), part) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", range(3), ids=PARTS)
def test_no_flipped_bit_at_all_is_authenticated(part):
    data = GENUINE[part]
    assert survivors(((bit, flipped(data, bit)) for bit in range(8 * len(data))), part) == []


def genuine_intel():
    folder = "tdx-v4-b0c06f-tcb-recovery"
    return (
        vectors(folder, "quote.bin").read_bytes(),
        vectors(folder, "collateral-2025-06.json").read_bytes(),
        vectors("intel-root", "intel_sgx_root_ca.der").read_bytes(),
    )


def accepted_by_intel_root(part, bits):
    quote, collateral, root = genuine_intel()
    now = datetime.fromtimestamp(1751624191, UTC)
    accepted = []
    for bit in bits:
        parts = [quote, collateral]
        parts[part] = flipped(parts[part], bit)
        try:
            verify_quote(*parts, root_der=root, now=now)
        except Refusal:
            continue
        accepted.append(bit)
    return accepted


@pytest.mark.parametrize("part", [0, 1], ids=PARTS[:2])
def test_no_flipped_bit_of_a_genuine_quote_is_accepted(part):
    size = 8 * len(genuine_intel()[part])
    bits = random.Random(part).sample(range(size), SAMPLE)  # noqa: S311 - not a secret
    assert accepted_by_intel_root(part, bits) == []


@pytest.mark.slow
@pytest.mark.parametrize("part", [0, 1], ids=PARTS[:2])
def test_no_flipped_bit_at_all_of_a_genuine_quote_is_accepted(part):
    assert accepted_by_intel_root(part, range(8 * len(genuine_intel()[part]))) == []
