"""A model's directory in, the list of files to seal out; pickles, code and stray shards refused."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from attestation.codec import parse_json
from attestation.errors import ConfigError, Malformed
from attestation.manifest import Role, is_plain
from attestation.safetensors import PREFIX, header_size, parse_header

_INDEX = ".safetensors.index.json"
_MAX_INDEX = 64 * 1024 * 1024
_MAX_DEPTH = 4


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One file to seal, as it was when it was listed."""

    path: str
    role: Role
    location: Path
    size: int
    modified_ns: int

    @property
    def stamp(self) -> str:
        """When it was last written to."""
        return str(self.modified_ns)

    @contextmanager
    def open(self) -> Iterator[_OpenFile]:
        """Open it for one reader."""
        with self.location.open("rb", buffering=0) as stream:
            yield _OpenFile(self, stream.fileno())


@dataclass(frozen=True, slots=True)
class _OpenFile:
    listed: SourceFile
    descriptor: int

    def read_into(self, buffer: memoryview, *, offset: int) -> None:
        """Fill `buffer`, or raise `ConfigError` ("seal-changed")."""
        done = 0
        while done < len(buffer):
            got = os.preadv(self.descriptor, [buffer[done:]], offset + done)
            if got == 0:
                why = f"{self.listed.path!r} shrank while it was read"
                raise ConfigError("seal-changed", why)
            done += got

    def settle(self, *, sha256: str) -> None:  # noqa: ARG002 - the manifest will hold it
        """Raise `ConfigError` ("seal-changed") if the file was written to since it was listed."""
        after, listed = os.fstat(self.descriptor), self.listed
        if (after.st_size, after.st_mtime_ns) != (listed.size, listed.modified_ns):
            why = f"{listed.path!r} was written to while it was read"
            raise ConfigError("seal-changed", why)


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a model's directory holds: the files to seal by path, and the hidden ones left out."""

    files: tuple[SourceFile, ...]
    skipped: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of all files to seal."""
        return sum(file.size for file in self.files)


def inventory(model_dir: Path) -> Inventory:
    """List `model_dir`, or raise `ConfigError` ("seal-source", "seal-format", "seal-index").

    Names that begin with a dot are left out and reported. Shards must be exactly those of the
    index, each tensor in the shard the index says; without an index there is one shard.
    """
    try:
        top = model_dir.resolve(strict=True)
        found = list(_walk(top, top=top, depth=1))
    except OSError as error:
        raise ConfigError("seal-source", f"{model_dir}: {error.strerror}") from None
    files = tuple(sorted((f for f in found if not isinstance(f, str)), key=lambda f: f.path))
    _check_shards(files)
    return Inventory(files, tuple(sorted(f for f in found if isinstance(f, str))))


def _walk(directory: Path, *, top: Path, depth: int) -> Iterator[SourceFile | str]:
    for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
        path = Path(entry.path).relative_to(top).as_posix()
        if entry.name.startswith("."):
            yield path
            continue
        real = Path(entry.path).resolve(strict=True)
        if not real.is_relative_to(top):
            raise ConfigError("seal-source", f"{path!r} leads out of the directory")
        status = real.stat()
        if stat.S_ISDIR(status.st_mode):
            if entry.is_symlink() or depth == _MAX_DEPTH:
                raise ConfigError("seal-source", f"{path!r} is a linked or too deep directory")
            yield from _walk(real, top=top, depth=depth + 1)
        elif stat.S_ISREG(status.st_mode) and is_plain(path):
            yield SourceFile(path, role(path), real, status.st_size, status.st_mtime_ns)
        else:
            raise ConfigError("seal-source", f"{path!r} is not a regular file of a plain name")


def role(path: str) -> Role:
    """Return what `path` is for by its name, or refuse a kind of file that is never sealed."""
    name = path.rpartition("/")[2].lower()
    suffix = name.rpartition(".")[2] if "." in name else ""
    if suffix == "safetensors":
        return "weights"
    if name.endswith(_INDEX) or suffix == "md" or name.startswith(("license", "notice")):
        return "other"
    if suffix == "jinja" or name == "chat_template.json":
        return "template"
    if name.startswith(("tokenizer", "vocab", "merges", "special_tokens", "added_tokens")):
        if suffix in {"json", "txt", "model"}:
            return "tokenizer"
    elif suffix == "json":
        return "config"
    elif suffix == "txt":
        return "other"
    raise ConfigError("seal-format", f"{path!r} is no safetensors, JSON, Jinja or text file")


def _check_shards(files: tuple[SourceFile, ...]) -> None:
    shards = [file for file in files if file.role == "weights"]
    indexes = [file for file in files if file.path.endswith(_INDEX)]
    if not shards:
        raise ConfigError("seal-source", "the directory holds no safetensors file")
    held: dict[str, str] = {}
    for shard in shards:
        for name in _tensor_names(shard):
            if name in held:
                raise ConfigError(
                    "seal-index", f"{shard.path!r} repeats a tensor of {held[name]!r}"
                )
            held[name] = shard.path
    if len(indexes) > 1 or (not indexes and len(shards) > 1):
        raise ConfigError("seal-index", f"{len(shards)} shards and {len(indexes)} indexes")
    for index in indexes:
        try:
            document = parse_json(index.location.read_bytes(), limit=_MAX_INDEX)
        except Malformed as refusal:
            raise ConfigError("seal-index", f"{index.path!r}: {refusal.why}") from None
        named = document.get("weight_map") if isinstance(document, dict) else None
        parent = index.path.rpartition("/")[0]
        prefix = f"{parent}/" if parent else ""
        if not isinstance(named, dict) or {n: f"{prefix}{at}" for n, at in named.items()} != held:
            raise ConfigError("seal-index", f"{index.path!r} names other tensors or shards")


def _tensor_names(shard: SourceFile) -> list[str]:
    try:
        with shard.location.open("rb") as stream:
            size = header_size(stream.read(PREFIX), file_size=shard.size)
            places = parse_header(stream.read(size), file_size=shard.size)
    except Malformed as refusal:
        raise Malformed(refusal.code, f"{shard.path!r}: {refusal.why}") from None
    return [place.name for place in places]
