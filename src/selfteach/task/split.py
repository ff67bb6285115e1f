"""On which side of the train / held-out split a problem is: decided by its own text, for ever."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

NEXT_TO_NOTHING = 1e-3
"""A fraction below this does not ask for a problem to be held out whatever the hashes say."""


def fingerprint(problem: str) -> int:
    """64 bits that depend on the problem's words alone: runs of white space count as one blank."""
    words = " ".join(problem.split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(words, digest_size=8).digest(), "big")


def is_held_out(problem: str, fraction: float) -> bool:
    """True for about ``fraction`` of all problems; equal problems are always on one side.

    Neither the seed nor the other rows matter, so a file may grow, be shuffled or cut without a held-out problem
    ever slipping into training.
    """
    return fingerprint(problem) < fraction * 2**64


def held_out_of(problems: Iterable[str], fraction: float) -> frozenset[int]:
    """The fingerprints of those of a finite set of problems that are held out: the ones ``is_held_out`` names.

    So few problems that it names none still hold out one, that of the lowest fingerprint, for a run to be measured on;
    but not the only one there is.
    """
    known = {fingerprint(one): one for one in problems}
    chosen = frozenset(own for own, problem in known.items() if is_held_out(problem, fraction))
    if chosen or len(known) < 2 or fraction < NEXT_TO_NOTHING:
        return chosen
    return frozenset({min(known)})
