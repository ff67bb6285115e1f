"""Hints that another model writes for problems, as settings and two views that methods may share."""

from __future__ import annotations

import re
from collections.abc import Mapping

from selfteach.checks import require
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.told import Told
from selfteach.roles.view import View
from selfteach.settings import PositiveInt, settings

REQUEST = (
    "{problem}\n\nThe correct answer is {answer}. Write a hint that helps to find it, between <hint> and </hint>, and "
    "nothing else."
)
SHOWN = "{problem}\n\nA hint: <hint>{hint}</hint>\n"
WITH_HINT = SHOWN + "Solve the problem step by step, and do not mention the hint."
WITH_ANSWER = SHOWN + (
    "The correct answer: {answer}\nSolve the problem step by step, and do not mention hint or answer."
)
STORE, PATIENCE = "hints", 32


@settings
class Hints:
    """What is asked for a hint, how it is read, and how it is shown."""

    hint_tokens: PositiveInt = 1024
    """Longest text in which a hint is written, in tokens."""
    hint_tag: str = "hint"
    """The tag between which the hint stands in that text (empty: all of it is the hint)."""
    hint_template: str = REQUEST
    """What is asked for a hint; it may name {problem} and private fields such as {answer}."""
    hinted_template: str = WITH_ANSWER
    """What the student reads then: {problem}, {hint} and private fields such as {answer}."""

    def __post_init__(self) -> None:
        require("{hint}" in self.hinted_template, "hinted_template must name {hint}, or nobody is shown it")

    def shown(self, tools: Tools, prompts: Mapping[int, Prompt], role: str) -> dict[int, Prompt]:
        """Each prompt with a hint that ``role`` writes, by the same keys; missing where a text has none, or where
        request or hint leaves no room.

        UserError once the run's first ``PATIENCE`` prompts have met with no hint at all.
        """
        asked = prompted(tools, prompts, Told(self.hint_template, "hint-request"), self.hint_tokens)
        said = tools.sample(list(asked.values()), role=role, max_tokens=self.hint_tokens)
        hints = {key: self.read(one.text) for key, one in zip(asked, said, strict=True)}
        told = {key: prompts[key].told(hint=hint) for key, hint in hints.items() if hint}
        shown = prompted(tools, told, Told(self.hinted_template, "hinted"), None)
        self.refuse_silent(tools, len(prompts), len(shown))
        return shown

    def read(self, text: str) -> str:
        """The first hint in a text, without blanks around it ("": there is none)."""
        if not self.hint_tag:
            return text.strip()
        tag = re.escape(self.hint_tag)
        found = re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        return found[1].strip() if found else ""

    def refuse_silent(self, tools: Tools, wanted: int, given: int) -> None:
        """A text may lack a hint now and then; where all of them do, nobody would ever be helped."""
        notes = tools.store(STORE).notes
        for name, count in (("wanted", wanted), ("given", given)):
            notes[name] = notes.get(name, 0) + count
        require(
            notes["given"] > 0 or notes["wanted"] < PATIENCE,
            f"none of the first {notes['wanted']} prompts that wanted a hint got one: the data lack what the templates "
            f"name, the texts lack <{self.hint_tag}> (hint_tag, hint_tokens), or prompts are too long",
        )


def prompted(tools: Tools, prompts: Mapping[int, Prompt], view: View, room: int | None) -> dict[int, Prompt]:
    """What ``view`` makes of each prompt that it shows something of and that leaves ``room`` tokens (None: the recipe's
    max_tokens)."""
    found = {key: tools.prompt(one, view, room) for key, one in prompts.items()}
    return {key: one for key, one in found.items() if one is not None}
