"""What a teacher cache's manifest.json says of it, and what it must be to be believed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from pydantic import ConfigDict, PlainValidator, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from safetensors import SafetensorError

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.outside import blamed, read_json, said_by
from selfteach.settings import MOST_COUNTED, shown
from selfteach.training.checkpoint import sync
from selfteach.training.marks import Mark
from selfteach.training.text.teachers.packed import WORD, bits_of

FORMAT = 2
MANIFEST, AGAIN = "manifest.json", "make it anew with selfteach score"
CacheDtype = Literal["float16", "float32"]
DTYPES: Mapping[str, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}
EXACT = ConfigDict(strict=True, extra="forbid")
"""Nothing is taken for what it is not: neither "3" nor true for a number, nor a key that is not known."""
SHA256, NAME = re.compile(r"[0-9a-f]{64}"), re.compile(r"shard-[0-9]{5,9}\.safetensors")

Count = Annotated[int, Interval(ge=0, le=MOST_COUNTED)]


def mark_in(told: Any) -> Mark:
    """The mark that a table is. ValueError for what is none."""
    match told:
        case {"bytes": int(count), "sha256": str(digest), **rest} if (
            not rest
            and 0 <= count <= MOST_COUNTED
            and not isinstance(count, bool)
            and SHA256.fullmatch(digest)
        ):
            return Mark(bytes=count, sha256=digest)
    raise ValueError("a file's bytes and sha256 are wanted")


Marked = Annotated[Mark, PlainValidator(mark_in)]


@dataclass(frozen=True, config=EXACT)
class Identity:
    """What a role scored with: hashes of its weights, chat template and tokenizer; ``model``: its name, for people."""

    kind: str
    model: str
    weights: str
    template: str
    tokenizer: str


@dataclass(frozen=True, config=EXACT)
class Made:
    """What a cache holds. ``precision``: what its roles computed in; ``stored``: how many prompts were to be answered
    for it (None: the answers were given)."""

    method: str
    roles: dict[str, Identity]
    top_logprobs: Annotated[int, Interval(gt=0)]
    vocabulary: Annotated[int, Interval(gt=0, le=2 ** (WORD - 1))]
    dtype: CacheDtype
    precision: str
    stored: Annotated[int, Interval(gt=0, le=MOST_COUNTED)] | None

    def __post_init__(self) -> None:
        if not self.roles:
            raise ValueError("it names no role")
        if self.top_logprobs > self.vocabulary:
            raise ValueError(f"{self.top_logprobs} of {self.vocabulary} tokens cannot be listed")

    @property
    def bytes_per_token(self) -> float:
        """Of a position's ids, log-probs, tail and sampled log-prob."""
        return self.id_bytes + self.top_logprobs * DTYPES[self.dtype].itemsize + 8

    @property
    def id_bytes(self) -> int:
        """Of a position's ids."""
        return -(-self.top_logprobs * bits_of(self.vocabulary) // 8)


@dataclass(frozen=True, config=EXACT)
class Shard:
    """A file of a cache, how much it holds, and how it was then."""

    name: str
    rows: Count
    tokens: Count
    mark: Marked

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError("a shard is no shard-N.safetensors, or lies outside of its folder")


@dataclass(config=EXACT)
class Manifest:
    """What manifest.json holds. ``selfteach``: the version that began it."""

    format: int
    selfteach: str
    made: Made
    shards: list[Shard]
    rollouts: Marked | None
    complete: bool

    def __post_init__(self) -> None:
        if len({one.name for one in self.shards}) < len(self.shards):
            raise ValueError("it names a shard twice")

    @classmethod
    def begun(cls, made: Made) -> Manifest:
        """Of a cache that has nothing yet."""
        return cls(FORMAT, version("selfteach"), made, shards=[], rollouts=None, complete=False)

    def write(self, folder: Path) -> None:
        """Whole or not at all. UserError if the disk refuses."""
        with storing(folder / MANIFEST):
            text = json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"
            replaced(folder / MANIFEST, text.encode("ascii"))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """UserError where there is none, or for the first thing in it that is not as this version writes it."""
        what = f"the teacher cache {folder}: {MANIFEST}"
        require((folder / MANIFEST).is_file(), f"{folder} holds no teacher cache (no {MANIFEST}): {AGAIN}")
        told = read_json(folder / MANIFEST, what, AGAIN)
        if isinstance(told, dict) and type(found := told.get("format")) is int and found != FORMAT:
            raise UserError(f"the teacher cache {folder} has format {shown(found)}, not {FORMAT}: {AGAIN}")
        with blamed(what, AGAIN):
            try:
                return TypeAdapter(cls).validate_json(json.dumps(told))
            except ValidationError as problem:
                raise ValueError(complaint(problem)) from None


def complaint(problem: ValidationError) -> str:
    """The first of what pydantic found: where it stands, and what it must be."""
    first = problem.errors()[0]
    place = ".".join(map(str, first["loc"])) or "all of it"
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Within it a refusal of the disk is one line; what was written whole stays."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"{path} could not be written ({said_by(error)}): what is whole stays; make room, and start the same "
            "command again to go on"
        ) from error


def replaced(path: Path, content: bytes) -> None:
    aside = path.with_name(f".{path.name}.partial")
    try:
        aside.write_bytes(content)
        sync(aside)
        aside.replace(path)
        sync(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
