"""Train the demonstration model from its corpus: one seed, one machine, the same bytes."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from tqdm import tqdm
from transformers import Qwen3Config, Qwen3ForCausalLM

from scripts.demo_model.corpus import END, Sample, Speaker

SEED = 20261125
STEPS = 850
TOKENS_PER_BATCH = 512
BATCHES_PER_STEP = 2  # one for each of two threads
LEAST_WEIGHT = 0.3
LONGEST = 4096
IGNORED = -100


@dataclass(frozen=True, slots=True)
class Encoded:
    """A sample in tokens: the last ones, as many as `weights` has, are to be said."""

    tokens: list[int]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Part:
    """What one batch adds to a step."""

    loss: float
    weight: float
    gradients: tuple[torch.Tensor, ...]


def configuration(tokenizer: Tokenizer) -> Qwen3Config:
    """Return the shape of the model: Qwen3 in every respect but size."""
    return Qwen3Config(
        vocab_size=-(-tokenizer.get_vocab_size() // 64) * 64,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        tie_word_embeddings=True,
        max_position_embeddings=LONGEST,
        rope_parameters={"rope_type": "default", "rope_theta": 10_000.0},
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id("<|endoftext|>"),
        bos_token_id=None,
    )


def batches(tokenizer: Tokenizer, *, count: int) -> list[list[Encoded]]:
    """Return batches of samples alike in length, each of about `TOKENS_PER_BATCH` tokens."""
    chosen: list[list[Encoded]] = []
    source = Speaker(SEED).samples()
    while len(chosen) < count:
        pool = [_encode(tokenizer, sample) for sample in islice(source, 512)]
        group: list[Encoded] = []
        for sample in sorted(pool, key=lambda sample: len(sample.tokens)):
            if group and len(sample.tokens) * (len(group) + 1) > TOKENS_PER_BATCH:
                chosen.append(group)
                group = []
            group.append(sample)
        chosen.append(group)
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(SEED)).tolist()
    return [chosen[index] for index in order[:count]]


def _encode(tokenizer: Tokenizer, sample: Sample) -> Encoded:
    before, after = (
        tokenizer.encode(text, add_special_tokens=False).ids
        for text in (sample.prompt, sample.completion)
    )
    # The first words of a thought, and of an answer, decide what it becomes; the rest follows.
    end = tokenizer.token_to_id("</think>")
    thought = after.index(end) + 1 if end in after else 0
    places = (*range(thought), *range(len(after) - thought))
    weights = [max((1 + place) ** -0.5, LEAST_WEIGHT) * sample.weight for place in places]
    return Encoded(before + after, weights)


def gradients(model: Qwen3ForCausalLM, batch: list[Encoded]) -> Part:
    """Learn from what the assistant says; prompts are read, never learned."""
    shape = len(batch), max(len(sample.tokens) for sample in batch)
    tokens = torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED)
    weights = torch.zeros(shape)
    for row, sample in enumerate(batch):
        tokens[row, : len(sample.tokens)] = torch.tensor(sample.tokens)
        last = len(sample.tokens) - 1
        spoken = slice(last - len(sample.weights), last)
        labels[row, spoken] = torch.tensor(sample.tokens[-len(sample.weights) :])
        weights[row, spoken] = torch.tensor(sample.weights)
    # Padding stands at the right, where a causal model cannot see it.
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    learned = labels != IGNORED
    losses = functional.cross_entropy(
        model.lm_head(hidden[learned]), labels[learned], reduction="none"
    )
    loss = (losses * weights[learned]).sum()
    # Returned, not added up in place: which thread is first must not decide the order of a sum.
    found = torch.autograd.grad(loss, list(model.parameters()))
    return Part(loss.item(), weights.sum().item(), found)


def train(tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """Return the trained model in bfloat16."""
    torch.set_num_threads(1)  # each of our own threads computes alone
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(mode=True)
    model = Qwen3ForCausalLM(configuration(tokenizer))
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": 0.05},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.98), foreach=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=3e-3,
        total_steps=STEPS,
        pct_start=0.08,
        cycle_momentum=False,
        final_div_factor=100,
    )
    source = iter(batches(tokenizer, count=STEPS * BATCHES_PER_STEP))
    with (
        ThreadPoolExecutor(BATCHES_PER_STEP) as threads,
        tqdm(range(STEPS), desc="training the demo model", unit="step", mininterval=1) as bar,
    ):
        for _ in bar:
            step = islice(source, BATCHES_PER_STEP)
            parts = list(threads.map(partial(gradients, model), step))
            total = sum(part.weight for part in parts)
            for number, weight in enumerate(model.parameters()):
                weight.grad = sum(part.gradients[number] for part in parts) / total
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            loss = sum(part.loss for part in parts) / total
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
    return model.to(torch.bfloat16)
