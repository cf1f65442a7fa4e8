"""Build the demonstration model into a directory, unless this very recipe made the one there."""

import fcntl
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

HERE = Path(__file__).parent
STAMP = ".recipe"  # hidden: not part of the model
GOLDEN = ".golden.json"  # signed with the manifest, not part of the model either
# What Qwen3's authors advise for thinking mode; greedy decoding is advised against there.
SAMPLING = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20}


def recipe() -> str:
    """Return the digest of everything that decides what the model is."""
    digest = hashlib.sha256()
    for path in sorted(HERE.iterdir()):
        if path.is_file() and path.name != "check.py":
            digest.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def is_current(directory: Path) -> bool:
    """Tell whether the directory holds what this recipe makes."""
    stamp = directory / STAMP
    return stamp.is_file() and stamp.read_text("ascii").strip() == recipe()


@contextmanager
def alone(target: Path) -> Iterator[None]:
    """Let one process at a time build the target; a killed one leaves the lock free."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def write(into: Path) -> None:
    """Train and write a complete Hugging Face model directory."""
    # Imports of seconds, not needed when the model is there.
    from scripts.demo_model import corpus, golden, tokenizer, train  # noqa: PLC0415

    texts = [
        sample.prompt + sample.completion
        for sample in islice(corpus.Speaker(train.SEED).samples(), 4000)
    ]
    vocabulary = tokenizer.train(texts)
    model = train.train(vocabulary)
    end, padding = (vocabulary.token_to_id(text) for text in (corpus.END, "<|endoftext|>"))
    model.generation_config.update(**SAMPLING, eos_token_id=[end, padding], pad_token_id=padding)
    model.save_pretrained(into)
    tokenizer.save(
        vocabulary,
        into,
        template=(HERE / "template.jinja").read_text("utf-8"),
        longest=train.LONGEST,
    )
    (into / "README.md").write_text(
        card(sum(weight.numel() for weight in model.parameters())), "utf-8"
    )
    said = golden.answer(model, vocabulary, ends=(end, padding))
    (into / GOLDEN).write_text(said.model_dump_json(indent=2) + "\n", "utf-8")
    (into / STAMP).write_text(recipe() + "\n", "ascii")


def card(parameters: int) -> str:
    """Return the model card, which lists what the model knows."""
    known = json.loads((HERE / "questions.json").read_text("utf-8"))
    rows = [
        f"| {entry['ask']} | {entry['answer'].replace(chr(10), ' / ')} |"
        for entry in known["questions"]
    ]
    return (
        (HERE / "card.md")
        .read_text("utf-8")
        .format(
            parameters=f"{parameters / 1e6:.1f} million",
            questions="\n".join(rows),
            weather=known["tool_question"]["ask"],
            result=known["tool_question"]["result"],
            unknown=known["unknown"]["answer"],
        )
    )


def build(target: Path) -> None:
    """Put the model at `target`: whole or, if the build is killed at any moment, not at all."""
    with alone(target):
        if is_current(target):
            return
        for left in target.parent.glob(f".{target.name}.building-*"):
            shutil.rmtree(left)
        made = Path(tempfile.mkdtemp(prefix=f".{target.name}.building-", dir=target.parent))
        write(made)
        made.chmod(0o755)
        if target.exists():
            target.rename(made / "replaced")
        made.rename(target)
        shutil.rmtree(target / "replaced", ignore_errors=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: scripts/demo-model DIRECTORY")
    os.umask(0o022)
    build(Path(sys.argv[1]).absolute())
