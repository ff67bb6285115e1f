"""Token columns of a run folder (tokens/step-N.safetensors and .json), one rollout at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from selfteach.outside import require_file
from selfteach.report.rows import parsed

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Tokens:
    """One rollout's T tokens: their texts, columns [T] by name, and each role's likeliest (texts, probabilities
    [T, k])."""

    pieces: list[str]
    columns: dict[str, Array]
    tops: dict[str, tuple[list[list[str]], Array]]


@dataclass(frozen=True)
class Look:
    """All rollouts of one look: columns [L] or [L, k] over their tokens in a row, rollout i at ``starts[i:i+2]``."""

    tensors: dict[str, Array]
    starts: list[int]
    pieces: list[list[str]]
    vocabulary: dict[int, str]

    def rollout(self, row: int, rows: int = 1) -> Tokens | None:
        """The ``row``-th rollout, which has this many rows; None if there is none."""
        if not 0 <= row < row + rows <= len(self.pieces):
            return None
        begin, end = self.starts[row], self.starts[row + rows]
        own = {name: tensor[begin:end] for name, tensor in self.tensors.items()}
        roles = [name.removeprefix("top_ids/") for name in own if name.startswith("top_ids/")]
        roles.sort(key=lambda role: role != "student")
        columns = {name: c.astype(np.float64) for name, c in own.items() if c.ndim == 1 and name != "ids"}
        tops = {role: (self.words(own[f"top_ids/{role}"]), own[f"top_probs/{role}"]) for role in roles}
        pieces = [piece for one in self.pieces[row : row + rows] for piece in one]
        return Tokens(pieces, with_ratios(columns), tops)

    def words(self, ids: Array) -> list[list[str]]:
        return [[self.vocabulary.get(i, f"token {i}") for i in row] for row in ids.tolist()]


def with_ratios(columns: dict[str, Array]) -> dict[str, Array]:
    """Log-probs as what is looked at: the student's surprisal −log p, and each teacher's log-ratio to the student."""
    found = {name: c for name, c in columns.items() if not name.startswith("log_prob/")}
    student = columns.get("log_prob/student")
    if student is None:
        return found
    ratios = {
        f"log_ratio/{name.removeprefix('log_prob/')}": c - student
        for name, c in columns.items()
        if name.startswith("log_prob/") and name != "log_prob/student"
    }
    return found | ratios | {"surprisal/student": -student}


def read_looks(folder: Path, notes: list[str]) -> dict[int, Look]:
    """Every readable look by its step; ``notes`` says which could not be read."""
    looks, broken = {}, []
    for path in folder.glob("step-*.json"):
        step = path.stem.removeprefix("step-")
        try:
            looks[int(step)] = read_look(path)
        except (
            Exception
        ):  # of files that do not belong together nearly anything; which ones is all that is told
            broken.append(step)
    if broken:
        notes.append(
            f"tokens: those of step {', '.join(sorted(broken)[:5])} could not be read ({len(broken)} in all)."
        )
    return looks


def read_look(path: Path) -> Look:
    """Raises ValueError, KeyError or TypeError where the two files do not belong together."""
    texts = parsed(require_file(path, path.name).read_bytes())
    columns = path.with_suffix(".safetensors")
    tensors = load_file(require_file(columns, columns.name))
    lengths, pieces = texts["lengths"], texts["pieces"]
    starts = [0, *np.cumsum(lengths, dtype=np.int64).tolist()]
    if [len(row) for row in pieces] != lengths or any(len(t) != starts[-1] for t in tensors.values()):
        raise ValueError("lengths differ")
    for name, tensor in tensors.items():
        wanted = 2 if name.startswith("top_") else 1
        if tensor.ndim != wanted or tensor.dtype.kind not in "if":
            raise ValueError(f"{name} is no column")
    for name in tensors:
        if (
            name.startswith("top_ids/")
            and tensors[name].shape != tensors[name.replace("ids", "probs", 1)].shape
        ):
            raise ValueError(f"{name} has other probabilities")
    vocabulary = {int(number): str(word) for number, word in texts["vocabulary"]}
    return Look(tensors, starts, [[str(piece) for piece in row] for row in pieces], vocabulary)
