"""The page: complete, self-contained, and harmless whatever a guest put into its evidence."""

import json
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from joserfc import jwt
from joserfc.jwk import ECKey

from attestation.binding import KeysetBinding
from attestation.cli import main
from attestation.ear import TokenKey, result_claims
from attestation.errors import NotAuthentic
from attestation.explain import of_authentic, of_refusal, of_result
from attestation.page import Subject, exhibits_of, page
from attestation.policy_file import stamp
from attestation.report import Report
from attestation.tdx.eventlog import RuntimeEvent
from attestation.types import Digest
from tests.appraisal_world import (
    DOMAIN,
    KEYSET,
    NONCE,
    NOW,
    World,
    changed_policy,
    changed_text,
    policy_text,
    with_posture,
)
from tests.gpu_world import SINGLE, GpuWorld, single

HOSTILE = "\"><script src=//evil.example/x></script><img src='http://evil.example/'>&\u202e\x1b[2J"
FETCHING = {"src", "href", "srcset", "action", "formaction", "data", "poster", "background", "ping"}
VOID = {"meta", "br", "circle", "path"}


class Outline(HTMLParser):
    """Collects tags, attributes and text, and insists that tags nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def subject(world: World, *, source: str = "report.json", saved: str | None = "report.json"):
    report = Report.build(world.evidence(), world.guest().endorsements(NOW))
    return Subject(source, NOW, world.policy, "policy.yaml", saved, exhibits_of(report))


def outline(world: World, **changes) -> Outline:
    return Outline(page(of_result(world.result(), now=NOW), subject(world, **changes)))


def external(outline: Outline) -> list[tuple[str, str | None]]:
    return [item for item in outline.attributes if item[0] in FETCHING or "url(" in (item[1] or "")]


def test_the_page_shows_every_check_in_full():
    result = World().result()
    text = outline(World()).text
    assert len(result.checks) > 20
    for check in result.checks:
        for part in (check.id, check.expected, check.actual, check.why, check.next):
            assert part in text, check.id


def test_the_page_names_the_digests_of_everything_it_rests_on():
    world = World()
    text = outline(world).text
    for data in (world.evidence().event_log, KEYSET.canonical()):
        assert str(Digest.sha256(data)) in text
    assert str(world.policy.digest) in text
    assert "tacit verify report report.json --policy policy.yaml" in text


@pytest.mark.parametrize("verdict", ["affirmed", "refused", "authentic", "malformed"])
def test_the_page_loads_nothing(verdict):
    world = World()
    if verdict == "refused":
        world = World(policy=changed_policy("tdx/guests/0/mrtd", "5a" * 48))
    answer = of_result(world.result(), now=NOW)
    if verdict == "authentic":
        answer = of_authentic(world.result().claims)
    if verdict == "malformed":
        answer = of_refusal(NotAuthentic("tdx-signature", "altered"), simulated=True)
    text = page(answer, subject(world))
    parsed = Outline(text)
    assert external(parsed) == []
    assert not {"script", "link", "img", "iframe", "object", "embed", "base"} & set(parsed.tags)
    assert "@import" not in text
    assert "url(" not in text
    assert any("default-src 'none'" in (value or "") for _, value in parsed.attributes)


def test_what_a_hostile_guest_states_stays_text():
    keyset = with_posture(operator=HOSTILE, jurisdiction=HOSTILE, engine=HOSTILE)
    printable = "".join(c for c in HOSTILE if c.isprintable())
    events = (RuntimeEvent(DOMAIN, "config", printable), RuntimeEvent(DOMAIN, "model", printable))
    world = World(keyset=keyset, events=events)
    parsed = outline(world, source=HOSTILE, saved=HOSTILE)
    plain = outline(World())
    assert set(parsed.tags) == set(plain.tags)
    assert external(parsed) == []
    assert "evil.example" in parsed.text
    assert not {"\u202e", "\x1b"} & set(parsed.text)


def test_a_simulated_guest_is_never_shown_in_green():
    parsed = outline(World())
    assert parsed.text.count("SIMULATED") >= 2
    assert ("class", "verdict unsure") in parsed.attributes
    assert "Affirmed (simulated)" in parsed.text


def test_a_refusal_begins_with_what_failed_and_what_to_do():
    world = World(policy=changed_policy("tdx/guests/0/mrtd", "5a" * 48))
    text = outline(world).text
    assert "30 of 31 checks" in text
    assert (
        text.index("tdx.mrtd")
        < text.index("Next: compare the firmware")
        < text.index("Who answers")
    )
    assert "valid until" not in text


def test_each_device_is_listed_with_what_nvidia_says_of_it_and_since_when():
    world = GpuWorld()
    devices = world.claims().gpu
    shown = Outline(page(of_result(world.result(), now=NOW), subject(World()))).text
    assert len(devices) == 12
    for device in devices:
        row = shown[shown.index(device.serial) :][:400]
        assert f"{device.compared} of {device.compared} as released" in row
        assert all(item.id in row for item in device.references)
        assert f"not revoked, {stamp(device.revocation)}" in row


def test_a_device_that_differs_is_told_by_what_differs():
    world = single(replace(SINGLE, measurements=(b"\1" * 48, *SINGLE.measurements[1:])))
    (device,) = world.claims().gpu
    shown = Outline(page(of_result(world.result(), now=NOW), subject(World()))).text
    assert device.unmatched
    assert f"differing: {', '.join(map(str, device.unmatched))}" in shown


def test_every_printed_page_of_a_simulated_guest_says_so():
    attributes = outline(World()).attributes
    assert ("class", "mock") in attributes
    style = page(of_result(World().result(), now=NOW), subject(World()))
    assert '@top-center { content: "SIMULATED' in style


# -- the commands ---------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    staple = World().guest().endorsements(NOW)
    report = Report.build(World().evidence(), staple).verified(
        NOW,
        tls_spki=Digest.parse(KEYSET.tls_spki),
        policy=policy_text().encode(),
        endorsements=staple,
    )
    (tmp_path / "report.json").write_bytes(report.to_bytes())
    (tmp_path / "policy.yaml").write_text(policy_text())
    (tmp_path / "other.yaml").write_bytes(changed_text("tdx/guests/0/mrtd", "5a" * 48))
    key = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "ear.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return tmp_path


def verify(files, policy: str, *extra: object) -> int:
    command = ["verify", "report", files / "report.json", "--policy", files / policy, *extra]
    return main([str(word) for word in command])


def token(files, policy: str) -> dict:
    verify(files, policy, "--ear", files / "ear.jwt", "--ear-key", files / "ear.pem")
    key = ECKey.import_key((files / "ear.pem").read_text())
    text = (files / "ear.jwt").read_text()
    return jwt.decode(text, key, algorithms=["ES256"]).claims


def test_verify_writes_a_page_for_a_verdict_and_for_a_refusal(files):
    assert verify(files, "policy.yaml", "--html", files / "ok.html") == 0
    assert verify(files, "other.yaml", "--html", files / "bad.html") == 5
    (files / "report.json").write_bytes(b"{")
    assert verify(files, "policy.yaml", "--html", files / "no.html") == 3
    for name, word in (("ok", "Affirmed"), ("bad", "Refused"), ("no", "Malformed")):
        assert word in Outline((files / f"{name}.html").read_text()).text


def test_an_ear_says_what_the_verdict_says(files):
    claims = token(files, "policy.yaml")
    cpu = claims["submods"]["cpu0"]
    assert claims["eat_nonce"] == NONCE.hex()
    assert claims["iat"] == int(NOW.timestamp()) < claims["exp"]
    # our simulator is nobody else's machine, whatever our policy says
    assert (cpu["ear.status"], cpu["tacit.simulated"]) == ("contraindicated", True)
    assert cpu["ear.trustworthiness-vector"]["hardware"] == 97
    assert cpu["ear.trustworthiness-vector"]["executables"] == 3
    evidence = cpu["ear.veraison.annotated-evidence"]
    assert evidence["tdx"]["quote"]["body"]["mr_td"] == World().guest().report.mrtd.hex()
    assert evidence["runtime_data_claims"]["keyset-digest"] == str(KEYSET.digest)


def test_an_ear_of_a_refusal_is_contraindicated(files):
    cpu = token(files, "other.yaml")["submods"]["cpu0"]
    assert cpu["ear.status"] == "contraindicated"
    assert cpu["ear.trustworthiness-vector"]["executables"] == 33


def test_an_ear_is_verified_by_the_published_key(files):
    key = TokenKey.load((files / "ear.pem").read_bytes(), name="ear.pem")
    text = key.sign(result_claims(World().result(), now=NOW))
    (published,) = json.loads(key.jwks)["keys"]
    assert jwt.decode(text, ECKey.import_key(published), algorithms=["ES256"]).claims["iss"]


@pytest.mark.parametrize("arguments", [["--ear", "x"], ["--ear-key", "x"]])
def test_an_ear_needs_its_key(files, arguments, capsys):
    assert verify(files, "policy.yaml", *arguments) == 2
    assert "argument-invalid" in capsys.readouterr().err


def test_a_report_is_a_collection_of_conceptual_messages(files):
    """RFC 9999: each record is `[media type, base64url, indicator]`, evidence 4, endorsements 2."""
    document = json.loads((files / "report.json").read_text())
    collection = document["evidence"]
    assert collection.pop("__cmwc_t").startswith("tag:")
    for media, value, indicator in collection.values():
        assert media.startswith("application/vnd.tacit.")
        assert isinstance(value, str)
        assert indicator == 4
    assert document["endorsements"][2] == 2
    evidence = World().evidence()
    assert isinstance(evidence.binding, KeysetBinding)


# -- in a browser ---------------------------------------------------------------------------------

CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PROBE = """<!doctype html><body><iframe src="ok.html" style="width:{width}px;height:900px"
onload="const d=this.contentDocument.documentElement;
document.title='overflow='+(d.scrollWidth-d.clientWidth)"></iframe></body>"""


@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_screen(files, width):
    verify(files, "other.yaml", "--html", files / "ok.html")
    (files / "probe.html").write_text(PROBE.format(width=width))
    done = subprocess.run(
        [
            CHROMIUM,
            *FLAGS,
            f"--user-data-dir={files / 'profile'}",
            "--allow-file-access-from-files",
            "--virtual-time-budget=4000",
            "--dump-dom",
            (files / "probe.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "<title>overflow=0</title>" in done.stdout
