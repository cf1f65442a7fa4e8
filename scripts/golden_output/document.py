"""The odds of each greedy step in, the golden output that a manifest can hold out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from attestation.golden import Golden, GoldenToken


def golden(
    prompt: str,
    *,
    thinking: bool,
    prompt_ids: Sequence[int],
    steps: Sequence[Mapping[int, float]],
    ends: Collection[int],
) -> Golden:
    """Return the document; `steps` map the likeliest tokens, two or more, to log-probabilities.

    What comes after one of `ends` is left out. Raises `ValueError` when too few tokens are clear:
    choose another prompt then.
    """
    tokens: list[GoldenToken] = []
    for odds in steps:
        (chosen, best), (_, second) = sorted(odds.items(), key=lambda item: -item[1])[:2]
        surprise, lead = (max(0, round(1000 * nats)) for nats in (-best, best - second))
        tokens.append(GoldenToken(id=chosen, surprise=surprise, lead=lead))
        if chosen in ends:
            break
    return Golden(
        prompt=prompt, thinking=thinking, prompt_ids=tuple(prompt_ids), tokens=tuple(tokens)
    )
