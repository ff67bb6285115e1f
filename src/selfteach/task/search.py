"""Questions of a data file that are answered by searching a corpus: the tool, and the task around the rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from selfteach.checks import require
from selfteach.task.answer import extract_answer, write_answer
from selfteach.task.around import Around
from selfteach.task.corpus import QUERY_CHARS, Index
from selfteach.task.environment import refuse_grading
from selfteach.task.exact_match import exact_match, references_of
from selfteach.task.example import Example, Grade
from selfteach.task.files import FileTask
from selfteach.task.options import TaskOptions
from selfteach.task.tool import Tool, with_tools
from selfteach.task.tool_environment import ToolEnvironment
from selfteach.task.verdict import Verdict

SHOWN = 600
"""Characters of a document that are shown, where no more than three are asked for."""
IN_ALL = 1800
"""Characters of the texts of one search's documents together."""
MAX_TURNS = 6


def search(
    query: Annotated[str, Field(description="words to look for")],
    state: dict[str, str],
    k: Annotated[int, Field(ge=1, le=10, description="how many passages to show")] = 3,
) -> tuple[str, dict[str, str]]:
    """Search the corpus. Gives the passages that fit the query's words best."""
    found = Index(state["index"]).search(query, k, min(SHOWN, IN_ALL // k))
    if not found:
        return "Nothing was found: try other words.", state
    shown = [
        f"[{i}] {' '.join(one.title.split()) or one.name}\n{one.text}" for i, one in enumerate(found, start=1)
    ]
    return "\n\n".join(shown), state


class SearchTask(Around):
    """Rows as questions of several turns, in which ``search`` looks through a corpus until the answer is given.

    The reward is 1 for an answer that is a reference by exact match (``exact_match``; a JSON list of texts holds
    several), else 0. The private field ``answer`` is as in the rows; ``solution`` holds the turns of one who searches
    for the question and then answers. UserError for a corpus that cannot be read, and for options of other verifiers.
    """

    max_turns = MAX_TURNS

    def __init__(self, task: FileTask, corpus: str) -> None:
        default = TaskOptions()
        for name in ("verifier", "answer_type"):
            require(
                getattr(task.options, name) == getattr(default, name),
                f"{task.name}: with a corpus answers are graded by exact match: leave {name} out, and give answers",
            )
        if task.options.answer_format is None:
            task = replace(task, options=replace(task.options, answer_format="tags"))
        super().__init__(task)
        self.rows_task, self.corpus, self.index = task, corpus, Index.of(corpus)
        bare = replace(task.options, system_prompt=None, prompt_template="{problem}", instruction=False)
        self.bare = replace(task, options=bare)
        """The questions as they stand in the rows."""
        self.tools = (Tool.of(search),)

    def environment(self) -> ToolEnvironment:
        return ToolEnvironment(self.tools, self.check, state=lambda example: {"index": self.index.path})

    def train(self, index: int) -> Example:
        return self._asked(self.task.train(index), self.bare.train(index).problem)

    def held_out(self, count: int) -> list[Example]:
        examples = self.task.held_out(count)
        bare = self.bare.held_out(len(examples))
        return [self._asked(one, other.problem) for one, other in zip(examples, bare, strict=True)]

    def describe(self) -> dict[str, Any]:
        """What a run should write down about its data."""
        found: dict[str, Any] = self.rows_task.describe()
        return {**found, "verifier": "exact match", "corpus": f"{self.corpus}: {len(self.index):,} documents"}

    def check(self, example: Example, answer: str) -> Grade:
        claim = extract_answer(answer, self.rows_task.answer_format)
        if claim is None:
            verdict = Verdict.NO_ANSWER
        else:
            verdict = Verdict.RIGHT if exact_match(claim, example.private["answer"]) else Verdict.WRONG
        self.rows_task.verdicts[verdict] += 1
        return verdict.grade(claim)

    def grade(self, example: Example, answer: str) -> Grade:
        refuse_grading(self.name)

    def answers_found(self, examples: Sequence[Example]) -> int:
        """Of how many examples a reference occurs in the corpus, word by word."""
        return sum(
            any(self.index.holds(one) for one in references_of(example.private["answer"]))
            for example in examples
        )

    def _asked(self, example: Example, question: str) -> Example:
        references = references_of(example.private["answer"])
        require(
            bool(references), f"{self.name}: example {example.key} has a blank answer: nothing is right then"
        )
        call = json.dumps({"name": search.__name__, "arguments": {"query": question[:QUERY_CHARS]}})
        answer = write_answer(references[0], self.rows_task.answer_format)
        turns = json.dumps([f"<tool_call>\n{call}\n</tool_call>", answer])
        return replace(example, prompt=with_tools(self.tools, example.prompt)).told(solution=turns)
