"""What a model is served for in, the flags out that make vLLM do exactly that."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

from server.sampling import defaults

Task = Literal["generate", "embed", "rerank"]
"""What the routes of a model answer with: words, vectors, or the relevance of documents."""

ToolCallParser = Literal["hermes", "qwen3_coder"]

_STRUCTURED = {"backend": "xgrammar", "disable_any_whitespace": True}

# What Qwen's model card of the embedding models does after the last layer: the state of the last
# token, normalised. Each was trained so that the first dimensions of a vector are one themselves.
_LAST = {"seq_pooling_type": "LAST", "use_activation": True}
_MATRYOSHKA = {"is_matryoshka": True}

# The rerankers are causal models that say "yes" or "no": vLLM keeps those two rows of the output
# layer, and the sigmoid of their difference is the softmax over the two that the card asks for.
_YES_OR_NO = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}


@dataclass(frozen=True, slots=True)
class Generating:
    """An engine that answers in words."""

    reasoning: bool
    tool_call_parser: ToolCallParser


@dataclass(frozen=True, slots=True)
class Pooling:
    """An engine that answers each text with one vector or score."""

    task: Literal["embed", "rerank"]


Work = Generating | Pooling


def flags(work: Work) -> tuple[str, ...]:
    """Return the part of vLLM's command line that depends on `work`."""
    if isinstance(work, Generating):
        return (
            *("--generation-config", "vllm"),
            *("--override-generation-config", as_json(dict(defaults(thinking=work.reasoning)))),
            *_parsers(work),
            # compact: a small model can pad valid JSON with white space until its tokens run out
            *("--structured-outputs-config", as_json(_STRUCTURED)),
        )
    if work.task == "embed":
        return (
            *("--runner", "pooling", "--convert", "embed"),
            *("--pooler-config", as_json(_LAST), "--hf-overrides", as_json(_MATRYOSHKA)),
        )
    return (
        *("--runner", "pooling", "--convert", "classify"),
        *("--hf-overrides", as_json(_YES_OR_NO)),
    )


def as_json(value: object) -> str:
    """Return `value` as vLLM's command line takes it, the same text every time."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _parsers(work: Generating) -> tuple[str, ...]:
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", work.tool_call_parser)
    if work.reasoning:
        return (*tools, "--reasoning-parser", "qwen3")
    # a reasoning parser would put the whole answer of such a model where no client looks
    return (*tools, "--default-chat-template-kwargs", as_json({"enable_thinking": False}))
