"""Demonstrations of other problems and wrong ones of one's own: what is asked, kept and shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from selfteach.recipes.demonstrations import KEPT, beside, misled, remembered
from selfteach.recipes.kit import Prompt, Told, Trajectory
from selfteach.task.example import Example, Grade, Message
from selfteach.task.verdict import Verdict
from selfteach.training.text.store import NamedStore

VERDICT = {"+": Verdict.RIGHT, "-": Verdict.WRONG, "?": Verdict.UNPARSEABLE}


@dataclass
class Scripted:
    """Tools that hand out prepared answers: "+" is right, "-" is wrong, "?" cannot be read; "…" was cut off."""

    answers: list[str] = field(default_factory=list)
    rank: int = 0
    step: int = 0
    window: int = 1000
    kept: NamedStore = field(default_factory=NamedStore)
    asked: list[list[str]] = field(default_factory=list)
    """The keys of the examples that were asked for, call by call."""
    seen: list[str] = field(default_factory=list)
    """What they were asked."""

    def store(self, name: str) -> NamedStore:
        return self.kept

    def random(self, name: str, *, shared: bool = False) -> Random:
        return Random(f"{self.step} {0 if shared else self.rank} {name}")

    def sample(self, begun: Sequence[Prompt], n: int = 1, **how: Any) -> list[Trajectory]:
        every = [one for one in begun for _ in range(n)]
        self.asked.append([one.example.key for one in every])
        self.seen += [one.example.prompt[-1]["content"] for one in every]
        texts = [self.answers.pop(0) for _ in every]
        return [
            Trajectory.written(one.example, [0], [1], text, group=one.group, finished=not text.endswith("…"))
            for one, text in zip(every, texts, strict=True)
        ]

    def grade(self, rows: Sequence[Trajectory]) -> list[Trajectory]:
        def grade(text: str) -> Grade:
            verdict = VERDICT.get(text[:1], Verdict.NO_ANSWER)
            return Grade(float(verdict is Verdict.RIGHT), verdict=verdict.value)

        return [one.graded(grade(one.text)) for one in rows]

    def prompt(self, one: Prompt, view: Told, room: int | None = None) -> Prompt | None:
        messages = view(Trajectory.written(one.example, [0], [], "", group=0, finished=False), [], {})
        if messages is None or (room or 0) > self.window:
            return None
        return Prompt(one.example.behind(messages), [0], one.group)


def prompt(name: str, **private: str) -> Prompt:
    known = {"answer": f"A{name}", "solution": f"S{name}", **private}
    return Prompt(Example(name, (Message(role="user", content=f"P{name}"),), known), [0], 0)


def told(prompts: Sequence[Prompt], *names: str) -> list[Mapping[str, str]]:
    return [{name: one.example.private[name] for name in names} for one in prompts]


def wrong(tools: Scripted, names: str, n: int = 2, retries: int = 1, tokens: int = 9) -> list[str]:
    found = misled(tools, [prompt(name) for name in names], n, retries, tokens)  # type: ignore[arg-type]
    return [one["wrong"] for one in told(found, "wrong")]


# --- wrong demonstrations ------------------------------------------------------------------------------------------


def test_wrong_is_what_verifies_as_wrong_and_only_what_lacks_is_written_anew() -> None:
    tools = Scripted(["-1", "+", "-2", "?", "-3", "-4"])
    found = wrong(tools, "ab")
    assert tools.asked == [["a", "a", "b", "b"], ["a", "b"]]
    assert tools.kept.notes["wrong"] == {"a": ["-1", "-3"], "b": ["-2", "-4"]}
    assert found[0] in ("-1", "-3")
    assert found[1] in ("-2", "-4")
    assert "Pa" in tools.seen[0]
    assert "Aa" in tools.seen[0], "the question names the right answer"


def test_what_cannot_be_read_or_was_cut_off_or_is_blank_is_not_known_to_be_wrong() -> None:
    tools = Scripted(["?", "-…", "words", " "])
    assert wrong(tools, "a", retries=1) == [""]
    assert tools.kept.notes["wrong"] == {"a": []}


def test_a_problem_is_asked_once_whatever_came_of_it() -> None:
    tools = Scripted(["+", "+", "+", "+", "-1", "-2"])
    assert wrong(tools, "a") == [""]
    assert wrong(tools, "ab")[0] == ""
    assert tools.asked == [["a", "a"], ["a", "a"], ["b", "b"]]
    assert wrong(tools, "ba")[0] in ("-1", "-2")
    assert len(tools.asked) == 3


def test_a_problem_that_comes_twice_in_a_batch_is_asked_as_one() -> None:
    tools = Scripted(["-1", "-2"])
    first, second = wrong(tools, "aa")
    assert tools.asked == [["a", "a"]]
    assert first == second != ""


def test_a_problem_without_a_known_answer_or_room_is_shown_nothing_and_stays_to_be_asked() -> None:
    tools = Scripted()
    (one,) = misled(tools, [prompt("a", answer="")], 2, 1, 9)  # type: ignore[arg-type]
    assert one.example.private["wrong"] == ""
    tools.window = 8
    assert wrong(tools, "b", tokens=9) == [""]
    assert tools.asked == []
    tools.window, tools.answers = 9, ["-1", "-2"]
    assert wrong(tools, "b", tokens=9)[0] in ("-1", "-2")


def test_which_one_is_shown_follows_from_the_example_and_the_step_not_from_the_process_or_the_batch() -> None:
    kept = {name: [f"-{name}{i}" for i in range(9)] for name in "abc"}

    def shown(names: str, rank: int, step: int) -> dict[str, str]:
        tools = Scripted(rank=rank, step=step, kept=NamedStore(notes={"wrong": dict(kept)}))
        return dict(zip(names, wrong(tools, names), strict=True))

    alone = shown("b", 0, 0)
    assert shown("abc", 0, 0)["b"] == shown("cb", 1, 0)["b"] == alone["b"]
    assert len({shown("b", 0, step)["b"] for step in range(9)}) > 2


def test_the_latest_are_kept_and_those_of_the_batch_are_shown() -> None:
    tools = Scripted(kept=NamedStore(notes={"wrong": {f"k{i}": ["-"] for i in range(KEPT)}}))
    tools.answers = ["-1", "-2"]
    assert misled(tools, [prompt("k0"), prompt("new")], 2, 0, 9)[0].example.private["wrong"] == "-"  # type: ignore[arg-type]
    assert len(tools.kept.notes["wrong"]) == KEPT
    assert list(tools.kept.notes["wrong"])[-1] == "new"
    assert "k0" not in tools.kept.notes["wrong"]


# --- demonstrations of others --------------------------------------------------------------------------------------


def test_what_is_remembered_is_the_latest_text_of_each_example() -> None:
    tools = Scripted()
    remembered(tools, [prompt("a"), prompt("b", solution="")], "solution")  # type: ignore[arg-type]
    found = remembered(tools, [prompt("c"), prompt("a", solution="new")], "solution")  # type: ignore[arg-type]
    assert found == [
        {"key": "a", "problem": "Pa", "text": "new"},
        {"key": "c", "problem": "Pc", "text": "Sc"},
    ]
    many = [prompt(f"n{i}") for i in range(KEPT)]
    assert [one["key"] for one in remembered(tools, many, "solution")] == [f"n{i}" for i in range(KEPT)]  # type: ignore[arg-type]


def around(tools: Scripted, names: Sequence[str], kind: Any, n: int = 1) -> list[Mapping[str, str]]:
    found = beside(tools, [prompt(name) for name in names], "solution", ("x", "y"), n, kind)  # type: ignore[arg-type]
    return told(found, "x", "y")


def test_of_other_problems_so_many_are_shown_and_never_the_own() -> None:
    for step in range(5):
        for own, texts in zip("abc", around(Scripted(step=step), "abc", "random", n=2), strict=True):
            others = [f"P{name}\nS{name}" for name in "abc" if name != own]
            for text in texts.values():
                assert sorted(text.split("\n\n")) == others
    assert around(Scripted(), "a", "random") == [{"x": "", "y": ""}], "no other problem is known yet"


def test_retrieved_are_those_most_like_the_problem() -> None:
    tools = Scripted()
    problems = {"a": "red apple pie", "b": "red apple cake", "c": "blue sky", "d": "red sky"}
    batch = [
        Prompt(Example(key, (Message(role="user", content=text),), {"solution": key}), [0], 0)
        for key, text in problems.items()
    ]
    found = beside(tools, batch, "solution", ("x",), 2, "retrieved")  # type: ignore[arg-type]
    assert sorted(found[0].example.private["x"].split("\n\n")) == ["red apple cake\nb", "red sky\nd"]


def test_what_is_shown_is_the_same_in_each_process_that_remembers_the_same() -> None:
    assert around(Scripted(rank=0), "abcdef", "random") == around(Scripted(rank=1), "abcdef", "random")
    shown = {str(around(Scripted(step=step), "abcdef", "random")) for step in range(4)}
    assert len(shown) > 1


def test_instructions_are_written_once_one_a_name_of_five_demonstrations() -> None:
    tools = Scripted(["do x", "do y"])
    assert around(tools, "abcdefg", "induced") == [{"x": "do x", "y": "do y"}] * 7
    assert [len([line for line in text.split("\n") if line.startswith("P")]) for text in tools.seen] == [5, 5]
    assert around(tools, "h", "induced") == [{"x": "do x", "y": "do y"}]
    assert len(tools.asked) == 1


def test_without_room_for_an_instruction_nothing_is_shown_and_it_is_asked_again_later() -> None:
    tools = Scripted(["do x", "do y"], window=10)
    assert around(tools, "ab", "induced") == [{"x": "", "y": ""}] * 2
    tools.window = 1000
    assert around(tools, "ab", "induced") == [{"x": "do x", "y": "do y"}] * 2
