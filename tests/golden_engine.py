"""Golden outputs, engines that answer as one says, and an environment whose `vllm` is such one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attestation.confidential import Confidential
from attestation.golden import Golden, GoldenToken
from server.engine.protocol import EngineAnswer

MODULE = "vllm/entrypoints/launchers/api_server/entry.py"

ENTRY = '''
"""Answers on its socket what the file beside it says; reads no weights."""
import json, signal, socketserver, sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path

ANSWERS = json.loads(Path(__file__).with_name("answers.json").read_text())

class Answers(BaseHTTPRequestHandler):
    def log_message(self, *_): pass
    def address_string(self): return "unix"
    def do_GET(self): self.answer({})
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/v1/chat/completions":
            return self.answer({"prompt_token_ids": ANSWERS["prompt"]})
        done = len(body["prompt"]) - len(ANSWERS["prompt"])
        wanted = ANSWERS["steps"][done : done + body["max_tokens"]]
        odds = [{f"token_id:{t}": o for t, o in step["odds"]} for step in wanted]
        ids = [step["chosen"] for step in wanted]
        choice = {"token_ids": ids, "logprobs": {"top_logprobs": odds}}
        self.answer({"choices": [choice]})
    def answer(self, document):
        data = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): pass

signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
Server(sys.argv[sys.argv.index("--uds") + 1], Answers).serve_forever()
'''


def golden(*, tokens: int = 12, close: frozenset[int] = frozenset()) -> Golden:
    """Return a golden output whose tokens are 100, 101, …; those at `close` lead by little."""
    return Golden(
        prompt="What is said?",
        thinking=True,
        prompt_ids=(5, 6, 7),
        tokens=tuple(
            GoldenToken(
                id=100 + place,
                surprise=700 if place in close else 20,
                lead=40 if place in close else 4000,
            )
            for place in range(tokens)
        ),
    )


@dataclass
class Answers:
    """What an engine says to a golden prompt; `steps` are (choice, odds in nats) by place."""

    prompt: list[int]
    steps: list[tuple[int, dict[int, float]]]

    @classmethod
    def to(cls, said: Golden) -> Answers:
        """Return what the signer's own engine would say."""
        return cls(
            list(said.prompt_ids),
            [
                (t.id, {t.id: -t.surprise / 1000, 9: -(t.surprise + t.lead) / 1000})
                for t in said.tokens
            ],
        )

    def chooses(self, place: int, token: int, *, ahead: float) -> Answers:
        """Say `token` at `place` instead, so much likelier than what was said there."""
        chosen, odds = self.steps[place]
        self.steps[place] = (token, {**odds, token: odds[chosen] + ahead})
        return self


@dataclass
class GoldenEngine:
    """An engine without a process; keeps what it was asked."""

    answers: Answers
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    status: int = 200

    async def call(self, path: str, body: Confidential[bytes]) -> EngineAnswer:
        """Answer as vLLM does."""
        request = json.loads(body.reveal())
        self.asked.append((path, request))
        return EngineAnswer(self.status, Confidential(json.dumps(self._answer(request)).encode()))

    def stream(self, path: str, body: Confidential[bytes]) -> Iterator[Any]:
        """Nobody streams a golden output."""
        raise AssertionError

    def _answer(self, request: dict[str, Any]) -> Any:
        if "messages" in request:
            return {"prompt_token_ids": self.answers.prompt}
        done = len(request["prompt"]) - len(self.answers.prompt)
        steps = self.answers.steps[done : done + request["max_tokens"]]
        odds = [{f"token_id:{token}": odd for token, odd in odds.items()} for _, odds in steps]
        ids = [chosen for chosen, _ in steps]
        return {"choices": [{"token_ids": ids, "logprobs": {"top_logprobs": odds}}]}


def environment(directory: Path, answers: Answers) -> Path:
    """Make an environment whose `vllm` answers so; return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", directory], check=True)
    (packages,) = directory.glob("lib/python3*/site-packages")
    entry = packages / MODULE
    entry.parent.mkdir(parents=True)
    for place in (*entry.parents,)[:4]:
        (place / "__init__.py").touch()
    entry.write_text(ENTRY)
    steps = [{"chosen": chosen, "odds": list(odds.items())} for chosen, odds in answers.steps]
    document = {"prompt": answers.prompt, "steps": steps}
    entry.with_name("answers.json").write_text(json.dumps(document))
    information = packages / "vllm-0.0.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.0.0\n")
    return directory / "bin" / "python"
