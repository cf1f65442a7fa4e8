"""Tacit's verifier: evidence of a confidential guest in, a verdict with reasons out.

    policy = Policy.load(data, name="prod.yaml")                       # attestation.policy
    report = Report.parse(bytes_from_the_service)                      # attestation.report
    result = Verifier(policy).verify(                                  # attestation.verifier
        report.evidence, report.endorsements, expected_nonce=ours, now=now
    )
    affirmed = result.affirmed(now)                                    # attestation.appraise

`result.checks` answers every check; `Affirmed` is the only value that a relying party acts on.
`attestation.client.attested_client` does all of it and returns an HTTP client. Import names from
their modules: this package imports nothing, because the engine's environment holds only parts.
"""
