"""An EAR as a stranger reads it: jwcrypto for the signature, the draft's own rules for the rest.

The rules are those of draft-ietf-rats-ear (claims of an EAR and of an appraisal) and of AR4SI (the
vector and its tiers); nothing of the product reads the token here.
"""

import json
from dataclasses import replace
from typing import Annotated, Literal

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwcrypto import jwk, jws, jwt
from jwcrypto.common import JWException
from pydantic import BaseModel, ConfigDict, Field

from attestation.appraise import AttestationResult
from attestation.ear import PROFILE, TokenKey, result_claims
from tests.appraisal_world import NONCE, NOW, World
from tests.gpu_world import GpuWorld, single

KEY = TokenKey(ec.generate_private_key(ec.SECP256R1()))
TIERS = ("affirming", "warning", "contraindicated")

Claim = Annotated[int, Field(ge=-128, le=127)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class VerifierId(Strict):
    developer: str
    build: str


class Vector(Strict):
    """AR4SI's eight claims; none other may stand there."""

    instance_identity: Annotated[Claim, Field(alias="instance-identity")]
    configuration: Claim
    executables: Claim
    file_system: Annotated[Claim, Field(alias="file-system")]
    hardware: Claim
    runtime_opaque: Annotated[Claim, Field(alias="runtime-opaque")]
    storage_opaque: Annotated[Claim, Field(alias="storage-opaque")]
    sourced_data: Annotated[Claim, Field(alias="sourced-data")]


class Appraisal(Strict):
    """EAR-appraisal; the last two are extensions, whose names have to be another's or ours."""

    status: Annotated[
        Literal["none", "affirming", "warning", "contraindicated"], Field(alias="ear.status")
    ]
    policy: Annotated[str, Field(alias="ear.appraisal-policy-id", min_length=1)]
    vector: Annotated[Vector | None, Field(alias="ear.trustworthiness-vector")] = None
    evidence: Annotated[dict[str, object], Field(alias="ear.veraison.annotated-evidence")]
    simulated: Annotated[bool, Field(alias="tacit.simulated")]


class Ear(Strict):
    """EAR; `eat_nonce` as RFC 9711 section 4.1 has it in JSON."""

    eat_profile: Annotated[str, Field(pattern=r"^tag:|^https?:")]
    eat_nonce: Annotated[str, Field(min_length=8, max_length=88)]
    iat: int
    exp: int
    iss: str
    verifier: Annotated[VerifierId, Field(alias="ear.verifier-id")]
    submods: Annotated[dict[str, Appraisal], Field(min_length=1)]


def read(result: AttestationResult, *, keys: bytes = KEY.jwks) -> Ear:
    """Return the claims of a result's token, verified as of when it was made."""
    text = KEY.sign(result_claims(result, now=NOW))
    return opened(text, keys=keys)


def opened(text: str, *, keys: bytes) -> Ear:
    token = jwt.JWT(check_claims={"exp": None, "iat": None}, algs=["ES256"], expected_type="JWS")
    token.leeway = 10**10  # the worlds of these tests are judged in their own year
    token.deserialize(text, jwk.JWKSet.from_json(keys.decode()))
    return Ear.model_validate_json(token.claims)


def tier(value: int) -> str:
    """Return the tier of one claim (AR4SI section 2.3); within -1..1 nothing is said."""
    size = abs(value) - (value < 0)
    return TIERS[0] if size < 32 else TIERS[1] if size < 96 else TIERS[2]


def genuine(result: AttestationResult) -> AttestationResult:
    """Return the same as of a machine, which no simulated world ever says."""
    return replace(result, claims=replace(result.claims, simulated=False))


def refused() -> AttestationResult:
    return World(launch={"mr_config_id": b"\1" * 48}).result()


RESULTS = {
    "simulated": (lambda: World().result(), ["contraindicated"]),
    "refused": (refused, ["contraindicated"]),
    "affirmed": (lambda: genuine(World().result()), ["affirming"]),
    "refused machine": (lambda: genuine(refused()), ["contraindicated"]),
    "gpu": (lambda: genuine(single().result()), ["affirming"] * 2),
    "baseboard": (lambda: GpuWorld().result(), ["contraindicated"] * 13),
}


@pytest.mark.parametrize("name", RESULTS)
def test_the_token_is_an_ear_whose_status_is_no_better_than_its_vector(name):
    make, statuses = RESULTS[name]
    result = make()
    ear = read(result)
    assert ear.eat_profile == PROFILE
    assert ear.eat_nonce == NONCE.hex()
    assert (ear.iat, ear.exp) == (int(NOW.timestamp()), int(result.expires_at.timestamp()))
    assert [appraisal.status for appraisal in ear.submods.values()] == statuses
    for appraisal in ear.submods.values():
        assert appraisal.policy == str(result.policy_digest)
        assert appraisal.simulated == result.claims.simulated
        if appraisal.vector is not None:
            worst = max(TIERS.index(tier(value)) for _, value in appraisal.vector)
            assert TIERS.index(appraisal.status) >= worst
    assert ear.submods["cpu0"].vector is not None


def test_no_token_verifies_under_another_key_or_with_another_byte_or_algorithm():
    claims = result_claims(World().result(), now=NOW)
    text = KEY.sign(claims)
    other = TokenKey(ec.generate_private_key(ec.SECP256R1()))
    with pytest.raises(JWException):
        opened(text, keys=other.jwks)
    head, body, signature = text.split(".")
    flipped = ("A" if body[9] != "A" else "B").join((body[:9], body[10:]))
    unsigned = jws.base64url_encode(json.dumps({"alg": "none", "kid": KEY.jwk["kid"]}))
    for forged in (f"{head}.{flipped}.{signature}", f"{unsigned}.{body}.", f"{head}.{body}."):
        with pytest.raises((JWException, ValueError)):
            opened(forged, keys=KEY.jwks)
    assert opened(text, keys=KEY.jwks).iss == "tacit-verify"


def test_a_token_that_has_ended_is_refused_by_its_reader():
    token = jwt.JWT(check_claims={"exp": None}, algs=["ES256"], expected_type="JWS")
    ended = result_claims(World().result(), now=NOW) | {"exp": 1}
    with pytest.raises(jwt.JWTExpired):
        token.deserialize(KEY.sign(ended), jwk.JWKSet.from_json(KEY.jwks.decode()))
