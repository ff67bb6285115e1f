"""Who says what is wrong with an answer, as settings that methods with criticism share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from selfteach.checks import require
from selfteach.recipes.tools import Prompt, Tools
from selfteach.roles.role import Role
from selfteach.roles.told import Told
from selfteach.roles.view import Plain
from selfteach.roles.weights import External
from selfteach.settings import PositiveInt, settings
from selfteach.task.trajectory import Trajectory

ASK = (
    "{problem}\n\n--- an attempt ---\n{attempt}\n--- end of the attempt ---\n\n"
    "Criticize this attempt in fewer than 50 words: say what goes wrong and where, and keep the solution to yourself."
)
VERDICT = "The answer is not correct."
JUDGE = "judge"
STORE, PATIENCE = "critic", 32


@settings
class Critic:
    """What is said of a wrong answer, before it is tried again."""

    critic: Literal["verifier", "verdict", "self", "judge"] = "verifier"
    """Who criticizes a wrong attempt: the verifier's feedback, the bare news that it is wrong, the model itself, or
    another model."""
    judge: str | None = None
    """The model of critic "judge", of the same tokenizer: a folder, a hub id or arena:NAME."""
    judge_template: str = ASK
    """What a judge is asked; it may name {problem}, {attempt} and private fields such as {answer}."""
    critique_template: str = ASK
    """What the model itself is asked when it criticizes, or learns to: {problem} and {attempt}."""
    critique_tokens: PositiveInt = 256
    """Longest critique of a model, in tokens."""

    def __post_init__(self) -> None:
        require((self.critic == JUDGE) == (self.judge is not None), "critic judge and --judge go together")

    def writers(self, thinking: bool | None = None) -> Mapping[str, Role]:
        """The judge as a role that only writes, if there is one."""
        return {} if self.judge is None else {JUDGE: Role(External(self.judge), Plain(), thinking)}

    def criticized(self, tools: Tools, graded: Sequence[Trajectory]) -> dict[int, Trajectory]:
        """The critique of each wrong answer, by its place in ``graded``: what was said, as a row behind the request to
        criticize. Answers of which nothing is said, or whose request leaves no room, are missing.

        UserError once ``PATIENCE`` wrong answers of the run have met with nothing but silence.
        """
        wrong = {i: one for i, one in enumerate(graded) if not one.right}
        request = Told(self.critique_template, "critique")
        if self.critic == "self":
            return self.written(tools, asked_of(tools, wrong, request, self.critique_tokens), "student")
        words = self.words(tools, wrong)
        refuse_silent(tools, len(wrong), sum(map(bool, words.values())))
        asked = asked_of(tools, wrong, request)  # what others say is quoted, at most max_tokens of it
        known = [i for i in asked if words.get(i)]
        quoted = tools.quote([asked[i].told(feedback=words[i]) for i in known], "feedback")
        return dict(zip(known, quoted, strict=True))

    def words(self, tools: Tools, wrong: Mapping[int, Trajectory]) -> dict[int, str]:
        """What others than the model say of each answer ("": nothing)."""
        if self.critic == JUDGE:
            asked = asked_of(tools, wrong, Told(self.judge_template, JUDGE), self.critique_tokens)
            return {i: one.text for i, one in self.written(tools, asked, JUDGE).items()}
        if self.critic == "verdict":
            return dict.fromkeys(wrong, VERDICT)
        return {i: (one.grade.feedback if one.grade else None) or "" for i, one in wrong.items()}

    def written(self, tools: Tools, asked: Mapping[int, Prompt], role: str) -> dict[int, Trajectory]:
        said = tools.sample(list(asked.values()), role=role, max_tokens=self.critique_tokens)
        return dict(zip(asked, said, strict=True))


def refuse_silent(tools: Tools, wrong: int, spoken: int) -> None:
    """A verifier may have nothing to say of some answers; of one that never has, no second turn would come."""
    notes = tools.store(STORE).notes
    for name, count in (("wrong", wrong), ("spoken", spoken)):
        notes[name] = notes.get(name, 0) + count
    require(
        notes["spoken"] > 0 or notes["wrong"] < PATIENCE,
        f"nothing was said of any of the first {notes['wrong']} wrong answers: take --critic verdict, self or judge",
    )


def asked_of(
    tools: Tools, answers: Mapping[int, Trajectory], view: Told, room: int | None = None
) -> dict[int, Prompt]:
    """What ``view`` makes of each answer as a prompt of its own, behind which ``room`` tokens are to be written (None:
    the recipe's max_tokens); those that it can show nothing of, or that leave no room, are missing."""
    found = {i: tools.prompt(one, view, room) for i, one in answers.items()}
    return {i: prompt for i, prompt in found.items() if prompt is not None}
