"""What chat and completion requests share: sampling, output shape, and fields refused by name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from server.schemas.fields import (
    MAX_CHOICES,
    Bias,
    Content,
    Count,
    Dropped,
    FunctionName,
    JsonSchema,
    MinP,
    ModelName,
    Penalty,
    RefusedControl,
    RefusedDecoding,
    RefusedDeprecated,
    RefusedEcho,
    RefusedEgress,
    RefusedMedia,
    RefusedStore,
    RefusedTemplate,
    RepetitionPenalty,
    Stop,
    Temperature,
    TokenId,
    TopK,
    TopP,
    refuse,
)

_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
_GREEDY = 1e-5
"""Temperature below which the engine always takes the likeliest token, so `n` answers are one."""
_FORWARDED = (
    *_SAMPLING,
    "n",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "logit_bias",
    "min_tokens",
    "ignore_eos",
)


class StreamOptions(Content):
    """Options of a stream; obfuscation pads nothing here because TLS records are not the target."""

    include_usage: bool | None = None
    include_obfuscation: Dropped = None


class SchemaFormat(Content):
    """A named JSON Schema the answer must match."""

    name: FunctionName
    description: str | None = None
    schema_: JsonSchema = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(Content):
    """Free text, any JSON object, or JSON of one schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: SchemaFormat | None = None

    @model_validator(mode="after")
    def _schema_where_named(self) -> ResponseFormat:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise refuse("fields-conflict", param="json_schema")
        return self

    def to_engine(self) -> dict[str, Any]:
        """Return the format in the engine's words."""
        if self.json_schema is None:
            return {"type": self.type}
        wanted: dict[str, Any] = {
            "name": self.json_schema.name,
            "schema": self.json_schema.schema_,
            "strict": True,  # the grammar is enforced whatever the client asked
        }
        return {"type": self.type, "json_schema": wanted}


class Controls(Content):
    """Fields of both routes. `seed` is best effort (OpenAI) and does nothing on the CPU backend.

    The CPU engine dies when a seeded request is prefilled in parts, which would let any caller end
    everyone's requests; a GPU engine gets the seed.
    """

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Field(ge=1, le=MAX_CHOICES)] | None = None
    stop: Stop | None = None
    max_tokens: Count | None = None
    min_tokens: Annotated[int, Field(ge=0, le=1_048_576)] | None = None
    ignore_eos: bool | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: MinP | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    logit_bias: Annotated[dict[TokenId, Bias], Field(max_length=300)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    response_format: ResponseFormat | None = None

    # accepted and dropped: they name people or wish for what one replica cannot give
    user: Dropped = None
    metadata: Dropped = None
    safety_identifier: Dropped = None
    prompt_cache_key: Dropped = None
    prompt_cache_retention: Dropped = None
    service_tier: Literal["auto", "default"] | None = None

    store: RefusedStore = None
    background: RefusedStore = None
    previous_response_id: RefusedStore = None
    request_id: RefusedControl = None
    session_id: RefusedControl = None
    cache_salt: RefusedControl = None
    priority: RefusedControl = None
    kv_transfer_params: RefusedControl = None
    ec_transfer_params: RefusedControl = None
    vllm_xargs: RefusedControl = None
    stream_interval: RefusedControl = None
    thinking_token_budget: RefusedControl = None
    truncate_prompt_tokens: RefusedControl = None
    routed_experts_prompt_start: RefusedControl = None
    include_reasoning: RefusedControl = None
    watermarking: RefusedControl = None
    chat_template: RefusedTemplate = None
    documents: RefusedTemplate = None
    add_generation_prompt: RefusedTemplate = None
    continue_final_message: RefusedTemplate = None
    add_special_tokens: RefusedTemplate = None
    prompt_embeds: RefusedMedia = None
    modalities: RefusedMedia = None
    audio: RefusedMedia = None
    mm_processor_kwargs: RefusedMedia = None
    media_io_kwargs: RefusedMedia = None
    echo: RefusedEcho = None
    prompt_logprobs: RefusedEcho = None
    return_token_ids: RefusedEcho = None
    return_prompt_text: RefusedEcho = None
    return_tokens_as_token_ids: RefusedEcho = None
    return_token_offsets: RefusedEcho = None
    suffix: RefusedTemplate = None
    structured_outputs: RefusedDecoding = None
    guided_json: RefusedDecoding = None
    guided_regex: RefusedDecoding = None
    guided_choice: RefusedDecoding = None
    guided_grammar: RefusedDecoding = None
    logits_processors: RefusedDecoding = None
    use_beam_search: RefusedDecoding = None
    best_of: RefusedDecoding = None
    bad_words: RefusedDecoding = None
    allowed_token_ids: RefusedDecoding = None
    stop_token_ids: RefusedDecoding = None
    logprob_token_ids: RefusedDecoding = None
    repetition_detection: RefusedDecoding = None
    length_penalty: RefusedDecoding = None
    skip_special_tokens: RefusedDecoding = None
    spaces_between_special_tokens: RefusedDecoding = None
    include_stop_str_in_output: RefusedDecoding = None
    web_search_options: RefusedEgress = None
    functions: RefusedDeprecated = None
    function_call: RefusedDeprecated = None

    @model_validator(mode="after")
    def _consistent(self) -> Controls:
        if self.stream_options is not None and not self.stream:
            raise refuse("fields-conflict", param="stream_options")
        if (self.n or 1) > 1 and self.temperature is not None and self.temperature < _GREEDY:
            raise refuse("fields-conflict", param="n")
        if self.max_tokens is not None and (self.min_tokens or 0) > self.max_tokens:
            raise refuse("fields-conflict", param="min_tokens")
        return self

    @property
    def wants_usage(self) -> bool:
        """Whether the stream ends with the token counts."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def engine_controls(self) -> dict[str, JsonValue]:
        """Return the sampling fields the client named, in the engine's words."""
        named: dict[str, Any] = {}
        for name in _FORWARDED:
            value = getattr(self, name)
            if value is not None:
                named[name] = list(value) if isinstance(value, tuple) else value
        if self.response_format is not None:
            named["response_format"] = self.response_format.to_engine()
        return named
