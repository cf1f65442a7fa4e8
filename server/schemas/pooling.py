"""Requests that are answered in numbers: bytes in, JSON for vLLM's pooling routes out.

Texts and token ids for `/v1/embeddings`, as OpenAI defines it; a query and documents for
`/v1/rerank`, as Jina, Cohere and vLLM define it.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, StringConstraints

from attestation.confidential import Confidential
from server.engine.tasks import Task
from server.schemas.fields import (
    Content,
    Dropped,
    ModelName,
    RefusedControl,
    RefusedEcho,
    RefusedMedia,
    RefusedTemplate,
)
from server.schemas.target import Target, encode

MAX_INPUTS = 2048
"""Inputs of one request (OpenAI's limit)."""
MAX_DOCUMENTS = 512
MAX_QUERY = 8192
"""Characters; the engine gets the query once for each document."""

Text = Annotated[str, StringConstraints(min_length=1)]
TokenNumber = Annotated[int, Field(ge=0, lt=2**24)]
Tokens = Annotated[tuple[TokenNumber, ...], Field(min_length=1)]
Words = Annotated[str, StringConstraints(min_length=1, max_length=MAX_QUERY)]

_JUDGE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n"
)
_ANSWER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class _Pooled(Content):
    """What both kinds share: who asks is forgotten, and what only engines know is refused."""

    model: ModelName

    user: Dropped = None
    request_id: RefusedControl = None
    cache_salt: RefusedControl = None
    priority: RefusedControl = None
    truncate_prompt_tokens: RefusedControl = None
    truncation_side: RefusedControl = None
    padding: RefusedControl = None
    use_activation: RefusedControl = None
    chat_template: RefusedTemplate = None
    chat_template_kwargs: RefusedTemplate = None
    add_special_tokens: RefusedTemplate = None
    mm_processor_kwargs: RefusedMedia = None


class EmbeddingsRequest(_Pooled):
    """Inputs to make vectors of. Token ids are those of the served model's own tokenizer."""

    task: ClassVar[Task] = "embed"
    engine_path: ClassVar[str] = "/v1/embeddings"

    input: (
        Text
        | Annotated[tuple[Text, ...], Field(min_length=1, max_length=MAX_INPUTS)]
        | Tokens
        | Annotated[tuple[Tokens, ...], Field(min_length=1, max_length=MAX_INPUTS)]
    )
    dimensions: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """How many of a vector's dimensions are wanted; they are normalised again."""
    encoding_format: Literal["float", "base64"] | None = None

    messages: RefusedTemplate = None
    embed_dtype: RefusedControl = None
    endianness: RefusedControl = None

    @property
    def prompts(self) -> int:
        """How many vectors are asked for."""
        if isinstance(self.input, str) or isinstance(self.input[0], int):
            return 1
        return len(self.input)

    def engine_body(self, target: Target) -> Confidential[bytes]:
        """Build the engine's JSON: vectors come as base64, which costs it and us the least."""
        body: dict[str, Any] = {
            "model": target.model,
            "cache_salt": target.cache_salt,
            "input": self.input,
            "encoding_format": "base64",
            "embed_dtype": "float32",
            "endianness": "little",
        }
        if self.dimensions is not None:
            body["dimensions"] = self.dimensions
        return encode(body)


class Document(Content):
    """A document in the form of an object, as Cohere's clients send it."""

    text: Text


class RerankRequest(_Pooled):
    """Documents to order by their relevance to a query."""

    task: ClassVar[Task] = "rerank"
    engine_path: ClassVar[str] = "/classify"

    query: Words
    documents: Annotated[tuple[Text | Document, ...], Field(min_length=1, max_length=MAX_DOCUMENTS)]
    top_n: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """How many results are wanted, the most relevant first; None for all."""
    instruction: Words | None = None
    """What makes a document relevant, in English (Qwen3-Reranker model card)."""

    return_documents: RefusedEcho = None
    max_tokens_per_doc: RefusedControl = None
    max_tokens_per_query: RefusedControl = None

    @property
    def prompts(self) -> int:
        """How many documents are judged."""
        return len(self.documents)

    def engine_body(self, target: Target) -> Confidential[bytes]:
        """Build the engine's JSON: the question of the model card about each document."""
        asked = f"<Instruct>: {self.instruction or _INSTRUCTION}\n<Query>: {self.query}\n"
        texts = (item if isinstance(item, str) else item.text for item in self.documents)
        return encode(
            {
                "model": target.model,
                "cache_salt": target.cache_salt,
                "input": [f"{_JUDGE}{asked}<Document>: {text}{_ANSWER}" for text in texts],
                "add_special_tokens": False,
            }
        )
