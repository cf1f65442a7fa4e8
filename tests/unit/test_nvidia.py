"""NVIDIA's statements, collected from a mirror or carried files, are complete and verified."""

import contextlib
import http.server
import json
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pytest
from cryptography.x509 import ocsp

from attestation.cli import main
from attestation.codec import b64
from attestation.errors import ConfigError, Malformed, NotAuthentic, Undecidable
from attestation.gpu.evidence import GpuEndorsements
from attestation.gpu.verify import verify_gpu
from attestation.nvidia import Carried, collected, service
from attestation.report import Report
from tests.gpu_world import NOW, GpuWorld, gpu_policy_text, nvidia

WORLD = GpuWorld()
EVIDENCE = WORLD.gpus()
ROOTS = nvidia().roots


def by_serial(store):
    return {ocsp.load_der_ocsp_response(der).serial_number: der for der in store.ocsp}


@dataclass
class Mirror:
    """What a mirror of both services has, and what it was asked."""

    rims: dict[str, bytes] = field(default_factory=lambda: dict(WORLD.store().rims))
    responses: dict[int, bytes] = field(default_factory=lambda: by_serial(WORLD.store()))
    asked: list[str | int] = field(default_factory=list)

    def manifest(self, name):
        self.asked.append(name)
        xml = self.rims.get(name)
        return None if xml is None else json.dumps({"id": name, "rim": b64(xml)}).encode()

    def response(self, request):
        serial = ocsp.load_der_ocsp_request(request).serial_number
        self.asked.append(serial)
        return self.responses.get(serial)


@contextlib.contextmanager
def serving(mirror):
    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self._send(mirror.manifest(self.path.removeprefix("/v1/rim/")))

        def do_POST(self):
            assert self.headers["content-type"] == "application/ocsp-request"
            self._send(mirror.response(self.rfile.read(int(self.headers["content-length"]))))

        def _send(self, body):
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def from_mirror(mirror):
    with serving(mirror) as url, service(url) as one:
        return collected(EVIDENCE, one, one, roots=ROOTS, now=NOW)


def carry(directory, *, as_json=True, now=NOW):
    mirror = Mirror(responses=by_serial(nvidia().endorsements(EVIDENCE, now=now)))
    for name, xml in mirror.rims.items():
        if as_json:
            (directory / f"{name}.json").write_bytes(mirror.manifest(name))
        else:
            (directory / f"{name}.xml").write_bytes(xml)
    for serial, der in mirror.responses.items():
        (directory / f"{serial:x}.der").write_bytes(der)
    return directory


def from_files(directory):
    return collected(EVIDENCE, Carried(directory), Carried(directory), roots=ROOTS, now=NOW)


def complete(store):
    return verify_gpu(
        EVIDENCE, GpuEndorsements.parse(store.to_bytes()), nonce=WORLD.nonce, roots=ROOTS, now=NOW
    )


def test_a_mirror_is_asked_once_for_each_statement_and_that_is_all_a_verifier_needs():
    mirror = Mirror()
    store = from_mirror(mirror)
    assert len(complete(store)) == 12
    assert len(mirror.asked) == len(set(mirror.asked)) == len(store.rims) + len(store.ocsp)


@pytest.mark.parametrize("as_json", [True, False])
def test_carried_files_are_as_good(tmp_path, as_json):
    store = from_files(carry(tmp_path, as_json=as_json))
    assert len(complete(store)) == 12


@pytest.mark.parametrize("kind", ["rims", "responses"])
def test_what_a_mirror_lacks_is_undecidable(kind):
    mirror = Mirror()
    for name in list(getattr(mirror, kind))[:1]:
        del getattr(mirror, kind)[name]
    with pytest.raises(Undecidable) as refusal:
        from_mirror(mirror)
    assert refusal.value.code == "nvidia-unreachable"


@pytest.mark.parametrize("suffix", ["json", "der"])
def test_a_file_that_is_missing_is_named(tmp_path, suffix):
    carry(tmp_path)
    path = min(tmp_path.glob(f"*.{suffix}"))
    path.unlink()
    with pytest.raises(Undecidable, match=path.stem) as refusal:
        from_files(tmp_path)
    assert refusal.value.code == "nvidia-unreachable"


def test_a_lying_mirror_is_found_out():
    mirror = Mirror()
    name, other = list(mirror.rims)[:2]
    mirror.rims[name] = mirror.rims[other]
    with pytest.raises(NotAuthentic) as refusal:
        from_mirror(mirror)
    assert refusal.value.code == "rim-mismatch"


@pytest.mark.parametrize(
    ("name", "data", "code"),
    [
        ("a.der", b"", "ocsp-malformed"),
        ("a.der", b"\x30\x03\x0a\x01\x06", "ocsp-malformed"),  # the responder's "unauthorized"
        (None, b"[]", "rim-malformed"),
        (None, b'{"rim": 1}', "rim-malformed"),
        (None, b"<xml/>", "json-malformed"),
    ],
)
def test_what_is_no_answer_is_malformed(tmp_path, name, data, code):
    carry(tmp_path)
    (tmp_path / (name or min(WORLD.store().rims) + ".json")).write_bytes(data)
    with pytest.raises(Malformed) as refusal:
        from_files(tmp_path)
    assert refusal.value.code == code


def test_a_service_that_is_away_and_a_url_that_is_none():
    with serving(Mirror()) as url:
        pass
    for place, error in ((url, Undecidable), ("ftp://nvidia", ConfigError)):
        with service(place) as one, pytest.raises(error):
            one.manifest("a")


def test_the_command_writes_a_store_from_a_report_and_nothing_when_it_is_incomplete(
    tmp_path, capsys
):
    carried = tmp_path / "carried"
    carried.mkdir()
    carry(carried, now=datetime.now(UTC))
    (tmp_path / "policy.yaml").write_bytes(gpu_policy_text(WORLD.policy))
    (tmp_path / "report.json").write_bytes(Report.build(WORLD.sent(), None).to_bytes())
    (tmp_path / "evidence.json").write_bytes(EVIDENCE.to_bytes())
    out = tmp_path / "nvidia.json"
    words = ["endorse", "gpu", "--rims", carried, "--ocsp", carried, "--to", out, "--json"]
    words = [str(word) for word in words] + ["--policy", str(tmp_path / "policy.yaml")]
    stores = []
    for name in ("report.json", "evidence.json"):
        assert main([*words, str(tmp_path / name)]) == 0
        stores.append(out.read_bytes())
        assert json.loads(capsys.readouterr().out)["manifests"] == sorted(WORLD.store().rims)
        out.unlink()
    assert stores[0] == stores[1]
    min(carried.glob("*.der")).unlink()
    assert main([*words, str(tmp_path / "report.json")]) == 6
    assert not out.exists()
