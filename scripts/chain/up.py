"""`scripts/up`: from a clone to a verified chat, one step after the other, each one shown."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from openai import OpenAI
from openai.types.chat import ChatCompletionChunk

from attestation.client import attested_client
from attestation.errors import ConfigError, Refusal
from attestation.policy import Policy
from scripts.chain.installation import MODEL, Installation, configure
from scripts.chain.processes import ROOT, TACIT, Failed, show
from scripts.chain.services import Chain

STATE = ROOT / ".tacit"
EXAMPLE = ROOT / "configs" / "simulated.yaml"
PORT = 8443
QUESTION = "What does Tacit keep of my prompt?"

LINES = """
  from attestation import Policy, attested_client
  policy = Policy.load(open("{policy}", "rb").read(), name="policy.yaml")
  client = OpenAI(base_url="{url}/v1", api_key=open("{key}").read(),
                  http_client=attested_client("{url}", policy))
"""


def main() -> int:
    """Run the steps; 0 only when every one of them worked."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with ExitStack() as stack:
            _up(arguments, stack)
    except KeyboardInterrupt:
        _say("stopped")
        return 130
    except (Refusal, ConfigError) as refusal:
        _say(f"{refusal.why} ({refusal.code})\n    next: {refusal.next_step}")
        return refusal.exit_code
    except Failed as failed:
        _say(str(failed))
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/up", description="Install, build, start, verify and chat on this machine."
    )
    parser.add_argument("--once", action="store_true", help="stop after the chat; 0: all worked")
    parser.add_argument("--port", type=int, default=PORT, help="of the API; the broker's is next")
    parser.add_argument("--model", type=Path, metavar="PATH", help="serve this Qwen3 checkpoint")
    return parser.parse_args()


def _up(arguments: argparse.Namespace, stack: ExitStack) -> None:
    began = time.monotonic()
    _step(1, "the model" if arguments.model else "the model: a small Qwen3, trained here once")
    checkpoint = arguments.model or STATE / "models" / MODEL
    if not arguments.model:
        show([ROOT / "scripts/demo-model", checkpoint])

    _step(2, "software TDX, keys, sealed weights, policy")
    installation = Installation(STATE, _configuration(arguments))
    installation.prepare({MODEL: checkpoint}, broker_port=arguments.port + 1)

    _step(3, "software TDX, key broker, gateway with vLLM (its start takes a minute or two)")
    chain = Chain(installation, stack)
    chain.start(seconds=900)
    url = f"https://127.0.0.1:{arguments.port}"

    _step(4, "verification, as a security officer would run it")
    show([TACIT, "verify", "service", url, "--policy", installation.policy])

    _step(5, "a chat through the unchanged openai SDK, over the attested connection")
    _chat(url, installation)
    _step(6, f"done after {time.monotonic() - began:.0f} s; the same from your own program:")
    print(LINES.format(url=url, policy=installation.policy, key=installation.api_key))
    if not arguments.once:
        _say(f"serving {url} until Ctrl-C")
        chain.wait()


def _configuration(arguments: argparse.Namespace) -> Path:
    """Return the example configuration, or a copy with what the arguments change."""
    if arguments.port == PORT and arguments.model is None:
        return EXAMPLE
    STATE.mkdir(mode=0o700, exist_ok=True)
    changes = {
        "listen.port": arguments.port,
        "broker.url": f"https://127.0.0.1:{arguments.port + 1}",
    }
    if arguments.model is not None:
        changes |= {
            f"models.{MODEL}.engine.max_model_len": 4096,
            f"models.{MODEL}.engine.kv_cache_gib": 4,
            f"models.{MODEL}.engine.start_seconds": 3600,
        }
    return configure(EXAMPLE, STATE / "simulated.yaml", state=STATE, changes=changes)


def _chat(url: str, installation: Installation) -> None:
    policy = Policy.load(installation.policy.read_bytes(), name=installation.policy.name)
    with (
        attested_client(url, policy) as verified,
        OpenAI(
            base_url=f"{url}/v1", api_key=installation.api_key.read_text(), http_client=verified
        ) as client,
        client.chat.completions.create(
            model=MODEL, messages=[{"role": "user", "content": QUESTION}], stream=True
        ) as stream,
    ):
        print(f"  you        {QUESTION}")
        answer = _stream(stream)
    if not answer:
        raise Failed("the chat had no answer")


def _stream(stream: Iterable[ChatCompletionChunk]) -> str:
    """Show thinking and answer as they arrive, each under its own name; return the answer."""
    shown = {"thinks": "", "answers": ""}
    for chunk in stream:
        for choice in chunk.choices:
            thought = getattr(choice.delta, "reasoning_content", None) or ""
            for name, text in (("thinks", thought), ("answers", choice.delta.content or "")):
                new = text if shown[name] else text.lstrip()
                if new and not shown[name]:
                    print(f"{'' if not any(shown.values()) else chr(10)}  {name:10} ", end="")
                print(new, end="", flush=True)
                shown[name] += new
    print()
    return shown["answers"].strip()


def _step(number: int, what: str) -> None:
    print(f"\n[{number}/6] {what}", flush=True)


def _say(words: str) -> None:
    print(f"up: {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
