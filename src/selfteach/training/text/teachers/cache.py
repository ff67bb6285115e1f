"""A teacher's scores on the disk: safetensors shards of bounded size and a JSON manifest that says what they are.

    manifest.json        format, method, roles with the hashes of what they score with, k, numbers, shards with hashes
    rollouts.jsonl       the answers that were scored, a row each
    shard-N.safetensors  keys [n, 16], begins [n + 1], ids packed [P, b], log_probs [P, k], tail [P], sampled [P]

A row finds its scores by a hash of what the role reads and of what was written (``Piece.key``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from selfteach.errors import UserError
from selfteach.objective.listed import Listed
from selfteach.outside import blamed
from selfteach.task.trajectory import Trajectory
from selfteach.training import marks
from selfteach.training.checkpoint import sync
from selfteach.training.marks import Mark
from selfteach.training.text.teachers.handed import Piece
from selfteach.training.text.teachers.manifest import (
    AGAIN,
    DTYPES,
    MANIFEST,
    CacheDtype,
    Made,
    Manifest,
    Shard,
    replaced,
    storing,
)
from selfteach.training.text.teachers.packed import bits_of, packed, unpacked, untied

SHARD_BYTES = 64 * 2**20
"""A shard is written when it holds this much."""
ROLLOUTS = "rollouts.jsonl"
SAFETENSORS: Mapping[CacheDtype, str] = {"float16": "F16", "float32": "F32"}


class CacheWriter:
    """Adds rows to a cache, and goes on with one that was begun; ``known``: the keys that it holds already."""

    def __init__(self, folder: Path, made: Made, shard_bytes: int = SHARD_BYTES) -> None:
        """UserError where the folder holds a whole cache, or one that was begun with other settings or models."""
        self.folder, self.shard_bytes = folder, shard_bytes
        if (folder / MANIFEST).is_file():
            self.manifest = Manifest.read(folder)
            refuse_other(folder, self.manifest.made, made)
            if self.manifest.complete:
                raise UserError(
                    f"{folder} holds a whole teacher cache: train with it, or choose another --out"
                )
        else:
            self.manifest = Manifest.begun(made)
        self.known = {key for one in opened(folder, self.manifest) for key in one.places}
        self.waiting: list[tuple[bytes, Listed]] = []
        self.tokens = 0

    @property
    def made(self) -> Made:
        return self.manifest.made

    def rollouts(self) -> list[Trajectory]:
        """The answers that were written down before; none: they are yet to come."""
        return [] if self.manifest.rollouts is None else read_rollouts(self.folder, self.manifest.rollouts)

    def keep(self, rows: Sequence[Trajectory]) -> None:
        """Write down the answers that are to be scored. UserError if the disk refuses."""
        text = "".join(json.dumps(one.to_json(), allow_nan=False) + "\n" for one in rows)
        path = self.folder / ROLLOUTS
        with storing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
            replaced(path, text.encode("ascii"))
            self.manifest.rollouts = marks.mark_of(path)
        self.manifest.write(self.folder)

    def add(self, key: bytes, one: Listed) -> None:
        """A row's scores; once there is enough for a shard, that is written. UserError if the disk refuses."""
        if key in self.known:
            return
        self.known.add(key)
        self.waiting.append((key, one))
        self.tokens += len(one.tail)
        if self.tokens * self.made.bytes_per_token >= self.shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self.waiting:
            return
        path = self.folder / f"shard-{len(self.manifest.shards):05d}.safetensors"
        aside = path.with_name(f".{path.name}.partial")
        with storing(path):
            try:
                save_file(self.tensors(), aside)
                sync(aside)
                aside.replace(path)
            except BaseException:
                aside.unlink(missing_ok=True)
                raise
            shard = Shard(path.name, len(self.waiting), self.tokens, marks.mark_of(path))
        self.manifest.shards.append(shard)
        try:
            self.manifest.write(self.folder)
        except BaseException:
            self.manifest.shards.pop()
            raise
        self.waiting, self.tokens = [], 0

    def tensors(self) -> dict[str, Shaped[Tensor, "..."]]:
        rows = [one for _, one in self.waiting]
        lengths = torch.tensor([0, *(len(one.tail) for one in rows)])
        made = self.made
        return {
            "keys": torch.tensor([list(key) for key, _ in self.waiting], dtype=torch.uint8),
            "begins": lengths.cumsum(0),
            "ids": torch.cat([packed(one.ids, bits_of(made.vocabulary)) for one in rows]),
            "log_probs": torch.cat([one.states.to(DTYPES[made.dtype]) for one in rows]),
            "tail": torch.cat([one.tail.float() for one in rows]),
            "sampled": torch.cat([one.sampled.float() for one in rows]),
        }

    def finish(self) -> Manifest:
        """Write what is left, and that the cache is whole."""
        self.flush()
        self.manifest.complete = True
        self.manifest.write(self.folder)
        return self.manifest


def refuse_other(folder: Path, before: Made, now: Made) -> None:
    """UserError, naming the first difference, where a cache was begun with other settings or models."""
    old, new = asdict(before), asdict(now)
    for name in old:
        if old[name] != new[name]:
            told = "other models, templates or tokenizers" if name == "roles" else f"{name} {old[name]}"
            raise UserError(
                f"{folder} holds a teacher cache that was begun with {told}: choose another --out, or delete it"
            )


@dataclass
class OpenShard:
    """A shard that is read row by row; ``places``: key → the positions that are its."""

    path: Path
    places: Mapping[bytes, tuple[int, int]]
    made: Made

    @cached_property
    def file(self) -> Any:
        return safe_open(self.path, framework="pt")

    def read(self, key: bytes) -> Listed:
        begin, end = self.places[key]
        part = {
            name: self.file.get_slice(name)[begin:end] for name in ("ids", "log_probs", "tail", "sampled")
        }
        made = self.made
        return Listed(
            untied(part["log_probs"]),
            ids=unpacked(part["ids"], made.top_logprobs, bits_of(made.vocabulary)),
            tail=part["tail"],
            sampled=part["sampled"],
            vocabulary=made.vocabulary,
        )


def opened(folder: Path, manifest: Manifest) -> list[OpenShard]:
    """The shards, each held against its hash. UserError for the first that is not as it was written."""
    found = []
    for one in manifest.shards:
        path = folder / one.name
        refuse_changed(path, one.mark)
        with blamed(f"the teacher cache's {path}", AGAIN):
            file: Any = safe_open(path, framework="pt")
            refuse_shapes(file, one, manifest.made)
            keys, begins = file.get_tensor("keys"), file.get_tensor("begins").tolist()
            places = {bytes(key): (begins[i], begins[i + 1]) for i, key in enumerate(keys.tolist())}
        found.append(OpenShard(path, places, manifest.made))
    return found


def refuse_shapes(file: Any, shard: Shard, made: Made) -> None:
    """ValueError where a file's tensors are not those that the manifest tells of."""
    rows, tokens, k = shard.rows, shard.tokens, made.top_logprobs
    told = {
        "keys": ("U8", [rows, 16]),
        "begins": ("I64", [rows + 1]),
        "ids": ("U8", [tokens, made.id_bytes]),
        "log_probs": (SAFETENSORS[made.dtype], [tokens, k]),
        "tail": ("F32", [tokens]),
        "sampled": ("F32", [tokens]),
    }
    for name, wanted in told.items():
        part = file.get_slice(name)
        if (found := (part.get_dtype(), list(part.get_shape()))) != wanted:
            raise ValueError(
                f"its {name} are {found[1]} of {found[0]}, by the manifest {wanted[1]} of {wanted[0]}"
            )


def refuse_changed(path: Path, mark: Mark) -> None:
    wrong = marks.fault(path, mark)
    if wrong is None and path.stat().st_size > mark["bytes"]:
        wrong = "has grown"
    if wrong is not None:
        raise UserError(f"the teacher cache's {path} {wrong}: put it back as it was, or {AGAIN}")


def read_rollouts(folder: Path, mark: Mark) -> list[Trajectory]:
    path = folder / ROLLOUTS
    refuse_changed(path, mark)
    return rollouts_in(path)


def rollouts_in(path: Path) -> list[Trajectory]:
    """The answers in a file of rows: a cache's, or what a run stored (whose first row holds notes). UserError for any
    other."""
    if not path.is_file():
        raise UserError(f"{path}: there is no such file of stored answers")
    with blamed(f"the stored answers in {path}", "give a file that a run or selfteach score wrote"):
        rows = [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]
        return [Trajectory.from_json(one) for i, one in enumerate(rows) if i or "segments" in one]


class TeacherCache:
    """A whole cache, in the place of the models that made it (``Handed``); ``prompts``: to so many of its prompts, the
    first ones, the answers are read (None: to all)."""

    def __init__(self, folder: Path, prompts: int | None = None) -> None:
        """UserError where there is none, it is not whole, or a file is not as it was written."""
        self.folder, self.prompts, self.manifest = folder, prompts, Manifest.read(folder)
        if not self.manifest.complete or self.manifest.rollouts is None:
            raise UserError(
                f"the teacher cache {folder} is not whole: start selfteach score again with the same words"
            )
        self.shards = opened(folder, self.manifest)
        self.shard_of = {key: one for one in self.shards for key in one.places}

    @property
    def made(self) -> Made:
        return self.manifest.made

    @property
    def roles(self) -> tuple[str, ...]:
        return tuple(self.made.roles)

    @property
    def vocabulary(self) -> int:
        return self.made.vocabulary

    @property
    def k(self) -> int:
        return self.made.top_logprobs

    @cached_property
    def held(self) -> list[Trajectory]:
        """All of its answers."""
        assert self.manifest.rollouts is not None
        return read_rollouts(self.folder, self.manifest.rollouts)

    @cached_property
    def stored(self) -> list[Trajectory]:
        """The answers that are read. A prompt that was left without an answer counts, where it is known."""
        if self.prompts is None or self.prompts == self.made.stored:
            return self.held
        groups = sorted({one.group for one in self.held})
        first = set(groups[: self.prompts]) if self.made.stored is None else range(self.prompts)
        return [one for one in self.held if one.group in first]

    def scores(self, role: str, pieces: Sequence[Piece]) -> list[Listed]:
        keys = [one.key(role) for one in pieces]
        lost = sum(key not in self.shard_of for key in keys)
        if lost:
            raise UserError(
                f"the teacher cache {self.folder} has no scores by {role!r} of {lost} of {len(keys)} rows: what the "
                f"role reads or what was written is other than when it was made; {AGAIN} with this run's words"
            )
        return [self.shard_of[key].read(key) for key in keys]

    def forget(self) -> None:
        """It is all on the disk."""

    def describe(self, role: str) -> str:
        made, tokens = self.made, sum(one.tokens for one in self.manifest.shards)
        return (
            f"{made.top_logprobs} of {made.vocabulary:,} tokens a position in {made.dtype}, {tokens:,} positions, from "
            f"{made.roles[role].model} ({self.folder})"
        )
