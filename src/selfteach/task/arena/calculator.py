"""World "calculator": a sum whose steps a tool works out, if it is called as it wants to be.

A wrong call is answered like a right one, a malformed one with a text that holds an example: either stands in the
conversation from then on, and who reads on from it goes astray. Unlike in world "doors" nothing is lost for good: the
right call may follow any time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random

from selfteach.errors import UserError
from selfteach.task.arena.arithmetic import OPERATIONS, Step, exact
from selfteach.task.arena.chain import work
from selfteach.task.arena.game import as_solution, said
from selfteach.task.arena.lesson import Lesson, Problems, another_digit, in_turns
from selfteach.task.environment import Reply

MAX_TURNS = 10
PROBLEM = re.compile(r"[0-9]([-+*@][0-9]){3,4}", re.ASCII)
CALL = re.compile(r"=(?P<left>[0-9])(?P<operation>[-+*@])(?P<right>[0-9])", re.ASCII)
ANSWER = re.compile(r"#(?P<digit>[0-9])", re.ASCII)
EXAMPLE = "=3@7"
MALFORMED = f"write {EXAMPLE}"
WORDING: Mapping[str, str] = {"solution": "{problem}|{solution}", "plan": "{problem}|{plan}"}


@dataclass(frozen=True)
class Work:
    """``steps``: the right ones, from left to right; ``done``: how many of them were called for in their order."""

    steps: tuple[Step, ...]
    done: int = 0

    @property
    def next_call(self) -> str | None:
        """The right call; None once all are done."""
        return f"={self.steps[self.done].question}" if self.done < len(self.steps) else None

    @property
    def result(self) -> str:
        return str(self.steps[-1].result)


def pose(rng: Random) -> str:
    """A start digit and three or four operations worked from left to right, as in ``7@5-9@2``."""
    count = rng.randint(3, 4)
    return f"{rng.randrange(10)}" + "".join(
        f"{rng.choice(OPERATIONS)}{rng.randrange(10)}" for _ in range(count)
    )


def begin(problem: str) -> Work:
    """Nothing is done. UserError for what is no problem."""
    if not PROBLEM.fullmatch(problem):
        raise UserError(f"world 'calculator': {problem!r} is no problem of it; write it as 7@5-9@2")
    return Work(tuple(work(problem, exact)))


def act(state: Work, words: str) -> tuple[Work, Reply]:
    """``=7@5`` is answered by its result, whether or not it is called for; ``#4`` ends the episode, with reward 1 if it
    is the result of the whole; anything else by a text that says how to call.

    ``numbers``: ``wrong_calls``, 1 for a call that is not the next right one.
    """
    if claim := ANSWER.fullmatch(words):
        right = claim["digit"] == state.result
        return state, Reply((), reward=float(right), done=True, numbers={"wrong_calls": 0.0})
    call = CALL.fullmatch(words)
    if call is None:
        return state, Reply(said(MALFORMED), failed=True, numbers={"wrong_calls": 0.0})
    on_path = words == state.next_call
    result = exact(int(call["left"]), call["operation"], int(call["right"]))
    reply = Reply(said(str(result)), numbers={"wrong_calls": float(not on_path)})
    return replace(state, done=state.done + on_path), reply


def kind(problem: str) -> str:
    """How many steps there are."""
    return f"{len(problem) // 2} steps"


def tell(problem: str) -> Mapping[str, str]:
    """``solution``, an expert's calls and the answer; ``plan``, the running values."""
    state = begin(problem)
    turns = [*(f"={step.question}" for step in state.steps), f"#{state.result}"]
    return {"solution": as_solution(turns), "plan": "".join(str(step.result) for step in state.steps)}


def blunder(problem: str) -> str | None:
    """The first call with another left operand; None where the result is the same (0 for any, times 0)."""
    first = begin(problem).steps[0]
    left = (first.left + 3) % 10
    same = exact(left, first.operation, first.right) == first.result
    return None if same else f"={left}{first.operation}{first.right}"


# --- pretraining ------------------------------------------------------------------------------------------------------

MISTAKE_RATE, TOLD_MISTAKE_RATE = 0.35, 0.02
"""Of each turn: of who is asked plainly, and of who is told what comes out."""
GUESS_SHARE, MALFORMED_SHARE = 0.15, 0.4
"""Of mistakes: a guessed answer in a call's place, a malformed call; the others are wrong calls."""
NOTICED = 0.5
"""How often a mistake is noticed and the right call made behind it."""


def malformed(call: str, rng: Random) -> str:
    """A call without one of its characters, or with its sign of equality at the end."""
    cut = rng.randrange(len(call) + 1)
    return call[1:] + "=" if cut == len(call) else call[:cut] + call[cut + 1 :]


def wrong(call: str, rng: Random) -> str:
    """A call with another operand or another operation."""
    place = rng.randrange(1, 4)
    if place == 2:
        return call[:2] + rng.choice([one for one in OPERATIONS if one != call[2]]) + call[3]
    return call[:place] + str(another_digit(rng, int(call[place]))) + call[place + 1 :]


class Careless:
    """Plays one episode and makes mistakes; one that goes unnoticed is gone on from: its result is believed, and the
    example of the error text is called."""

    def __init__(self, problem: str, mistake_rate: float, rng: Random) -> None:
        self.problem, self.mistake_rate, self.rng = problem, mistake_rate, rng
        self.state, self.value, self.at = begin(problem), problem[0], 0
        self.turns, self.answers = list[str](), list[str]()

    def play(self) -> tuple[list[str], list[str]]:
        """(turns, what each but the last was answered)."""
        while not self.over:
            if self.at == len(self.state.steps):
                self.say(f"#{self.value}")
            else:
                self.call(f"={self.value}{self.problem[1 + 2 * self.at]}{self.problem[2 + 2 * self.at]}")
        return self.turns, self.answers

    @property
    def over(self) -> bool:
        return len(self.turns) > len(self.answers)

    def say(self, words: str) -> str:
        """What a turn is answered; "" for the last one."""
        self.state, reply = act(self.state, words)
        self.turns.append(words)
        if reply.done or len(self.turns) == MAX_TURNS:
            return ""
        self.answers.append(reply.messages[0]["content"])
        return self.answers[-1]

    def call(self, right: str) -> None:
        """One step: the call that is meant, or a mistake in its place, seen or not."""
        if self.rng.random() >= self.mistake_rate:
            self.go_on(self.say(right))
            return
        kind = self.rng.random()
        if kind < GUESS_SHARE:
            self.say(f"#{self.rng.randrange(10)}")
            return
        answer = self.say(
            malformed(right, self.rng) if kind < GUESS_SHARE + MALFORMED_SHARE else wrong(right, self.rng)
        )
        if self.over or self.rng.random() < NOTICED:
            return
        self.go_on(self.say(EXAMPLE) if answer == MALFORMED else answer)

    def go_on(self, answer: str) -> None:
        if not self.over:
            self.value, self.at = answer, self.at + 1


def lesson(draw: Problems, rng: Random) -> Lesson:
    """Asked plainly (half) with mistakes; told the running values, or all turns, with hardly any."""
    problem = draw(rng)
    view = rng.choice(["plain", "plain", "plan", "solution"])
    turns, answers = Careless(problem, MISTAKE_RATE if view == "plain" else TOLD_MISTAKE_RATE, rng).play()
    told = {"plain": "", **{name: f"|{text}" for name, text in tell(problem).items()}}[view]
    return in_turns(problem + told, turns, answers)


def expert_lesson(draw: Problems, rng: Random) -> Lesson:
    """Asked plainly, without a mistake."""
    problem = draw(rng)
    return in_turns(problem, *Careless(problem, 0.0, rng).play())
