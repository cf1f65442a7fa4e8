"""Runs in the engine's environment: make a Qwen3 of some size, or serve its package on two ranks.

python sealed_ranks.py make MODEL REFERENCE     a checkpoint, and what transformers makes of PROMPT
python sealed_ranks.py serve SMALL SETTINGS     waits for a line on stdin; one JSON line on stdout
"""

import json
import sys
from pathlib import Path

PROMPT = [11, 4000, 16001, 7, 7, 12345, 900, 8192]


def make(into: Path, reference: Path) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(20261125)
    config = Qwen3Config(
        vocab_size=16384,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=1,
        num_attention_heads=16,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        initializer_range=0.05,
        dtype=torch.bfloat16,
    )
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(into)
    with torch.inference_mode():
        odds = torch.log_softmax(model(torch.tensor([PROMPT])).logits[0].float(), dim=-1)
    said = [odds[place, token].item() for place, token in enumerate(PROMPT[1:])]
    reference.write_text(json.dumps(said))


def serve(small: Path, settings: dict[str, str]) -> None:
    from vllm import LLM, SamplingParams

    sys.stdin.readline()
    llm = LLM(
        model=str(small),
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=4,
        dtype="bfloat16",
        tensor_parallel_size=2,
        load_format="sealed",
        model_loader_extra_config=settings,
    )

    def odds() -> list[float]:
        how = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        llm.reset_prefix_cache()
        (answer,) = llm.generate([{"prompt_token_ids": PROMPT}], how, use_tqdm=False)
        places = zip(PROMPT[1:], answer.prompt_logprobs[1:], strict=True)
        return [step[token].logprob for token, step in places]

    result: dict[str, object] = {"loaded": odds()}
    print("\nREADY", flush=True)
    sys.stdin.readline()
    try:
        llm.collective_rpc("reload_weights")
        result["reload"] = "done"
    except Exception as error:
        result["reload"] = type(error).__name__
    result["afterwards"] = odds()
    print(f"\n{json.dumps(result)}", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "make":
        make(Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        serve(Path(sys.argv[2]), json.loads(sys.argv[3]))
