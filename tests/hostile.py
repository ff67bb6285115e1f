"""Values that nobody should give, and files that nobody should write: what the tests of readers and knobs try."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

SURROGATE = "a\ud800b"


def nested(levels: int) -> Any:
    """A list in a list in a list …"""
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


VALUES: dict[str, Any] = {
    "10**19": 10**19,
    "10**30": 10**30,
    "10**5000": 10**5000,
    "-10**5000": -(10**5000),
    "-1": -1,
    "0": 0,
    "nan": float("nan"),
    "inf": float("inf"),
    "-inf": float("-inf"),
    "1e308": 1e308,
    "-1e308": -1e308,
    "1e-320": 1e-320,
    "0.5": 0.5,
    "empty": "",
    "blank": "  \n",
    "NUL": "a\0b",
    "surrogate": SURROGATE,
    "100 kB": "x" * 100_000,
    "2 MB": "x" * 2_000_000,
    "digits": "9" * 5000,
    "1e400": "1e400",
    "deep": nested(1000),
    "True": True,
    "None": None,
    "bytes": b"\xff\x00",
    "dict": {"a": {"b": 1}},
    "list": [1, 2, 3],
    "list of text": ["a", SURROGATE],
    "object": object(),
}
"""By a name that a failing test can show."""


def mutated(data: bytes, seed: int, count: int) -> Iterator[bytes]:
    """``count`` copies of a valid file, each damaged in a way of its own."""
    rng = random.Random(seed)
    for _ in range(count):
        yield damaged(data, rng)


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Bytes changed, cut out, doubled, cut off, or put in from nowhere."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.randint(1, 20))
        match rng.randrange(6):
            case 0:
                out[at:end] = b""
            case 1:
                out[at:at] = out[at:end]
            case 2:
                del out[at:]
            case 3:
                out[at:at] = rng.choice(
                    [b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"1e999", b"[[[[", b"{", b'"', b"\\u"]
                )
            case 4 if out:
                out[min(at, len(out) - 1)] ^= 1 << rng.randrange(8)
            case _:
                out[at:end] = rng.randbytes(end - at)
    return bytes(out)
