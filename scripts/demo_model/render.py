"""Render a conversation to the text that the model reads, as transformers and vLLM do."""

import json
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = Path(__file__).parent
TEMPLATE = (HERE / "template.jinja").read_text("utf-8")


def _compact(value: object) -> str:
    """Write JSON as chat templates expect it: keys in their order, nothing escaped for HTML."""
    return json.dumps(value, ensure_ascii=False)


_environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, autoescape=False)
_environment.filters["tojson"] = _compact
_template = _environment.from_string(TEMPLATE)


def prompt(messages: list[dict[str, Any]], **options: Any) -> str:
    """Return the prompt up to where the assistant speaks; `options`: tools, enable_thinking."""
    return _template.render(messages=messages, add_generation_prompt=True, **options)
