"""Ask an engine the golden prompt over its socket, as clients will; wrong answers stop the boot.

1. A conversation is rendered and tokenised to exactly the signed ids. 2. The greedy answer to these
ids is the signed one. Where it leaves that at a token that was close, and narrowly, the rest is
asked for behind the signed token, so that every clear token is checked on any hardware.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from attestation.codec import parse_json
from attestation.confidential import Confidential
from attestation.errors import Malformed, NotAffirmed, Undecidable
from attestation.golden import TOLERANCE, Golden
from server.engine.protocol import Engine, EngineBroken

_RUNNERS_UP = 5
"""Tokens that an engine reports beside its choice."""


@dataclass(frozen=True, slots=True)
class Step:
    """One greedy step of an engine."""

    chosen: int
    surprise: dict[int, float]
    """Negative log-probability of the likeliest tokens and of the chosen one, in thousandths."""


async def check(engine: Engine, golden: Golden, *, model: str, seconds: float) -> None:
    """Return when `engine` says what `golden` says under the served name `model`.

    Raises `NotAffirmed` ("golden-template", "golden-mismatch") or `Undecidable`
    ("golden-unanswered") when it does not answer within `seconds`, or with something else.
    """
    try:
        async with asyncio.timeout(seconds):
            await _check_prompt(engine, golden, model=model)
            done = 0
            while done < len(golden.tokens):
                done = follow(
                    golden, await _continue(engine, golden, model=model, at=done), at=done
                )
    except TimeoutError:
        raise Undecidable("golden-unanswered", f"{model}: none in {seconds:.0f} seconds") from None
    except EngineBroken:
        raise Undecidable("golden-unanswered", f"{model}: the engine broke off") from None


def follow(golden: Golden, steps: Sequence[Step], *, at: int) -> int:
    """Compare `steps` with the tokens from place `at` on; return the place to go on from.

    That is the end, or behind a close token which the engine narrowly did not choose. Raises
    `NotAffirmed` ("golden-mismatch").
    """
    for place, expected in enumerate(golden.tokens[at:], at):
        if place - at >= len(steps):
            raise NotAffirmed("golden-mismatch", f"the answer ends before token {place}")
        step = steps[place - at]
        if expected.id not in step.surprise:
            raise NotAffirmed("golden-mismatch", f"token {place} is not among the likeliest")
        found = step.surprise[expected.id]
        if step.chosen == expected.id:
            if abs(found - expected.surprise) > TOLERANCE:
                raise NotAffirmed("golden-mismatch", f"token {place} is another's by its odds")
            continue
        if expected.clear or found - step.surprise[step.chosen] > TOLERANCE:
            raise NotAffirmed("golden-mismatch", f"token {place} is another")
        return place + 1
    return len(golden.tokens)


async def _check_prompt(engine: Engine, golden: Golden, *, model: str) -> None:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": golden.prompt}],
        "chat_template_kwargs": {"enable_thinking": golden.thinking},
        "max_tokens": 1,
        "temperature": 0,
        "return_token_ids": True,
    }
    answer = await _ask(engine, "/v1/chat/completions", body)
    if answer.get("prompt_token_ids") != list(golden.prompt_ids):
        raise NotAffirmed("golden-template", f"{model}: the prompt becomes other tokens")


async def _continue(engine: Engine, golden: Golden, *, model: str, at: int) -> list[Step]:
    body = {
        "model": model,
        "prompt": [*golden.prompt_ids, *(token.id for token in golden.tokens[:at])],
        "max_tokens": len(golden.tokens) - at,
        "ignore_eos": True,
        "temperature": 0,
        "logprobs": _RUNNERS_UP,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
    }
    answer = await _ask(engine, "/v1/completions", body)
    try:
        (choice,) = answer["choices"]
        return [
            _step(chosen, odds)
            for chosen, odds in zip(
                choice["token_ids"], choice["logprobs"]["top_logprobs"], strict=True
            )
        ]
    except (KeyError, TypeError, ValueError, AttributeError):
        raise Undecidable("golden-unanswered", f"{model}: an answer of another form") from None


def _step(chosen: int, odds: dict[str, float]) -> Step:
    surprise = {int(name.removeprefix("token_id:")): -1000 * odd for name, odd in odds.items()}
    if chosen not in surprise:
        raise ValueError("a choice without odds")
    return Step(chosen, surprise)


async def _ask(engine: Engine, path: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = await engine.call(path, Confidential(json.dumps(body).encode()))
    if answer.status != 200:
        raise Undecidable("golden-unanswered", f"{path} answered {answer.status}")
    try:
        document = parse_json(answer.body.reveal())
    except Malformed:
        raise Undecidable("golden-unanswered", f"{path} did not answer JSON") from None
    if not isinstance(document, dict):
        raise Undecidable("golden-unanswered", f"{path} did not answer an object")
    return document
