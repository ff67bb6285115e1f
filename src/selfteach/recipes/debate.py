"""A debate that several teachers hold about a prompt before they score a student's answer to it, as settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from selfteach.recipes.tools import Tools
from selfteach.roles.told import Told
from selfteach.roles.view import Plain, View
from selfteach.settings import NonNegativeInt, PositiveInt, settings
from selfteach.task.trajectory import Trajectory

FIRST = "{problem}\n\nYou are expert {expert} of a panel. Say what the answer should be, and why."
AGAIN = (
    "{problem}\n\n--- what the panel has said ---\n{transcript}\n--- end ---\n\n"
    "You are expert {expert} of this panel. Weigh what the others say against your own view, and say it anew."
)
SHOWN = (
    "{problem}\n\n--- a panel has debated this ---\n{transcript}\n--- end ---\n\n"
    "You are expert {expert} of this panel. Answer as the debate has taught you, without a word about it."
)
ASK = "\nEnd with <<CONFIDENCE=N>>, where N from 0 to 100 says how sure you are."
UNSTATED = -1.0
"""The confidence of one who names none."""
TAG = re.compile(r"<<CONFIDENCE=(\d{1,3})>>", re.ASCII)


@settings
class Debate:
    """How long it is, and in which words."""

    rounds: NonNegativeInt = 2
    """R, rounds of the debate, the independent answers included (0: none, teachers read the bare prompt: MT-OPD)."""
    debate_tokens: PositiveInt = 4096
    """Longest contribution to the debate, in tokens."""
    debate_template: str = FIRST
    """What an expert is asked first: {problem}, its letter {expert}, and private fields."""
    revise_template: str = AGAIN
    """What it is asked in later rounds: {transcript} too."""
    shown_template: str = SHOWN
    """What it reads before the student's answer that it scores."""

    def view(self, letter: str) -> View:
        """What the expert of this letter reads when it scores."""
        return told(self.shown_template, letter) if self.rounds else Plain()

    def held(
        self, tools: Tools, rows: Sequence[Trajectory], experts: Mapping[str, str], *, rated: bool
    ) -> list[Trajectory]:
        """Each row with the field ``transcript``, of the debate of what stood before it, which none of these experts
        (role → letter) has seen an answer to; held once where several rows share it. ``rated``: with the numbers
        ``confidence-LETTER`` that they state in the last round, 0 to 100, ``UNSTATED`` of one that does not."""
        states = {(one.group, *one.prompt_ids): unanswered(one) for one in rows}
        for number in range(self.rounds):
            template = self.revise_template if number else self.debate_template
            last = ASK if rated and number == self.rounds - 1 else ""
            said = {
                letter: tools.sample(
                    list(states.values()), role=role, view=told(template + last, letter), max_tokens=self.debate_tokens
                )
                for role, letter in experts.items()
            }  # fmt: skip
            for i, (key, one) in enumerate(states.items()):
                words = {letter: answers[i].text for letter, answers in said.items()}
                states[key] = heard(one, words, number + 1, rated)
        found = [states[one.group, *one.prompt_ids] for one in rows]
        return [
            one.told(transcript=state.example.private.get("transcript", "")).with_numbers(**state.numbers)
            for one, state in zip(rows, found, strict=True)
        ]


def told(template: str, letter: str) -> Told:
    """The view of the expert of this letter."""
    return Told(template.replace("{expert}", letter), name=f"debate-{letter}")


def unanswered(row: Trajectory) -> Trajectory:
    """What stood before a row, and nothing of its answer."""
    return Trajectory(
        row.example, row.prompt_ids, (), "", row.group, False,
        temperature=row.temperature, history=row.history, behind=row.behind,
    )  # fmt: skip


def heard(one: Trajectory, words: Mapping[str, str], number: int, rated: bool) -> Trajectory:
    """A state with what its experts (by letter) have said in a round."""
    lines = [f"Expert {letter}, round {number}: {text}" for letter, text in words.items()]
    before = one.example.private.get("transcript", "") if number > 1 else ""
    sure = {f"confidence-{letter}": confidence(text) for letter, text in words.items()} if rated else {}
    return one.told(transcript="\n".join([*([before] if before else []), *lines])).with_numbers(**sure)


def confidence(text: str) -> float:
    """N of the last <<CONFIDENCE=N>> in a text, 0 to 100; ``UNSTATED`` where there is none, or a larger one."""
    said = [int(number) for number in TAG.findall(text)]
    return float(said[-1]) if said and said[-1] <= 100 else UNSTATED
