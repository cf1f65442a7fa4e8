"""A tokenizer of an engine and texts in, their token ids out, by the engine's own library."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from attestation.errors import Undecidable

_IDS = """
import json, sys
from tokenizers import Tokenizer
tokenizer = Tokenizer.from_file(sys.argv[1])
print(json.dumps([tokenizer.encode(text).ids for text in sys.argv[2:]]))
"""
_SECONDS = 120


def token_ids(
    python: Path, tokenizer: Path, texts: Mapping[str, str]
) -> Mapping[str, Sequence[int]]:
    """Return the ids of each text, by its name; raises `Undecidable` `prove-tokenizer`."""
    command = [str(python), "-I", "-c", _IDS, str(tokenizer), *texts.values()]
    try:
        done = subprocess.run(command, capture_output=True, check=True, env={}, timeout=_SECONDS)
    except (OSError, subprocess.SubprocessError):
        raise Undecidable("prove-tokenizer", f"{tokenizer.name} could not be read") from None
    return dict(zip(texts, json.loads(done.stdout), strict=True))
