"""What each role reads before a trajectory's tokens, as token ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from selfteach.errors import UserError
from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy
from selfteach.policy.renderer import Renderer
from selfteach.policy.sampler import Sampler
from selfteach.roles.role import ReasonFirst, Role
from selfteach.roles.store import WeightStore
from selfteach.roles.view import Messages, Plain, View
from selfteach.roles.weights import Live, Weights
from selfteach.task.example import Message
from selfteach.task.trajectory import Trajectory
from selfteach.training.reduce import sum_over_processes


@dataclass(frozen=True)
class Context:
    """One role's prompts for a list of rows: ids, or None where it does not score or could see nothing; and why.

    ``elsewhere`` counts rows of another tag than the role's, or without its span: it is not to blame for these.
    ``begins``: the first token of each row that it scores, behind its prompt (none given: all of them from the first).
    """

    prompts: list[list[int] | None]
    no_privilege: int = 0
    too_long: int = 0
    elsewhere: int = 0
    begins: Sequence[int] = ()

    def begin(self, row: int) -> int:
        return self.begins[row] if self.begins else 0

    @property
    def available(self) -> list[bool]:
        return [ids is not None for ids in self.prompts]


@dataclass(frozen=True)
class Reading:
    """What rendering needs of a run: whose weights reason first, who samples with them, how a task
    words its views, the sampling temperature, and what random numbers follow from (``Present.draws``). ``live``: who
    samples in the live policy's place (None: itself)."""

    weights: WeightStore
    sampler_of: Callable[[Policy], Sampler]
    wording: Mapping[str, str]
    temperature: float = 1.0
    draws: str = ""
    live: Sampler | None = None

    @contextmanager
    def sampler(self, weights: Weights) -> Iterator[Sampler]:
        """Who writes rollouts with these weights."""
        if self.live is not None and weights == Live():
            self.weights.drawn_apart += 1
            yield self.live
            return
        with self.weights.sampling(weights) as policy:
            yield self.sampler_of(policy)

    def context(self, role: Role, rows: Sequence[Trajectory], *, room: int = 0) -> Context:
        """Render the role's view of each row. One that would have to be cut to leave ``room`` tokens is unavailable."""
        policy = self.weights.policy_of(role.weights)
        begins = [role.span.begin(one) for one in rows]
        addressed = [
            role.tag in (None, one.example.tag) and begin is not None
            for one, begin in zip(rows, begins, strict=True)
        ]
        shown = self.shown(role, rows, addressed)
        rendered = [
            None
            if messages is None
            else one.prompt_ids
            if keeps_its_context(role.view, one)
            else ids_behind(policy.renderer, messages, role.thinking, one)
            for one, messages in zip(rows, shown, strict=True)
        ]
        scored = [len(one.ids) - (begin or 0) for one, begin in zip(rows, begins, strict=True)]
        fits = [
            None if ids is None or len(ids) + length + room > policy.window else ids
            for ids, length in zip(rendered, scored, strict=True)
        ]
        none, elsewhere = rendered.count(None), addressed.count(False)
        return Context(
            fits, none - elsewhere, fits.count(None) - none, elsewhere, [begin or 0 for begin in begins]
        )

    def messages(self, role: Role, rows: Sequence[Trajectory]) -> list[Messages | None]:
        """The conversation that the role is shown before each row (None: it does not score it)."""
        addressed = [role.tag in (None, one.example.tag) and role.span.begin(one) is not None for one in rows]
        return self.shown(role, rows, addressed)

    def shown(
        self, role: Role, rows: Sequence[Trajectory], addressed: Sequence[bool]
    ) -> list[Messages | None]:
        groups: dict[int, list[Trajectory]] = {}
        for one in rows:
            groups.setdefault(one.group, []).append(one)
        shown = [
            role.view(one, groups[one.group], self.wording) if mine else None
            for one, mine in zip(rows, addressed, strict=True)
        ]
        if role.reason_first is not None:
            shown = self.reasoned(role, role.reason_first, rows, shown)
        return shown

    def reasoned(
        self,
        role: Role,
        reason: ReasonFirst,
        rows: Sequence[Trajectory],
        shown: Sequence[Messages | None],
    ) -> list[Messages | None]:
        """Each view followed by the role's own written analysis of it and the transition (OPSD)."""
        wanted = [i for i, messages in enumerate(shown) if messages is not None]
        questions = [asking_for_analysis(shown[i] or (), reason) for i in wanted]
        with self.weights.scoring(role.weights) as policy:
            renderer = policy.renderer
            prompts = [renderer.prompt_ids(messages, role.thinking) for messages in questions]
            sampling = Sampling(max_tokens=reason.max_tokens, temperature=self.temperature)
            keys = self.keys(role, [rows[i] for i in wanted])
            samples = self.sampler_of(policy).sample(prompts, sampling, keys=keys)
        result: list[Messages | None] = [None] * len(shown)
        for i, messages, written in zip(wanted, questions, samples, strict=True):
            transition = reason.transition.replace("{problem}", rows[i].example.problem)
            result[i] = (
                *messages,
                Message(role="assistant", content=renderer.text(written.ids)),
                Message(role="user", content=transition),
            )
        return result

    def keys(self, role: Role, rows: Sequence[Trajectory]) -> list[str]:
        """What the random numbers of each row's analysis follow from: its example and its number in its group, which
        one process has whole."""
        found, asked = [], Counter[str]()
        for one in rows:
            about = f"{self.draws} {one.group} {one.example.key} {role.view.name} analysis"
            asked[about] += 1
            found.append(f"{about} {asked[about]}")
        return found


def keeps_its_context(view: View, row: Trajectory) -> bool:
    """A later turn of its own reads, without a privilege, the very ids it was sampled after."""
    return isinstance(view, Plain) and row.is_later_turn


def ids_behind(
    renderer: Renderer, messages: Messages, thinking: bool | None, row: Trajectory
) -> list[int] | None:
    """What a view shows, then what had been said where the row begins: the very ids, where the template renders them as
    they were written. None where the view begins the turn itself, which is then another one."""
    if not row.history:
        return rendered_ids(renderer, messages, thinking)
    if messages[-1]["role"] == "assistant":
        return None
    if row.behind is None:
        return renderer.prompt_ids((*messages, *row.history), thinking)
    return [*renderer.prompt_ids(messages, thinking), *row.behind]


def rendered_ids(renderer: Renderer, messages: Sequence[Message], thinking: bool | None) -> list[int]:
    """Token ids of a conversation; a last assistant message is what the scored turn already begins with."""
    if messages[-1]["role"] == "assistant":
        return renderer.prompt_ids(messages[:-1], thinking, prefill=messages[-1]["content"])
    return renderer.prompt_ids(messages, thinking)


def asking_for_analysis(messages: Messages, reason: ReasonFirst) -> Messages:
    if messages[-1]["role"] != "user":
        raise UserError(
            "reason_first needs a view that ends with a user message; this one ends with another role"
        )
    question = reason.instruction.replace("{shown}", messages[-1]["content"])
    return (*messages[:-1], Message(role="user", content=question))


def refuse_blind(found: Mapping[str, Context], waits: Mapping[str, bool], bound: float) -> None:
    """UserError if a role is blind in more than this share of the rows of all processes; every process must call it.

    ``waits``: its view reads no private field, but how answers turn out; a right sibling may yet come.
    """
    own = {
        f"{name} {kind}": count
        for name, one in found.items()
        for kind, count in (
            ("unprivileged", one.no_privilege), ("long", one.too_long), ("rows", len(one.prompts) - one.elsewhere),
        )
    }  # fmt: skip
    counts = sum_over_processes(own) if own else {}
    for name in found:
        none, long, rows = (int(counts[f"{name} {kind}"]) for kind in ("unprivileged", "long", "rows"))
        if long + (0 if waits[name] else none) > bound * rows:
            raise UserError(
                f"role {name!r} has nothing to see in {none + long} of {rows} rollouts ({none} without its privilege, "
                f"{long} too long for the window): more than --max-unavailable {bound}; "
                + (
                    "lower --max-tokens or show it less (--view)"
                    if long > none
                    else "choose another --view or other data"
                )
            )
