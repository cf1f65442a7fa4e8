"""What any verifier of TDX and NVIDIA evidence checks is checked here, by a test that is named.

The list is that of a survey of ten verifiers: Intel's libraries, dcap-qvl, go-tdx-guest, Trustee,
dstack, NVIDIA's two and others. None of them checks all of it.
"""

import pytest

from scripts.chain.processes import ROOT

LIES, ADVISORIES = "simulator/test_simulator_tdx.py", "vectors/test_advisories.py"
FRAMING, GPU = "unit/test_tdx_framing.py", "unit/test_gpu_verify.py"
REVOCATION = "unit/test_gpu_revocation.py"
APPRAISE, FLOW = "unit/test_appraise.py", "flows/test_gpu_flow.py"

TABLE = {
    "quotes of version 4": ("vectors/test_vectors_tdx.py", "a_genuine_vector_has_its_verdict"),
    "quotes of version 5": (FRAMING, "a_quote_of_version_5_says_what_its_body_is"),
    "the TEE is TDX": (LIES, '"SGX TEE"'),
    "vendor of the quoting enclave": (LIES, '"another vendor"'),
    "attestation key type": (LIES, '"another key type"'),
    "nothing but zeros behind a quote": (LIES, '"junk behind the quote"'),
    "lengths of hostile input": (ADVISORIES, "a6_a_length_that_claims_gigabytes_reads_nothing"),
    "chain to the pinned Intel root": (LIES, '"another hierarchy"'),
    "validity at a given time": (LIES, '"PCK from the future"'),
    "roles of certificates": (LIES, '"tcb signed by the key of a machine"'),
    "PCK revocation": (LIES, '"PCK revoked"'),
    "revocation of authority and signer": (LIES, '"TCB signer revoked"'),
    "end of a CRL": (LIES, '"PCK CRL ended"'),
    "begin of a CRL": (LIES, '"root CRL from the future"'),
    "FMSPC": (LIES, '"TCB info of another family"'),
    "pceId": (LIES, '"TCB info of another PCE"'),
    "signatures of the quote": (
        "property/test_property_tdx.py",
        "no_flipped_bit_of_a_genuine_quote_is_accepted",
    ),
    "identity of the quoting enclave": (LIES, '"QE of another signer"'),
    "signature of TCB info": (
        "property/test_property_tdx.py",
        "no_flipped_bit_is_authenticated",
    ),
    "window of TCB info": (LIES, '"TCB info from the future"'),
    "window of the QE identity": (LIES, '"QE identity ended"'),
    "TCB level of the platform": (LIES, '"firmware below every level"'),
    "identity of the TDX module": (LIES, '"module of another signer"'),
    "statuses converge": (LIES, "an_outdated_platform_stays_so_under_a_new_module"),
    "relaunch after a module update": (
        LIES,
        "a_guest_launched_before_its_module_was_mended_is_told_to_relaunch",
    ),
    "only accepted statuses": (APPRAISE, '"tdx.tcb-status"'),
    "a grace period": (APPRAISE, "a_grace_period_ends_on_its_day"),
    "minimum evaluation number": (APPRAISE, '"tdx.evaluation-number"'),
    "denied advisories": (APPRAISE, '"tdx.advisories"'),
    "platform flags and SGX type": (APPRAISE, '"tdx.platform-kind"'),
    "separators of the firmware's log": (
        ADVISORIES,
        "a15_a_register_that_was_separated_too_often_is_refused_although_the_quote_agrees",
    ),
    "DEBUG": (LIES, '"debug"'),
    "SEPT_VE_DISABLE": (LIES, '"no SEPT_VE_DISABLE"'),
    "every other attribute bit": (
        LIES,
        "no_attribute_that_weakens_or_has_no_name_is_accepted",
    ),
    "XFAM": (APPRAISE, '"tdx.xfam"'),
    "service TD": (LIES, '"service TD"'),
    "MRSEAM": (APPRAISE, '"tdx.module-measurement"'),
    "MRTD and registers, as sets": (APPRAISE, "values_of_two_reference_sets_do_not_mix"),
    "MRCONFIGID": (APPRAISE, '"tdx.mr-config-id"'),
    "MROWNER": (APPRAISE, '"tdx.mr-owner"'),
    "MROWNERCONFIG": (APPRAISE, '"tdx.mr-owner-config"'),
    "binding of REPORT_DATA": ("unit/test_binding.py", "every_part_changes_report_data"),
    "a nonce of the verifier, used once": (
        "flows/test_broker_flow.py",
        "a_nonce_is_good_for_one_attestation",
    ),
    "replay of the firmware's log": (
        "unit/test_attestation_authenticate.py",
        "a_firmware_register_that_the_log_does_not_explain_is_refused",
    ),
    "payloads of runtime events": (
        "unit/test_tdx_eventlog.py",
        "a_payload_that_was_not_measured_is_refused",
    ),
    "age of collateral": (APPRAISE, '"tdx.collateral-age"'),
    "collateral without a network": (
        "unit/test_commands_verify.py",
        "a_genuine_quote_is_authentic_and_no_more_without_a_policy",
    ),
    "signature of a GPU report": (GPU, "a_report_signed_by_another_device_is_refused"),
    "chain to the pinned NVIDIA root": (GPU, "devices_of_another_nvidia_are_refused"),
    "firmware id": (GPU, "a_report_that_names_other_firmware_than_its_certificate_is_refused"),
    "nonce of a GPU report": (GPU, "a_report_over_another_nonce_is_refused"),
    "OCSP of devices": (REVOCATION, "a_revoked_or_held_certificate_is_refused"),
    "driver manifest": (GPU, "a_measurement_that_no_manifest_knows_is_a_finding_of_that_index"),
    "VBIOS manifest": (GPU, "a_manifest_of_the_vbios_does_not_serve_as_one_of_the_driver"),
    "signature of a manifest": (
        "unit/test_gpu_rim.py",
        "what_was_changed_after_signing_is_forged",
    ),
    "end of a manifest": (GPU, "a_manifest_of_an_expired_signer_is_undecidable"),
    "architecture": (GPU, "a_device_cannot_pass_for_one_of_another_kind"),
    "confidential mode on, developer tools off": (
        "unit/test_gpu_collect.py",
        "gpus_that_are_open_to_the_host_are_not_collected_from",
    ),
    "eight GPUs, four switches, their links": (
        "unit/test_gpu_checks.py",
        "a_link_that_ends_outside_the_guest_is_refused",
    ),
    "distinct devices": (GPU, "a_device_that_is_counted_twice_is_refused"),
    "GPUs bound to the quote": (FLOW, "gpu_evidence_of_another_guest_does_not_fit_this_quote"),
    "a signed verdict": ("unit/test_page.py", "an_ear_is_verified_by_the_published_key"),
}


@pytest.mark.parametrize("check", TABLE)
def test_a_check_of_any_peer_has_a_test_here(check):
    path, named = TABLE[check]
    text = (ROOT / "tests" / path).read_text()
    wanted = named if named.startswith('"') else f"def test_{named}("
    assert wanted in text, f"{check}: {path} has no {named}"
