"""The experience bank, which of its texts is shown, and who writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from selfteach.errors import UserError
from selfteach.recipes.bank import Bank, least_gap
from selfteach.recipes.kit import Prompt, Told, Trajectory
from selfteach.recipes.retrieval import UCB, Similar, cosine, ucb, words
from selfteach.recipes.summarizer import PATIENCE, Summarizer
from selfteach.roles.weights import External
from selfteach.task.example import Example, Message
from selfteach.training.text.store import NamedStore


def example(key: str, problem: str = "open the red door") -> Example:
    return Example(key, (Message(role="user", content=problem),))


def texts(bank: Bank) -> list[str]:
    return [one["text"] for one in bank.entries]


# --- what is kept -------------------------------------------------------------------------------------------------


def test_of_one_example_and_of_all_the_oldest_goes() -> None:
    bank = Bank({}, capacity=3, per_key=2)
    for key, text in (("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")):
        bank.add(key, "", text)
    assert texts(bank) == ["2", "3", "4"]
    bank.add("c", "", "5")
    assert texts(bank) == ["3", "4", "5"]


def test_the_smallest_gap_goes_of_equals_the_oldest_and_never_the_newest() -> None:
    bank = Bank({}, capacity=3, evict=least_gap)
    for text, gap in (("1", 0.5), ("2", 0.3), ("3", 0.3), ("4", 0.2)):
        bank.add(text, "", text, gap)
    assert texts(bank) == ["1", "3", "4"]
    bank.add("5", "", "5", 0.9)
    assert texts(bank) == ["1", "3", "5"]
    one = Bank({}, capacity=1, evict=least_gap)
    one.add("a", "", "old", 0.9)
    one.add("b", "", "new", 0.1)
    assert texts(one) == ["new"]


def test_the_same_text_of_an_example_is_kept_once() -> None:
    bank = Bank({}, capacity=9)
    for key in ("a", "a", "b"):
        bank.add(key, "", "same")
    assert [one["key"] for one in bank.entries] == ["a", "b"]


def test_what_was_earned_is_a_mean_and_is_forgotten_with_the_last_text() -> None:
    bank = Bank({}, capacity=1)
    bank.add("a", "", "1")
    for reward in (1.0, 0.0, 0.5):
        bank.used(bank.entries[0], reward)
    assert bank.entries[0]["reward"] == pytest.approx(0.5)
    assert (bank.entries[0]["uses"], bank.asked) == (3, {"a": 3})
    bank.add("b", "", "2")
    assert bank.asked == {}


def test_it_goes_on_from_what_a_checkpoint_holds(tmp_path: Path) -> None:
    store = NamedStore()
    bank = Bank(store.notes, capacity=4)
    bank.add("a", "the problem", "text", 0.25)
    bank.used(bank.entries[0], 1.0)

    def path_of(version: int) -> Path:
        return tmp_path / f"{version}.jsonl"

    again = Bank(NamedStore.load(path_of, store.save(path_of, keep=1)).notes, capacity=4)
    assert json.dumps(again.notes) == json.dumps(bank.notes)
    assert again.of("a")[0]["reward"] == 1.0
    assert again.notes is not store.notes


# --- which is shown -----------------------------------------------------------------------------------------------


def test_the_bound_is_mean_and_exploration() -> None:
    assert ucb(0.4, 3, 10, 0.5) == pytest.approx(0.4 + 0.5 * math.sqrt(math.log(10) / 3))
    assert ucb(0.4, 3, 10, 0.0) == 0.4
    assert ucb(0.4, 1, 1, 5.0) == 0.4
    assert ucb(-9.0, 0, 10, 0.0) == math.inf


def tried(*uses: Sequence[float]) -> Bank:
    """A bank of task "a" whose texts 0, 1, … were used with these rewards."""
    bank = Bank({}, capacity=9)
    for i, rewards in enumerate(uses):
        bank.add("a", "", str(i))
        for reward in rewards:
            bank.used(bank.entries[i], reward)
    return bank


def test_a_text_that_was_never_used_is_first_and_of_several_the_oldest() -> None:
    for c in (0.0, 1.0):
        found = UCB(c)(tried([1.0], [], []), example("a"))
        assert found is not None
        assert found["text"] == "1"


def test_greedy_takes_the_best_mean_and_curiosity_what_was_used_least() -> None:
    bank = tried([0.6] * 8, [0.5])
    chosen = [UCB(c)(bank, example("a")) for c in (0.0, 0.01, 1.0)]
    assert [one["text"] for one in chosen if one is not None] == ["0", "0", "1"]


def test_nothing_passes_from_one_task_to_another() -> None:
    assert UCB()(tried([1.0]), example("b")) is None
    assert UCB()(Bank({}, 1), example("a")) is None


def test_the_cosine_counts_words_and_signs() -> None:
    assert cosine(words("a b"), words("b a")) == 1
    assert cosine(words("a a b"), words("a c")) == pytest.approx(2 / math.sqrt(5 * 2))
    assert cosine(words("a"), words("b")) == cosine(words(""), words("b")) == 0


def test_the_most_similar_request_is_found_of_equals_the_newest_above_the_threshold_alone() -> None:
    bank = Bank({}, capacity=9)
    for i, problem in enumerate(("open the red door", "open the blue door", "open the red door", "sing")):
        bank.add(f"{i}", problem, f"{i}")
    found = Similar(0.9)(bank, example("x"))
    assert found is not None
    assert found["text"] == "2"
    near = example("x", "open the green door")  # 3 of 4 words: cosine 0.75
    assert Similar(0.76)(bank, near) is None
    assert Similar(0.75)(bank, near) is not None
    assert Similar(0.0)(Bank({}, 1), near) is None


# --- who writes ---------------------------------------------------------------------------------------------------


@dataclass
class Scripted:
    """Tools that hand out prepared answers."""

    answers: list[str] = field(default_factory=list)
    room: bool = True
    asked: list[tuple[str, str, Any]] = field(default_factory=list)
    kept: NamedStore = field(default_factory=NamedStore)

    def store(self, name: str) -> NamedStore:
        return self.kept

    def prompt(self, one: Trajectory, view: Told, room: int | None = None) -> Prompt | None:
        messages = view(one, [one], {})
        if messages is None or not self.room:
            return None
        return Prompt(one.example.behind(messages), [0], one.group)

    def sample(self, begun: Sequence[Prompt], **how: Any) -> list[Trajectory]:
        self.asked += [(how["role"], one.example.prompt[-1]["content"], how["max_tokens"]) for one in begun]
        return [rollout(self.answers.pop(0)) for _ in begun]


def rollout(text: str) -> Trajectory:
    return Trajectory.written(example("a"), [0], [1], text, group=0, finished=True)


ASK = Told("{problem}: what of {attempt}?", "summary")


def said(summarizer: Summarizer, tools: Scripted, *texts: str) -> dict[int, str]:
    return summarizer.written(tools, dict(enumerate(map(rollout, texts))), ASK, lambda one: one.text)  # type: ignore[arg-type]


def test_the_policy_itself_is_asked_behind_the_rollout() -> None:
    tools = Scripted(["<think>hm\nhm</think> look left ", "  "])
    assert said(Summarizer(summary_tokens=7), tools, "go", "stay") == {0: "look left"}
    assert tools.asked == [
        ("student", "open the red door: what of go?", 7),
        ("student", "open the red door: what of stay?", 7),
    ]


def test_another_model_writes_as_a_role_of_its_own() -> None:
    other = Summarizer(summarizer="model", summarizer_model="elsewhere")
    (role,) = other.writers().values()
    assert role.weights == External("elsewhere")
    tools = Scripted(["yes"])
    assert said(other, tools, "go") == {0: "yes"}
    assert [role for role, *_ in tools.asked] == ["summarizer"]
    assert Summarizer().writers() == {}


def test_by_rule_nobody_is_asked_and_the_end_is_cut() -> None:
    tools = Scripted()
    assert said(Summarizer(summarizer="rule", summary_characters=3), tools, "north", "") == {0: "nor"}
    assert tools.asked == []


@pytest.mark.parametrize("knobs", [{"summarizer": "model"}, {"summarizer_model": "x"}])
def test_a_model_and_its_name_go_together(knobs: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="summarizer-model go together"):
        Summarizer(**knobs)


def test_silence_is_refused_after_a_while_and_not_once_something_was_said() -> None:
    quiet = Scripted(room=False)
    for _ in range(PATIENCE - 1):
        assert said(Summarizer(), quiet, "go") == {}
    with pytest.raises(UserError, match=f"first {PATIENCE} rollouts"):
        said(Summarizer(), quiet, "go")
    spoken = Scripted(["yes"])
    said(Summarizer(), spoken, "go")
    spoken.room = False
    for _ in range(2 * PATIENCE):
        assert said(Summarizer(), spoken, "go") == {}
