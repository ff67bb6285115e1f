"""What each teacher reads before the rollout's tokens, as token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from selfteach.errors import UserError
from selfteach.policy.renderer import Renderer
from selfteach.policy.sampler import GenerateSampler, Sampling
from selfteach.roles.role import ReasonFirst, Role
from selfteach.roles.span import Whole
from selfteach.roles.store import WeightStore
from selfteach.task.example import Message
from selfteach.task.trajectory import Trajectory


@dataclass(frozen=True)
class Context:
    """One teacher's prompts for a list of rollouts: ids, or None where it is not asked or could see nothing; and why.

    ``elsewhere`` counts rollouts of another tag than the teacher's: those are not its own to be blind for.
    """

    prompts: list[list[int] | None]
    no_privilege: int = 0
    too_long: int = 0
    elsewhere: int = 0

    @property
    def available(self) -> list[bool]:
        return [ids is not None for ids in self.prompts]

    @property
    def blind(self) -> int:
        """In how many rollouts it was asked and could see nothing."""
        return self.no_privilege + self.too_long

    @property
    def asked(self) -> int:
        """About how many rollouts it was asked."""
        return len(self.prompts) - self.elsewhere


def context(
    teacher: Role,
    weights: WeightStore,
    rollouts: Sequence[Trajectory],
    wording: Mapping[str, str],
    *,
    window: int,
    temperature: float = 1.0,
) -> Context:
    """Render ``teacher``'s view of each rollout. A view that fits the window only when cut is unavailable.

    Raises UserError for a role whose span is not the whole: nothing here scores parts yet.
    """
    if teacher.span != Whole():
        raise UserError(f"a role's span {teacher.span} cannot be trained on yet: leave it at the whole")
    groups: dict[int, list[Trajectory]] = {}
    for one in rollouts:
        groups.setdefault(one.group, []).append(one)
    addressed = [teacher.tag in (None, one.example.tag) for one in rollouts]
    shown = [
        teacher.view(one, groups[one.group], wording) if asked else None
        for one, asked in zip(rollouts, addressed, strict=True)
    ]
    if teacher.reason_first is not None:
        shown = reasoned(teacher, teacher.reason_first, weights, rollouts, shown, temperature)
    chat = weights.policy_of(teacher.weights).renderer
    rendered = [
        None if messages is None else rendered_ids(chat, messages, teacher.thinking) for messages in shown
    ]
    fits = [
        None if ids is None or len(ids) + len(one.ids) > window else ids
        for ids, one in zip(rendered, rollouts, strict=True)
    ]
    none, elsewhere = rendered.count(None), addressed.count(False)
    return Context(fits, none - elsewhere, fits.count(None) - none, elsewhere)


def rendered_ids(chat: Renderer, messages: Sequence[Message], thinking: bool | None) -> list[int]:
    """Token ids of a conversation; a last assistant message is what the scored turn already begins with."""
    if messages[-1]["role"] == "assistant":
        return chat.prompt_ids(messages[:-1], thinking, prefill=messages[-1]["content"])
    return chat.prompt_ids(messages, thinking)


def reasoned(
    teacher: Role,
    reason: ReasonFirst,
    weights: WeightStore,
    rollouts: Sequence[Trajectory],
    shown: Sequence[tuple[Message, ...] | None],
    temperature: float,
) -> list[tuple[Message, ...] | None]:
    """Each view followed by the teacher's own written analysis of it and the transition (card 01)."""
    wanted = [i for i, messages in enumerate(shown) if messages is not None]
    asked = [asking_for_analysis(shown[i] or (), reason) for i in wanted]
    chat = weights.policy_of(teacher.weights).renderer
    with weights.scoring(teacher.weights) as policy:
        samples = GenerateSampler(policy).sample(
            [chat.prompt_ids(messages, teacher.thinking) for messages in asked],
            Sampling(max_tokens=reason.max_tokens, temperature=temperature),
        )
    result: list[tuple[Message, ...] | None] = [None] * len(shown)
    for i, messages, written in zip(wanted, asked, samples, strict=True):
        transition = reason.transition.replace("{problem}", rollouts[i].example.problem)
        result[i] = (
            *messages,
            Message(role="assistant", content=chat.text(written.ids)),
            Message(role="user", content=transition),
        )
    return result


def asking_for_analysis(messages: tuple[Message, ...], reason: ReasonFirst) -> tuple[Message, ...]:
    if messages[-1]["role"] != "user":
        raise UserError(
            "reason_first needs a view that ends with a user message; this one ends with another role"
        )
    asked = reason.instruction.replace("{shown}", messages[-1]["content"])
    return (*messages[:-1], Message(role="user", content=asked))
