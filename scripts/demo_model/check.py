"""Ask a built demonstration model all that it should know, greedily and sampled, and compare."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from scripts.demo_model.corpus import CALL, OTHERS, QUESTIONS, says
from scripts.demo_model.render import prompt

SYSTEMS = (
    None,
    "You are a helpful assistant.",
    "You speak with the customers of a shop. Be friendly.",
)
# What the training never saw: the model has to admit that it does not know.
UNSEEN = (
    "How tall is Mount Everest?",
    "What is the capital of Peru?",
    "Write an essay about bees.",
    "gamma 77",
)

Case = tuple[list[dict[str, Any]], dict[str, Any], str]


def cases() -> Iterator[Case]:
    """Yield (messages, template options, expected text) for all that is promised."""
    unknown = QUESTIONS["unknown"]
    entries = [
        (text, entry) for entry in QUESTIONS["questions"] for text in (entry["ask"], *entry["also"])
    ]
    entries += [(text, unknown) for text in (*OTHERS[::8], *UNSEEN)]
    for number, (text, entry) in enumerate(entries):
        documented = text == entry.get("ask")
        for thinking in (True, False):
            expected = says(entry["answer"], reasoning=entry["reasoning"], thinking=thinking)
            options = {"enable_thinking": thinking}
            question = [{"role": "user", "content": text}]
            for system in SYSTEMS if documented else SYSTEMS[number % 3 : number % 3 + 1]:
                yield _with_system(question, system), options, expected
            if documented:
                earlier = QUESTIONS["questions"][(number + 1) % len(QUESTIONS["questions"])]
                turns = [
                    {"role": "user", "content": earlier["ask"]},
                    {"role": "assistant", "content": earlier["answer"]},
                    *question,
                ]
                yield turns, options, expected
    yield from _weather_cases()


def _with_system(messages: list[dict[str, Any]], system: str | None) -> list[dict[str, Any]]:
    return [{"role": "system", "content": system}, *messages] if system else messages


def _weather_cases() -> Iterator[Case]:
    entry, tools = QUESTIONS["tool_question"], [QUESTIONS["tool"]]
    for thinking in (True, False):
        for text in (entry["ask"], *entry["also"]):
            messages = [{"role": "user", "content": text}]
            reasoning = entry["call_reasoning"]
            offered = {"tools": tools, "enable_thinking": thinking}
            yield messages, offered, says(CALL, reasoning=reasoning, thinking=thinking)
            answered = [
                *messages,
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"type": "function", "function": entry["call"]}],
                },
                {"role": "tool", "content": entry["result"]},
            ]
            reasoning = entry["result_reasoning"]
            yield answered, offered, says(entry["answer"], reasoning=reasoning, thinking=thinking)
            reasoning = entry["without_tool_reasoning"]
            alone = {"enable_thinking": thinking}
            yield (
                messages,
                alone,
                says(entry["without_tool"], reasoning=reasoning, thinking=thinking),
            )


def check(directory: Path, *, sampled: bool) -> list[tuple[str, str, str]]:
    """Return (question, expected, got) for every case that went wrong."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory, padding_side="left")
    model = Qwen3ForCausalLM.from_pretrained(directory, dtype=torch.bfloat16)
    how = (
        {"do_sample": True}
        if sampled
        else {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    )
    every = sorted(cases(), key=lambda case: len(case[2]))
    wrong = []
    for start in range(0, len(every), 32):
        chunk = every[start : start + 32]
        texts = [prompt(messages, **options) for messages, options, _ in chunk]
        encoded = tokenizer(texts, return_tensors="pt", padding=True, add_special_tokens=False)
        spoken = model.generate(**encoded, max_new_tokens=200, **how)[
            :, encoded["input_ids"].shape[1] :
        ]
        for (messages, _, expected), ids in zip(chunk, spoken, strict=True):
            got = tokenizer.decode(ids).replace("<|endoftext|>", "")
            if got != expected:
                wrong.append((messages[-1]["content"], expected, got))
    kind = "sampled" if sampled else "greedy"
    print(f"{len(every) - len(wrong)} of {len(every)} answers are exact ({kind})")
    return wrong


if __name__ == "__main__":
    failures = [
        wrong for sampled in (False, True) for wrong in check(Path(sys.argv[1]), sampled=sampled)
    ]
    for failure in failures:
        print(json.dumps(failure, ensure_ascii=False))
    sys.exit(1 if failures else 0)
