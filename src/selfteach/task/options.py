"""What a user may choose about a task's data, prompts and grading."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from selfteach.checks import require
from selfteach.errors import UserError
from selfteach.sandbox.confined import Isolation
from selfteach.settings import NonNegativeRows, OpenUnit, PositiveFloat, PositiveInt, Seconds, settings
from selfteach.task.answer import INSTRUCTION, AnswerFormat
from selfteach.task.answer_type import AnswerType
from selfteach.task.example import Message

Verifier = Literal["math", "exact", "code", "none"]


@settings
class TaskOptions:
    """What is read from the data, how it is asked and how it is graded. An option the source ignores is an error."""

    problem_column: str = "problem"
    """Column with the question. Case does not matter where one column only fits; a dot goes into a cell (info.text).

    Where this and the next two are as they are by default, the columns of public data sets are known (docs/data.md)."""

    solution_column: str | None = "solution"
    """Column with the worked solution, shown to teachers only. None: the data has no solutions."""

    answer_column: str | None = "answer"
    """Column with the final answer, or a text that ends in it behind ####. Where it is absent or empty, the solution's
    last \\boxed{}, or what stands behind its last ####, is the answer."""

    tag_column: str | None = None
    """Column with a label that may route an example to a teacher."""

    extra_columns: tuple[str, ...] = ()
    """More columns for teachers to see, by name (feedback, tests, a rubric …)."""

    unpaired: bool = False
    """Rows are prompt, completion and label, as KTO reads them: completions of either label are kept, as private fields
    completion and label (true, false). Else a completion is a solution, and one whose label is false is none."""

    verifier: Verifier = "math"
    """How an answer is graded: math (math-verify), exact (same text), code (a Python program that is run against the
    row's tests in a sandbox, docs/code.md), none (every reward is 0)."""

    tests_column: str = "tests"
    """Column with the tests of verifier code: Python with assertions, or inputs and outputs (docs/code.md)."""

    sandbox: Isolation = "namespaces"
    """What hides files and network from a model's programs: namespaces (Linux), or a container that you have put around
    the whole run."""

    answer_type: AnswerType | None = None
    """What the answers are, for the math verifier: number, expression, equation, interval, tuple (order counts), set,
    choice (the letter of an option), text.

    None: what each reference looks like. In number, exact holds 42.0 for 42."""

    held_out_file: str | None = None
    """Another file or folder with the held-out problems. They are taken out of the training rows."""

    held_out_fraction: OpenUnit | None = None
    """Share of the problems that is held out, chosen by a hash of their text, if there is no held-out file.

    None: 0.05, and 0.2 of fewer than 160 problems."""

    split: str = "train"
    """Split of a Hugging Face dataset."""

    subset: str | None = None
    """Configuration name of a Hugging Face dataset."""

    revision: str | None = None
    """Commit, tag or branch of a Hugging Face dataset."""

    max_chars: PositiveInt | None = None
    """Leave out (and count) rows whose problem and private fields together are longer than so many characters."""

    skip_incomplete_rows: bool = False
    """Leave out (and count) rows that lack a needed field, instead of stopping at the first."""

    system_prompt: str | None = None
    """System message put before every question."""

    prompt_template: str = "{problem}"
    """The user message; {problem} stands for the question."""

    instruction: bool = True
    """Add a sentence to the user message that says in which form the answer is wanted."""

    answer_format: AnswerFormat | None = None
    """The answer's form: line (Answer: 7), boxed (\\boxed{7}), tags (<answer>7</answer>), number
    (the last one written), code (the last block of Python), text (all of it).

    None: boxed for files and Hugging Face datasets (code with verifier code), line for reasoning-gym."""

    corpus: str | None = None
    """A file of documents (columns id, title, text; or paragraphs of a .txt) that the questions are answered by
    searching: each is an episode with the tool search, graded by exact match (docs/search.md)."""

    only: NonNegativeRows | None = None
    """Train on this one held-out example alone, counted from 0, again and again (test-time training).

    None: on the training examples."""

    grade_seconds: Seconds = 5.0
    """Time limit for checking one answer, in seconds; of a program, for all of its tests."""

    environment_timeout: Seconds | None = None
    """Play each episode in a worker process, in which no reset or step may take longer than so many seconds.

    None: in the run's own process, without a limit."""

    environment_memory: PositiveFloat = 1.0
    """GB that a worker process may use beyond what the loaded task does (with an environment_timeout; Linux)."""

    environment_workers: PositiveInt | None = None
    """Worker processes that play episodes side by side (with an environment_timeout). None: one a core, at most 8."""

    def __post_init__(self) -> None:
        require(
            self.environment_timeout is not None
            or (self.environment_memory, self.environment_workers) == (1.0, None),
            "environment_memory and environment_workers are of worker processes: give an environment_timeout too",
        )
        require(
            self.held_out_file is None or self.held_out_fraction is None,
            "held_out_file and held_out_fraction both say what is held out: give one of them",
        )
        require(
            heeds(self.verifier, self.answer_type),
            f"verifier {self.verifier} does not look at answer_type {self.answer_type}: leave one of the two out",
        )
        if "{problem}" not in self.prompt_template:
            raise UserError(
                f"prompt_template {self.prompt_template!r} lacks {{problem}}: put it where the question goes"
            )

    def prompt(
        self, problem: str, answer_format: AnswerFormat, before: tuple[Message, ...] = ()
    ) -> tuple[Message, ...]:
        """The student's conversation: system message if any, then template and instruction as one user message.

        ``before``: the messages of a conversation that goes ahead of the problem; ``system_prompt`` stands in for the
        system message that it begins with.
        """
        text = self.prompt_template.replace("{problem}", problem)
        if self.instruction and self.verifier != "none":
            text = f"{text}\n\n{INSTRUCTION[answer_format]}"
        user: Message = {"role": "user", "content": text}
        if self.system_prompt is None:
            return (*before, user)
        earlier = tuple(message for message in before if message["role"] != "system")
        return ({"role": "system", "content": self.system_prompt}, *earlier, user)


def heeds(verifier: Any, answer_type: Any) -> bool:
    """Whether a verifier looks at this type of answers (None: no type is asked for)."""
    return answer_type is None or verifier == "math" or (verifier, answer_type) == ("exact", "number")


def yielding(inherited: TaskOptions, given: Mapping[str, Any]) -> TaskOptions:
    """The options of a run or a settings file, without those that contradict what is ``given`` beside them now by name
    ("none" counts as None): the later word holds. What contradicts itself within ``given`` is left to be refused."""
    spelled = {name: None if str(value).lower() == "none" else value for name, value in given.items()}
    said = {**spelled, "verifier": given["verifier"]} if "verifier" in given else spelled
    blank: dict[str, Any] = {}
    for one, other in (("held_out_file", "held_out_fraction"), ("held_out_fraction", "held_out_file")):
        if said.get(one) is not None and other not in said:
            blank[other] = None
    verifier = said.get("verifier", inherited.verifier)
    answer_type = said.get("answer_type", inherited.answer_type)
    if not heeds(verifier, answer_type):
        if "answer_type" not in said:
            blank["answer_type"] = None
        elif "verifier" not in said:
            blank["verifier"] = TaskOptions().verifier
    return replace(inherited, **blank)
