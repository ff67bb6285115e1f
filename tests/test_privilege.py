"""Views of Many Faces: a shared text, a solution with gaps, a closed thought."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from selfteach.recipes.kit import (
    Answer,
    Field,
    InSystem,
    Masked,
    Plain,
    Privilege,
    Shared,
    Solution,
    Thought,
    privilege,
)
from selfteach.task.example import Example, Message
from selfteach.task.trajectory import Trajectory

PROMPT = (Message(role="system", content="Be brief."), Message(role="user", content="1 + 1?"))
PRIVATE = {"answer": "2", "solution": "one and one make two, as ever and always", "rule": "count"}


def shown(view: Any, key: str = "k", wording: dict[str, str] | None = None, **private: str) -> Any:
    example = Example(key, PROMPT, private)
    messages = view(Trajectory(example, [1], (), "", 0, False), [], wording or {})
    return None if messages is None else [(one["role"], one["content"]) for one in messages]


def test_a_shared_text_stands_in_its_place_as_it_is() -> None:
    system = shown(Shared("Never say {answer}."), **PRIVATE)
    assert system == [("system", "Never say {answer}.\n\nBe brief."), ("user", "1 + 1?")]
    assert shown(Shared("Never.", "user")) == [("system", "Be brief."), ("user", "Never.\n\n1 + 1?")]
    with pytest.raises(ValueError, match="text is empty"):
        Shared("  ")


def test_a_masked_solution_has_gaps_and_they_are_the_examples() -> None:
    (_, (_, text)) = shown(Masked(0.5), **PRIVATE)
    words = text.partition("---\n")[2].partition("\n---")[0].split()
    assert len(words) == 9
    gaps = [word == "___" for word in words]
    assert 0 < sum(gaps) < 9
    assert all(
        gap or word == known
        for gap, word, known in zip(gaps, words, PRIVATE["solution"].split(), strict=True)
    )
    assert shown(Masked(0.5), **PRIVATE) == shown(Masked(0.5), **PRIVATE)
    assert len({shown(Masked(0.5), key=str(i), **PRIVATE)[1] for i in range(9)}) > 1
    assert shown(Masked(0.0), wording={"masked": "{masked}"}, **PRIVATE)[1] == ("user", PRIVATE["solution"])
    assert set(shown(Masked(1.0), wording={"masked": "{masked}"}, **PRIVATE)[1][1].split()) == {"___"}
    assert shown(Masked()) is None
    with pytest.raises(ValueError, match="share must lie"):
        Masked(1.5)


def test_half_of_the_words_are_gaps() -> None:
    found = shown(Masked(0.5), wording={"masked": "{masked}"}, solution="word " * 1000)[1][1].split()
    assert found.count("___") == pytest.approx(500, abs=60)


def test_a_thought_stands_closed_in_the_mouth_behind_the_bare_question() -> None:
    found = shown(Thought("answer"), **PRIVATE)
    assert found[:2] == [("system", "Be brief."), ("user", "1 + 1?")]
    assert found[2] == ("assistant", "<think>\n2\n</think>\n\n")
    assert shown(Thought("solution"), answer="2") is None
    assert shown(Thought("answer"), wording={"thought-answer": "<{answer}>"}, **PRIVATE)[2][1] == "<2>"


def test_every_privilege_has_its_view() -> None:
    assert {name: privilege(name, constitution="c") for name in get_args(Privilege)} == {
        "rule": InSystem("rule"),
        "constitution": Shared("c"),
        "solution": Solution(),
        "answer": Answer(),
        "masked": Masked(),
        "hidden-think": Thought("answer"),
        "hidden-think-full": Thought("solution"),
        "none": Plain(),
    }
    assert privilege("rule", "user") == Field("rule")
    assert privilege("constitution", "user", "c") == Shared("c", "user")
