"""An episode turn by turn, for whoever looks at it: who wrote what, what it earned, and what was answered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from selfteach.policy.renderer import Renderer
from selfteach.task.example import Message
from selfteach.task.trajectory import Trajectory
from selfteach.training.text.playing import TURN_ILLEGAL, TURN_REWARD

ANSWERING = "environment"
"""Who says what an episode ends with, where its role in the chat is not kept."""


@dataclass(frozen=True)
class Turn:
    """A turn: tokens ``begin`` to ``end`` of its row, which stand for ``text``, and what ``reply`` answers it.

    ``turn`` counts from 0 over the episode, whatever row it stands in. ``trains``: whether any of its tokens are the
    policy's own. ``reward``: None where nobody pays turns. ``illegal``: whether it was no legal action, None where
    nobody says so.
    """

    turn: int
    begin: int
    end: int
    author: str
    trains: bool
    text: str
    reward: float | None = None
    illegal: bool | None = None
    reply: tuple[Message, ...] = ()


def turns_by_row(rows: Sequence[Trajectory], renderer: Renderer) -> list[tuple[Turn, ...]]:
    """The turns of each row; () for those of rollouts that are one answer, which nobody answers.

    ``rows``: whole rollouts, the rows of one (equal ``trajectory``) one after another, as ``Trajectory.rows`` has them.
    """
    found: list[tuple[Turn, ...]] = []
    for own in rollouts(rows):
        replies = replies_of(own[-1])
        turns = [tuple(turns_of(one, replies, renderer)) for one in own]
        several = TURN_REWARD in own[0].numbers or sum(map(len, turns)) > 1
        found += turns if several else [()] * len(own)
    return found


def rollouts(rows: Iterable[Trajectory]) -> list[list[Trajectory]]:
    """The rows of each rollout: neighbors that were one trajectory; a row without a number is one by itself."""
    found: list[list[Trajectory]] = []
    for one in rows:
        if found and one.trajectory is not None and one.trajectory == found[-1][-1].trajectory:
            found[-1].append(one)
        else:
            found.append([one])
    return found


def turns_of(one: Trajectory, replies: Sequence[tuple[Message, ...]], renderer: Renderer) -> Iterator[Turn]:
    """The turns that stand in this row. ``replies``: what answered each turn of the episode."""
    place = 0
    for number, group in groupby(one.segments, key=lambda each: each.turn):
        segments = list(group)
        spoken = [each for each in segments if each.spoken]
        begin = (
            place + sum(len(each.ids) for each in segments[: segments.index(spoken[0])]) if spoken else place
        )
        place += sum(len(each.ids) for each in segments)
        ids = [token for each in spoken for token in each.ids]
        if not ids:
            continue
        reward, illegal = (of_token(one, name, begin) for name in (TURN_REWARD, TURN_ILLEGAL))
        yield Turn(
            number,
            begin,
            begin + len(ids),
            " + ".join(dict.fromkeys(each.author for each in spoken)),
            any(each.trains for each in spoken),
            renderer.text(ids),
            reward,
            None if illegal is None else illegal > 0,
            replies[number] if number < len(replies) else (),
        )


def of_token(one: Trajectory, name: str, at: int) -> float | None:
    """The number of this name that a token has; None where nobody knows it."""
    column = one.numbers.get(name)
    return column[at] if isinstance(column, list) and not math.isnan(column[at]) else None


def replies_of(last: Trajectory) -> list[tuple[Message, ...]]:
    """What answered each turn of the episode whose last row this is, by the turn's number."""
    replies: list[list[Message]] = []
    for message in (*last.history, *last.conversation):
        if message["role"] == "assistant":
            replies.append([])
        elif replies:
            replies[-1].append(message)
    said = None if last.grade is None or TURN_REWARD not in last.numbers else last.grade.feedback
    # What it says when the episode is over is no part of the conversation: nobody reads it.
    if said and last.segments[-1].spoken and last.next_turn == len(replies):
        replies.append([Message(role=ANSWERING, content=said)])
    return [tuple(one) for one in replies]
