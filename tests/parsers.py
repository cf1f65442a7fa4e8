"""Every parser that a stranger's bytes reach, and bytes that each accepts: what is fuzzed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet

from attestation.binding import KbsBinding, KeysetBinding
from attestation.broker.jwe import new_ephemeral, open_jwe, seal_jwe
from attestation.broker.keyfile import parse_wrapped
from attestation.broker.native import Recipient, ReleaseRequest, seal_to
from attestation.broker.protocol import Attestation, EcKey, Request, tee_pubkey
from attestation.bundle import Bundle, build_bundle
from attestation.codec import b64, parse_document
from attestation.confidential import Confidential
from attestation.dsse import PAYLOAD_TYPE, sign, verify
from attestation.gpu.chain import DEVICE_CODES, Chain, Link, Proven
from attestation.gpu.der import firmware_id
from attestation.gpu.evidence import GpuEndorsements, GpuEvidence
from attestation.gpu.ocsp import Responses
from attestation.gpu.report import Kind, ReportFrame
from attestation.gpu.rim import Rim
from attestation.keyset import Keyset
from attestation.manifest import Manifest, SealedFile, issue
from attestation.pcs import Response
from attestation.policy import Policy
from attestation.policy_signature import open_policy, sign_policy
from attestation.report import Report
from attestation.safetensors import parse_header
from attestation.simulator.guest import SoftwareGuest
from attestation.tdx.collateral import Endorsed
from attestation.tdx.eventlog import EventLog, RuntimeEvent
from attestation.tdx.framing import QuoteFrame
from attestation.tdx.layout import V5, claimed_body, decode_report
from attestation.tokens import Issuer
from attestation.types import Nonce
from attestation.x509 import Named, RevocationList, parse_certificate, parse_pem_chain
from tests.appraisal_world import KEYSET, policy_text
from tests.gpu_world import SINGLE, nvidia
from tests.simulated_tdx import NOW, mock_intel

# the same in every process, so that what fuzzing kept stays signed
SIGNER = Ed25519PrivateKey.from_private_bytes(bytes(32))
GUEST_KEY = ec.derive_private_key(7, ec.SECP256R1())
RECIPIENT = Recipient.generate()
_ISSUER_KEY = ECKey.import_key(
    GUEST_KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
)
ISSUER = Issuer("idp", "tacit", KeySet([_ISSUER_KEY]))
NONCE = Nonce(bytes(32))


@dataclass(frozen=True, slots=True)
class Parser:
    """What reads the bytes, and bytes that it accepts."""

    read: Callable[[bytes], object]
    seed: bytes


def _quote(data: bytes) -> None:
    decode_report(claimed_body(data))
    _ = QuoteFrame.parse(data).pck_chain


@cache
def parsers() -> dict[str, Parser]:
    """Return the parsers by name; made once a process, for it generates keys."""
    return {**_tdx(), **_gpu(), **_documents(), **_released()}


def _tdx() -> dict[str, Parser]:
    intel = mock_intel()
    guest = SoftwareGuest(intel)
    guest.extend(RuntimeEvent("tacit.inference/v1", "config", "sha256:" + "ab" * 32))
    newer = replace(guest.report, tee_tcb_svn2=bytes(16), mr_service_td=bytes(48))
    evidence = guest.evidence(KeysetBinding(NONCE, KEYSET))
    collateral = guest.endorsements().tdx
    chain = (intel.platform_ca.pem + intel.root.pem).encode()
    measured = hashlib.sha384(b"\x01\x00\x00\x08:a:\x00").hexdigest()
    entry = {"imr": 3, "event_type": 0x08000001, "digest": measured, "event": "a"}
    entry["event_payload"] = "00"
    head = b"HTTP/1.1 200 OK\r\nTCB-Info-Issuer-Chain: a%20b\r\n\r\n{}"
    crl = bytes.fromhex(json.loads(collateral)["pck_crl"])
    return {
        "quote": Parser(_quote, evidence.quote),
        "quote of version 5": Parser(_quote, intel.quote(newer, header=V5)),
        "collateral": Parser(Endorsed.parse, collateral),
        "event log": Parser(lambda d: EventLog.parse(d).runtime_events(), evidence.event_log),
        "dstack log": Parser(
            lambda d: EventLog.parse_dstack(d).runtime_events(), json.dumps([entry]).encode()
        ),
        "PEM": Parser(lambda d: parse_pem_chain(d, what="chain", longest=3), chain),
        "CRL": Parser(lambda d: RevocationList.parse(d, what="CRL"), crl),
        "certificate": Parser(lambda d: parse_certificate(d, what="certificate"), intel.root_der),
        "name": Parser(lambda d: Named.parse(d, what="certificate"), intel.root_der),
        "saved answer": Parser(lambda d: Response.parse(d, what="answer"), head),
    }


def _gpu() -> dict[str, Parser]:
    mock = nvidia()
    evidence = GpuEvidence((mock.device(SINGLE, unit="gpu 0", nonce=bytes(32)),))
    store = mock.endorsements(evidence, state=SINGLE)
    leaf, *rest = mock.chain("GH100", "gpu 0", fwid=SINGLE.fwid)
    (dice,) = [e for e in leaf.certificate.extensions if e.oid.dotted_string == "2.23.133.5.4.1"]
    switch = mock.evidence(bytes(32), gpus=0, switches=1).devices[0].report

    def chain(data: bytes) -> object:
        return Chain.verify(
            [data, *(party.der for party in rest)],
            root_der=mock.roots.device_der,
            now=NOW,
            codes=DEVICE_CODES,
            what="chain",
            proven=Proven(),
        )

    return {
        "GPU report": Parser(
            lambda d: ReportFrame.parse(d, kind=Kind.GPU), evidence.devices[0].report
        ),
        "switch report": Parser(lambda d: ReportFrame.parse(d, kind=Kind.SWITCH), switch),
        "manifest": Parser(
            lambda d: Rim.verify(d, root_der=mock.roots.rim_der, now=NOW, proven=Proven()),
            next(iter(store.rims.values())),
        ),
        "OCSP response": Parser(lambda d: Responses.parse([d]), store.ocsp[0]),
        "DICE extension": Parser(firmware_id, dice.value.public_bytes()),
        "evidence set": Parser(GpuEvidence.parse, evidence.to_bytes()),
        "NVIDIA's statements": Parser(GpuEndorsements.parse, store.to_bytes()),
        "GPU certificate": Parser(lambda d: Link.read(d, what="certificate"), leaf.der),
        "GPU chain": Parser(chain, leaf.der),
    }


def _documents() -> dict[str, Parser]:
    guest = SoftwareGuest(mock_intel())
    evidence, collateral = guest.evidence(KeysetBinding(NONCE, KEYSET)), guest.endorsements()
    policy, key = policy_text().encode(), SIGNER.public_key()
    files = {"00806f050000-platform.json": collateral.tdx}
    header = {"a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}
    return {
        "report": Parser(Report.parse, Report.build(evidence, collateral).to_bytes()),
        "keyset": Parser(Keyset.parse, KEYSET.canonical()),
        "policy": Parser(lambda d: Policy.load(d, name="policy"), policy),
        "signed policy": Parser(
            lambda d: open_policy(d, signer=key, name="policy"),
            sign_policy(policy, number=1, signer=SIGNER),
        ),
        "bundle": Parser(
            lambda d: Bundle.open(d, signer=key, now=NOW),
            build_bundle(files, signer=SIGNER, created_at=NOW, expires_at=NOW.replace(year=2027)),
        ),
        "envelope": Parser(
            lambda d: verify(d, signer=key), sign(b"{}", signer=SIGNER, payload_type=PAYLOAD_TYPE)
        ),
        "manifest of weights": Parser(
            lambda d: Manifest.open(sign(d, signer=SIGNER), signer=key),
            verify(_manifest(), signer=key),
        ),
        "safetensors header": Parser(
            lambda d: parse_header(d, file_size=8 + len(d) + 4), json.dumps(header).encode()
        ),
    }


def _token() -> str:
    second = int(NOW.timestamp())
    said = {"iss": "idp", "aud": "tacit", "sub": "somebody", "exp": second + 600}
    return jwt.encode({"alg": "ES256"}, said, _ISSUER_KEY, algorithms=["ES256"])


def _manifest() -> bytes:
    weights = SealedFile(0, "weights", "model.safetensors", 12, 1, "1" * 64, "a" * 64)
    return issue(
        (weights,),
        model="qwen3",
        version=4,
        source="test",
        generation=bytes(32),
        chunk_size=1 << 20,
        key="kbs:///tacit/model/qwen3",
        key_commitment=bytes(32),
        signer=SIGNER,
    )


def _released() -> dict[str, Parser]:
    public = tee_pubkey(GUEST_KEY.public_key())
    binding = KbsBinding(b64(bytes(32)), public, "")
    evidence = SoftwareGuest(mock_intel()).evidence(binding)
    native = KbsBinding(b64(bytes(32)), RECIPIENT.public.model_dump(), "")
    request = RECIPIENT.request(
        "tacit/demo/key", SoftwareGuest(mock_intel()).evidence(native), nonce=native.nonce
    )
    auth = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'
    recipient = parse_document(EcKey, json.dumps(public).encode())
    sealed = seal_jwe(
        Confidential(b"secret"),
        recipient,
        ephemeral=new_ephemeral(recipient),
        cek=Confidential(bytes(32)),
        iv=bytes(12),
    )
    wrapped = {
        "version": 1,
        "kind": "secret",
        "resource": "tacit/demo/pepper",
        "kek": "file:kek",
        "wrapped": b64(bytes(60)),
        "created": NOW.isoformat(),
    }
    return {
        "KBS request": Parser(Request.parse, auth),
        "KBS attestation": Parser(Attestation.parse, Attestation.build(evidence).to_bytes()),
        "native request": Parser(ReleaseRequest.parse, request.model_dump_json().encode()),
        "JWE": Parser(lambda d: open_jwe(d, GUEST_KEY), sealed),
        "HPKE": Parser(
            lambda d: RECIPIENT.open(d, request), seal_to(request, Confidential(b"secret"))
        ),
        "token": Parser(
            lambda d: ISSUER.claims(d.decode("latin-1"), NOW), f"Bearer {_token()}".encode()
        ),
        "wrapped key": Parser(lambda d: parse_wrapped(d, name="key"), json.dumps(wrapped).encode()),
    }
