"""Episodes: the policy writes a turn, the environment answers it, until it is done, or turns or room run out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from selfteach.errors import UserError
from selfteach.outside import with_type
from selfteach.policy.renderer import Renderer
from selfteach.task.environment import Environment, Reply, checked
from selfteach.task.example import Grade, Message
from selfteach.task.segment import DATA, ENVIRONMENT, Segment
from selfteach.task.trajectory import Trajectory
from selfteach.task.verdict import Verdict

Given = TypeVar("Given")
Asked = TypeVar("Asked")
Ending = Literal["done", "turns", "room", "failure"]
"""Why an episode ended: the environment says so, the turns are used up, the model's window has no room for another
turn, or the environment itself failed."""
TURN_REWARD, TURN_ILLEGAL = "turn_reward", "turn_illegal"
"""The numbers that each token has of its turn."""
SAID = 300
"""Characters of what an environment raised that are shown."""
FAILING = 0.5
"""With more than this share of a step's environments failing there is nothing to learn from."""


@dataclass
class Episode:
    """``rewards``: one a turn, those of turns that were given (``opening``) included."""

    trajectory: Trajectory
    environment: Environment | None = None
    rewards: list[float] = field(default_factory=list)
    numbers: dict[str, float] = field(default_factory=dict)
    said: list[Message] = field(default_factory=list)
    illegal: set[int] = field(default_factory=set)
    cut: int = 0
    """Turns that met their length limit."""
    ending: Ending | None = None
    trouble: str = ""

    @classmethod
    def begun(cls, trajectory: Trajectory, make: Callable[[], Environment]) -> Episode:
        """Its environment stands where the trajectory does: the turns that it has are played again."""
        episode = cls(trajectory)
        made = episode.environment = episode._guarded(make)
        if made is not None:
            episode._guarded(lambda: made.reset(trajectory.example.asked))
        for message in trajectory.conversation:
            if message["role"] == "assistant" and episode.ending is None:
                episode._step(message)
        return episode

    def step(self, words: str) -> Reply | None:
        """What the environment makes of these words; None where it failed, or where the episode is over."""
        return self._step(Message(role="assistant", content=words))

    def _step(self, message: Message) -> Reply | None:
        environment = self.environment
        # A copy: what was said stays what was said, whatever becomes of it there.
        reply = (
            None
            if environment is None
            else self._guarded(lambda: checked(environment.step(Message(**message))))
        )
        self.said.append(message)
        if reply is None:
            self.rewards.append(0.0)
            return None
        self.said += reply.messages
        if reply.failed:
            self.illegal.add(len(self.rewards))
        self.rewards.append(float(reply.reward))
        for name, value in {"illegal": float(reply.failed), **reply.numbers}.items():
            self.numbers[name] = self.numbers.get(name, 0.0) + float(value)
        if reply.done:
            self.ending = "done"
        return reply

    def _guarded(self, what: Callable[[], Given]) -> Given | None:
        """What the user's code gives; where it raises the episode is over, with what was earned so far."""
        try:
            return what()
        except UserError:  # a mistake in what was built, a tool or a check: not this episode's bad luck
            raise
        except (Exception, SystemExit) as error:
            self.fail(with_type(error))
            return None

    def fail(self, why: str) -> None:
        self.ending, self.trouble = "failure", " ".join(why.split())[:SAID]

    def closed(self) -> Trajectory:
        """The finished trajectory: graded by what was earned, its text the whole exchange."""
        close(self.environment)
        one, earned = without_last_answer(self.trajectory), sum(self.rewards)
        numbers = {
            "success": float(earned >= 0.5),
            "turns": float(len(self.rewards)),
            "out_of_turns": float(self.ending == "turns"),
            "out_of_room": float(self.ending == "room"),
            "environment_failed": float(self.ending == "failure"),
            "turns_cut": float(self.cut),
            **self.numbers,
        }
        unjudged = Verdict.NO_REWARD if self.ending == "failure" else Verdict.WRONG
        verdict = Verdict.RIGHT if earned >= 0.5 else unjudged
        words = next((m["content"] for m in reversed(self.said) if m["role"] == "assistant"), None)
        feedback = "\n".join(m["content"] for m in self.said[-1:] if m["role"] != "assistant") or None
        each = [self.rewards[turn] if turn < len(self.rewards) else 0.0 for turn in one.turn]
        illegal = [float(turn in self.illegal) for turn in one.turn]
        told = replace(one, text=transcript(self.said), finished=self.ending != "room" and not self.cut)
        return told.with_numbers(**{TURN_REWARD: each, TURN_ILLEGAL: illegal}).graded(
            Grade(earned, feedback, words, verdict.value, numbers)
        )


def close(environment: Environment | None) -> None:
    """End an environment, if it wants to be; nothing of it counts any more, nor how it takes that."""
    with suppress(Exception):
        getattr(environment, "close", lambda: None)()


def without_last_answer(one: Trajectory) -> Trajectory:
    """Without what an environment said behind the last turn: nobody reads it, and it may be longer than the window."""
    last = one.segments[-1] if one.segments else None
    if last is None or last.spoken or len(one.segments) == 1:
        return one
    return one.cut_segments(len(one.segments) - 1)


def transcript(said: Sequence[Message]) -> str:
    """An exchange as one text: the first turn as it is, what follows it behind its author's name."""
    parts = [m["content"] if i == 0 else f"{m['role']}: {m['content']}" for i, m in enumerate(said)]
    return "\n".join(parts)


def answered(
    renderer: Renderer, thinking: bool | None, one: Trajectory, reply: Sequence[Message]
) -> Trajectory:
    """The trajectory with these messages after its last turn. UserError where no turn stands there (``Tools.act``)."""
    if not one.segments or not one.segments[-1].spoken:
        raise UserError(
            f"act: example {one.example.key} has no turn to answer: sample one before, "
            "and give all messages that answer a turn in one call"
        )
    turn = one.segments[-1].turn
    # From the ids, not from ``text``, which a recipe may set (a fork's, a grader's) to other words than stand here.
    words = renderer.text(said_in(one, turn, len(one.ids)))
    before = (*one.example.prompt, *one.conversation)
    said = (Message(role="assistant", content=words), *reply)
    if renderer.extends(before, words, reply, thinking):
        between = renderer.following_ids(reply, thinking, finished=one.finished)
        segment = Segment(between, ENVIRONMENT, trains=False, turn=turn, messages=said)
        return one.extended(segment, words, finished=False)
    context = renderer.prompt_ids((*before, *said), thinking)
    segment = Segment([], ENVIRONMENT, trains=False, turn=turn, context=context, messages=said)
    return one.extended(segment, words, finished=False)


def said_in(one: Trajectory, turn: int, end: int) -> list[int]:
    """The assistant's own tokens of this turn, up to token ``end``."""
    spoken = [each.spoken for each in one.segments for _ in each.ids]
    facts = zip(one.ids[:end], spoken[:end], one.turn[:end], strict=True)
    return [token for token, own, at in facts if own and at == turn]


def has_room(one: Trajectory, window: int, longest: int) -> bool:
    """Whether another turn of at most so many tokens fits the model's window."""
    return len(one.next_context) + longest <= window


@dataclass(frozen=True)
class Player:
    """Plays episodes. ``write``: one more turn of each trajectory, which is the turn of this number; ``room``: whether
    the model's window has any for it; ``longest``: turns that an episode may have in all (None: any number)."""

    make: Callable[[], Environment]
    renderer: Renderer
    thinking: bool | None
    write: Callable[[Sequence[Trajectory], int], Sequence[Trajectory]]
    room: Callable[[Trajectory], bool]
    longest: int | None = None

    def play(
        self,
        begun: Sequence[Trajectory],
        most: int,
        opening: Sequence[Sequence[str]] | None = None,
        *,
        trains: bool = False,
    ) -> list[Trajectory]:
        """Each played on to its end, at most ``most`` turns more, behind the turns of ``opening``, which are trained on
        if ``trains``. UserError if most of the environments fail."""
        episodes = self.resumed(begun)
        if opening is not None:
            self.give(episodes, opening, trains)
        for turn in range(most):
            waiting = [one for one in episodes if self.goes_on(one)]
            if not waiting:
                break
            written = self.write([one.trajectory for one in waiting], turn)
            for episode, longer in zip(waiting, written, strict=True):
                episode.trajectory = longer
            self.answer(waiting)
        for one in episodes:
            one.ending = one.ending or "turns"
        refuse_failing(episodes)
        return [one.closed() for one in episodes]

    def resumed(self, begun: Sequence[Trajectory]) -> list[Episode]:
        """Episodes where the trajectories stand; a last turn is answered now, unless it is already."""
        episodes = self.each(lambda one: Episode.begun(one, self.make), begun)
        unanswered = [
            one for one in episodes
            if one.trajectory.segments and one.trajectory.segments[-1].spoken and one.ending is None
        ]  # fmt: skip
        for one in unanswered:
            ids = one.trajectory.ids
            ended = bool(ids) and ids[-1] in self.renderer.stop_ids
            one.trajectory = replace(one.trajectory, finished=ended)
        self.answer(unanswered)
        return episodes

    def goes_on(self, episode: Episode) -> bool:
        if episode.ending is None and self.longest is not None and len(episode.rewards) >= self.longest:
            episode.ending = "turns"
        if episode.ending is None and not self.room(episode.trajectory):
            episode.ending = "room"
        return episode.ending is None

    def give(self, episodes: Sequence[Episode], opening: Sequence[Sequence[str]], trains: bool) -> None:
        """Turns of each that nobody samples (an expert's actions)."""
        for turn in range(max(map(len, opening), default=0)):
            given = [
                (episode, turns[turn])
                for episode, turns in zip(episodes, opening, strict=True)
                if turn < len(turns) and self.goes_on(episode)
            ]
            for episode, words in given:
                ids = self.renderer.completion_ids(words, self.thinking)
                segment = Segment(ids, DATA, trains=trains, turn=episode.trajectory.next_turn)
                episode.trajectory = episode.trajectory.extended(segment, words, finished=True)
            self.answer([episode for episode, _ in given])

    def answer(self, episodes: Sequence[Episode]) -> None:
        """Let each environment answer the last turn. What it says last, when it is over, nobody reads any more."""
        words = [
            self.renderer.text(said_in(one, one.segments[-1].turn, len(one.ids)))
            for one in (episode.trajectory for episode in episodes)
        ]
        replies = self.each(lambda given: given[0].step(given[1]), list(zip(episodes, words, strict=True)))
        for episode, reply in zip(episodes, replies, strict=True):
            one = episode.trajectory
            episode.cut += not one.finished
            if reply is None or reply.done:
                continue
            try:
                episode.trajectory = answered(self.renderer, self.thinking, one, reply.messages)
            except UserError as problem:  # the chat template refuses what the environment says
                episode.fail(str(problem))

    def each(self, function: Callable[[Asked], Given], asked: Sequence[Asked]) -> list[Given]:
        """What ``function`` gives of each, in order: of as many at a time as there are environments that can be called
        at once (``make.workers``), by default one after the other."""
        workers = min(getattr(self.make, "workers", 1), len(asked))
        if workers <= 1:
            return [function(one) for one in asked]
        threads = ThreadPoolExecutor(workers)
        try:
            return list(threads.map(function, asked))
        finally:
            threads.shutdown(cancel_futures=True)


def refuse_failing(episodes: Sequence[Episode]) -> None:
    failed = [one for one in episodes if one.ending == "failure"]
    if len(failed) > FAILING * len(episodes):
        first = failed[0]
        raise UserError(
            f"the environment failed in {len(failed)} of {len(episodes)} episodes, first in that of example "
            f"{first.trajectory.example.key}: {first.trouble}"
        )
