"""Runs in the engine's environment: load a tiny Qwen3 plain, sealed and tampered; print what came.

python sealed_engine.py DIRECTORY   ->   one JSON line on stdout, after vLLM's own output
"""

import itertools
import json
import os
import random
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from attestation.confidential import data_key
from attestation.errors import Refusal
from attestation.keywire import Ask, Grant, Noted, Refused, decode_question, encode
from attestation.types import Digest
from attestation.weights import SealedModel, UnlockedModel, seal
from tests.sealed_world import CHUNK, DEK, SIGNER, seal_model, write_model

PROMPTS = [[1, 2, 3, 4, 5], [40, 30, 20, 10], [7] * 20]


def make_model(into: Path) -> None:
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(20261125)
    config = Qwen3Config(
        vocab_size=8192,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=False,
        dtype=torch.bfloat16,
    )
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(into, max_shard_size="1MB")


class Agent(threading.Thread):
    """A key agent of a few lines: grants what it holds until closed, keeps what it is told."""

    def __init__(self, path: Path, grant: Grant) -> None:
        super().__init__(daemon=True)
        self.heard: list[Ask | Refused] = []
        self.closed = False
        self._grant = grant
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(str(path))
        self._socket.listen()
        self.start()

    def run(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            with connection:
                question = decode_question(connection.makefile("rb").readline())
                self.heard.append(question)
                answer = Refused("key-window") if self.closed else self._grant
                answer = answer if isinstance(question, Ask) else Noted()
                connection.sendall(encode(answer))


def tokens(llm: object) -> list[list[int]]:
    from vllm import SamplingParams

    llm.reset_prefix_cache()
    sampling = SamplingParams(temperature=0.0, max_tokens=16, detokenize=False, ignore_eos=True)
    answers = llm.generate([{"prompt_token_ids": ids} for ids in PROMPTS], sampling)
    return [list(answer.outputs[0].token_ids) for answer in answers]


def generate(model: Path, *agents: Agent, **how: object) -> list[list[list[int]]]:
    """Generate once, and again after reloads: one that each of `agents` grants, one it refuses."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    llm = LLM(
        model=str(model),
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=256,
        max_num_seqs=4,
        dtype="bfloat16",
        **how,
    )
    said = [tokens(llm)]
    for agent in agents:
        llm.collective_rpc("reload_weights")
        said.append(tokens(llm))
        agent.closed = True
        try:
            llm.collective_rpc("reload_weights")
            said.append([])
        except Exception as error:
            print(type(error).__name__, error, file=sys.stderr)
            said.append(tokens(llm))
    llm.llm_engine.engine_core.shutdown()
    del llm
    cleanup_dist_env_and_memory()
    return said


def sealed(
    directory: Path, package: Path, agent: str, signer: Ed25519PrivateKey
) -> dict[str, object]:
    return {
        "load_format": "sealed",
        "model_loader_extra_config": {
            "key_socket": str(directory / agent),
            "sealed_dir": str(package),
            "signer": signer.public_key().public_bytes_raw().hex(),
            "model": "tiny",
        },
    }


def stream(directory: Path) -> dict[str, object]:
    """Stream a package of two shards: whole, then with the second one's tail damaged."""
    import torch
    from tacit_vllm.stream import owned, tensors

    from attestation.weights import pages

    model = write_model(directory / "shards")
    manifest = seal_model(model, directory / "shards-sealed")
    package = SealedModel.open(directory / "shards-sealed", signer=SIGNER.public_key())

    def read(skip: str, memory: Callable[[int], object] = pages) -> list[str]:
        got: list[str] = []
        with package.unlock(DEK, manifest=manifest.digest, minimum_version=1) as unlocked:
            try:
                for name, tensor in tensors(
                    unlocked, skip=lambda name: name == skip, memory=memory
                ):
                    shard = model / f"model-0000{'ab'.index(name[0]) + 1}-of-00002.safetensors"
                    same = tensor.numpy().tobytes() == shard.read_bytes()[-tensor.numel() :]
                    got.append(f"{name} {'same' if same else 'other'}")
            except Refusal as refusal:
                got.append(refusal.code)
        return got

    whole = read("")
    elsewhere = read("", lambda size: owned(torch.empty(size, dtype=torch.uint8)))
    second = next(f for f in manifest.files if f.path.startswith("model-00002"))
    shard = directory / "shards-sealed" / second.sealed_name
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    return {"whole": whole, "elsewhere": elsewhere, "damaged": read(""), "skipped": read("b.w")}


def spans(package: SealedModel, manifest: Digest, plain: Path) -> list[bool]:
    """Read spans of one file forwards, backwards and over each other, with several read-aheads."""
    from tacit_vllm.chunks import Chunks

    content, draw, same = plain.read_bytes(), random.Random(20261125), []  # noqa: S311 - the same each run
    (file,) = (file for file in package.manifest.files if file.role == "weights")
    for ahead in (0, 1, 2, 4):
        with package.unlock(DEK, manifest=manifest, minimum_version=1) as unlocked:
            chunks = Chunks(unlocked, ahead=ahead)
            for _ in range(60):
                start = draw.randrange(len(content))
                end = min(len(content), start + draw.choice((9, CHUNK, 3 * CHUNK, 8 * CHUNK)))
                room = bytearray(end - start)
                chunks.unseal_into(file, memoryview(room), offset=start)
                same.append(room == content[start:end])
    return same


def behind(package: SealedModel, manifest: Digest, plain: Path) -> dict[str, object]:
    """Fill buffers behind the asking: in order, with gaps, backwards, twice, and a damaged one."""
    from tacit_vllm.behind import Behind

    content, draw = plain.read_bytes(), random.Random(20261125)  # noqa: S311 - the same each run
    (file,) = (file for file in package.manifest.files if file.role == "weights")

    def filled(spans: list[tuple[int, int]]) -> int:
        """Return how many chunks that took; -1 where a buffer is not what the file holds."""
        with package.unlock(DEK, manifest=manifest, minimum_version=1) as unlocked:
            filler, rooms = Behind(unlocked), [bytearray(end - start) for start, end in spans]
            for room, (start, _) in zip(rooms, spans, strict=True):
                filler.unseal_into(file, memoryview(room), offset=start)
            filler.finish()
            filler.finish()
            same = [room == content[a:b] for room, (a, b) in zip(rooms, spans, strict=True)]
            return filler.unsealed if all(same) else -1

    size = len(content)
    cuts = sorted({0, size, *(draw.randrange(size) for _ in range(40))})
    spans = list(itertools.pairwise(cuts))
    wild = [(a, min(size, a + draw.choice((9, CHUNK, 8 * CHUNK)))) for a in cuts[:-1]]
    draw.shuffle(wild)
    return {
        "in order": [filled(spans), size],
        "with gaps": filled(spans[::2]) > 0,
        "backwards": filled(spans[::-1]) > 0,
        "anyhow": filled([*wild, (5, 5), *wild[:9]]) > 0,
    }


def rows(directory: Path) -> dict[str, object]:
    """Use sealed tensors as vLLM's weight loaders do, and count what that reads."""
    import torch
    from safetensors.torch import save_file
    from tacit_vllm.chunks import Chunks
    from tacit_vllm.rows import Rows

    wide = torch.arange(8 * CHUNK, dtype=torch.int64).to(torch.int8).reshape(8, CHUNK)
    model = directory / "wide"
    write_model(model)
    for shard in model.glob("model*"):
        shard.unlink()
    save_file({"w": wide}, model / "model.safetensors")
    manifest = seal_model(model, directory / "wide-sealed")
    shard = next(
        directory / "wide-sealed" / f.sealed_name for f in manifest.files if f.role == "weights"
    )
    damaged = bytearray(shard.read_bytes())
    damaged[-1] ^= 1  # in the last row
    shard.write_bytes(damaged)
    package = SealedModel.open(directory / "wide-sealed", signer=SIGNER.public_key())
    with package.unlock(DEK, manifest=manifest.digest, minimum_version=1) as unlocked:
        chunks = Chunks(unlocked, ahead=0)
        ((name, sealed),) = Rows(chunks, refusing=nullcontext).tensors(skip=lambda _: False)
        header = chunks.unsealed // CHUNK
        result = {"header": header, "shape": [name, *sealed.shape, str(sealed.dtype)]}
        param = torch.empty(3, CHUNK, dtype=torch.int8)
        param.copy_(sealed.narrow(0, 1, 3))
        result["rows"] = [chunks.unsealed // CHUNK - header, torch.equal(param, wide[1:4])]
        param.copy_(sealed.narrow(0, 4, 3))
        result["next"] = [chunks.unsealed // CHUNK - header, torch.equal(param, wide[4:7])]
        same = [
            torch.equal(sealed[2:3], wide[2:3]),
            torch.equal(sealed.data[-4:-2], wide[-4:-2]),
            torch.equal(sealed.detach().narrow(0, 0, 2).t(), wide[:2].t()),
        ]
        refused = []
        taken = torch.ones(8, CHUNK, dtype=torch.int8)
        for use in (
            sealed[7:].clone,
            lambda: sealed.narrow(1, 0, 5),
            lambda: sealed[::2],
            lambda: sealed[0],
            lambda: taken.copy_(sealed),
            lambda: sealed.to(torch.float32),
            lambda: sealed[:2].add_(1),
        ):
            try:
                use()
                refused.append("given")
            except (Refusal, TypeError) as error:
                refused.append(getattr(error, "code", str(error)))
        result["left"] = int(taken.count_nonzero())
        result["behind"] = late(unlocked, wide)
        damaged[-1] ^= 1
        shard.write_bytes(damaged)
        other = torch.empty(8, CHUNK, dtype=torch.int32)
        turned = torch.empty(CHUNK, 8, dtype=torch.int8).t()
        same += [
            torch.equal(taken.copy_(sealed), wide),
            torch.equal(other.copy_(sealed), wide.to(torch.int32)),
            torch.equal(turned.copy_(sealed), wide),
            torch.equal(taken.copy_(sealed.narrow(1, 0, CHUNK).narrow(-1, 0, CHUNK)), wide),
            type(sealed.narrow(1, 0, CHUNK)) is type(sealed),
            torch.equal(taken.copy_(sealed[3:4]), wide[3:4].expand(8, -1)),
            sealed[5:2].clone().shape == (0, CHUNK),
            torch.equal(sealed.narrow(1, 3, 5), wide[:, 3:8]),
            torch.equal(sealed[::2], wide[::2]),
            torch.equal(sealed[0], wide[0]),
            torch.equal(sealed.to(torch.float32), wide.to(torch.float32)),
            torch.equal(torch.cat([sealed, sealed]), torch.cat([wide, wide])),
        ]
    result["filled"] = behind(package, manifest.digest, model / "model.safetensors")
    result["spans"] = spans(package, manifest.digest, model / "model.safetensors")
    try:
        sealed[3:5].clone()
        refused.append("given")
    except RuntimeError:
        refused.append("closed")
    return {"rows of a tensor": result | {"same": same, "refused": refused}}


def late(model: UnlockedModel, wide: Any) -> dict[str, object]:
    """Copy a tensor whose last row is damaged into a target, in two parts, and elsewhere."""
    import torch
    from tacit_vllm.behind import Behind
    from tacit_vllm.chunks import Chunks
    from tacit_vllm.rows import Rows

    target, other = torch.ones(8, CHUNK, dtype=torch.int8), torch.empty(2, CHUNK, dtype=torch.int8)
    held = frozenset({target.untyped_storage().data_ptr()})
    chunks = Chunks(model, ahead=0)
    rows = Rows(chunks, refusing=nullcontext, behind=Behind(model), targets=held)
    found = rows.tensors(skip=lambda _: False)
    _, sealed = next(found)
    at_once = torch.equal(other.copy_(sealed[2:4]), wide[2:4])
    target[:4].copy_(sealed[:4])
    target[4:].copy_(sealed[4:])
    codes = []
    for ask in (lambda: next(found), rows.behind.finish):
        try:
            ask()
            codes.append("given")
        except Refusal as refusal:
            codes.append(refusal.code)
    early = Rows(Chunks(model, ahead=0), refusing=nullcontext, behind=Behind(model), targets=held)
    left = early.tensors(skip=lambda _: False)
    _, sealed = next(left)
    target[:2].zero_().copy_(sealed[:2])
    left.close()
    return {
        "left early": torch.equal(target[:2], wide[:2]),
        "at once": at_once,
        "codes": codes,
        "first": torch.equal(target[:6], wide[:6]),
        "damaged": int(target[-1, -9:].count_nonzero()),  # the last chunk has the header's size
    }


def ring() -> dict[str, object]:
    """Take windows while tensors over earlier ones live, and after they are gone.

    Of both kinds of memory: here without pinning, which no CPU build of torch has.
    """
    import torch
    from tacit_vllm.stream import _Ring, owned

    from attestation.weights import pages

    while_held, after = [], []
    for memory in (pages, lambda size: owned(torch.empty(size, dtype=torch.uint8))):
        windows = _Ring(memory)
        first = windows.take(100)
        at = id(first)
        view = torch.frombuffer(first, dtype=torch.uint8, count=100)[5:9].view(torch.int8)
        del first
        while_held.append(at in {id(windows.take(100)) for _ in range(3)})
        del view
        after.append(id(windows.take(100)) == at)
    return {"reused while held": while_held, "reused after": after}


def huge() -> dict[str, object]:
    """Ask for huge pages of some tensors; return which are advised so, and what of them is huge."""
    import torch
    from tacit_vllm.huge_pages import take_huge_pages

    def advised(tensor: torch.Tensor) -> bool:
        inside, at = False, tensor.data_ptr() + tensor.nbytes // 2
        for line in Path("/proc/self/smaps").read_text().splitlines():
            first = line.split()[0]
            if "-" in first:
                start, end = (int(place, 16) for place in first.split("-"))
                inside = start <= at < end
            elif inside and first == "VmFlags:":
                return "hg" in line.split()
        raise LookupError("no such memory")

    asked, other = torch.empty(64 << 20, dtype=torch.int8), torch.empty(64 << 20, dtype=torch.int8)
    before = advised(asked)
    take_huge_pages([asked, torch.empty(8 << 20, device="meta"), torch.empty(0)])
    small = [torch.empty(3 << 20, dtype=torch.int8) for _ in range(16)]
    held = huge_bytes()
    take_huge_pages(small)
    for tensor in small:
        tensor.zero_()
    return {
        "huge pages": [before, advised(asked), advised(other)],
        "huge bytes of 48 MiB": huge_bytes() - held,
    }


def huge_bytes() -> int:
    """Return how much of this process's memory is in huge pages."""
    rollup = Path("/proc/self/smaps_rollup").read_text()
    (line,) = (line for line in rollup.splitlines() if line.startswith("AnonHugePages:"))
    return int(line.split()[1]) * 1024


def main(directory: Path) -> None:
    plain, package, small = directory / "plain", directory / "sealed", directory / "small"
    make_model(plain)
    signer, dek = Ed25519PrivateKey.generate(), data_key(os.urandom(32))
    manifest = seal(
        plain, package, dek=dek, name="tiny", version=3, key_uri="kbs:///a/b/c", signer=signer
    )
    opened = SealedModel.open(package, signer=signer.public_key())
    with opened.unlock(dek, manifest=manifest.digest, minimum_version=3) as model:
        model.unseal_small(small)
    agent = Agent(directory / "agent", Grant(dek, manifest.digest, 3))

    result = stream(directory)
    result |= ring()
    result |= huge()
    result |= rows(directory)
    result |= {"shards": sum(f.role == "weights" for f in manifest.files)}
    (result["plain"],) = generate(plain, load_format="safetensors")
    result["sealed"], result["reloaded"], result["refused"] = generate(
        small, agent, **sealed(directory, package, "agent", signer)
    )
    result["closed"] = [told.code for told in agent.heard if isinstance(told, Refused)]
    agent.closed = False
    result["asked"] = [question.model for question in agent.heard if isinstance(question, Ask)]

    last = [file for file in manifest.files if file.role == "weights"][-1]
    shard = package / last.sealed_name
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    try:
        generate(small, **sealed(directory, package, "agent", signer))
        result["tampered"] = "loaded"
    except Exception as error:
        result["tampered"] = f"{type(error).__name__}: {error}"
    result["reported"] = [told.code for told in agent.heard if isinstance(told, Refused)][1:]
    print(f"\n{json.dumps(result)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
