"""A model's directory in, its golden output on stdout: the stock engine's greedy answer."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from scripts.golden_output.document import golden

PROMPT = "Name the planets of the solar system from the Sun outwards, separated by commas."


def main() -> int:
    """Start vLLM on the plaintext model, ask once, print the document."""
    parser = argparse.ArgumentParser(
        prog="scripts/golden", description="Print the golden output of a model."
    )
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--prompt", default=PROMPT, help=f"what is asked (default: {PROMPT!r})")
    parser.add_argument("--thinking", action="store_true", help="let a model that can think do so")
    parser.add_argument("--tokens", type=int, default=48, help="of the answer, at most (48)")
    parser.add_argument("--tensor-parallel", type=int, default=1, metavar="N")
    parser.add_argument(
        "--dtype", default="auto", help="as the deployment's (default: the model's)"
    )
    arguments = parser.parse_args()

    out = os.dup(1)
    os.dup2(2, 1)  # vLLM talks on stdout
    from vllm import LLM, SamplingParams  # noqa: PLC0415 - seconds, and --help needs none of it

    llm = LLM(
        model=str(arguments.model.resolve()),
        dtype=arguments.dtype,
        tensor_parallel_size=arguments.tensor_parallel,
        enforce_eager=True,
        max_model_len=1024,
        max_num_seqs=1,
    )
    (answer,) = llm.chat(
        [{"role": "user", "content": arguments.prompt}],
        SamplingParams(temperature=0, max_tokens=arguments.tokens, logprobs=5),
        chat_template_kwargs={"enable_thinking": arguments.thinking},
        use_tqdm=False,
    )
    steps = [
        {token: odds.logprob for token, odds in step.items()} for step in answer.outputs[0].logprobs
    ]
    try:
        document = golden(
            arguments.prompt,
            thinking=arguments.thinking,
            prompt_ids=answer.prompt_token_ids,
            steps=steps,
            ends=(),  # the engine stopped there itself
        )
    except ValueError:
        print("golden: too few tokens are clear; choose another --prompt", file=sys.stderr)
        return 1
    os.write(out, document.model_dump_json(indent=2).encode() + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
