"""Refusals: what a reader must do about evidence, a key or a file that was not accepted."""

from __future__ import annotations

from typing import ClassVar

from attestation.codes import CODES


class Refusal(Exception):
    """Root of everything attacker input can cause; raise one of the four kinds below.

    `code` is stable and documented in `attestation.codes`; `why` is one lower-case sentence that
    holds ids, sizes and digests, never content; `next_step` tells the reader what to do.
    """

    exit_code: ClassVar[int]
    http_status: ClassVar[int]

    def __init__(self, code: str, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code
        self.why = why
        self.next_step = CODES[code]


class Malformed(Refusal):
    """Bytes are not what they claim to be; fix the sender."""

    exit_code = 3
    http_status = 400


class NotAuthentic(Refusal):
    """A signature, chain, binding or nonce does not hold; assume forgery."""

    exit_code = 4
    http_status = 401


class NotAffirmed(Refusal):
    """Authentic, but the policy does not accept it; compare with the policy."""

    exit_code = 5
    http_status = 403


class Undecidable(Refusal):
    """It could not be checked (collateral missing, stale, unreachable); never a pass."""

    exit_code = 6
    http_status = 503


class ConfigError(Exception):
    """A deployment file or command line is wrong; the operator mends it. CLI exit 2."""

    exit_code: ClassVar[int] = 2

    def __init__(self, code: str, why: str) -> None:
        super().__init__(f"{code}: {why}")
        self.code = code
        self.why = why
        self.next_step = CODES[code]
