"""Refusals of the API: a code in, an OpenAI-shaped body out; the words come from one table.

`param` is only ever assembled from field names that our own schemas declare, so no byte of a
request can come back in an error. `type` is OpenAI's vocabulary; `code` is ours and stable.
"""

from __future__ import annotations

import json
from types import MappingProxyType
from typing import ClassVar


class Rejected(Exception):
    """Root of what a client is told; raise one of its kinds, never this one."""

    status: ClassVar[int]
    type: ClassVar[str] = "invalid_request_error"

    def __init__(
        self,
        code: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
        allow: str | None = None,
    ) -> None:
        super().__init__(code)
        self.code = code
        self.message = MESSAGES[code]
        self.param = param
        self.retry_after = retry_after
        """Seconds after which asking again makes sense (RFC 9110 section 10.2.3)."""
        self.allow = allow
        """Methods the route answers (RFC 9110 section 10.2.1)."""

    def body(self) -> bytes:
        """Return the JSON that OpenAI clients parse."""
        error = {
            "message": self.message,
            "type": self.type,
            "code": self.code,
            "param": self.param,
        }
        return json.dumps({"error": error}).encode()


class BadRequest(Rejected):
    """The request must change before it is sent again."""

    status = 400


class Unauthenticated(Rejected):
    """No API key, or one that this deployment did not issue."""

    status = 401
    type = "authentication_error"


class Forbidden(Rejected):
    """A known caller who may not do this."""

    status = 403
    type = "permission_error"


class NotFound(Rejected):
    """No such route or model."""

    status = 404


class MethodNotAllowed(Rejected):
    """The route exists under another method."""

    status = 405


class TooSlow(Rejected):
    """The body did not arrive in time."""

    status = 408


class TooLarge(Rejected):
    """The body is over the limit."""

    status = 413


class Overloaded(Rejected):
    """More is asked than can be served now; try again after `retry_after` seconds."""

    status = 429
    type = "rate_limit_error"


class Bug(Rejected):
    """Something of ours broke; the request id finds the log line."""

    status = 500
    type = "server_error"


class EngineFailed(Rejected):
    """The engine broke off, died or answered nonsense."""

    status = 502
    type = "server_error"


class Unavailable(Rejected):
    """The service cannot answer now: draining, or a part of it is down."""

    status = 503
    type = "server_error"


class TimedOut(Rejected):
    """The request ran into the time limit of this deployment."""

    status = 504
    type = "server_error"


MESSAGES = MappingProxyType(
    {
        # -- who is asking
        "key-missing": "Send an API key as 'Authorization: Bearer sk-tacit-...'.",
        "key-malformed": "The API key is incomplete or mistyped; its checksum does not match.",
        "key-unknown": "This API key is not valid here; ask the operator for one.",
        "key-expired": "This API key has expired; ask the operator for a new one.",
        "keys-unavailable": "API keys cannot be checked now; the operator must mend the key file.",
        "token-refused": "This token does not verify here or has ended; get a new one.",
        "token-tenant": "This token names no tenant of this service, or more than one.",
        "certificate-refused": "This client certificate stands for no tenant of this service.",
        "tenant-unknown": "This service has no place for the tenant of this key; ask its operator.",
        "tenant-busy": "All places of this tenant are taken; try again after Retry-After.",
        "rate_limit_exceeded": "The quota of this minute is used up; try again after Retry-After.",
        "over-quota": "This request may cost more than a minute's quota; lower max_tokens or n.",
        "admin-request": "Compare the body with the admin API's documents; a field does not fit.",
        "admin-key-unknown": "No key has this id; list the keys.",
        "admin-keys-unwritable": "The key file cannot be written; change it with tacit apikey.",
        "operator-login": "Log in with a certificate or token that the settings list.",
        "operator-role": "Ask an operator who has the role; the settings give roles.",
        # -- where
        "route-unknown": "There is no such route; see the API documentation.",
        "method-not-allowed": "This route does not answer that method; see the Allow header.",
        "model-not-found": "No such model is served here; GET /v1/models lists them.",
        "model-task": "This model serves another route; GET /v1/models says the task of each.",
        # -- the bytes
        "body-too-large": "The request body is over the limit of this deployment.",
        "body-too-slow": "The request body did not arrive in time.",
        "content-type": "Send the body as 'Content-Type: application/json', without encoding.",
        "http-malformed": "This is not HTTP/1.1; use an HTTP client.",
        "json-malformed": "Send one JSON object in UTF-8, without duplicate names.",
        # -- the fields
        "field-invalid": "A field has the wrong type or value; 'param' names it where it can.",
        "field-missing": "A required field is missing; 'param' names it.",
        "unknown-field": "A field is not part of this API; 'param' says where, in our words.",
        "fields-conflict": "Two fields contradict each other; 'param' names one of them.",
        "too-many": "A list or text is longer than this API accepts; 'param' names it.",
        "schema-too-large": "The JSON schema is too large or too deeply nested; simplify it.",
        "tool-unknown": "'tool_choice' names a function that 'tools' does not define.",
        "thinking-unsupported": "This model does not think before it answers; do not ask it to.",
        # -- refused on purpose
        "media-refused": "Only text is accepted: no images, audio, files, embeddings or links.",
        "store-refused": "Nothing is stored here; omit the field or set it to false.",
        "engine-control-refused": "This field steers the engine; the service sets it itself.",
        "template-refused": "The chat template is measured with the model and cannot be changed.",
        "echo-refused": "Prompts are not repeated in answers; omit the field.",
        "decoding-refused": "Decoding is not open here; shape output with 'response_format'.",
        "egress-refused": "The service opens no connections for a request; run tools yourself.",
        "deprecated-refused": "Use 'tools' and 'tool_choice' instead of this deprecated field.",
        # -- the service
        "overloaded": "All places are taken; try again after the time in Retry-After.",
        "draining": "This replica is shutting down; try again, another will answer.",
        "context_length_exceeded": "The prompt is longer than the model's context; shorten it.",
        "max_tokens_exceeded": "Prompt and max_tokens together exceed the model's context.",
        "batch-too-large": "This is more than one engine takes at once; send it in parts.",
        "vectors-refused": (
            "The engine did not accept the request: an input may be longer than the model's "
            "context, 'dimensions' larger than its vectors, or a token id none of its own."
        ),
        "engine-refused": (
            "The engine did not accept the request: prompt and output together may be longer than "
            "the model's context, or the JSON schema uses a feature it does not support."
        ),
        "engine-failed": "The engine failed; try again.",
        "engine-down": "An engine is down; another replica will answer.",
        "engine-busy": "The engine's queue is full; try again after the time in Retry-After.",
        "request-timeout": "The answer took longer than this deployment allows; ask for less.",
        "audit-unavailable": "The audit log cannot be written, so nothing is served; try later.",
        "internal": "Something broke on our side; report the x-request-id of this answer.",
        # -- attestation
        "nonce-invalid": "Send '?nonce=' with 64 hexadecimal digits that you chose at random.",
        "report-overloaded": "Too many reports are waiting; try again after Retry-After.",
        "attestation-unavailable": "Fresh evidence cannot be made now; try later.",
    }
)
"""Code -> what the client is told. Codes are stable; add rows, never rename one."""
