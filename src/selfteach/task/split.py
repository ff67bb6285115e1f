"""On which side of the train / held-out split a problem is: decided by its own text, for ever."""

from __future__ import annotations

from hashlib import blake2b


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
