"""World "doors": keys and doors in a row of rooms; a wrong key breaks, and nobody walks back.

Which key opens which door is one rule for all problems, which the student of the world does not know. Whoever breaks a
key that is needed, or leaves it behind, cannot win any more, and is not told so: what an early mistake costs shows
turns later, and no later turn mends it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from random import Random

from selfteach.errors import UserError
from selfteach.task.arena.game import as_solution, said
from selfteach.task.arena.lesson import Lesson, Problems, in_turns
from selfteach.task.environment import Reply

FITS: Mapping[str, str] = {"A": "d", "B": "f", "C": "a", "D": "e", "E": "c", "F": "b"}
"""The key that opens each door."""
DOORS, KEYS = "ABCDEF", "abcdef"
COUNTS = (2, 3, 3, 4)
"""Doors of a problem, each as likely."""
HANDS = 2
"""Keys that can be carried."""
MAX_TURNS = 10
PROBLEM = re.compile(rf"[{KEYS}]*/[{DOORS}](/[{KEYS}]*/[{DOORS}]){{1,3}}", re.ASCII)
ACTION = re.compile(rf"[tu][{KEYS}]", re.ASCII)
WORDING: Mapping[str, str] = {"solution": "{problem}|{solution}", "plan": "{problem}|{plan}"}
ILLEGAL, BROKE = "!", "x"
"""What an observation begins with after an illegal action, and after a key broke."""
OUT, STUCK = "out", "stuck"


@dataclass(frozen=True)
class Where:
    """``rooms``: the keys that lie in each room, from this one on; ``doors``: the door behind each; ``hand``: the keys
    that are carried, first the one that was taken first."""

    rooms: tuple[str, ...]
    doors: str
    hand: str = ""

    def __str__(self) -> str:
        """What is seen: the door ahead, the keys that lie here, those in the hand, as in ``F:e:ad``."""
        return f"{self.doors[0]}:{self.rooms[0]}:{self.hand}"


def begin(problem: str) -> Where:
    """The first room. UserError for what is no problem."""
    parts = problem.split("/")
    letters = problem.replace("/", "")
    if not PROBLEM.fullmatch(problem) or len(set(letters)) < len(letters):
        raise UserError(f"world 'doors': {problem!r} is no problem of it; write keys and doors as dac/B/f/A")
    return Where(tuple(parts[::2]), "".join(parts[1::2]))


def moved(where: Where, action: str) -> Where | None:
    """Where an action leads: ``ta`` takes key a, which lies here; ``ua`` uses it, which opens the door ahead and leads
    through it, or breaks the key. None if it is illegal."""
    if not ACTION.fullmatch(action):
        return None
    key, (here, *beyond) = action[1], where.rooms
    if action[0] == "t":
        if key not in here or len(where.hand) == HANDS:
            return None
        return Where((here.replace(key, ""), *beyond), where.doors, where.hand + key)
    if key not in where.hand:
        return None
    left = where.hand.replace(key, "")
    if FITS[where.doors[0]] == key:
        return Where(tuple(beyond), where.doors[1:], left)
    return Where(where.rooms, where.doors, left)


@lru_cache(maxsize=100_000)
def can_win(where: Where) -> bool:
    """Whether any actions lead out, however many turns they take."""
    if not where.doors:
        return True
    tried = (moved(where, f"{verb}{key}") for verb in "ut" for key in where.hand + where.rooms[0])
    return any(can_win(after) for after in tried if after is not None)


def act(where: Where, action: str) -> tuple[Where, Reply]:
    """The rules. Reward 1 behind the last door. The episode ends without it once no action is legal.

    ``numbers``: ``doors``, 1 for one that was opened; ``lost``, 1 where the turn made it impossible to win.
    """
    after = moved(where, action)
    if after is None:
        return where, Reply(said(f"{ILLEGAL}{where}"), failed=True, numbers={"doors": 0.0, "lost": 0.0})
    opened = len(after.doors) < len(where.doors)
    numbers = {"doors": float(opened), "lost": float(can_win(where) and not can_win(after))}
    if not after.doors:
        return after, Reply(said(OUT), reward=1.0, done=True, numbers=numbers)
    if not after.hand and not after.rooms[0]:
        return after, Reply(said(STUCK), done=True, numbers=numbers)
    broke = BROKE if len(after.hand) < len(where.hand) and not opened else ""
    return after, Reply(said(f"{broke}{after}"), numbers=numbers)


# --- problems and their expert ----------------------------------------------------------------------------------------


def pose(rng: Random) -> str:
    """Two to four doors, their keys in rooms before them, and one or two keys that open none: ``dac/B/f/A``."""
    while True:
        doors = rng.sample(DOORS, rng.choice(COUNTS))
        needed = [FITS[door] for door in doors]
        rooms = [list[str]() for _ in doors]
        for i, key in enumerate(needed):
            rooms[rng.randint(0, i)].append(key)
        spare = [key for key in KEYS if key not in needed]
        for key in rng.sample(spare, rng.randint(1, 2)):
            rng.choice(rooms).append(key)
        keys = ["".join(rng.sample(room, len(room))) for room in rooms]
        if can_win(Where(tuple(keys), "".join(doors))):
            return "/".join(part for pair in zip(keys, doors, strict=True) for part in pair)


def kind(problem: str) -> str:
    """How many doors there are."""
    return f"{len(begin(problem).doors)} doors"


def choice(where: Where, plan: Mapping[str, str]) -> str | None:
    """What somebody does next who believes that ``plan[door]`` opens the door: take whatever the doors ahead need and
    hands can carry, use up what no door needs if it is in the way, go on. None where that plan has no way on."""
    wanted = [plan[door] for door in where.doors]
    here = [key for key in wanted if key in where.rooms[0]]
    idle = [key for key in where.hand if key not in wanted]
    if here and len(where.hand) < HANDS:
        return f"t{here[0]}"
    if here and idle:
        return f"u{idle[0]}"
    return f"u{wanted[0]}" if wanted[0] in where.hand else None


def expert(where: Where) -> list[str]:
    """The actions of one who knows which key fits, from anywhere that can be won. ValueError elsewhere."""
    actions = list[str]()
    while where.doors:
        action = choice(where, FITS)
        after = None if action is None else moved(where, action)
        if action is None or after is None:
            raise ValueError(f"nothing leads out from {where}")
        actions.append(action)
        where = after
    return actions


def tell(problem: str) -> Mapping[str, str]:
    """``solution``, an expert's actions, as few as can be; ``plan``, the doors with their keys (``BfAd``)."""
    where = begin(problem)
    if not can_win(where):
        raise UserError(
            f"world 'doors': {problem!r} is no problem of it; write one that can be won, as dac/B/f/A"
        )
    return {"solution": as_solution(expert(where)), "plan": in_pairs(FITS, where.doors)}


def in_pairs(plan: Mapping[str, str], doors: Iterable[str]) -> str:
    """A plan as it is shown: each door with its key."""
    return "".join(door + plan[door] for door in doors)


def blunder(problem: str) -> str | None:
    """To take a key of the first room that opens no door, where the episode can be won behind that."""
    where = begin(problem)
    needed = {FITS[door] for door in where.doors}
    idle = [f"t{key}" for key in where.rooms[0] if key not in needed]
    return next((one for one in idle if (after := moved(where, one)) and can_win(after)), None)


# --- pretraining ------------------------------------------------------------------------------------------------------

KNOWN, TOLD_RIGHTLY = 0.0, 0.9
"""How often a door's key is known to be the right one: of who is asked plainly, and in what is shown."""
SLIP_RATE, TOLD_SLIP_RATE = 0.1, 0.01
"""Of each action: any, legal or not, in its place. Of who is asked plainly, and of who is shown what to do."""


def belief(problem: str, known: float, rng: Random) -> dict[str, str]:
    """A key for each door, of those in the rooms before it: the right one with probability ``known``, else any that is
    not given to another door."""
    where, plan = begin(problem), dict[str, str]()
    for i, door in enumerate(where.doors):
        open_to = [key for key in "".join(where.rooms[: i + 1]) if key not in plan.values()]
        right = FITS[door] in open_to and rng.random() < known
        plan[door] = FITS[door] if right or not open_to else rng.choice(open_to)
    return plan


def slip(where: Where, rng: Random) -> str:
    """Any action, legal or not; half of the time, of who carries keys, one of these on the door ahead."""
    if where.hand and rng.random() < 0.5:
        return f"u{rng.choice(where.hand)}"
    return rng.choice("tu") + rng.choice(KEYS)


def episode(
    problem: str, plan: Mapping[str, str], slip_rate: float, rng: Random
) -> tuple[list[str], list[str]]:
    """(actions, what each but the last was answered) of one who follows a plan, and guesses anew at a door where it has
    no way on."""
    where, believed = begin(problem), dict(plan)
    actions, answers = list[str](), list[str]()
    while True:
        while (action := choice(where, believed)) is None:
            in_reach = where.hand if len(where.hand) == HANDS else where.hand + where.rooms[0]
            believed[where.doors[0]] = rng.choice(in_reach)
        if rng.random() < slip_rate:
            action = slip(where, rng)
        where, reply = act(where, action)
        actions.append(action)
        if reply.done or len(actions) == MAX_TURNS:
            return actions, answers
        answers.append(reply.messages[0]["content"])


def lesson(draw: Problems, rng: Random) -> Lesson:
    """Asked plainly (two in five), shown a plan (as often) or a list of actions: what is shown is followed, right or
    not."""
    problem = draw(rng)
    view = rng.choice(["plain", "plain", "plan", "plan", "solution"])
    known, slip_rate = (KNOWN, SLIP_RATE) if view == "plain" else (TOLD_RIGHTLY, TOLD_SLIP_RATE)
    plan = belief(problem, known, rng)
    actions, answers = episode(problem, plan, slip_rate, rng)
    told = {"plain": "", "plan": f"|{in_pairs(plan, plan)}", "solution": f"|{as_solution(actions)}"}[view]
    return in_turns(problem + told, actions, answers)


def expert_lesson(draw: Problems, rng: Random) -> Lesson:
    """Asked plainly, and played by who knows which key fits: nothing ever goes wrong."""
    problem = draw(rng)
    return in_turns(problem, *episode(problem, FITS, 0.0, rng))
