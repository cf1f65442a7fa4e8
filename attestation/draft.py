"""Reference values in, the text of a policy out; without values, a template that does not load."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from attestation.checks import register
from attestation.gpu.claims import GpuClaims
from attestation.gpu.report import Kind
from attestation.keyset import Keyset
from attestation.policy import FILL_IN
from attestation.policy_file import GUEST_FIELDS
from attestation.tdx.claims import TdReport


@dataclass(frozen=True, slots=True)
class Draft:
    """What a policy is written from; every field that is not given must be filled in by hand."""

    name: str = FILL_IN
    root_pem: str | None = None
    """A simulator's root makes a policy of profile `simulated`; `None` stands for Intel's."""
    report: TdReport | None = None
    evaluation: int | None = None
    keyset: Keyset | None = None
    config: tuple[str, ...] = (FILL_IN,)
    models: tuple[tuple[str, str], ...] = ((FILL_IN, FILL_IN),)
    """Served name and manifest digest."""
    gpu: tuple[GpuClaims, ...] = ()
    """The GPUs and switches of the guest; none makes a policy for guests without any."""

    @classmethod
    def of(
        cls,
        report: TdReport,
        keyset: Keyset,
        *,
        name: str,
        evaluation: int,
        root_pem: str | None,
        gpu: tuple[GpuClaims, ...] = (),
    ) -> Draft:
        """Return a draft that accepts this guest and the keyset's models and configuration."""
        return cls(
            name=name,
            root_pem=root_pem,
            report=report,
            evaluation=evaluation,
            keyset=keyset,
            config=(keyset.config,),
            models=tuple((model.name, model.manifest) for model in keyset.models),
            gpu=gpu,
        )

    def to_yaml(self) -> str:
        """Return the YAML, commented for whoever reviews it."""
        return "\n".join([*self._head(), *self._tdx(), *self._runtime(), *self._keyset()]) + "\n"

    def _head(self) -> list[str]:
        lines = [
            "# Appraisal policy: who may be given keys and prompts. Owned by security.",
            "# Every expectation is spelled out: `any`, `none` and `unset` are words.",
            "version: 1",
            f"name: {_text(self.name)}",
        ]
        if self.root_pem is None:
            return [*lines, "profile: production", "root: intel"]
        pem = [f"    {line}" for line in self.root_pem.strip().splitlines()]
        return [*lines, "profile: simulated", "root:", "  simulated: |", *pem]

    def _tdx(self) -> list[str]:
        attributes, xfam = FILL_IN, FILL_IN
        if self.report is not None:
            attributes, xfam = self.report.td_attributes.hex(), self.report.xfam.hex()
        return [
            "tdx:",
            "  tcb:",
            "    accepted_statuses: [UpToDate]",
            "    denied_advisories: none          # or [INTEL-SA-01234]",
            f"    minimum_evaluation_number: {self.evaluation or FILL_IN}",
            "    collateral_max_age_days: 30",
            "    grace: none   # or [{status: OutOfDate, until: 2027-01-31T00:00:00Z}]",
            f"  td_attributes: {_masked(attributes)}",
            f"  xfam: {_masked(xfam)}",
            "  platforms: any                     # or PPIDs: only processors whose place you know",
            "  platform_kind: any                 # or {sgx_types: [scalable], dynamic: any, …}",
            "  module: {signer: intel, measurement: any}",
            "  guests:                            # a set per image and VM shape; sets do not mix",
            f"    - name: {_text(self.name)}",
            *[f"      {field}: {self._register(field)}" for field in GUEST_FIELDS],
        ]

    def _register(self, field: str) -> str:
        if self.report is None:
            return f'"{FILL_IN}"'
        value = register(self.report, field)
        return f'"{value.hex()}"' if any(value) else "unset"

    def _runtime(self) -> list[str]:
        models: Mapping[str, list[str]] = {name: [] for name, _ in self.models}
        for name, manifest in self.models:
            models[name].append(_text(manifest))
        return [
            "runtime:                             # exactly what RTMR3 was extended with",
            f"  config: [{', '.join(map(_text, self.config))}]",
            "  models:",
            *[f"    {_text(name)}: [{', '.join(many)}]" for name, many in models.items()],
            *self._gpu(),
        ]

    def _gpu(self) -> list[str]:
        if not self.gpu:
            return ["gpu: none"]
        gpus = [device for device in self.gpu if device.kind is Kind.GPU]
        protected = all(device.protected_pcie for device in gpus)
        return [
            "gpu:                                 # NVIDIA's devices, all of one guest",
            f"  gpus: {len(gpus)}",
            f"  switches: {len(self.gpu) - len(gpus)}",
            f"  architectures: {_list({device.architecture.value for device in gpus})}",
            f"  modes: {_list({device.mode.value for device in gpus})}",
            f"  protected_pcie: {'required' if protected else 'any'}",
            f"  drivers: {_list({device.driver or '' for device in gpus})}",
            f"  vbios: {_list({device.vbios for device in self.gpu})}",
            "  measurements: nvidia",
            "  ocsp_max_age_days: 7",
        ]

    def _keyset(self) -> list[str]:
        posture = None if self.keyset is None else self.keyset.posture
        operator = jurisdiction = audit = filters = telemetry = FILL_IN
        if posture is not None:
            operator, jurisdiction = posture.operator, posture.jurisdiction
            audit, filters = _names(posture.audit), _names(posture.filters)
            telemetry = _names(posture.telemetry)
        return [
            "keyset:                              # what the service states before it gets prompts",
            "  retention: none",
            "  training: none",
            f"  operators: [{_text(operator)}]",
            f"  jurisdictions: [{_text(jurisdiction)}]",
            f"  audit_fields: {audit}",
            f"  filters: {filters}",
            f"  telemetry: {telemetry}",
        ]


def _list(values: set[str]) -> str:
    return f"[{', '.join(map(_text, sorted(values)))}]"


def _names(stated: tuple[str, ...]) -> str:
    return f"[{', '.join(map(_text, stated))}]" if stated else "none"


def _masked(value: str) -> str:
    return f'{{mask: "{"f" * 16}", value: "{value}"}}'


def _text(value: str) -> str:
    """Quote for YAML; JSON strings are YAML strings."""
    return json.dumps(value, ensure_ascii=False)
