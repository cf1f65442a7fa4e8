"""Collateral from a PCCS, from saved answers and from a bundle; none of it can pass for fresher."""

import contextlib
import http.server
import json
import threading
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from attestation.bundle import Bundle, build_bundle
from attestation.cli import main
from attestation.commands.files import write
from attestation.errors import ConfigError, Malformed, NotAuthentic, Refusal, Undecidable
from attestation.pccs import CachedPccs, Pccs
from attestation.pcs import Answers, Response
from attestation.report import Report
from attestation.tdx.quote import collateral_key, verify_quote
from attestation.types import Digest
from tests.appraisal_world import KEYSET, NOW, World, intel, policy_text

COLLATERAL = World().guest().endorsements(NOW).tdx
QUOTE = World().evidence().quote
NAME = collateral_key(QUOTE)
FMSPC, _, CA = NAME.partition("-")
SIGNER = Ed25519PrivateKey.generate()
PUBLIC = SIGNER.public_key()
TOMORROW = NOW + timedelta(days=1)


def answers(collateral: bytes = COLLATERAL, *, crl_as_hex: bool = True) -> dict[str, tuple]:
    """Return path -> (headers, body) as a PCCS of API version 4 gives them."""
    sent = json.loads(collateral)

    def signed(name, text, signature):
        return f'{{"{name}":{text},"signature":"{signature}"}}'.encode()

    root = sent["root_ca_crl"]
    return {
        "/tdx/certification/v4/tcb": (
            {"TCB-Info-Issuer-Chain": quote(sent["tcb_info_issuer_chain"])},
            signed("tcbInfo", sent["tcb_info"], sent["tcb_info_signature"]),
        ),
        "/tdx/certification/v4/qe/identity": (
            {"SGX-Enclave-Identity-Issuer-Chain": quote(sent["qe_identity_issuer_chain"])},
            signed("enclaveIdentity", sent["qe_identity"], sent["qe_identity_signature"]),
        ),
        "/sgx/certification/v4/pckcrl": (
            {"SGX-PCK-CRL-Issuer-Chain": quote(sent["pck_crl_issuer_chain"])},
            bytes.fromhex(sent["pck_crl"]),
        ),
        "/sgx/certification/v4/rootcacrl": (
            {},
            root.encode() if crl_as_hex else bytes.fromhex(root),
        ),
    }


@contextlib.contextmanager
def pccs(table: dict[str, tuple]):
    """Serve `table` on loopback; yields the URL and the requests that arrived."""
    asked = []

    class Service(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            url = urlsplit(self.path)
            asked.append((url.path, parse_qs(url.query)))
            headers, body = table.get(url.path, ({}, None))
            self.send_response(404 if body is None else 200)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def verified(collateral: bytes) -> str:
    return verify_quote(QUOTE, collateral, root_der=intel().root_der, now=NOW).tcb.status.value


# -- a PCCS ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("crl_as_hex", [True, False])
def test_collateral_of_a_pccs_verifies_as_intel_signed_it(crl_as_hex):
    with pccs(answers(crl_as_hex=crl_as_hex)) as (url, asked):
        fetched = Pccs(url).collateral(fmspc=FMSPC, ca=CA)
    assert json.loads(fetched) == json.loads(COLLATERAL)
    assert verified(fetched) == "UpToDate"
    assert ("/tdx/certification/v4/tcb", {"fmspc": [FMSPC], "update": ["standard"]}) in asked
    assert ("/sgx/certification/v4/pckcrl", {"ca": [CA], "encoding": ["der"]}) in asked


def test_the_early_set_can_be_asked_for():
    with pccs(answers()) as (url, asked):
        Pccs(url, update="early").collateral(fmspc=FMSPC, ca=CA)
    assert ("/tdx/certification/v4/qe/identity", {"update": ["early"]}) in asked


def test_a_pccs_that_is_away_decides_nothing():
    with pccs({}) as (url, _):
        pass
    with pytest.raises(Undecidable) as refusal:
        Pccs(url).collateral(fmspc=FMSPC, ca=CA)
    assert refusal.value.code == "pccs-unreachable"


@pytest.mark.parametrize("missing", sorted(answers()))
def test_a_pccs_that_lacks_an_answer_decides_nothing(missing):
    table = answers()
    del table[missing]
    with pccs(table) as (url, _), pytest.raises(Undecidable) as refusal:
        Pccs(url).collateral(fmspc=FMSPC, ca=CA)
    assert refusal.value.code == "pccs-unreachable"


def test_an_answer_without_an_end_is_not_read_to_it():
    table = answers()
    table["/sgx/certification/v4/rootcacrl"] = ({}, b"0" * 1_100_000)
    with pccs(table) as (url, _), pytest.raises(Undecidable, match="pccs-unreachable"):
        Pccs(url).collateral(fmspc=FMSPC, ca=CA)


@pytest.mark.parametrize("fmspc", ["", "../../etc", "00" * 7, "ABCDEF012345"])
def test_only_an_fmspc_is_put_into_a_path(fmspc):
    with pytest.raises(Malformed):
        Pccs("http://127.0.0.1:1").collateral(fmspc=fmspc, ca="platform")


# -- answers --------------------------------------------------------------------------------------


def response(path: str, **changes) -> Response:
    headers, body = answers()[path]
    lower = {name.lower(): value for name, value in headers.items()}
    return Response({**lower, **changes.get("headers", {})}, changes.get("body", body))


def assembled(**parts: Response) -> bytes:
    tcb, identity, pck, root = answers()
    whole = {
        "tcb": response(tcb),
        "qe_identity": response(identity),
        "pck_crl": response(pck),
        "root_crl": response(root),
    }
    return Answers(**{**whole, **parts}).collateral()


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"",
        b'{"tcbInfo":{}}',
        b'{"tcbInfo":{},"signature":"00"}',
        b'{"tcbInfo":{},"tcbInfo":{},"signature":"' + b"00" * 64 + b'"}',
        b'{"tcbInfo":{},"more":{},"signature":"' + b"00" * 64 + b'"}',
        b'{"tcbInfo":[],"signature":"' + b"00" * 64 + b'"}',
    ],
)
def test_an_answer_of_another_shape_is_malformed(body):
    with pytest.raises(Malformed):
        assembled(tcb=response("/tdx/certification/v4/tcb", body=body))


def test_an_answer_without_its_chain_is_malformed():
    bare = Response({}, answers()["/tdx/certification/v4/tcb"][1])
    with pytest.raises(Malformed) as refusal:
        assembled(tcb=bare)
    assert refusal.value.code == "pcs-response"


def test_an_altered_answer_is_assembled_and_then_refused_by_its_signature():
    _, body = answers()["/tdx/certification/v4/tcb"]
    forged = body.replace(b'"OutOfDate"', b'"UpToDate"', 1).replace(b'"pcesvn":13', b'"pcesvn":1')
    assert forged != body
    collateral = assembled(tcb=response("/tdx/certification/v4/tcb", body=forged))
    with pytest.raises(NotAuthentic, match="collateral-signature"):
        verified(collateral)


@given(st.binary(max_size=400))
def test_no_saved_answer_crashes_its_reader(data):
    for saved in (data, b"HTTP/1.1 200 OK\r\n" + data):
        with contextlib.suppress(Refusal):
            assembled(tcb=Response.parse(saved, what="tcb"))


def test_saved_answers_are_imported(tmp_path):
    names = ("tcb", "qe-identity", "pck-crl", "root-crl")
    command = ["endorse", "import", "--to", str(tmp_path / "out.json")]
    for name, (headers, body) in zip(names, answers().values(), strict=True):
        lines = ["HTTP/1.1 200 OK", *(f"{key}: {value}" for key, value in headers.items())]
        (tmp_path / name).write_bytes("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        command += [f"--{name}", str(tmp_path / name)]
    assert main(command) == 0
    assert verified((tmp_path / "out.json").read_bytes()) == "UpToDate"
    (tmp_path / "tcb").write_bytes(b"HTTP/1.1 404 Not Found\r\n\r\n")
    assert main(command) == 3


# -- the cache ------------------------------------------------------------------------------------


def cached(url: str, directory, *, at: datetime) -> CachedPccs:
    return CachedPccs(Pccs(url, timeout_s=5), directory, timedelta(hours=6), lambda: at)


def test_a_cache_asks_once_and_outlives_an_outage(tmp_path):
    now = datetime.now(UTC)
    with pccs(answers()) as (url, asked):
        first = cached(url, tmp_path, at=now + timedelta(seconds=5)).endorsements(QUOTE)
        again = cached(url, tmp_path, at=now + timedelta(hours=5)).endorsements(QUOTE)
        assert len(asked) == 4
        cached(url, tmp_path, at=now + timedelta(hours=7)).endorsements(QUOTE)
        assert len(asked) == 8
    later = cached(url, tmp_path, at=now + timedelta(days=2)).endorsements(QUOTE)
    assert first == again == later
    assert [path.name for path in tmp_path.iterdir()] == [f"{NAME}.json"]


def test_an_outage_with_an_empty_cache_decides_nothing(tmp_path):
    with pccs({}) as (url, _):
        pass
    with pytest.raises(Undecidable):
        cached(url, tmp_path, at=datetime.now(UTC)).endorsements(QUOTE)


def test_what_an_outage_leaves_to_grow_old_is_undecidable_and_never_a_pass(tmp_path):
    write(tmp_path / f"{NAME}.json", COLLATERAL)
    with pccs({}) as (url, _):
        pass
    late = NOW + timedelta(days=60)
    old = cached(url, tmp_path, at=datetime.now(UTC) + timedelta(days=60)).endorsements(QUOTE)
    with pytest.raises(Undecidable):
        verify_quote(QUOTE, old.tdx, root_der=intel().root_der, now=late)


def test_a_write_that_fails_leaves_nothing_behind(tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "x").write_text("")
    with pytest.raises(ConfigError):
        write(tmp_path / "taken", b"data")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


# -- bundles --------------------------------------------------------------------------------------


def bundle(**changes) -> bytes:
    files = changes.get("files", {f"{NAME}.json": COLLATERAL, "nvidia.json": b"{}"})
    return build_bundle(files, signer=SIGNER, created_at=NOW, expires_at=TOMORROW)


def test_a_bundle_endorses_until_its_day_and_not_a_second_longer():
    opened = Bundle.open(bundle(), signer=PUBLIC, now=TOMORROW - timedelta(seconds=1))
    assert opened.endorsements(QUOTE).tdx == COLLATERAL
    assert opened.endorsements(QUOTE).gpu == b"{}"
    with pytest.raises(Undecidable) as refusal:
        Bundle.open(bundle(), signer=PUBLIC, now=TOMORROW)
    assert refusal.value.code == "bundle-expired"


def test_a_bundle_of_another_signer_is_not_authentic():
    other = Ed25519PrivateKey.generate().public_key()
    with pytest.raises(NotAuthentic) as refusal:
        Bundle.open(bundle(), signer=other, now=NOW)
    assert refusal.value.code == "bundle-signature"


def test_a_file_of_another_bundle_does_not_fit():
    ours = json.loads(bundle())
    theirs = json.loads(bundle(files={f"{NAME}.json": b"older"}))
    mixed = {**ours, "files": {**ours["files"], **theirs["files"]}}
    for document in (mixed, {**ours, "files": theirs["files"]}, {**theirs, "files": {}}):
        with pytest.raises(NotAuthentic):
            Bundle.open(json.dumps(document).encode(), signer=PUBLIC, now=NOW)


def test_a_bundle_without_the_platform_decides_nothing():
    data = bundle(files={"000000000000-platform.json": COLLATERAL})
    with pytest.raises(Undecidable, match="endorsements-missing"):
        Bundle.open(data, signer=PUBLIC, now=NOW).endorsements(QUOTE)


@given(st.integers(0, len(bundle()) * 8 - 1))
def test_no_bit_of_a_bundle_can_be_flipped(bit):
    data = bytearray(FIXED)
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    with pytest.raises(Refusal):
        Bundle.open(bytes(data), signer=PUBLIC, now=NOW)


FIXED = bundle()


@pytest.fixture
def files(tmp_path):
    staple = World().guest().endorsements(NOW)
    report = Report.build(World().evidence(), None).verified(
        NOW,
        tls_spki=Digest.parse(KEYSET.tls_spki),
        policy=policy_text().encode(),
        endorsements=staple,
    )
    (tmp_path / "report.json").write_bytes(report.to_bytes())
    (tmp_path / "policy.yaml").write_text(policy_text())
    (tmp_path / "key.pub").write_bytes(
        PUBLIC.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    (tmp_path / "key.pem").write_bytes(
        SIGNER.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return tmp_path


def test_a_report_is_verified_with_a_bundle_and_not_after_it_ended(files):
    kept = files / "kept"
    kept.mkdir()
    with pccs(answers()) as (url, _):
        assert main(["endorse", "fetch", url, "--fmspc", FMSPC, "--to", str(kept)]) == 0
    expires = (datetime.now(UTC) + timedelta(days=20)).isoformat()
    command = ["endorse", "bundle", str(files / "b"), "--from", str(kept), "--expires", expires]
    assert main([*command, "--key", str(files / "key.pem")]) == 0
    verify = ["verify", "report", str(files / "report.json"), "--policy"]
    verify += [str(files / "policy.yaml"), "--collateral", str(files / "b")]
    verify += ["--collateral-signer", str(files / "key.pub")]
    assert main(verify) == 0
    ended = (datetime.now(UTC) + timedelta(days=21)).isoformat()
    assert main([*verify, "--at", ended]) == 6


def test_a_bundle_that_ended_before_it_was_made_is_not_written(files):
    command = ["endorse", "bundle", str(files / "b"), "--from", str(files), "--key"]
    assert main([*command, str(files / "key.pem"), "--expires", "1"]) == 2
    assert not (files / "b").exists()
