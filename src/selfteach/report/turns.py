"""The turns of an episode as samples.jsonl has them, read as they are: what is missing or broken is none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfteach.report.text import as_number, number

MOST_TURNS, AT_ONCE = 200, 6
"""Turns of an episode that are shown; of an answer before or after training, those that are not folded."""
ENDINGS = {
    "out_of_turns": "It ran out of turns.",
    "out_of_room": "The model's window had no room for another turn.",
    "environment_failed": "The environment failed.",
}
"""Why an episode was not done, by the number that says so (docs/environments.md)."""


@dataclass(frozen=True)
class Turn:
    """Tokens ``begin`` to ``end`` of the row are its ``text``; ``reply``: (role, content) of what answered it."""

    number: int
    begin: int
    end: int
    author: str
    trains: bool
    text: str
    reward: float | None
    illegal: bool | None
    reply: tuple[tuple[str, str], ...]

    @property
    def facts(self) -> list[str]:
        """What is known of it besides its words."""
        return [
            *([f"by {self.author}"] if self.author != "student" else []),
            *(["not trained on"] if not self.trains else []),
            *(["illegal"] if self.illegal else []),
            *([f"reward {number(self.reward)}"] if self.reward is not None else []),
        ]


def turns_told(row: Mapping[str, Any]) -> tuple[Turn, ...]:
    """The turns of a row of samples.jsonl in order; () if it has none (a single answer, an older run's)."""
    rows = row.get("turns")
    return tuple(_turns(rows)) if isinstance(rows, list) else ()


def _turns(rows: Sequence[Any]) -> Iterator[Turn]:
    for one in rows:
        if not isinstance(one, Mapping):
            continue
        number, begin, end = (whole(one.get(name)) for name in ("turn", "begin", "end"))
        if number is None or begin is None or end is None or begin > end:
            continue
        reply = one.get("reply")
        yield Turn(
            number,
            begin,
            end,
            str(one.get("author", "")),
            one.get("trains") is True,
            str(one.get("text", "")),
            as_number(one.get("reward")),
            one["illegal"] if isinstance(one.get("illegal"), bool) else None,
            tuple(
                (str(said.get("role", "")), str(said.get("content", "")))
                for said in (reply if isinstance(reply, list) else ())
                if isinstance(said, Mapping)
            ),
        )


def whole(value: object) -> int | None:
    """A count, if it is one."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else None


def ending_of(row: Mapping[str, Any]) -> str:
    """Why an episode was not done, in a sentence; "" if it was, or if nothing says so."""
    numbers = row.get("numbers")
    known = numbers if isinstance(numbers, Mapping) else {}
    return next((said for name, said in ENDINGS.items() if as_number(known.get(name)) == 1), "")


def who(role: str) -> str:
    """How the author of a reply is called: whatever its role in the chat is, it is the environment."""
    return "environment" if is_plain(role) else f"environment ({role})"


def is_plain(role: str) -> bool:
    """Whether a role says no more of an author than that it is the environment."""
    return role in ("user", "environment", "")
