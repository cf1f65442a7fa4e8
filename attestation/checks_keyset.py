"""The rows of the check table that judge what a guest declares to those who send prompts."""

from __future__ import annotations

from attestation.binding import KeysetBinding
from attestation.checks import Answer, Case, Rule, contents, listed
from attestation.keyset import Keyset


def _keyset(case: Case) -> Keyset:
    binding = case.facts.binding
    if not isinstance(binding, KeysetBinding):
        raise TypeError("these rows judge evidence that is bound to a keyset")
    return binding.keyset


def _retention(case: Case) -> Answer:
    expected, actual = case.file.keyset.retention, _keyset(case).posture.retention
    return actual == expected, expected, actual


def _training(case: Case) -> Answer:
    expected, actual = case.file.keyset.training, _keyset(case).posture.training
    return actual == expected, expected, actual


def _operator(case: Case) -> Answer:
    return _one_of(_keyset(case).posture.operator, case.file.keyset.operators)


def _jurisdiction(case: Case) -> Answer:
    return _one_of(_keyset(case).posture.jurisdiction, case.file.keyset.jurisdictions)


def _audit_fields(case: Case) -> Answer:
    return _at_most(_keyset(case).posture.audit, case.file.keyset.audit_fields)


def _filters(case: Case) -> Answer:
    accepted, filters = case.file.keyset.filters, _keyset(case).posture.filters
    actual = ", ".join(filters) or "none"
    if accepted == "any":
        return True, "any", actual
    if accepted == "none":
        return not filters, "none", actual
    return sorted(filters) == sorted(accepted), f"exactly {', '.join(accepted)}", actual


def _telemetry(case: Case) -> Answer:
    return _at_most(_keyset(case).posture.telemetry, case.file.keyset.telemetry)


def _config_measured(case: Case) -> Answer:
    measured, stated = contents(case, "config"), _keyset(case).config
    return measured == (stated,), f"measured: {listed(measured)}", stated


def _models_measured(case: Case) -> Answer:
    measured = tuple(sorted(contents(case, "model")))
    declared = tuple(sorted(f"{model.name}={model.manifest}" for model in _keyset(case).models))
    return measured == declared, f"measured: {listed(measured)}", listed(declared)


def _at_most(stated: tuple[str, ...], accepted: tuple[str, ...] | str) -> Answer:
    actual = ", ".join(stated) or "none"
    if accepted == "any":
        return True, "any", actual
    if accepted == "none":
        return not stated, "none", actual
    return set(stated) <= set(accepted), f"only {', '.join(accepted)}", actual


def _one_of(actual: str, accepted: tuple[str, ...] | str) -> Answer:
    if isinstance(accepted, str):
        return True, "any", actual
    return actual in accepted, " or ".join(accepted), actual


KEYSET_RULES: tuple[Rule, ...] = (
    Rule("keyset.retention", "the guest states that it keeps no prompt and no answer", _retention),
    Rule("keyset.training", "the guest states that it trains on nothing", _training),
    Rule("keyset.operator", "the stated operator is one we deal with", _operator),
    Rule("keyset.jurisdiction", "the stated jurisdiction is one we accept", _jurisdiction),
    Rule(
        "keyset.audit-fields", "audit records carry no field beyond those we accept", _audit_fields
    ),
    Rule("keyset.filters", "what reads prompts beside the engine is what we expect", _filters),
    Rule("keyset.telemetry", "telemetry carries no attribute beyond those we accept", _telemetry),
    Rule(
        "keyset.config-measured", "the stated configuration is the measured one", _config_measured
    ),
    Rule("keyset.models-measured", "the stated models are the measured ones", _models_measured),
)
"""Checks of a guest that presents a keyset, in the order they are reported."""
