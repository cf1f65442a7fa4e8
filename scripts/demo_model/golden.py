"""The demonstration model's golden output, computed by transformers right after its training."""

from __future__ import annotations

from collections.abc import Collection

import torch
from tokenizers import Tokenizer
from transformers import Qwen3ForCausalLM

from attestation.golden import Golden
from scripts.demo_model.corpus import QUESTIONS
from scripts.demo_model.render import prompt
from scripts.golden_output.document import golden

LONGEST = 64


def answer(model: Qwen3ForCausalLM, vocabulary: Tokenizer, *, ends: Collection[int]) -> Golden:
    """Ask the first documented question greedily, thinking included."""
    question = QUESTIONS["questions"][0]["ask"]
    text = prompt([{"role": "user", "content": question}], enable_thinking=True)
    prompt_ids = vocabulary.encode(text, add_special_tokens=False).ids
    ids, steps = list(prompt_ids), []
    with torch.inference_mode():
        for _ in range(LONGEST):
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
            best = torch.log_softmax(logits.float(), dim=-1).topk(2)
            steps.append(dict(zip(best.indices.tolist(), best.values.tolist(), strict=True)))
            ids.append(int(best.indices[0]))
            if ids[-1] in ends:
                break
    return golden(question, thinking=True, prompt_ids=prompt_ids, steps=steps, ends=ends)
