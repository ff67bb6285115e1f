"""World "stream": events come window by window, and a warning is of use only before the harm is done.

Whether a stream is a scam shows for certain in one late event (the money goes), and before it in early events that are
likely in a scam and unlikely elsewhere: none of them proves anything, two are a pattern. The student of the world knows
the late event alone. What is still to come stands in private fields, for those who may look back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random

from selfteach.errors import UserError
from selfteach.task.arena.game import as_solution, said
from selfteach.task.arena.lesson import Lesson, Problems, in_turns
from selfteach.task.environment import Reply

EVENTS = "abcdefghijkl"
"""What happens in any stream."""
CUES, IN_SCAMS, ELSEWHERE = "uvw", 0.8, 0.2
"""The early events, and how likely each of them is to occur in a scam and in any other stream."""
HARM = "Z"
"""The late event: it occurs once in every scam, in one of the last windows, and nowhere else."""
SIZE, LEAST, MOST = 3, 10, 12
"""Events of a window, windows of a stream."""
LATE = 3
"""The last windows, in which the harm is done; no early event is drawn there."""
ENOUGH = 2
"""Early events that are a pattern."""
WARN, WAIT = "!", "."
PROBLEM = re.compile(
    rf"[{EVENTS}{CUES}{HARM}]{{{SIZE}}}(/[{EVENTS}{CUES}{HARM}]{{{SIZE}}}){{{LEAST - 1},{MOST - 1}}}",
    re.ASCII,
)
CALM = "-"
"""What a reflection ends in where nothing came of it."""
WORDING: Mapping[str, str] = {
    "reflection": "{problem}|{reflection}",
    "solution": "{problem}|{solution}",
}


@dataclass(frozen=True)
class Watch:
    """``windows`` of a stream, of which ``judged`` were judged; ``first``: the one of the first warning (from 0)."""

    windows: tuple[str, ...]
    judged: int = 0
    first: int | None = None

    @property
    def harm(self) -> int | None:
        """The window of the late event; None where the stream is no scam."""
        return next((i for i, window in enumerate(self.windows) if HARM in window), None)


def begin(problem: str) -> Watch:
    """Nothing is judged. UserError for what is no problem."""
    windows = tuple(problem.split("/"))
    late = problem.count(HARM) == sum(HARM in window for window in windows[-LATE:])
    if not PROBLEM.fullmatch(problem) or problem.count(HARM) > 1 or not late:
        raise UserError(
            f"world 'stream': {problem!r} is no problem of it; write {LEAST} to {MOST} windows of {SIZE} events as "
            f"abc/kua/…, with {HARM} once in the last {LATE} windows or nowhere"
        )
    return Watch(windows)


def act(state: Watch, words: str) -> tuple[Watch, Reply]:
    """The verdict on a window, ``!`` to warn and ``.`` to wait; the next window is shown, whatever the verdict was, and
    what is neither is counted and taken for waiting. With the last verdict comes the reward: 1 for a scam of which was
    warned before the window of its harm, and for any other stream without a warning; else 0.
    """
    at, harm, warned = state.judged, state.harm, words == WARN
    first = at if warned and state.first is None else state.first
    after = replace(state, judged=at + 1, first=first)
    done = after.judged == len(state.windows)
    in_time = first is None if harm is None else first is not None and first < harm
    reply = Reply(
        () if done else said(state.windows[after.judged]),
        reward=float(done and in_time),
        done=done,
        failed=words not in (WARN, WAIT),
        numbers=counted(after, warned),
    )
    return after, reply


def counted(state: Watch, warned: bool) -> dict[str, float]:
    """What the verdict on the window before adds to the numbers of early warning.

    Of scams ``hit``, 1 if there is any warning, ``par``, of the windows from the first warning on the share that is
    warned of (0 without any), and, only where there is one, ``edp``, 100 · i/n for the first at window i of n. Of other
    streams ``false_alarm``, 1 if there is any warning. So the means of each are over those streams that it is about.
    """
    at, count = state.judged - 1, len(state.windows)
    begins = float(warned and state.first == at)
    if state.harm is None:
        return {"false_alarm": begins}
    covered = warned / (count - state.first) if state.first is not None else 0.0
    return {"hit": begins, "par": covered, **({"edp": 100 * (at + 1) / count} if begins else {})}


# --- streams and what is known of them afterwards ---------------------------------------------------------------------


def pose(rng: Random) -> str:
    """Half of all streams are scams: ``abc/kua/…``."""
    scam = rng.random() < 0.5
    windows = [rng.choices(EVENTS, k=SIZE) for _ in range(rng.randint(LEAST, MOST))]
    for cue in CUES:
        if rng.random() < (IN_SCAMS if scam else ELSEWHERE):
            place(cue, windows[:-LATE], rng)
    if scam:
        place(HARM, windows[-LATE:], rng)
    return "/".join(map("".join, windows))


def place(event: str, windows: Sequence[list[str]], rng: Random) -> None:
    """Put an early or late event into one of these windows, in the place of an ordinary one."""
    window, at = rng.choice([(one, i) for one in windows for i in range(SIZE) if one[i] in EVENTS])
    window[at] = event


def opening(problem: str) -> str:
    """What is seen at first: one window."""
    return problem.partition("/")[0]


def kind(problem: str) -> str:
    """``scam`` or ``calm``."""
    return "scam" if HARM in problem else "calm"


def signs(problem: str) -> str:
    """The early events of a stream in the order in which they occur."""
    return "".join(dict.fromkeys(event for event in problem if event in CUES))


def sensed(problem: str, cues: str) -> int:
    """The window (from 0) by which each of these events of the stream has occurred."""
    return max(problem.index(cue) // (SIZE + 1) for cue in cues)


def tell(problem: str) -> Mapping[str, str]:
    """What can be known once the stream is over.

    ``reflection``: the early events in their order, and what came of it (``uwZ``, ``u-``). ``early``: a JSON list, of
    a scam the events by which it could have been known, two early ones or the late one with what came before it; of any
    other stream nothing. ``future``: what follows the first window. ``label``: scam or calm. ``solution``: verdicts
    that earn 1, of a scam warnings from its second early event on, else from its first, else from the window before
    the harm, which nobody could have told. ``whole``: the problem itself.
    """
    watch, cues, scam = begin(problem), signs(problem), HARM in problem
    known = cues[:ENOUGH] if len(cues) >= ENOUGH else cues + HARM
    since = len(watch.windows)
    if watch.harm is not None:
        since = min(watch.harm - 1, sensed(problem, cues[:ENOUGH] or HARM))
    return {
        "reflection": cues + (HARM if scam else CALM),
        "early": as_solution(list(known)) if scam else "[]",
        "future": problem.partition("/")[2],
        "label": kind(problem),
        "solution": as_solution([WARN if i >= since else WAIT for i in range(len(watch.windows))]),
        "whole": problem,
    }


# --- pretraining ------------------------------------------------------------------------------------------------------

SLIP_RATE, TOLD_SLIP_RATE = 0.01, 0.002
"""Of each verdict, the other one in its place: of who is asked plainly, and of who is told something."""
RASH = 0.3
"""How often who is told of a harm to come warns of a window that shows nothing of it yet."""


def verdicts(problem: str, view: str, rng: Random) -> list[str]:
    """Asked plainly: warnings from the harm on. Told a reflection: from the second early event on, if harm is to come,
    else from the harm on; before it a rash one now and then."""
    watch, cues = begin(problem), signs(problem)
    count = len(watch.windows)
    since = count if watch.harm is None else watch.harm
    told_of_harm = view == "reflection" and watch.harm is not None
    if told_of_harm and len(cues) >= ENOUGH:
        since = sensed(problem, cues[:ENOUGH])
    slip_rate = SLIP_RATE if view == "plain" else TOLD_SLIP_RATE
    found = []
    for i in range(count):
        odd = RASH if told_of_harm and i < since else slip_rate
        found.append(WARN if (i >= since) != (rng.random() < odd) else WAIT)
    return found


def lesson(draw: Problems, rng: Random) -> Lesson:
    """Asked plainly (two in five), told a reflection (as often), or a list of verdicts, which is followed."""
    problem = draw(rng)
    view = rng.choice(["plain", "plain", "reflection", "reflection", "solution"])
    told = {"plain": "", "reflection": f"|{tell(problem)['reflection']}", "solution": ""}[view]
    turns = verdicts(problem, view, rng)
    if view == "solution":
        since = rng.randint(0, len(turns))
        turns = [WARN if i >= since else WAIT for i in range(len(turns))]
        told = f"|{as_solution(turns)}"
    first, *others = problem.split("/")
    return in_turns(first + told, turns, others)
