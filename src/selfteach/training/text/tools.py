"""The tools of ``Recipe.rollout``, on a run's policy, roles, task and stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

from selfteach.errors import UserError
from selfteach.objective.positions import Positions, Quantity
from selfteach.policy.chat_server import Account, ChatServer, answers
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy
from selfteach.policy.mixture import decode_mixture
from selfteach.recipes.base import Recipe
from selfteach.recipes.knobs import knobs
from selfteach.recipes.tools import Prompt
from selfteach.roles.role import Role
from selfteach.roles.view import Plain, View
from selfteach.task.environment import Environment, environment_of, limit_of, turns_of
from selfteach.task.example import Example, Message, Task
from selfteach.task.grading import grades
from selfteach.task.segment import DATA, EDIT, STUDENT, Segment
from selfteach.task.trajectory import Trajectory
from selfteach.training.reduce import processes
from selfteach.training.text.annotate import token_at
from selfteach.training.text.contexts import Reading, rendered_ids
from selfteach.training.text.ledger import Ledger
from selfteach.training.text.playing import Player, answered, has_room, said_in
from selfteach.training.text.store import SERVED, NamedStore
from selfteach.words import option


@dataclass
class TextTools:
    """See ``recipes/tools.py``. ``generated`` counts every token made, those that were thrown away included.

    ``seed`` names the step, as ``reading.draws`` does, and ``rank`` this process. ``measured`` is ``measure``,
    ``further`` is ``more``.
    """

    policy: Policy
    recipe: Recipe
    reading: Reading
    task: Task
    stores: Callable[[str], NamedStore]
    measured: Callable[[Sequence[Trajectory], Mapping[str, Quantity]], dict[str, list[list[float]]]]
    further: Callable[[int], list[Prompt]]
    seed: str
    rank: int
    ledger: Ledger
    batch_size: int | None = None
    generated: int = 0
    asked: Counter[str] = field(default_factory=Counter)
    """How many answers each row of random numbers has begun at this step."""

    # --- writing ------------------------------------------------------------------------------------------------

    def sample(
        self,
        begun: Sequence[Prompt | Trajectory],
        n: int = 1,
        *,
        role: str = STUDENT,
        max_tokens: int | None = None,
        view: View | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
    ) -> list[Trajectory]:
        sampling = self.sampling(max_tokens, temperature, top_p, top_k)
        started = [one for each in begun for one in [self.started(each, sampling.temperature)] * n]
        contexts = self.contexts(role, started, sampling.max_tokens, view)
        keys = [self.key(one, role) for one in started]
        with self.reading.sampler(self.recipe.roles[role].weights) as sampler:
            samples = sampler.sample(contexts, sampling, keys=keys, batch_size=self.batch_size)
        self.generated += sum(len(one.ids) for one in samples)
        return [
            self.written_on(one, new.ids, role, new.finished, new.behavior)
            for one, new in zip(started, samples, strict=True)
        ]

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
        begun = [self.started(one) for one in about]
        told = [view(one, [one], self.reading.wording) for one in begun]
        served = self.store(SERVED).notes
        # By the model: a server that has moved is the same one.
        account = Account.of(self.ledger.with_known(server.model, served.get(server.model, {})))
        share = server if server.budget is None else replace(server, budget=server.budget // processes()[1])
        try:
            conversations = [messages for messages in told if messages is not None]
            found = iter(
                answers(
                    share, conversations, account, max_tokens=max_tokens, temperature=temperature, whole=whole
                )
            )
        finally:
            served[server.model] = account.counts
            self.ledger.note(served)
        return [None if messages is None else next(found) for messages in told]

    def mix(
        self,
        prompts: Sequence[Prompt],
        shares: Mapping[str, float],
        *,
        temperature: float = 0.0,
        top_k: int = 0,
    ) -> list[Trajectory]:
        blanks = [self.started(one) for one in prompts]
        length = self.recipe.rollouts.max_tokens
        by_role = [self.contexts(role, blanks, length, None) for role in shares]
        specs = [self.recipe.roles[role].weights for role in shares]
        store = self.reading.weights
        with ExitStack() as inside:
            alike = len(set(specs)) == 1
            policy = inside.enter_context(store.scoring(specs[0])) if alike else self.policy
            samples = decode_mixture(
                policy,
                [list(contexts) for contexts in zip(*by_role, strict=True)],
                tuple(shares.values()),
                temperature=temperature,
                top_k=top_k,
                max_tokens=length,
                keys=[self.key(one, "+".join(shares)) for one in blanks],
                batch_size=self.batch_size,
                weights=None if alike else [partial(store.scoring, spec) for spec in specs],
            )
        self.generated += sum(len(one.ids) for one in samples)
        names = list(shares)
        return [
            replace(
                self.written_on(blank, one.ids, "+".join(names), one.finished),
                marks={f"from/{name}": [pick == k for pick in one.picks] for k, name in enumerate(names)},
            )
            for blank, one in zip(blanks, samples, strict=True)
        ]

    def quote(self, prompts: Sequence[Prompt], field: str) -> list[Trajectory]:
        if (make := environment_of(self.task)) is not None:
            turns = [turns_of(one.example, field) for one in prompts]
            blanks = [replace(self.started(one), origin=DATA) for one in prompts]
            return self.player(make).play(blanks, 0, turns, trains=True)
        length = self.recipe.rollouts.max_tokens
        return [self.quoted(one, field, length) for one in prompts]

    def quoted(self, prompt: Prompt, field: str, length: int) -> Trajectory:
        text = prompt.example.private.get(field)
        if not text:
            raise UserError(
                f"example {prompt.example.key} has no {field!r} to imitate; known: {known(prompt.example)}"
            )
        ids = self.policy.renderer.completion_ids(text, self.recipe.student_thinking)
        return Trajectory.written(
            prompt.example, prompt.prompt_ids, ids[:length], text,
            group=prompt.group, finished=len(ids) <= length, origin=DATA,
        )  # fmt: skip

    def begin(self, trajectory: Trajectory, view: View) -> Trajectory | None:
        messages = view(trajectory, [trajectory], self.reading.wording)
        if messages is None:
            return None
        ids = rendered_ids(self.policy.renderer, messages, self.recipe.student_thinking)
        own = trajectory.prompt_ids
        room = self.policy.window - len(ids)
        if ids[: len(own)] != own or room <= self.recipe.rollouts.max_tokens:
            return None
        blank = self.started(Prompt(trajectory.example, own, trajectory.group))
        return self.written_on(blank, ids[len(own) :], DATA, False)

    def act(
        self, trajectories: Sequence[Trajectory], replies: Sequence[Sequence[Message]]
    ) -> list[Trajectory]:
        renderer, thinking = self.policy.renderer, self.recipe.student_thinking
        return [
            answered(renderer, thinking, one, reply) for one, reply in zip(trajectories, replies, strict=True)
        ]

    def play(
        self,
        begun: Sequence[Prompt | Trajectory],
        n: int = 1,
        *,
        role: str = STUDENT,
        view: View | None = None,
        max_turns: int | None = None,
        opening: Sequence[Sequence[str]] | None = None,
    ) -> list[Trajectory]:
        make = environment_of(self.task)
        if make is None:
            if opening is not None:
                raise UserError(f"task {self.task.name} has no environment that turns could be played in")
            return self.sample(begun, n, role=role, view=view)
        started = [one for each in begun for one in [self.started(each)] * n]
        player = self.player(make, role, view)
        asked = self.recipe.rollouts.max_turns if max_turns is None else max_turns
        openings = None if opening is None else [one for each in opening for one in [each] * n]
        return player.play(started, asked, openings)

    def player(
        self, make: Callable[[], Environment], role: str = STUDENT, view: View | None = None
    ) -> Player:
        return Player(
            make,
            self.policy.renderer,
            self.recipe.student_thinking,
            lambda waiting, turn: self.sample(waiting, role=role, view=view),
            partial(has_room, window=self.policy.window, longest=self.recipe.rollouts.max_tokens),
            limit_of(self.task),
        )

    # --- judging ------------------------------------------------------------------------------------------------

    def grade(self, trajectories: Sequence[Trajectory], *, last: bool = False) -> list[Trajectory]:
        def text(one: Trajectory) -> str:
            return self.policy.renderer.text(one.segments[-1].ids) if last else one.text

        waiting = [one for one in trajectories if not one.grade]
        found = iter(grades(self.task, ((one.example.asked, text(one)) for one in waiting)))
        return [one if one.grade else one.graded(next(found)) for one in trajectories]

    def measure(
        self, trajectories: Sequence[Trajectory], wanted: Mapping[str, Quantity]
    ) -> dict[str, list[list[float]]]:
        return self.measured(trajectories, wanted)

    def log_probs(self, trajectories: Sequence[Trajectory], role: str = STUDENT) -> list[list[float]]:
        sampled = partial(Positions.sampled, role=role, temperature=self.recipe.temperature)
        return self.measure(trajectories, {role: Quantity(sampled, (role,))})[role]

    def edit(self, trajectory: Trajectory, begin: int, text: str) -> Trajectory:
        renderer = self.policy.renderer
        ids = renderer.completion_ids(text, self.recipe.student_thinking)
        kept = said_in(trajectory, trajectory.turn_at(begin), begin)
        # However the old turn ended (by the length limit, say): the reply ends in the template's stop token.
        return trajectory.edited(begin, ids, EDIT, text=renderer.text([*kept, *ids]), finished=True)

    def cut(self, trajectory: Trajectory, tokens: int, then: Sequence[int] = ()) -> Trajectory:
        renderer, ids = self.policy.renderer, list(then)
        turn = trajectory.turn_at(max(0, tokens - 1))
        text = renderer.text([*said_in(trajectory, turn, tokens), *ids])
        kept = trajectory.head(tokens, text=text)
        if not ids:
            return kept
        forced = Segment(ids, EDIT, turn=turn)
        return kept.extended(forced, text, finished=ids[-1] in renderer.stop_ids)

    def text(self, ids: Sequence[int]) -> str:
        return self.policy.renderer.text(ids)

    def token_at(self, trajectory: Trajectory, character: int) -> int:
        return token_at(self.policy.renderer, trajectory.ids, character)

    def prompt(self, one: Prompt | Trajectory, view: View, room: int | None = None) -> Prompt | None:
        begun = self.started(one)
        messages = view(begun, [begun], self.reading.wording)
        if messages is None:
            return None
        ids = rendered_ids(self.policy.renderer, messages, self.recipe.student_thinking)
        if len(ids) + (self.recipe.rollouts.max_tokens if room is None else room) > self.policy.window:
            return None
        return Prompt(begun.example.behind(messages), ids, begun.group)

    # --- keeping ------------------------------------------------------------------------------------------------

    def store(self, name: str) -> NamedStore:
        return self.stores(name)

    def more(self, lacking: int) -> list[Prompt]:
        return self.further(lacking)

    def random(self, name: str, *, shared: bool = False) -> Random:
        return Random(f"{self.seed} {0 if shared else self.rank} {name}")

    def key(self, one: Trajectory, role: str) -> str:
        """What the random numbers of the next piece of this trajectory follow from: the step's example and how many
        pieces were asked for before, whichever process writes it and beside what."""
        about = f"{self.reading.draws} {one.group} {one.example.key} {role}"
        self.asked[about] += 1
        return f"{about} {self.asked[about]}"

    # --- parts --------------------------------------------------------------------------------------------------

    def sampling(
        self,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        top_k: int | None = None,
    ) -> Sampling:
        r = self.recipe.rollouts
        if max_tokens is not None and max_tokens < 1:
            raise UserError(f"sample is asked for max_tokens {max_tokens}: ask for 1 at least, or for None")
        return Sampling(
            max_tokens or r.max_tokens,
            r.temperature if temperature is None else temperature,
            r.top_p if top_p is None else top_p,
            r.top_k if top_k is None else top_k,
        )

    def started(self, begun: Prompt | Trajectory, temperature: float | None = None) -> Trajectory:
        """A trajectory that nobody has written on yet, of a prompt; one that is begun already stays as it is."""
        if isinstance(begun, Trajectory):
            return begun
        return Trajectory(
            begun.example, begun.prompt_ids, (), "", begun.group, False,
            temperature=self.recipe.rollouts.temperature if temperature is None else temperature,
        )  # fmt: skip

    def contexts(
        self, role: str, started: Sequence[Trajectory], room: int, view: View | None
    ) -> list[list[int]]:
        """What the role has read before the next token. UserError if it has nothing to read."""
        own = self.recipe.roles[role]
        reader: Role = own if view is None else replace(own, view=view)
        if isinstance(reader.view, Plain) and reader.thinking == self.recipe.student_thinking:
            for one in started:
                if len(one.next_context) + room > self.policy.window:
                    raise self.without_room(role, one, reader.view, len(one.next_context), room)
            return [one.next_context for one in started]
        seen = self.reading.context(reader, started, room=room)
        for ids, one in zip(seen.prompts, started, strict=True):
            if ids is None:
                raise self.unreadable(role, one, reader, room)
        return [[*(ids or []), *one.since_context] for ids, one in zip(seen.prompts, started, strict=True)]

    def unreadable(self, role: str, one: Trajectory, reader: Role, room: int) -> UserError:
        """Why the role cannot write on: its view is empty there, or too long."""
        (messages,) = self.reading.messages(reader, [one])
        if messages is None:
            return UserError(
                f"role {role!r} cannot write an answer to example {one.example.key}: its view {reader.view.name} has "
                f"nothing to show of it (private fields: {known(one.example)})"
            )
        ids = rendered_ids(self.policy.renderer, messages, reader.thinking)
        return self.without_room(role, one, reader.view, len(ids) + len(one.ids), room)

    def without_room(self, role: str, one: Trajectory, view: View, length: int, room: int) -> UserError:
        values = knobs(self.recipe)
        asked = [
            name for name, kind in self.recipe.sizes.items() if kind == "tokens" and values.get(name) == room
        ]
        lower = " or ".join(map(option, asked)) or "the length of what is written"
        return UserError(
            f"role {role!r} cannot write an answer to example {one.example.key}: view {view.name} has {length} tokens, "
            f"and {room} more exceed the model's window of {self.policy.window}: lower {lower}, or drop long prompts"
        )

    def written_on(
        self, one: Trajectory, ids: list[int], author: str, finished: bool, behavior: Sequence[float] = ()
    ) -> Trajectory:
        """The trajectory with a further piece of the assistant's words; its text is that of the present turn."""
        turn = one.next_turn
        segment = Segment(ids, author, behavior=list(behavior), turn=turn)
        text = self.policy.renderer.text([*said_in(one, turn, len(one.ids)), *ids])
        grown = one.extended(segment, text, finished=finished)
        return replace(grown, origin=author if not one.segments else grown.origin)


def known(example: Example) -> str:
    return ", ".join(sorted(example.private)) or "no private field"
