"""Stored rollouts put together from their rows: an episode whose turns do not extend one another has several."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from selfteach.report.reading import Sample
from selfteach.report.tokens import Array, Look, Tokens
from selfteach.report.turns import Turn


@dataclass(frozen=True)
class Rollout:
    """One row or several of samples.jsonl; ``tokens`` are those of all of them, row i's from ``starts[i]`` on."""

    rows: Sequence[Sample]
    tokens: Tokens | None
    starts: Sequence[int]

    @property
    def first(self) -> Sample:
        """The row that stands for what is said of the whole."""
        return self.rows[0]

    @property
    def length(self) -> float | None:
        """Tokens of all rows, if any of them says."""
        known = [one.length for one in self.rows if one.length is not None]
        return sum(known) if known else None

    def turns(self) -> Iterator[tuple[Turn, Sample | None]]:
        """Each turn, its tokens counted over the rollout; with the row that it opens, if that is a later one."""
        for i, (row, start) in enumerate(zip(self.rows, self.starts, strict=True)):
            for j, one in enumerate(row.turns):
                counted = replace(one, begin=one.begin + start, end=one.end + start)
                yield counted, row if i > 0 and j == 0 else None

    def divergences(self, turn: Turn) -> Iterator[tuple[str, Array]]:
        """(teacher, its divergence at each token of the turn)."""
        columns = {} if self.tokens is None else self.tokens.columns
        for name, column in columns.items():
            kind, _, teacher = name.partition("/")
            if kind == "divergence":
                yield teacher, column[turn.begin : turn.end]


def rollouts_of(samples: Iterable[Sample], look: Look | None) -> list[Rollout]:
    """The rollouts of a look, in order."""
    parts: list[list[Sample]] = []
    for one in samples:
        if parts and goes_on(parts[-1][-1], one):
            parts[-1].append(one)
        else:
            parts.append([one])
    return [with_tokens(rows, look) for rows in parts]


def goes_on(last: Sample, one: Sample) -> bool:
    """Whether a row is the next one of its neighbor's rollout."""
    if one.rollout is None or one.row is None or last.row is None:
        return False
    same = (one.rollout, one.phase, one.key) == (last.rollout, last.phase, last.key)
    return same and one.row == last.row + 1


def with_tokens(rows: Sequence[Sample], look: Look | None) -> Rollout:
    place = rows[0].row
    tokens = look.rollout(place, len(rows)) if look is not None and place is not None else None
    if look is None or place is None or tokens is None:
        return Rollout(rows, None, [0] * len(rows))
    begins = look.starts[place : place + len(rows)]
    return Rollout(rows, tokens, [begin - begins[0] for begin in begins])
