"""On which side of the train / held-out split a problem is: decided by its own text."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

FRACTION = 0.05
"""Share of the problems that is held out where nobody says otherwise and there are enough."""
FEW, FRACTION_OF_FEW = 600, 0.2
"""Of fewer problems than these, of which that share would be less than thirty, a larger one is held out. What is held
out stays so while a file grows up to there, and again from there on."""
LEAST = 2
"""One problem has no standard error."""
NEXT_TO_NOTHING = 1e-3
"""A fraction below this does not ask for a problem to be held out whatever the hashes say."""
SPACE = 2**64


def fingerprint(problem: str) -> int:
    """64 bits that depend on the problem's words alone: runs of white space count as one blank."""
    words = " ".join(problem.split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(words, digest_size=8).digest(), "big")


def is_held_out(problem: str, fraction: float | None) -> bool:
    """True for about ``fraction`` (None: ``FRACTION``) of all problems; equal problems are always on one side.

    Neither the seed nor the other rows matter, so a file may grow, be shuffled or cut without a held-out problem
    ever slipping into training.
    """
    return fingerprint(problem) < (FRACTION if fraction is None else fraction) * SPACE


def held_out_of(problems: Iterable[str], fraction: float | None = None) -> frozenset[int]:
    """The fingerprints of those of a finite set of problems that are held out; its order and repetitions do not matter.

    With a ``fraction`` those that ``is_held_out`` names, and where it names none, the one of lowest fingerprint. None:
    the share that so many problems can spare (``share_of``); where the hashes fall unluckily, at least half of that
    share and at most a quarter of all, those of lowest fingerprint; at least one, but not the only problem there is.
    """
    known = sorted({fingerprint(one) for one in problems})
    share = share_of(len(known)) if fraction is None else fraction
    named = sum(one < share * SPACE for one in known)
    if fraction is None:
        named = min(max(named, round(share * len(known) / 2), LEAST), len(known) // 4)
        named = max(named, min(1, len(known) - 1))
    elif named == 0 and len(known) > 1 and fraction >= NEXT_TO_NOTHING:
        named = 1
    return frozenset(known[:named])


def share_of(count: int) -> float:
    """The share of ``count`` different problems that is held out where nobody says otherwise."""
    return FRACTION_OF_FEW if count < FEW else FRACTION
