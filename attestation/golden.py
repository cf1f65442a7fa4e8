"""The golden output of a model: what it must say to one prompt, and how clear each token of it was.

Weights that authenticate may still be computed wrongly: a broken GPU, a loader's mistake, another
tokenizer. Two sound engines do not compute the same bits, though, and where two tokens are nearly
as likely they may choose differently. So each token carries its lead over the runner-up, as the
signer's engine saw it: a clear one must come out on any hardware, a close one may lose narrowly.
"""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, StringConstraints, model_validator

from attestation.codec import Document

TOLERANCE = 500
"""By how much log-probabilities of two sound engines may differ, in thousandths of a nat.

Logits are bfloat16 with 8 significant bits: those between 16 and 32 are 0.125 apart, and a lead is
a difference of two. Measured between float32 and bfloat16: see CHANGELOG.
"""

LEAST_CLEAR = 8
"""Tokens with a lead over `TOLERANCE` that a golden output has at least."""

_Token = Annotated[int, Field(ge=0, lt=2**31)]
_Milli = Annotated[int, Field(ge=0, le=10_000_000)]


class GoldenToken(Document):
    """One token of the greedy answer; amounts are thousandths of a nat."""

    id: _Token
    surprise: _Milli
    """Its negative log-probability."""
    lead: _Milli
    """By how much the runner-up was less likely."""

    @property
    def clear(self) -> bool:
        """Whether every sound engine must choose it."""
        return self.lead > TOLERANCE


class Golden(Document):
    """A prompt and its greedy answer, signed with the manifest of the weights that gave it."""

    prompt: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    """What the user says, in a conversation of nothing else."""
    thinking: bool
    """Value of `enable_thinking` for the chat template."""
    prompt_ids: Annotated[tuple[_Token, ...], Field(min_length=1, max_length=8192)]
    """Template and tokenizer applied: these must be equal to the last one."""
    tokens: Annotated[tuple[GoldenToken, ...], Field(min_length=LEAST_CLEAR, max_length=256)]

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if sum(token.clear for token in self.tokens) < LEAST_CLEAR:
            raise ValueError("too few tokens are clear; any weights might pass")
        return self
