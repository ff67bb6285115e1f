"""What a recipe may use to write its rollouts: a protocol, implemented where the models are
(``training/text/tools.py``).

``Recipe.rollout(tools, prompts, step)`` returns trajectories. Selection, critique, debate, replay, drafts and
revisions are such functions; all that they generate is counted, whatever they keep of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any, Protocol

from selfteach.objective.positions import Quantity
from selfteach.policy.chat_server import ChatServer
from selfteach.roles.view import View
from selfteach.task.example import Example, Message, Task
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Prompt:
    """An example with the student's context for it (token ids), which leaves room for an answer in the model's window.

    ``group``: the number that its answers share within a step.
    """

    example: Example
    prompt_ids: list[int]
    group: int

    def told(self, **fields: str) -> Prompt:
        """With these private fields of its example, for views to show (``Told``)."""
        return replace(self, example=self.example.told(**fields))


class Tools(Protocol):
    """Everything is a pure request: what comes back is new trajectories, in the order of what was given."""

    @property
    def task(self) -> Task:
        """The run's, for what a method asks of it beyond examples and grades (``task.self_play``)."""

    def sample(
        self,
        begun: Sequence[Prompt | Trajectory],
        n: int = 1,
        *,
        role: str = "student",
        max_tokens: int | None = None,
        view: View | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
    ) -> list[Trajectory]:
        """``n`` continuations of each by the weights of ``role`` under its view (or under ``view``), at the recipe's
        sampling settings but for those given (temperature 0: the likeliest token).

        A prompt begins a trajectory of one turn; a trajectory is written on after its last token. The tokens stand
        behind the student's own prompt whoever wrote them: ``origin`` names the role, ``behavior`` its log-probs in
        nats. UserError if the view has nothing to show, or leaves no room.
        """

    def ask(
        self,
        about: Sequence[Prompt | Trajectory],
        view: View,
        server: ChatServer,
        max_tokens: int,
        temperature: float = 1.0,
        *,
        whole: bool = False,
    ) -> list[str | None]:
        """What a server answers to the conversation that ``view`` makes of each, as text; None where the view has
        nothing to show, the server gave no answer, or (``whole``) the length cut it. Tokens that it writes are not
        counted as the run's; its budget is that of all stages together, in equal parts for each process."""

    def mix(
        self,
        prompts: Sequence[Prompt],
        shares: Mapping[str, float],
        *,
        temperature: float = 0.0,
        top_k: int = 0,
    ) -> list[Trajectory]:
        """One text for each prompt, each token by a role drawn anew with probability ``shares[role]`` (MixSD).

        The mark ``from/ROLE`` says whose token it is. Temperature 0 takes the likeliest token.
        """

    def quote(self, prompts: Sequence[Prompt], field: str) -> list[Trajectory]:
        """The data's own text in the private field ``field``, without behavior log-probs; where the task is an
        environment the field is a JSON list of turns (an expert's actions), which are played. UserError where it
        lacks."""

    def begin(self, trajectory: Trajectory, view: View) -> Trajectory | None:
        """A trajectory of the same example whose first tokens are what ``view`` puts into the assistant's mouth.

        None if the view has nothing to show, does not go on from the student's prompt, or leaves no room for an answer.
        """

    def act(
        self, trajectories: Sequence[Trajectory], replies: Sequence[Sequence[Message]]
    ) -> list[Trajectory]:
        """Each trajectory with an environment's messages after its last turn; these tokens are not trained on.

        What the model wrote is never re-tokenized. Where the template does not render the earlier turn as it was
        written (thoughts are stripped), the next turn begins a context of its own. UserError where no turn stands there
        to be answered: nothing is written yet, or an environment spoke last (all of its messages belong in one call).
        """

    def play(
        self,
        begun: Sequence[Prompt | Trajectory],
        n: int = 1,
        *,
        role: str = "student",
        view: View | None = None,
        max_turns: int | None = None,
        opening: Sequence[Sequence[str]] | None = None,
    ) -> list[Trajectory]:
        """``n`` episodes of each in the task's environment, graded by the sum of their turns' rewards: the role writes
        a turn, the environment answers it, until it is done, ``max_turns`` are written (None: the recipe's), the task's
        own limit is met (turns of ``opening`` count there), or the model's window has no room for another. Where the
        task has no environment, ``sample``.

        The numbers ``turn_reward`` and ``turn_illegal`` (1: no legal action) are each token's turn's; ``turns``,
        ``out_of_turns``, ``out_of_room``, ``illegal`` and ``environment_failed`` are numbers of the row. A trajectory
        is played on where it stands. ``opening``: turns of each that are given (an
        expert's actions), played first and not trained on. An environment that raises ends its episode, with what was
        earned; UserError if more than half of them do.
        """

    def grade(self, trajectories: Sequence[Trajectory], *, last: bool = False) -> list[Trajectory]:
        """Each with the verifier's grade of its text (``last``: of its last segment's), unless it has one."""

    def measure(
        self, trajectories: Sequence[Trajectory], wanted: Mapping[str, Quantity]
    ) -> dict[str, list[list[float]]]:
        """Each quantity at every token of each trajectory, NaN where it did not write or a role that is read sees
        nothing: entropies, likeliest tokens, log-probs. Costs a pass of the roles that are read."""

    def log_probs(self, trajectories: Sequence[Trajectory], role: str = "student") -> list[list[float]]:
        """Log-prob (nats) of each token the policy wrote, under the role's weights and view (its temperature)."""

    def edit(self, trajectory: Trajectory, begin: int, text: str) -> Trajectory:
        """The trajectory with ``text`` in the place of everything from token ``begin`` on, ended as the template ends a
        turn. Its new tokens have no behavior log-probs (CaOPD). Behind an environment's answer they are a new turn;
        ValueError if ``begin`` lies within one."""

    def cut(self, trajectory: Trajectory, tokens: int, then: Sequence[int] = ()) -> Trajectory:
        """Its first ``tokens`` tokens with the token ids ``then`` behind them, which nobody sampled; ``sample`` goes on
        from there. Finished if the last of ``then`` ends a turn."""

    def text(self, ids: Sequence[int]) -> str:
        """What some of a trajectory's tokens say, as a verifier would read them."""

    def token_at(self, trajectory: Trajectory, character: int) -> int:
        """The token (from 0) of a trajectory of one turn whose text holds this character of it (from 0); behind the
        last one the number of tokens."""

    def prompt(self, one: Prompt | Trajectory, view: View, room: int | None = None) -> Prompt | None:
        """What ``view`` shows before this trajectory as a prompt of its own: rows behind it are scored behind it.

        None if the view has nothing to show, or leaves no ``room`` in the model's window: the tokens that will be
        written behind it (None: the recipe's max_tokens).
        """

    def more(self, lacking: int) -> list[Prompt]:
        """Further prompts of the task, groups numbered on: as many as all processes together lack, each saying its own
        number (negative: it has too many), rounded up so that each process gets equally many; [] once none lack.

        All processes must ask, equally often. They count as the step's data, and are not asked again (DAPO).
        """

    def store(self, name: str) -> Store:
        """The run's store of this name: trajectories that outlive the step and the stage. Each process has its own, of
        what it has met itself."""

    def random(self, name: str, *, shared: bool = False) -> Random:
        """A generator that depends on the run's seed, the step, this process and ``name`` alone; ``shared``: the same
        in every process, for what is decided of the whole step."""


class Store(Protocol):
    """Trajectories kept under a name, and plain values beside them (``notes``, a memory bank). Part of a checkpoint."""

    trajectories: list[Trajectory]
    notes: dict[str, Any]


def by_group(trajectories: Sequence[Trajectory]) -> dict[int, list[Trajectory]]:
    """Group → its trajectories, in their order."""
    found: dict[int, list[Trajectory]] = {}
    for one in trajectories:
        found.setdefault(one.group, []).append(one)
    return found


def preferred(chosen: Sequence[Trajectory], rejected: Sequence[Trajectory]) -> list[Trajectory]:
    """Both, pair by pair in their order: each chosen one is preferred to the rejected one of the same place
    (``Trajectory.pair``). They are numbered anew, from 0. Two that are the same tokens prefer nothing and are no pair.
    ValueError if these are not equally many."""
    pairs = enumerate(zip(chosen, rejected, strict=True))
    return [
        one
        for i, (good, bad) in pairs
        for one in (
            replace(good, trajectory=2 * i, pair=2 * i + 1 if good.ids != bad.ids else None),
            replace(bad, trajectory=2 * i + 1),
        )
    ]
