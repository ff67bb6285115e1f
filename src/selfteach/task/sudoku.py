"""Sudoku of 4 × 4 cells: puzzles with one solution, as many as wanted, and how much of one is filled rightly."""

from __future__ import annotations

from functools import cache
from itertools import permutations
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import one_hot

from selfteach.checks import require

SIDE = 4
CELLS, DIGITS = SIDE * SIDE, SIDE
FEWEST_GIVEN = 4
"""No puzzle with fewer given cells has one solution."""
HELD_OUT = 0.2
"""Share of the solved grids whose puzzles are never trained on."""
AT_ONCE = 4096
"""Puzzles that are drawn before those with several solutions are dropped."""


class Puzzles(NamedTuple):
    """Cells in reading order, digits from 0 to 3. ``blanks``: which cells are to be filled, in order, equally many of
    each puzzle; the others are given."""

    solution: Int[Tensor, "n cells"]
    blanks: Int[Tensor, "n L"]

    def of(self, rows: Int[Tensor, "m"]) -> Puzzles:
        """The puzzles at some rows."""
        return Puzzles(self.solution[rows], self.blanks[rows])

    def reward(self, filled: Int[Tensor, "n cells"]) -> Float[Tensor, "n"]:
        """The share of a puzzle's blank cells that hold the solution's digit."""
        right = (filled == self.solution).gather(1, self.blanks)
        return right.float().mean(1)


@cache
def grids() -> Int[Tensor, "288 cells"]:
    """Every solved grid: rows, columns and quarters hold each digit once."""
    rows = torch.tensor(list(permutations(range(DIGITS))))
    chosen = torch.cartesian_prod(*[torch.arange(len(rows))] * SIDE)
    every = rows[chosen].flatten(1)
    return every[solved(every)]


def solved(filled: Int[Tensor, "n cells"]) -> Bool[Tensor, "n"]:
    """Whether each row, column and quarter holds each digit once."""
    board = filled.unflatten(1, (SIDE, SIDE))
    quarters = board.unflatten(2, (2, 2)).unflatten(1, (2, 2)).transpose(2, 3).flatten(3).flatten(1, 2)
    groups = torch.cat([board, board.transpose(1, 2), quarters], 1)
    wanted = torch.arange(DIGITS, device=filled.device)
    return (groups.sort(-1).values == wanted).all(-1).all(-1)


class Sudoku:
    """Puzzles with ``blanks`` cells to be filled and one solution. Which solved grids are held out is drawn by
    ``seed``. UserError for a number of blanks that no puzzle has."""

    def __init__(self, blanks: int, seed: int) -> None:
        most = CELLS - FEWEST_GIVEN
        require(
            blanks <= most,
            f"blanks must be at most {most}: with more no puzzle has one solution; got {blanks}",
        )
        self.blanks = blanks
        order = torch.randperm(len(grids()), generator=torch.Generator().manual_seed(seed))
        held = round(HELD_OUT * len(order))
        self.test, self.train = grids()[order[:held]], grids()[order[held:]]

    def draw(self, n: int) -> Puzzles:
        """Puzzles to train on, by torch's global generator."""
        return self.drawn(self.train, n, None)

    def held_out(self, n: int, generator: torch.Generator) -> Puzzles:
        """Puzzles whose solutions are never trained on."""
        return self.drawn(self.test, n, generator)

    def drawn(self, among: Int[Tensor, "m cells"], n: int, generator: torch.Generator | None) -> Puzzles:
        """Grids and blank cells evenly at random, without the puzzles that have another solution."""
        found: list[Puzzles] = []
        while sum(len(one.blanks) for one in found) < n:
            tries = min(AT_ONCE, 4 * n)
            solution = among[torch.randint(len(among), (tries,), generator=generator)]
            order = torch.rand(tries, CELLS, generator=generator).argsort(1)
            blanks = order[:, : self.blanks].sort(1).values
            one = Puzzles(solution, blanks)
            found.append(one.of((solutions(one) == 1).nonzero()[:, 0]))
        return Puzzles(*(torch.cat(part)[:n] for part in zip(*found, strict=True)))


def solutions(puzzles: Puzzles) -> Int[Tensor, "n"]:
    """How many solved grids have a puzzle's given cells."""
    given = torch.ones_like(puzzles.solution, dtype=torch.float32).scatter(1, puzzles.blanks, 0.0)
    # a cell and a digit are a column: the product counts the given cells that a grid has too
    shown = (one_hot(puzzles.solution, DIGITS) * given[..., None]).flatten(1)
    same = shown @ one_hot(grids(), DIGITS).float().flatten(1).T
    return (same == given.sum(1, keepdim=True)).sum(1)


def board(filled: Int[Tensor, "cells"], blanks: Int[Tensor, "L"] | None = None) -> str:
    """A grid as four lines of digits from 1 to 4; ``blanks`` as dots."""
    signs = [str(int(digit) + 1) for digit in filled]
    for cell in [] if blanks is None else blanks.tolist():
        signs[cell] = "."
    return "\n".join(" ".join(signs[i : i + SIDE]) for i in range(0, CELLS, SIDE))
