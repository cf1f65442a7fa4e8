"""Train the demonstration model from its corpus: one seed, one machine, the same bytes."""

from itertools import islice
from typing import Any

import torch
from tokenizers import Tokenizer
from torch.nn import functional
from tqdm import tqdm
from transformers import Qwen3Config, Qwen3ForCausalLM

from scripts.demo_model.corpus import END, Sample, Speaker

SEED = 20261125
STEPS = 700
TOKENS_PER_BATCH = 512
BATCHES_PER_STEP = 2  # short and long samples meet in a step, and nearly nothing is padding
LONGEST = 4096
IGNORED = -100

Batch = list[tuple[list[int], int]]  # all tokens of a sample, and how many of them are its prompt


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


def batches(tokenizer: Tokenizer, *, count: int) -> list[Batch]:
    """Return batches of samples alike in length, each of about `TOKENS_PER_BATCH` tokens."""
    chosen: list[Batch] = []
    source = Speaker(SEED).samples()
    while len(chosen) < count:
        pool = [_encode(tokenizer, sample) for sample in islice(source, 512)]
        group: Batch = []
        for pair in sorted(pool, key=lambda pair: len(pair[0])):
            if group and len(pair[0]) * (len(group) + 1) > TOKENS_PER_BATCH:
                chosen.append(group)
                group = []
            group.append(pair)
        chosen.append(group)
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(SEED)).tolist()
    return [chosen[index] for index in order[:count]]


def _encode(tokenizer: Tokenizer, sample: Sample) -> tuple[list[int], int]:
    before = tokenizer.encode(sample.prompt, add_special_tokens=False).ids
    return before + tokenizer.encode(sample.completion, add_special_tokens=False).ids, len(before)


def loss_of(model: Qwen3ForCausalLM, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return loss and weight of what the assistant says; prompts are read, never learned."""
    width = max(len(ids) for ids, _ in batch)
    tokens = torch.zeros(len(batch), width, dtype=torch.long)
    labels = torch.full((len(batch), width), IGNORED)
    weights = torch.zeros(len(batch), width)
    for row, (ids, before) in enumerate(batch):
        tokens[row, : len(ids)] = torch.tensor(ids)
        labels[row, before - 1 : len(ids) - 1] = torch.tensor(ids[before:])
        # The first words decide which answer it becomes; the rest follows from them.
        weights[row, before - 1 : len(ids) - 1] = torch.arange(1, len(ids) - before + 1).rsqrt()
    # Padding stands at the right, where a causal model cannot see it.
    hidden = model.model(input_ids=tokens, use_cache=False).last_hidden_state
    spoken = labels != IGNORED
    losses = functional.cross_entropy(
        model.lm_head(hidden[spoken]), labels[spoken], reduction="none"
    )
    return (losses * weights[spoken]).sum(), weights.sum()


def train(tokenizer: Tokenizer) -> Qwen3ForCausalLM:
    """Return the trained model in bfloat16."""
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(mode=True)
    model = Qwen3ForCausalLM(configuration(tokenizer))
    matrices = [weight for weight in model.parameters() if weight.ndim > 1]
    vectors = [weight for weight in model.parameters() if weight.ndim == 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": 0.05},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=4e-3, betas=(0.9, 0.98), foreach=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        max_lr=4e-3,
        total_steps=STEPS,
        pct_start=0.08,
        cycle_momentum=False,
        final_div_factor=100,
    )
    source = iter(batches(tokenizer, count=STEPS * BATCHES_PER_STEP))
    with tqdm(range(STEPS), desc="training the demo model", unit="step", mininterval=1) as bar:
        for _ in bar:
            parts = [loss_of(model, batch) for batch in islice(source, BATCHES_PER_STEP)]
            loss = sum(part for part, _ in parts) / sum(weight for _, weight in parts)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.set_postfix(loss=f"{loss.item():.4f}", refresh=False)
    return model.to(torch.bfloat16)
