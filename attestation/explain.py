"""A verdict in; the JSON a script reads and the sentences a person reads out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from attestation.appraise import Appraisal, AttestationResult, Check
from attestation.binding import Binding, KeysetBinding
from attestation.codes import CODES
from attestation.errors import Malformed, Refusal, Undecidable
from attestation.explain_gpu import gpu_json, gpu_policy_words, gpu_words
from attestation.facts import Facts
from attestation.gpu.claims import GpuClaims
from attestation.keyset import Posture, ServedModel
from attestation.policy_file import PolicyFile, stamp
from attestation.tdx.claims import TdxClaims

Verdict = Literal["affirmed", "authentic", "refused", "undecidable", "malformed"]

SIMULATED = "SIMULATED: software TDX under a test root; this says nothing about any hardware"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one verification came to, ready to be shown."""

    verdict: Verdict
    code: str | None
    """The first failed check's id or the refusal's code; `None` when nothing failed."""
    simulated: bool
    facts: Facts | None
    expires_at: datetime | None
    checks: tuple[Check, ...] = ()
    policy: str | None = None
    guest: str | None = None
    """The reference-value set that matched."""
    why: str = ""
    next: str = ""
    gpu: GpuClaims | None = None
    """A device that was verified alone, without a quote."""
    as_of: datetime | None = None
    """Set where the time was not the clock's: the verdict is one about that moment."""

    def to_json(self) -> dict[str, Any]:
        """Return the stable JSON of `tacit verify --json`."""
        tcb = self.facts.tdx.tcb if self.facts else None
        return {
            "verdict": self.verdict,
            "code": self.code,
            "simulated": self.simulated,
            "tcb_status": tcb.status.value if tcb else None,
            "advisories": list(tcb.advisories) if tcb else [],
            "expires_at": stamp(self.expires_at) if self.expires_at else None,
            "checks": [check_json(check) for check in self.checks],
            "claims": self._claims(),
        }

    def to_text(self) -> str:
        """Return the sentences: the verdict, who, what, where, keeps, and each failed check."""
        lines = [SIMULATED] if self.simulated else []
        return printable([*lines, *self._headline(), *self._said(), *self._failures()])

    def _claims(self) -> dict[str, Any]:
        if self.facts is not None:
            return claims_json(self.facts)
        return {} if self.gpu is None else {"gpu": [gpu_json(self.gpu)]}

    def _headline(self) -> Iterator[str]:
        passed = sum(check.passed for check in self.checks)
        until = f" until {stamp(self.expires_at)}" if self.expires_at else ""
        as_of = f", as of {stamp(self.as_of)}" if self.as_of else ""
        if self.verdict == "affirmed":
            count = f"{passed} of {len(self.checks)} checks of policy {self.policy}"
            yield f"affirmed{until}{as_of}: {count}"
        elif self.verdict == "authentic":
            yield f"authentic{until}{as_of}: the signatures hold; no policy was applied"
        else:
            yield f"{self.verdict} ({self.code}){as_of}: {self.why}"
            if self.next:
                yield f"  next   {self.next}"

    def _said(self) -> Iterator[str]:
        if self.verdict not in ("affirmed", "authentic"):
            return
        if self.gpu is not None:
            yield f"  gpu    {gpu_words((self.gpu,))}"
            yield "  where  nothing here ties the device to a guest, a key or a quote"
        if self.facts is None:
            return
        yield from sentences(self.facts, guest=self.guest)

    def _failures(self) -> Iterator[str]:
        failed = [check for check in self.checks if not check.passed]
        for check in failed:
            yield from check_text(check)
        if failed:
            yield f"  {len(self.checks) - len(failed)} other checks passed"


def of_result(result: AttestationResult, *, now: datetime) -> Answer:
    """Explain an attestation result at `now`."""
    return of_appraisal(result, result.claims, now=now)


def of_appraisal(appraisal: Appraisal, facts: Facts, *, now: datetime) -> Answer:
    """Explain an appraisal of `facts` at `now`."""
    code = appraisal.code
    why, step = "", ""
    if code is None and now >= appraisal.expires_at:
        code, why = "result-expired", f"the result ended at {stamp(appraisal.expires_at)}"
        step = CODES[code]
    elif code is not None:
        why = f"policy {appraisal.policy} does not accept it"
    return Answer(
        verdict="affirmed" if code is None else "refused",
        code=code,
        simulated=facts.simulated,
        facts=facts,
        expires_at=appraisal.expires_at,
        checks=appraisal.checks,
        policy=appraisal.policy,
        guest=appraisal.guest,
        why=why,
        next=step,
    )


def of_authentic(facts: Facts) -> Answer:
    """Explain evidence whose signatures hold and that nobody appraised."""
    return Answer(
        verdict="authentic",
        code=None,
        simulated=facts.simulated,
        facts=facts,
        expires_at=facts.tdx.collateral.expires,
    )


def of_device(
    device: GpuClaims, appraisal: Appraisal | None, *, simulated: bool, now: datetime
) -> Answer:
    """Explain one device, appraised or not, that no quote covers."""
    if appraisal is None:
        return Answer("authentic", None, simulated, None, device.expires, gpu=device)
    code = appraisal.code
    if code is None and now >= appraisal.expires_at:
        code = "result-expired"
    return Answer(
        verdict="affirmed" if code is None else "refused",
        code=code,
        simulated=simulated,
        facts=None,
        expires_at=appraisal.expires_at,
        checks=appraisal.checks,
        policy=appraisal.policy,
        why="" if code is None else f"policy {appraisal.policy} does not accept it",
        next=CODES[code] if code == "result-expired" else "",
        gpu=device,
    )


def of_refusal(refusal: Refusal, *, simulated: bool) -> Answer:
    """Explain a refusal; `simulated` says whether the trusted root was a simulator's."""
    verdict: Verdict = "refused"
    if isinstance(refusal, Malformed):
        verdict = "malformed"
    elif isinstance(refusal, Undecidable):
        verdict = "undecidable"
    return Answer(
        verdict=verdict,
        code=refusal.code,
        simulated=simulated,
        facts=None,
        expires_at=None,
        why=refusal.why,
        next=refusal.next_step,
    )


def as_of(answer: Answer, moment: datetime) -> Answer:
    """Mark `answer` as one about `moment`."""
    return replace(answer, as_of=moment)


def check_text(check: Check) -> Iterator[str]:
    """Say one check in full."""
    yield f"  {'✓' if check.passed else '✗'} {check.id:<18} {check.why}"
    yield f"      expected {check.expected}"
    yield f"      actual   {check.actual}"
    if not check.passed:
        yield f"      next: {check.next}"


def printable(lines: Iterable[str]) -> str:
    """Join lines, with what a stranger could steer a terminal with replaced."""
    return "\n".join(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
        for line in lines
    )


def sentences(facts: Facts, *, guest: str | None) -> Iterator[str]:
    """Say who the guest is, what runs, where the keys are and what is kept."""
    tcb = facts.tdx.tcb
    advisories = f", advisories {', '.join(tcb.advisories)}" if tcb.advisories else ""
    kind = "software TDX (simulated)" if facts.simulated else "Intel TDX"
    yield f"  who    {kind}, TCB {tcb.status.value} ({tcb.platform.date:%Y-%m-%d}){advisories}"
    for one in tcb.short:
        yield f"         behind Intel's newest: {one.what} at {one.present} of {one.newest}"
    report = facts.tdx.report
    image = "" if guest is None else f"guest {guest}: "
    yield f"  what   {image}firmware {short(report.mrtd)}, kernel {short(report.rtmrs[1])}"
    if report.extension is not None:
        yield f"         TD {report.extension.td_id.hex()[:16]}…, without service TD or devices"
    for event in facts.runtime:
        yield f"         {event.operation} {event.content[:200]}"
    if isinstance(facts.binding, KeysetBinding):
        for model in facts.binding.keyset.models:
            yield f"         {model.name}: {weights_words(model)}"
    if facts.gpu:
        yield f"  gpu    {gpu_words(facts.gpu)}"
    if isinstance(facts.binding, KeysetBinding):
        keyset, posture = facts.binding.keyset, facts.binding.keyset.posture
        yield f"  where  the TLS key {keyset.tls_spki} exists only inside this guest"
        yield f"  keeps  retention {posture.retention}, training {posture.training} (stated)"
        yield f"         operated by {posture.operator}; jurisdiction {posture.jurisdiction}"
        yield f"         {posture.engine}; filters {', '.join(posture.filters) or 'none'}"
        yield f"         told of a request: {_told(posture)}"
    elif facts.binding is None:
        yield "  where  nothing here ties the quote to a key or a nonce: it may be old or relayed"
    else:
        yield "  where  bound to the key a broker will answer to, for its nonce"


def weights_words(model: ServedModel) -> str:
    """Say what whoever has the disk can do to the weights of `model`."""
    if model.weights == "sealed":
        return "weights sealed, the host can neither read nor change them"
    return "weights on dm-verity, the host cannot change them and may read them"


def _told(posture: Posture) -> str:
    """Say how much is written about a request; the names are in the JSON and on the page."""
    parts = (("fields of audit", posture.audit), ("attributes of telemetry", posture.telemetry))
    return ", ".join(f"{len(names)} {what}" for what, names in parts if names) or "nothing"


def short(value: bytes) -> str:
    """Shorten a digest for a sentence; JSON and failed checks hold it whole."""
    return f"sha384:{value.hex()[:12]}…" if any(value) else "not measured"


def claims_json(facts: Facts) -> dict[str, Any]:
    """Return verified claims as JSON values; times are RFC 3339, bytes are hex."""
    return {
        "tdx": tdx_json(facts.tdx),
        "runtime": [
            {"domain": e.domain, "operation": e.operation, "content": e.content}
            for e in facts.runtime
        ],
        "event_log": facts.events.present,
        "duplicate_separators": list(facts.events.duplicate_separators),
        "gpu": [gpu_json(device) for device in facts.gpu],
        "binding": _binding_json(facts.binding),
    }


def tdx_json(tdx: TdxClaims) -> dict[str, Any]:
    """Return the claims of a verified quote and its collateral."""
    report, tcb, platform = tdx.report, tdx.tcb, tdx.platform
    return {
        "quote_version": tdx.quote_version,
        "mrtd": report.mrtd.hex(),
        **{f"rtmr{index}": value.hex() for index, value in enumerate(report.rtmrs)},
        "mr_config_id": report.mr_config_id.hex(),
        "mr_owner": report.mr_owner.hex(),
        "mr_owner_config": report.mr_owner_config.hex(),
        "mr_seam": report.mr_seam.hex(),
        "mr_signer_seam": report.mr_signer_seam.hex(),
        "td_attributes": report.td_attributes.hex(),
        "xfam": report.xfam.hex(),
        "report_data": report.report_data.hex(),
        "tee_tcb_svn": report.tee_tcb_svn.hex(),
        "td_id": None if report.extension is None else report.extension.td_id.hex(),
        "tcb_status": tcb.status.value,
        "tcb_date": stamp(tcb.platform.date),
        "qe_status": tcb.quoting_enclave.status.value,
        "tcb_short": [
            {"what": one.what, "present": one.present, "newest": one.newest} for one in tcb.short
        ],
        "advisories": list(tcb.advisories),
        "evaluation_number": tcb.evaluation,
        "fmspc": platform.fmspc.hex(),
        "ppid": platform.ppid.hex(),
        "sgx_type": platform.sgx_type,
        "dynamic_platform": platform.dynamic,
        "cached_keys": platform.cached_keys,
        "smt": platform.smt,
        "collateral_issued": stamp(tdx.collateral.issued),
        "collateral_expires": stamp(tdx.collateral.expires),
    }


def policy_sentences(file: PolicyFile) -> Iterator[str]:
    """Say what a policy accepts, in the order of the file."""
    tdx, tcb, keyset = file.tdx, file.tdx.tcb, file.keyset
    root = "Intel's root" if file.root == "intel" else "a simulator's root: proves nothing"
    yield f"policy {file.name} ({file.profile}) trusts {root}"
    yield f"  status     {', '.join(status.value for status in tcb.accepted_statuses)}"
    for grace in tcb.graces:
        yield f"             {grace.status.value} until {stamp(grace.until)}"
    yield f"  advisories denied: {_words(tcb.denied_advisories)}"
    yield f"  collateral evaluation number {tcb.minimum_evaluation_number} or later"
    yield f"             at most {tcb.collateral_max_age_days} days old"
    yield f"  platforms  {_words(tdx.platforms)}"
    kind = tdx.platform_kind
    yield f"  kind       {kind if isinstance(kind, str) else kind.words}"
    yield f"  module     signer {_words(tdx.module.signer)}"
    yield f"             measurement {_words(tdx.module.measurement)}"
    for guest in tdx.guests:
        yield f"  guest      {guest.name}: firmware {guest.mrtd[0][:12]}…"
    for digest in file.runtime.config:
        yield f"  config     {digest}"
    for name, digests in file.runtime.models.items():
        yield f"  model      {name}: {', '.join(digests)}"
    yield from (f"  gpu        {line}" for line in gpu_policy_words(file.gpu))
    yield f"  keyset     retention {keyset.retention}, training {keyset.training}"
    yield f"             operators {_words(keyset.operators)}"
    yield f"             jurisdictions {_words(keyset.jurisdictions)}"
    yield f"             audit fields {_words(keyset.audit_fields)}"
    yield f"             filters {_words(keyset.filters)}"
    yield f"             telemetry {_words(keyset.telemetry)}"


def _words(value: str | tuple[str, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def check_json(check: Check) -> dict[str, Any]:
    """Return one check as it stands in the JSON."""
    return {
        "id": check.id,
        "passed": check.passed,
        "expected": check.expected,
        "actual": check.actual,
        "why": check.why,
        "next": check.next,
    }


def _binding_json(binding: Binding | None) -> dict[str, Any] | None:
    if binding is None:
        return None
    if isinstance(binding, KeysetBinding):
        return {
            "kind": "keyset",
            "nonce": binding.nonce.hex(),
            "keyset_digest": str(binding.keyset.digest),
            "keyset": binding.keyset.model_dump(mode="json"),
        }
    return {"kind": "kbs", "nonce": binding.nonce, "tee_pubkey": dict(binding.tee_pubkey)}
