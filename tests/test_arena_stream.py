"""World "stream": early and late events, what a warning is worth and when, and what its shipped model does."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random

import pytest

from selfteach.errors import UserError
from selfteach.task.arena import Game, arena_model, open_world
from selfteach.task.arena.curriculum import CURRICULA
from selfteach.task.arena.drawn import is_held_out
from selfteach.task.arena.game import played, whole
from selfteach.task.arena.generating import Played, continued
from selfteach.task.arena.lesson import Lesson
from selfteach.task.arena.measure import BLUNDER, accuracy_table, measure
from selfteach.task.arena.pretrain import learnable
from selfteach.task.arena.stream import CUES, ELSEWHERE, HARM, IN_SCAMS, LATE, MOST, RASH, signs
from selfteach.task.arena.tokenizer import build_tokenizer
from selfteach.task.environment import Reply, turns_of
from selfteach.task.example import Example

SCAM = "abc/dua/fgh/wab/cde/fgh/ija/bcd/eZf/ghi"
CALM = "abc/dua/fgh/wab/cde/fgh/ija/bcd/eef/ghi"


def world(seed: int = 0) -> Game:
    found = open_world("stream", seed)
    assert isinstance(found, Game)
    return found


def lessons(count: int = 800) -> list[Lesson]:
    rng = Random(0)
    return [CURRICULA["stream"].writer(rng) for _ in range(count)]


def numbers(replies: list[Reply]) -> dict[str, float]:
    """Their sums over an episode, as a grade has them."""
    found: dict[str, float] = {}
    for reply in replies:
        for name, value in reply.numbers.items():
            found[name] = found.get(name, 0.0) + value
    return found


def judged(problem: str, verdicts: str) -> tuple[float, dict[str, float]]:
    replies = played(world(), problem, list(verdicts))
    assert [reply.done for reply in replies] == [False] * (len(problem.split("/")) - 1) + [True]
    return sum(reply.reward for reply in replies), numbers(replies)


# The stream.


def test_the_prompt_shows_the_first_window_and_nothing_of_the_rest() -> None:
    example = world().example(SCAM)
    assert example.prompt == ({"role": "user", "content": "abc"},)
    assert example.private == {
        "reflection": "uwZ",
        "early": '["u","w"]',
        "future": SCAM.removeprefix("abc/"),
        "label": "scam",
        "solution": '[".",".",".","!","!","!","!","!","!","!"]',
        "whole": SCAM,
    }
    assert example.tag == "scam"
    assert whole(example) == SCAM
    assert whole(open_world("doors").train(0)) == open_world("doors").train(0).problem


def test_of_a_calm_stream_there_is_nothing_to_be_recognized() -> None:
    example = world().example(CALM)
    told = {name: example.private[name] for name in ("reflection", "early", "label")}
    assert told == {"reflection": "uw-", "early": "[]", "label": "calm"}
    assert turns_of(example, "solution") == ["."] * 10


@pytest.mark.parametrize(
    ("early", "reflection", "known", "since"),
    [("abc/dea", "Z", ["Z"], 7), ("abc/dua", "uZ", ["u", "Z"], 1), ("wbc/vua", "wvuZ", ["w", "v"], 1)],
)
def test_what_could_have_been_known(early: str, reflection: str, known: list[str], since: int) -> None:
    example = world().example(SCAM.replace("abc/dua/fgh/wab", f"{early}/fgh/aab"))
    assert example.private["reflection"] == reflection
    assert json.loads(example.private["early"]) == known
    assert turns_of(example, "solution") == ["."] * since + ["!"] * (10 - since)


def test_windows_come_one_by_one_whatever_is_said_of_them() -> None:
    replies = played(world(), SCAM, [*"!.!.!.!.!."])
    assert [reply.messages[0]["content"] for reply in replies[:-1]] == SCAM.split("/")[1:]
    assert replies[-1].messages == ()
    environment, example = world().environment(), world().example(SCAM)
    assert tuple(environment.reset(example)) == example.prompt
    again = [environment.step({"role": "assistant", "content": f" {one}\n"}) for one in "!.!.!.!.!."]
    assert again == replies


@pytest.mark.parametrize("words", ["", "!!", "! ", "warn", "\uff01", "." * 10_000])
def test_what_is_no_verdict_is_counted_and_taken_for_waiting(words: str) -> None:
    slipped, *others = played(world(), SCAM, [words, *"........."])
    waited, *same = played(world(), SCAM, [*".........."])
    assert (slipped.failed, waited.failed) == (True, False)
    assert slipped.messages == waited.messages
    assert (slipped.reward, slipped.numbers, others) == (waited.reward, waited.numbers, same)


@pytest.mark.parametrize(
    "problem",
    ["abc", "abc/dea", SCAM.replace("Z", "z"), SCAM.replace("ghi", "gZi"), SCAM.replace("dua", "dZa"), SCAM + "/ab",
     SCAM.replace("dua/fgh/wab", "Zua/fgh/wab").replace("eZf", "eef")],
)  # fmt: skip
def test_what_is_no_problem_of_the_world_is_refused_in_one_line(problem: str) -> None:
    with pytest.raises(UserError, match=f"world 'stream': '{problem}' is no problem of it; write") as refused:
        world().example(problem)
    assert "\n" not in str(refused.value)


# What a warning is worth.


@pytest.mark.parametrize("first", range(10))
def test_a_warning_counts_where_it_comes_before_the_harm(first: int) -> None:
    """The harm is done in window 8 (from 0)."""
    for verdicts in ("." * first + "!" * (10 - first), "." * first + "!" + "." * (9 - first)):
        assert judged(SCAM, verdicts)[0] == (1.0 if first < 8 else 0.0)
        assert judged(CALM, verdicts)[0] == 0.0


def test_who_never_warns_is_right_of_calm_streams_alone() -> None:
    assert judged(SCAM, "." * 10) == (0.0, {"hit": 0.0, "par": 0.0})
    assert judged(CALM, "." * 10) == (1.0, {"false_alarm": 0.0})


@pytest.mark.parametrize("first", range(10))
def test_a_perfect_detector_at_window_i_of_n_has_an_earliest_detection_of_a_hundred_i_over_n(
    first: int,
) -> None:
    _, found = judged(SCAM, "." * first + "!" * (10 - first))
    assert found == {"hit": 1.0, "par": pytest.approx(1.0), "edp": pytest.approx(100 * (first + 1) / 10)}


def test_coverage_is_the_share_of_windows_warned_of_since_the_first_warning() -> None:
    _, found = judged(SCAM, "...!.!!...")
    assert found == {"hit": 1.0, "par": pytest.approx(3 / 7), "edp": 40.0}


def test_a_second_false_alarm_is_no_other() -> None:
    assert judged(CALM, "!...!!....")[1] == {"false_alarm": 1.0}


def test_a_number_is_there_only_of_the_streams_that_it_is_about() -> None:
    """So its mean over those episodes that have it is the conditional one: over hits, scams, other streams."""
    rng = Random(0)
    for example in map(world().train, range(200)):
        verdicts = [rng.choices("!.", [1, 9])[0] for _ in whole(example).split("/")]
        found = numbers(played(world(), whole(example), verdicts))
        if example.tag == "calm":
            assert found == {"false_alarm": float("!" in verdicts)}
        else:
            assert set(found) == ({"hit", "par", "edp"} if "!" in verdicts else {"hit", "par"})
            assert found["hit"] == ("!" in verdicts)


# Streams as they are drawn.


def test_early_events_are_likely_in_scams_and_unlikely_elsewhere_and_the_late_one_is_sure() -> None:
    examples = list(map(world().train, range(4000)))
    for tag, rate in (("scam", IN_SCAMS), ("calm", ELSEWHERE)):
        own = [whole(one) for one in examples if one.tag == tag]
        assert len(own) / 4000 == pytest.approx(0.5, abs=0.03)
        for cue in CUES:
            assert sum(cue in one for one in own) / len(own) == pytest.approx(rate, abs=0.03)
        assert all(one.count(HARM) == (tag == "scam") for one in own)
        assert all(not signs("".join(one.split("/")[-LATE:])) for one in own)
        assert {len(one.split("/")) for one in own} == {10, 11, 12}


def rule(enough: int) -> Callable[[Example], list[str]]:
    """To warn once so many early events have been seen, or the late one."""

    def verdicts(example: Example) -> list[str]:
        seen, found = set[str](), list[str]()
        for window in whole(example).split("/"):
            seen |= set(window) & set(CUES + HARM)
            found.append("!" if len(seen) >= enough or HARM in seen else ".")
        return found

    return verdicts


def test_two_early_events_are_the_best_reason_to_warn() -> None:
    """Of each cue with 0.8 in scams and 0.2 elsewhere, at least two of three: 0.896 on either side."""
    earned = {}
    for enough in (1, 2, 3, 4):
        rewards = [
            sum(one.reward for one in played(world(), whole(example), rule(enough)(example)))
            for example in map(world().train, range(3000))
        ]
        earned[enough] = sum(rewards) / len(rewards)
    assert earned == {
        1: pytest.approx((1 - 0.2**3 + 0.8**3) / 2, abs=0.03),
        2: pytest.approx(0.896, abs=0.03),
        3: pytest.approx((0.8**3 + 1 - 0.2**3) / 2, abs=0.03),
        4: pytest.approx(0.5, abs=0.03),
    }


def test_the_solution_is_right_of_every_stream() -> None:
    for example in [*map(world().train, range(500)), *world().held_out(200)]:
        verdicts = turns_of(example, "solution")
        assert len(verdicts) == len(whole(example).split("/")) <= MOST == world().max_turns
        assert sum(reply.reward for reply in played(world(), whole(example), verdicts)) == 1


def test_training_held_out_and_lessons_are_on_their_sides_of_the_split() -> None:
    held_out = world().held_out(300)
    assert len({one.key for one in held_out}) == 300
    assert all(is_held_out(whole(one)) for one in held_out)
    assert held_out == world(seed=1).held_out(300)
    assert not any(is_held_out(whole(world().train(i))) for i in range(1000))
    assert [world().train(i) for i in range(9)] != [world(seed=1).train(i) for i in range(9)]
    assert not any(is_held_out(stream_of(one)) for one in lessons())


# Lessons.


def stream_of(lesson: Lesson) -> str:
    return "/".join([lesson.question.partition("|")[0], *(window for window, _ in lesson.further)])


def verdicts_of(lesson: Lesson) -> str:
    return "".join([lesson.answer, *(verdict for _, verdict in lesson.further)])


def told(lesson: Lesson) -> str:
    return lesson.question.partition("|")[2]


def test_a_lesson_is_a_stream_and_its_loss_is_on_the_verdicts_alone() -> None:
    tokenizer = build_tokenizer()
    for one in lessons(60):
        world().example(stream_of(one))
        _, labels = learnable(tokenizer, [one])
        assert tokenizer.decode(labels[labels >= 0]) == "".join(f"{each}<end>" for each in verdicts_of(one))


def test_plain_lessons_say_nothing_of_early_events() -> None:
    """Warnings before the harm are as rare behind two early events as behind none."""
    plain = [one for one in lessons(6000) if not told(one)]
    before: dict[bool, list[bool]] = {True: [], False: []}
    for one in plain:
        seen = set[str]()
        for window, verdict in zip(stream_of(one).split("/"), verdicts_of(one), strict=True):
            seen |= set(window) & set(CUES + HARM)
            if HARM not in seen:
                before[len(seen) >= 2].append(verdict == "!")
    for rows in before.values():
        assert sum(rows) / len(rows) == pytest.approx(0.01, abs=0.006)


def test_told_of_the_harm_one_warns_from_the_second_early_event_on_and_rashly_before() -> None:
    rash, late = list[bool](), list[bool]()
    for one in lessons(3000):
        if not told(one).endswith(HARM):
            continue
        seen = set[str]()
        for window, verdict in zip(stream_of(one).split("/"), verdicts_of(one), strict=True):
            seen |= set(window) & set(CUES + HARM)
            due = HARM in seen or len(seen) >= 2
            (late if due else rash).append(verdict == "!")
    assert sum(rash) / len(rash) == pytest.approx(RASH, abs=0.02)
    assert sum(late) / len(late) > 0.99


def test_a_list_of_verdicts_is_followed() -> None:
    shown = [one for one in lessons() if told(one).startswith("[")]
    assert shown
    assert all(json.loads(told(one)) == list(verdicts_of(one)) for one in shown)


def test_a_world_without_blunders_measures_none() -> None:
    assert measure(world(), arena_model("stream"), BLUNDER, 4).count == 0
    assert BLUNDER not in accuracy_table("stream", arena_model("stream"), count=4)


# The model that ships.


def early_warning(view: str, count: int = 128) -> dict[str, float]:
    """The means of an episode's numbers, of the episodes that have each; greedy verdicts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = arena_model("stream")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    episodes = [Played(world(), example, view, []) for example in world().held_out(count)]
    sums: list[dict[str, float]] = [{} for _ in episodes]
    while going := [i for i, one in enumerate(episodes) if not one.done]:
        turns = continued(model, tokenizer, [episodes[i].conversation for i in going], None, False, 4)
        for i, words in zip(going, turns, strict=True):
            reply = episodes[i].step(words)
            for name, value in reply.numbers.items():
                sums[i][name] = sums[i].get(name, 0.0) + value
    names = {name for one in sums for name in one}
    rows = {name: [one[name] for one in sums if name in one] for name in names}
    return {name: sum(values) / len(values) for name, values in rows.items()}


def test_asked_plainly_the_student_warns_once_it_is_too_late() -> None:
    found = early_warning("plain")
    assert found["hit"] > 0.9
    assert found["edp"] > 80
    assert found["false_alarm"] < 0.1
    assert 0.35 < measure(world(), arena_model("stream"), "plain", 128).mean < 0.6


def test_told_how_it_goes_on_it_warns_earlier() -> None:
    found = early_warning("reflection")
    assert found["hit"] > 0.95
    assert found["edp"] < 60
    assert found["false_alarm"] < 0.05
    assert found["par"] > 0.9
    assert measure(world(), arena_model("stream"), "solution", 128).mean > 0.8
