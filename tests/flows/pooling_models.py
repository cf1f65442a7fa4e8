"""Runs in the engine's environment: the demonstration model in, an embedder and a reranker out.

python pooling_models.py DEMO INTO   ->   INTO/embedding, INTO/reranker, and on stdout as JSON what
transformers says of some texts and pairs, as Qwen's model cards compute it
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

TEXTS = ("What is Tacit?", "a", "The weather in Bern is sunny. " * 12, "grün 日本 🙂")
QUERY = "What is Tacit?"
DOCUMENTS = (
    "Tacit serves Qwen3.",
    "Nothing.",
    "What is Tacit? It keeps no prompt.",
    "yes no yes",
)
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
END = "<|endoftext|>"


def embedding(demo: Path, into: Path) -> None:
    """Write the model with a tokenizer that ends each text, as that of Qwen3-Embedding does."""
    shutil.copytree(demo, into, ignore=shutil.ignore_patterns(".*"))
    tokenizer = Tokenizer.from_file(str(demo / "tokenizer.json"))
    ends = [(END, tokenizer.token_to_id(END))]
    tokenizer.post_processor = TemplateProcessing(single=f"$A {END}", special_tokens=ends)
    tokenizer.save(str(into / "tokenizer.json"))
    # what sentence-transformers is told, and vLLM reads as well
    names = ("Transformer", "Pooling", "Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    modules = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{name}"}
        for n, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    (into / "modules.json").write_text(json.dumps(modules))
    (into / "1_Pooling").mkdir()
    (into / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 192, "pooling_mode_lasttoken": True})
    )


def reranker(demo: Path, into: Path) -> None:
    """Write the model with a token for "yes", which the demonstration never says alone."""
    torch.manual_seed(20261125)
    shutil.copytree(demo, into, ignore=shutil.ignore_patterns(".*", "*.safetensors"))
    tokenizer = Tokenizer.from_file(str(demo / "tokenizer.json"))
    tokenizer.add_tokens(["yes"])
    tokenizer.save(str(into / "tokenizer.json"))
    model = Qwen3ForCausalLM.from_pretrained(demo, dtype=torch.bfloat16)
    rows = -(-tokenizer.get_vocab_size() // 64) * 64
    model.resize_token_embeddings(rows, mean_resizing=False)
    model.save_pretrained(into)


def vectors(directory: Path) -> list[list[float]]:
    """Return the normalised last hidden state of the last token of each text."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    model = Qwen3ForCausalLM.from_pretrained(directory, dtype=torch.float32).model
    found = []
    for text in TEXTS:
        encoded = tokenizer(text, return_tensors="pt")
        assert encoded["input_ids"][0, -1] == tokenizer.convert_tokens_to_ids(END)
        last = model(**encoded).last_hidden_state[0, -1]
        found.append(torch.nn.functional.normalize(last, dim=0).tolist())
    return found


def scores(directory: Path) -> list[float]:
    """Return the probability of "yes" against "no" for each document."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    model = Qwen3ForCausalLM.from_pretrained(directory, dtype=torch.float32)
    before = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query "
        "and the Instruct provided. Note that the answer can only be "
        '"yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    after = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    wanted = [tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")]
    found = []
    for document in DOCUMENTS:
        pair = f"<Instruct>: {INSTRUCTION}\n<Query>: {QUERY}\n<Document>: {document}"
        encoded = tokenizer(before + pair + after, add_special_tokens=False, return_tensors="pt")
        odds = model(**encoded).logits[0, -1, wanted]
        found.append(torch.softmax(odds, dim=0)[0].item())
    return found


@torch.inference_mode()
def main(demo: Path, into: Path) -> None:
    embedding(demo, into / "embedding")
    reranker(demo, into / "reranker")
    said = {
        "texts": TEXTS,
        "vectors": vectors(into / "embedding"),
        "query": QUERY,
        "documents": DOCUMENTS,
        "scores": scores(into / "reranker"),
    }
    print(f"\n{json.dumps(said)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
