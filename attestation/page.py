"""A verdict and what it rests on in; one HTML file to read, print and file away out.

The page loads nothing: no script, no font, no image, and its content policy forbids all of them.
Every text passes through `_e`, since a hostile guest chooses many of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from html import escape
from importlib import resources

from attestation.appraise import Check
from attestation.binding import KeysetBinding
from attestation.explain import Answer, printable, weights_words
from attestation.explain_gpu import gpu_words
from attestation.facts import Facts
from attestation.gpu.claims import GpuClaims
from attestation.gpu.report import Kind
from attestation.policy import Policy
from attestation.policy_file import stamp
from attestation.report import Report
from attestation.types import Digest

_WORDS = {
    "affirmed": ("good", "Affirmed", "The policy accepts this guest."),
    "authentic": ("unsure", "Authentic", "The signatures hold; no policy was applied."),
    "refused": ("bad", "Refused", "Do not send prompts to this guest or give it keys."),
    "undecidable": ("unsure", "Undecidable", "It could not be checked. This is not a pass."),
    "malformed": ("bad", "Malformed", "What arrived is not attestation evidence."),
}
_SIGNS = {
    "good": "M6 12.5l4 4 8-9",
    "bad": "M7 7l10 10M17 7L7 17",
    "unsure": "M12 6.5v7M12 17v.6",
}
_NOUNS = {Kind.GPU: "GPU", Kind.SWITCH: "switch"}
_CONTENT_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_GROUPS = (
    ("root.", "Trust anchor"),
    ("tdx.", "Platform and guest image"),
    ("runtime.", "What runs"),
    ("gpu.", "GPUs"),
    ("keyset.", "What the service promises"),
)


@dataclass(frozen=True, slots=True)
class Exhibit:
    """One file of evidence, by its digest."""

    what: str
    size: int
    digest: Digest

    @classmethod
    def of(cls, what: str, data: bytes) -> Exhibit:
        """Digest `data`."""
        return cls(what, len(data), Digest.sha256(data))


@dataclass(frozen=True, slots=True)
class Subject:
    """What was verified, under what, for whoever verifies it again."""

    source: str
    """The URL or the name of the file."""
    written_at: datetime
    policy: Policy | None
    policy_file: str | None
    saved: str | None
    """Name of the saved report; `None` where nothing was kept."""
    exhibits: tuple[Exhibit, ...]


def exhibits_of(report: Report) -> tuple[Exhibit, ...]:
    """Return the parts of a report that were verified, in the order they were."""
    parts = [
        ("TDX quote", report.quote),
        ("event log", report.event_log),
        ("GPU evidence", report.gpu),
        ("keyset", report.keyset.canonical()),
    ]
    if report.stapled is not None:
        parts += [
            ("Intel's collateral", report.stapled.tdx),
            ("NVIDIA's endorsements", report.stapled.gpu),
        ]
    return tuple(Exhibit.of(what, data) for what, data in parts if data)


def page(answer: Answer, subject: Subject) -> str:
    """Return the document."""
    kind, word, _ = _WORDS[answer.verdict]
    if answer.simulated and kind == "good":  # green is for machines
        kind = "unsure"
    title = f"{'SIMULATED: ' if answer.simulated else ''}{word}: {subject.source}"
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f'<meta http-equiv="Content-Security-Policy" content="{_CONTENT_POLICY}">',
            '<meta name="referrer" content="no-referrer">',
            f"<title>{_e(title)}</title>",
            f"<style>\n{_style()}</style>\n</head>",
            '<body class="mock">' if answer.simulated else "<body>",
            *_banner(answer),
            "<main>",
            *_top(subject),
            *_verdict(answer, kind, word),
            *_cards(answer),
            *_checks(answer.checks),
            *_exhibits(subject),
            *_again(answer, subject),
            *_footer(answer),
            "</main>\n</body>\n</html>\n",
        ]
    )


def _e(text: object) -> str:
    """Make a text safe between tags and in quoted attributes, and visible throughout."""
    return escape(printable(str(text).split("\n")).replace("\n", " "))


def _style() -> str:
    return resources.files("attestation").joinpath("page.css").read_text(encoding="utf-8")


def _banner(answer: Answer) -> Iterator[str]:
    if answer.simulated:
        yield (
            '<div class="simulated" role="alert"><b>SIMULATED</b> &mdash; software TDX under a '
            "test root. Nothing on this page says anything about any hardware.</div>"
        )


def _top(subject: Subject) -> Iterator[str]:
    yield '<div class="top">'
    yield "<span><strong>Tacit</strong> &middot; attestation verdict</span>"
    yield f"<span>{_e(subject.source)}</span>"
    yield f"<span>written {_e(stamp(subject.written_at))}</span></div>"


def _verdict(answer: Answer, kind: str, word: str) -> Iterator[str]:
    yield f'<section class="verdict {kind}" aria-label="verdict">'
    yield (
        '<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2.2" '
        'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">'
        f'<circle cx="12" cy="12" r="10.5" stroke-width="1.6"/><path d="{_SIGNS[kind]}"/></svg>'
    )
    code = f" <code>{_e(answer.code)}</code>" if answer.code else ""
    yield f"<div><h1>{word}{' (simulated)' if answer.simulated else ''}{code}</h1>"
    yield f"<p>{_e(_WORDS[answer.verdict][2])}"
    if answer.why:
        yield f"{_e(_sentence(answer.why))}"
    yield "</p>"
    yield from (f"<p>{line}</p>" for line in _dates(answer))
    step = answer.next or next((check.next for check in answer.checks if not check.passed), "")
    if step:
        yield f'<p class="todo">Next: {_e(step)}.</p>'
    yield "</div></section>"


def _dates(answer: Answer) -> Iterator[str]:
    passed = sum(check.passed for check in answer.checks)
    if answer.checks:
        count = f"{passed} of {len(answer.checks)} checks"
        yield f"<strong>{count}</strong> of policy <strong>{_e(answer.policy)}</strong> passed."
    when = [f"as of {_e(stamp(answer.as_of))}"] if answer.as_of else []
    if answer.expires_at is not None and answer.verdict != "refused":
        when.append(f"valid until {_e(stamp(answer.expires_at))}")
    if when:
        yield f"{_sentence(', '.join(when))}"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."


def _cards(answer: Answer) -> Iterator[str]:
    facts = answer.facts
    if facts is None:
        if answer.gpu is not None:
            yield '<div class="cards">'
            yield from _card("Device", [_Row("Device", gpu_words((answer.gpu,)))])
            yield "</div>"
            yield from _devices((answer.gpu,))
        return
    doubt = " (as claimed by a guest that was refused)" if answer.verdict == "refused" else ""
    yield f"<h2>Who answers, what runs, where the keys are, what is kept{doubt}</h2>"
    yield '<div class="cards">'
    yield from _card("Who", _who(facts))
    yield from _card("What", _what(facts, answer.guest))
    yield from _card("Where", _where(facts))
    yield from _card("Keeps", _keeps(facts))
    yield "</div>"
    yield from _devices(facts.gpu)


@dataclass(frozen=True, slots=True)
class _Row:
    """A line of a card: words to read, and a value to compare by eye with another."""

    name: str
    words: str = ""
    value: str = ""

    def html(self) -> str:
        parts = [_e(self.words)] if self.words else []
        if self.value:
            parts.append(f"<code>{_e(self.value)}</code>")
        return f"<dt>{_e(self.name)}</dt><dd>{'<br>'.join(parts)}</dd>"


def _card(title: str, rows: Iterable[_Row]) -> Iterator[str]:
    yield f'<section class="card"><h3>{title}</h3><dl>'
    yield from (row.html() for row in rows)
    yield "</dl></section>"


def _who(facts: Facts) -> Iterator[_Row]:
    tcb, platform = facts.tdx.tcb, facts.tdx.platform
    yield _Row("Hardware", "software TDX (simulated)" if facts.simulated else "Intel TDX, genuine")
    yield _Row("TCB status", f"{tcb.status.value} ({tcb.platform.date:%Y-%m-%d})")
    yield _Row("Advisories", ", ".join(tcb.advisories) or "none")
    for one in tcb.short:
        yield _Row("Behind newest", f"{one.what} at {one.present} of {one.newest}")
    yield _Row("FMSPC", value=platform.fmspc.hex())
    yield _Row("PPID", value=platform.ppid.hex())
    if facts.gpu:
        yield _Row("GPUs", gpu_words(facts.gpu))


def _what(facts: Facts, guest: str | None) -> Iterator[_Row]:
    report = facts.tdx.report
    if guest is not None:
        yield _Row("Closest image", guest)
    yield _Row("Firmware", value=f"MRTD {report.mrtd.hex()[:24]}…")
    yield _Row("Kernel", value=f"RTMR1 {report.rtmrs[1].hex()[:24]}…")
    for event in facts.runtime:
        name, _, digest = event.content[:300].rpartition("=")
        yield _Row(event.operation.capitalize()[:24], name, digest)
    if isinstance(facts.binding, KeysetBinding):
        for model in facts.binding.keyset.models:
            yield _Row("Weights", f"{model.name}: {weights_words(model)}")


def _where(facts: Facts) -> Iterator[_Row]:
    if isinstance(facts.binding, KeysetBinding):
        keyset = facts.binding.keyset
        yield _Row("TLS key", "exists only inside this guest", keyset.tls_spki)
        yield _Row("Keyset", value=str(keyset.digest))
        yield _Row("Nonce", value=facts.binding.nonce.hex())
    else:
        yield _Row("Binding", "nothing here ties the quote to a TLS key")


def _keeps(facts: Facts) -> Iterator[_Row]:
    if not isinstance(facts.binding, KeysetBinding):
        yield _Row("Posture", "not stated")
        return
    posture = facts.binding.keyset.posture
    yield _Row("Retention", posture.retention)
    yield _Row("Training", posture.training)
    yield _Row("Operator", posture.operator)
    yield _Row("Jurisdiction", posture.jurisdiction)
    yield _Row("Engine", posture.engine)
    yield _Row("Filters", ", ".join(posture.filters) or "none")
    yield _Row("Audit fields", ", ".join(posture.audit) or "none")
    yield _Row("Telemetry", ", ".join(posture.telemetry) or "none")


def _devices(devices: tuple[GpuClaims, ...]) -> Iterator[str]:
    if not devices:
        return
    yield "<h2>Each device, and how fresh NVIDIA&rsquo;s word about it is</h2>"
    yield '<table class="devices"><thead><tr><th>Device</th><th>Runs</th><th>Measurements</th>'
    yield "<th>NVIDIA&rsquo;s word</th></tr></thead><tbody>"
    for device in devices:
        state = "failed" if device.unmatched or device.missing else "passed"
        what = f"{device.architecture.value} {_NOUNS[device.kind]}"
        yield f'<tr class="{state}"><td>{_e(what)}'
        yield f"<br><code>{_e(device.serial)}</code></td>"
        runs = [f"mode {device.mode.value}", f"driver {device.driver}" if device.driver else ""]
        runs.append(f"VBIOS {device.vbios}" if device.vbios else "")
        yield f'<td data-name="runs">{"<br>".join(_e(word) for word in runs if word)}</td>'
        held = device.compared - len(device.unmatched)
        yield f'<td data-name="measurements">{held} of {device.compared} as released'
        if device.unmatched:
            yield f"<br>differing: {_e(', '.join(map(str, device.unmatched)))}"
        yield '</td><td data-name="NVIDIA&rsquo;s word">'
        words = [f"{item.id} until {item.expires:%Y-%m-%d}" for item in device.references]
        issued = device.revocation
        words.append("revocation unknown" if issued is None else f"not revoked, {stamp(issued)}")
        words += [f"missing: {name}" for name in device.missing]
        yield f"{'<br>'.join(_e(word) for word in words)}</td></tr>"
    yield "</tbody></table>"


def _checks(checks: tuple[Check, ...]) -> Iterator[str]:
    if not checks:
        return
    failed = [check for check in checks if not check.passed]
    yield "<h2>Every check</h2>"
    yield '<table class="checks"><thead><tr><th>Check and why it matters</th>'
    yield "<th>Expected by the policy</th><th>Actual</th></tr></thead><tbody>"
    if failed:
        yield from _group("Failed", failed)
    for prefix, title in _GROUPS:
        yield from _group(title, [c for c in checks if c.passed and c.id.startswith(prefix)])
    known = tuple(prefix for prefix, _ in _GROUPS)
    yield from _group("Others", [c for c in checks if c.passed and not c.id.startswith(known)])
    yield "</tbody></table>"


def _group(title: str, checks: list[Check]) -> Iterator[str]:
    if checks:
        yield f'<tr class="group"><td colspan="3">{title}</td></tr>'
    for check in checks:
        kind, word = ("good", "passed") if check.passed else ("bad", "failed")
        step = "If it fails" if check.passed else "Next"
        yield f'<tr class="{word}"><td><span class="mark {kind}">{word}</span>'
        yield f"<code>{_e(check.id)}</code><br>{_e(check.why)}"
        yield f'<div class="if">{step}: {_e(check.next)}</div></td>'
        yield f'<td data-name="expected" class="value">{_e(check.expected)}</td>'
        yield f'<td data-name="actual" class="value">{_e(check.actual)}</td></tr>'


def _exhibits(subject: Subject) -> Iterator[str]:
    if not subject.exhibits and subject.policy is None:
        return
    yield "<h2>What this verdict rests on</h2>"
    yield '<table class="digests"><thead><tr><th>Evidence</th><th>Bytes</th><th>Digest</th></tr>'
    yield "</thead><tbody>"
    for exhibit in subject.exhibits:
        yield f"<tr><td>{_e(exhibit.what)}</td>"
        yield f'<td data-name="bytes">{exhibit.size:,}</td>'
        yield f'<td data-name="digest" class="value">{_e(exhibit.digest)}</td></tr>'
    if subject.policy is not None:
        yield f"<tr><td>policy {_e(subject.policy.name)} ({_e(subject.policy.profile)})</td>"
        yield '<td></td><td data-name="policy digest" class="value">'
        yield f"{_e(subject.policy.digest)}</td></tr>"
    yield "</tbody></table>"


def _again(answer: Answer, subject: Subject) -> Iterator[str]:
    yield "<h2>Verify it again, offline</h2>"
    yield '<section class="card">'
    if subject.saved is None:
        yield "<p>Nothing was saved. Verify the service with <code>--save FILE</code> to keep"
        yield "evidence that gives this same answer later, without a network.</p></section>"
        return
    file, policy = subject.saved, subject.policy_file
    command = f"tacit verify report {_shell(file)}"
    if policy is not None:
        command += f" --policy {_shell(policy)}"
    if answer.as_of is not None:
        command += f" --at {stamp(answer.as_of)}"
    yield "<ol><li>Take the saved report and the policy from where you keep them, and compare"
    yield "the policy&rsquo;s digest with <code>tacit policy check</code>.</li>"
    yield "<li>On a machine of your own, with no network needed:"
    yield f"<pre><code>{_e(command)}</code></pre></li>"
    yield "<li>The verdict, every check and every digest must equal those on this page.</li></ol>"
    yield "</section>"


def _shell(name: str) -> str:
    """Quote a file name for the command line a reader may copy."""
    plain = name.replace("/", "").replace(".", "").replace("-", "").replace("_", "")
    return name if plain.isalnum() and plain.isascii() else "'" + name.replace("'", "'\\''") + "'"


def _footer(answer: Answer) -> Iterator[str]:
    yield "<footer><p>This page is a rendering and is not signed. What counts is the saved report:"
    yield "its signatures lead to"
    yield (
        "a simulator&rsquo;s root."
        if answer.simulated
        else "Intel&rsquo;s and NVIDIA&rsquo;s roots."
    )
    yield "Retention and training are statements of the guest; that the guest which states them"
    yield "runs the named code is what was verified.</p></footer>"
