"""A verifiers environment as a task: the library runs its rollouts, the policy writes their turns."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.importing import users_call
from selfteach.outside import with_type
from selfteach.task.environment import BUILT_IN, Reply, refuse_grading
from selfteach.task.epochs import in_epochs
from selfteach.task.example import Example, Grade, Message
from selfteach.task.openai_messages import announced, assistant, message_of, text_of
from selfteach.task.split import fingerprint, held_out_of
from selfteach.task.tool_calls import MalformedCall
from selfteach.task.verifiers_rollout import Request, Rollout

log = logging.getLogger(__name__)

TRAIN, EVAL = "train", "eval"
OWN_FAULT = frozenset({"EmptyModelResponseError", "ToolError", "ToolParseError", "ToolCallError"})
"""Errors that the library notes of a rollout, and scores it all the same, for which the policy's turn is to blame."""


class VerifiersTask:
    """Episodes of a verifiers environment, as ``load_environment()`` of its module gives it (verifiers 0.1.11 to 0.3).

    Each is a rollout that the library runs itself: what the policy is shown, its tools, when it ends and what it earns
    are the library's. The reward comes with the last turn; the value of each reward function and metric is a number of
    its name. Rows of ``dataset`` are trained on, those of ``eval_dataset`` held out, wherever they stand; without one,
    a share of the rows by a hash of their prompts (of the whole rows, where all prompts are the same). Private fields:
    ``answer`` and ``info`` of the row, as text, where it has them.

    The prompt of an example is what the environment first asks of a model: its rollout is run up to there. ``seed``
    chooses the order of training; what an environment draws must follow from the row.
    Raises UserError for another object, without the library, and where the environment's dataset cannot be built.
    """

    def __init__(self, environment: Any, *, name: str | None = None, seed: int = 0) -> None:
        require_environment(environment)
        self.inner, self.seed = environment, seed
        self.name: str = name or environment.env_id or "verifiers"
        self.max_turns = longest(environment)
        self.wording: Mapping[str, str] = {}
        self.verdicts: Counter[str] = Counter()
        built = {TRAIN: environment.build_dataset, EVAL: environment.build_eval_dataset}
        self.rows: Mapping[str, Any] = {
            part: users_call(f"task {self.name}: its dataset cannot be built", build)
            for part, build in built.items()
        }
        self.told = False
        self.trained, self.kept = divided(self.rows[TRAIN], self.rows[EVAL])

    def environment(self) -> VerifiersEpisode:
        return VerifiersEpisode(self)

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        whole = self.rows[EVAL] is not None
        return {
            "source": f"verifiers, {type(self.inner).__name__} {self.inner.env_id}".strip(),
            "examples": f"{len(self.trained)} trained on, {len(self.kept)} held out",
            "held_out": "the environment's eval_dataset" if whole else "a share of the rows of its dataset",
            "reward": "of the environment's rubric, behind the last turn",
        }

    def train(self, index: int) -> Example:
        """UserError where no row is left to train on."""
        require(
            bool(self.trained),
            f"task {self.name}: its environment has no row to train on: give it a dataset, with other rows than its "
            "eval_dataset has",
        )
        return self.example(TRAIN, self.trained[in_epochs(index, len(self.trained), self.seed)])

    def held_out(self, count: int) -> list[Example]:
        """The first ``count`` that are held out; all, where there are fewer: the log says so once. UserError if none
        is."""
        have = len(self.kept)
        require(not count or have > 0, f"task {self.name}: no row is held out: give it an eval_dataset")
        if count > have and not self.told:
            self.told = True
            log.warning("%s: %d of %d rows asked for: no more are held out", self.name, have, count)
        part = TRAIN if self.rows[EVAL] is None else EVAL
        return [self.example(part, row) for row in self.kept[:count]]

    def grade(self, example: Example, answer: str) -> Grade:
        refuse_grading(self.name)

    def example(self, part: str, number: int) -> Example:
        """The example of a row: its prompt is what is first asked of the policy. UserError where nothing is."""
        key = f"{self.name}/{part}/{number}"
        row = self.rows[part][number]
        begun = Rollout(self.inner, row)
        try:
            prompt = opening(first_request(begun))
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(f"example {key} has no prompt: {with_type(error)}") from error
        finally:
            begun.close()
        private = {field: told for field in ("answer", "info") if (told := as_text(row.get(field)))}
        return Example(key, prompt, private)

    def row_of(self, example: Example) -> Mapping[str, Any]:
        """UserError for an example of another task."""
        name, _, rest = example.key.rpartition("/")[0].rpartition("/")
        number = example.key.rpartition("/")[2]
        rows = self.rows.get(rest) if name == self.name else None
        known = rows is not None and number.isdecimal() and int(number) < len(rows)
        require(known, f"example {example.key} is none of {self.name}: take its own examples")
        assert rows is not None
        found: Mapping[str, Any] = rows[int(number)]
        return found


class VerifiersEpisode:
    """One rollout at a time; see ``selfteach.task.environment.Environment``.

    A turn whose calls of tools cannot be read is handed over as text, as model servers do, and counts as illegal; so
    does an empty one, and one for which the environment ends the rollout by an error of its tools.
    """

    def __init__(self, task: VerifiersTask) -> None:
        self.task = task
        self.rollout: Rollout | None = None
        self.request = Request((), ())
        self.turns = 0

    def reset(self, example: Example) -> Sequence[Message]:
        self.close()
        self.rollout = Rollout(self.task.inner, self.task.row_of(example))
        self.request, self.turns = first_request(self.rollout), 0
        return opening(self.request)

    def step(self, message: Message) -> Reply:
        require(self.rollout is not None, f"task {self.task.name}: reset comes before step")
        assert self.rollout is not None
        failed = False
        try:
            said = assistant(message["content"], self.request.tools, self.turns)
        except MalformedCall:
            said, failed = {"role": "assistant", "content": message["content"]}, True
        self.turns += 1
        self.rollout.answer(said)
        event = self.rollout.next()
        if not isinstance(event, Request):
            return ended(event, failed)
        new = added(self.request, said, event)
        self.request = event
        return Reply(new, failed=failed)

    def close(self) -> None:
        if self.rollout is not None:
            self.rollout.close()


# --- a rollout's messages -------------------------------------------------------------------------------------------


def first_request(rollout: Rollout) -> Request:
    """ValueError where the rollout is over before it asks for a turn."""
    event = rollout.next()
    if not isinstance(event, Request):
        error = event.get("error_chain") or event.get("stop_condition")
        raise ValueError(f"the rollout ends before it asks for a turn ({error})")
    return event


def opening(request: Request) -> tuple[Message, ...]:
    if not request.messages:
        raise ValueError("the rollout asks for a turn behind no message: the row's prompt is empty")
    return (*announced(request.tools), *map(message_of, request.messages))


def added(before: Request, said: Mapping[str, Any], after: Request) -> tuple[Message, ...]:
    """What the environment says to the turn that was ``said``. ValueError where it asks for something else than the
    next turn of the same conversation."""
    at = len(before.messages)
    kept = list(after.messages[:at]) == list(before.messages)
    turn = after.messages[at] if kept and at < len(after.messages) else {}
    same = turn.get("role") == "assistant" and text_of(turn.get("content")) == (said["content"] or "")
    if not same:
        raise ValueError(
            "the environment writes the conversation anew, which the policy's tokens cannot follow"
        )
    if list(after.tools) != list(before.tools):
        raise ValueError("the environment changes its tools in the middle of a rollout")
    return tuple(map(message_of, after.messages[at + 1 :]))


def ended(output: Mapping[str, Any], failed: bool) -> Reply:
    """The last reply of a rollout that is over. RuntimeError where the environment broke down, as the library notes."""
    error = output.get("error")
    kind = error["error"] if isinstance(error, Mapping) else None
    if error and kind not in OWN_FAULT:
        raise RuntimeError(str(output.get("error_chain") or kind or error))
    last = list(output.get("completion") or ())
    spoken = max((i for i, one in enumerate(last) if one.get("role") == "assistant"), default=len(last))
    numbers = {number_name(name): value for name, value in (output.get("metrics") or {}).items()}
    said = tuple(map(message_of, last[spoken + 1 :]))
    return Reply(said, output["reward"], True, failed or bool(error), numbers)


def number_name(name: str) -> str:
    """A reward function's name as that of a number: without what no name has, and none that is counted already."""
    plain = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    if plain in BUILT_IN or not re.match("[A-Za-z_]", plain):
        plain = f"rubric_{plain}"
    return plain[:64]


# --- an environment -------------------------------------------------------------------------------------------------


def is_environment(found: object) -> bool:
    """Whether this is an environment of the library, which is not imported for that."""
    return any(
        one.__name__ == "Environment" and one.__module__.partition(".")[0] == "verifiers"
        for one in type(found).__mro__
    )


def require_environment(found: object) -> None:
    if find_spec("verifiers") is None:
        raise UserError(
            "a verifiers environment needs the package verifiers, which is not installed: "
            "pip install 'selfteach[verifiers]'"
        )
    require(
        is_environment(found) and find_spec("verifiers.clients") is not None,
        f"VerifiersTask takes an Environment of verifiers 0.1.11 to 0.3, as load_environment() gives it, not "
        f"{type(found).__module__}.{type(found).__name__}",
    )


def longest(environment: Any) -> int | None:
    """Turns of its longest rollout, of a group of environments the longest of all; None where one has no limit."""
    limits = [getattr(one, "max_turns", -1) for one in getattr(environment, "envs", [environment])]
    return max(limits) if all(isinstance(one, int) and one >= 1 for one in limits) else None


def divided(rows: Any, other: Any) -> tuple[Sequence[int], Sequence[int]]:
    """(numbers of the rows that are trained on, of those held out: of ``other``, if that is there)."""
    count = 0 if rows is None else len(rows)
    # A game may begin alike in every row, and be told apart by its info.
    whole = count > 0 and 2 * len(set(problems(rows, whole=False))) <= count
    trained = [] if rows is None else list(map(fingerprint, problems(rows, whole)))
    if other is None:
        apart = held_out_of(problems(rows, whole)) if count else frozenset()
        kept = [i for i, one in enumerate(trained) if one in apart]
    else:
        apart = frozenset(map(fingerprint, problems(other, whole)))
        kept = list(range(len(other)))
    return [i for i, one in enumerate(trained) if one not in apart], kept


def problems(rows: Any, whole: bool) -> list[str]:
    """What tells a row from others, as text: its prompt, or all of it but its number."""
    columns = [one for one in sorted(rows.column_names) if one != "example_id"] if whole else ["prompt"]
    return [json.dumps(one, default=str) for one in rows.select_columns(columns)]


def as_text(value: Any) -> str:
    """A field of a row as text; empty where it has none."""
    if value is None or value == "" or value == {}:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
