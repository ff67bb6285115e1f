"""Worlds "doors" and "calculator": their rules, their experts and lessons, and what the shipped models do."""

from __future__ import annotations

import json
from itertools import product
from random import Random

import pytest

from selfteach.errors import UserError
from selfteach.task.arena import WORLDS, Game, arena_model, open_world
from selfteach.task.arena.calculator import MALFORMED, MISTAKE_RATE, Careless
from selfteach.task.arena.curriculum import CURRICULA
from selfteach.task.arena.doors import FITS, KEYS, begin, belief, can_win, episode, moved
from selfteach.task.arena.drawn import is_held_out
from selfteach.task.arena.game import played
from selfteach.task.arena.lesson import Lesson
from selfteach.task.arena.measure import BLUNDER, measure
from selfteach.task.arena.pretrain import learnable
from selfteach.task.arena.tokenizer import build_tokenizer
from selfteach.task.environment import Reply, turns_of

NAMES = sorted(name for name, world in WORLDS.items() if isinstance(world, Game) and world.opening is None)
"""Those whose problem is all in the prompt, each with an expert's model beside the student's."""


def game(name: str, seed: int = 0) -> Game:
    found = open_world(name, seed)
    assert isinstance(found, Game)
    return found


@pytest.fixture(params=NAMES)
def world(request: pytest.FixtureRequest) -> Game:
    return game(request.param)


def words_of(reply: Reply) -> str:
    return "".join(one["content"] for one in reply.messages)


def lessons(name: str, count: int = 600) -> list[Lesson]:
    rng = Random(0)
    return [CURRICULA[name].writer(rng) for _ in range(count)]


# What holds of both.


def test_there_are_two_of_them() -> None:
    assert NAMES == ["calculator", "doors"]


def test_an_expert_wins_every_episode_in_four_to_eight_turns(world: Game) -> None:
    lengths = set()
    for example in [*map(world.train, range(300)), *world.held_out(100)]:
        turns = turns_of(example, "solution")
        replies = played(world, example.problem, turns)
        assert [reply.reward for reply in replies] == [0.0] * (len(turns) - 1) + [1.0]
        assert [reply.done for reply in replies] == [False] * (len(turns) - 1) + [True]
        assert not any(reply.failed for reply in replies)
        assert all(
            reply.numbers.get("wrong_calls", 0) == reply.numbers.get("lost", 0) == 0 for reply in replies
        )
        lengths.add(len(turns))
    assert lengths == ({4, 6, 8} if world.name == "doors" else {4, 5})


def test_an_episode_played_again_is_answered_the_same(world: Game) -> None:
    rng = Random(0)
    for example in map(world.train, range(30)):
        turns = [rng.choice(["ta", "ub", "tc", "ud", "=3@7", "=1", "x"]) for _ in range(world.max_turns)]
        first, again = (played(world, example.problem, turns) for _ in range(2))
        assert first == again
        environment = world.environment()
        assert tuple(environment.reset(example)) == example.prompt
        stepped = [
            environment.step({"role": "assistant", "content": f" {one}\n"}) for one in turns[: len(first)]
        ]
        assert stepped == first


def test_training_held_out_and_lessons_are_on_their_sides_of_the_split(world: Game) -> None:
    held_out = world.held_out(300)
    assert len({one.key for one in held_out}) == 300
    assert all(is_held_out(one.problem) for one in held_out)
    assert held_out == game(world.name, seed=1).held_out(300)
    assert not any(is_held_out(world.train(i).problem) for i in range(1000))
    asked = [one.question.partition("|")[0] for kind in ("", "-expert") for one in lessons(world.name + kind)]
    assert not any(map(is_held_out, asked))


def test_what_is_said_and_done_is_short(world: Game) -> None:
    said = [words for one in lessons(world.name) for words, _ in one.further]
    done = [
        words for one in lessons(world.name) for words in (one.answer, *(turn for _, turn in one.further))
    ]
    assert 0 < max(map(len, said)) <= 25
    assert max(map(len, done)) <= (2 if world.name == "doors" else 5)


@pytest.mark.parametrize(
    "words", ["", "t", "T a", "=", "#", "#12", "ta ua", "=3@", "t\u0661", "#\u0661", "t" * 10_000]
)
def test_an_illegal_action_is_counted_and_changes_nothing(world: Game, words: str) -> None:
    example = world.train(0)
    turns = turns_of(example, "solution")
    slipped, *others = played(world, example.problem, [words, *turns])
    assert slipped.failed
    assert not slipped.done
    assert slipped.reward == 0
    assert words_of(slipped)
    assert others == played(world, example.problem, turns)


def test_every_wording_shows_the_problem_and_what_it_reveals(world: Game) -> None:
    for example in map(world.train, range(50)):
        for view in ("plan", "solution"):
            assert world.question(example, view) == f"{example.problem}|{example.private[view]}"


def test_a_text_is_no_episode(world: Game) -> None:
    with pytest.raises(UserError, match=f"world '{world.name}' has episodes"):
        world.grade(world.train(0), "ta")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("doors", "dac/B"),
        ("doors", "da/B/d/A"),
        ("doors", "ac/B/f/A"),
        ("calculator", "7@5"),
        ("calculator", "x"),
    ],
)
def test_what_is_no_problem_of_a_world_is_refused_in_one_line(name: str, problem: str) -> None:
    with pytest.raises(UserError, match=f"world '{name}': '{problem}' is no problem of it; write"):
        game(name).example(problem)


def test_a_blunder_is_no_experts_action_and_can_be_made_good(world: Game) -> None:
    found = [(one, words) for one in map(world.train, range(200)) if (words := world.blunder(one.problem))]
    assert len(found) > 80
    for example, words in found:
        assert words != turns_of(example, "solution")[0]
        (reply,) = played(world, example.problem, [words])
        assert not reply.failed
        assert reply.numbers.get("lost", 0) == 0


def test_a_lesson_is_an_episode_and_its_loss_is_on_the_policys_turns_alone(world: Game) -> None:
    tokenizer = build_tokenizer()
    for one in lessons(world.name, 100):
        problem = one.question.partition("|")[0]
        turns = [one.answer, *(turn for _, turn in one.further)]
        replies = played(world, problem, turns)
        assert len(replies) == len(turns) <= world.max_turns
        assert [words_of(reply) for reply in replies[:-1]] == [words for words, _ in one.further]
        _, labels = learnable(tokenizer, [one])
        assert tokenizer.decode(labels[labels >= 0]) == "".join(f"{turn}<end>" for turn in turns)
        assert int((labels >= 0).sum()) == one.learned


def test_lessons_of_experts_make_no_mistake(world: Game) -> None:
    for one in lessons(f"{world.name}-expert", 200):
        turns = [one.answer, *(turn for _, turn in one.further)]
        assert turns == turns_of(world.example(one.question), "solution")


def test_a_lesson_shown_all_turns_takes_them(world: Game) -> None:
    shown = [one for one in lessons(world.name) if "|[" in one.question]
    assert shown
    if world.name == "doors":
        for one in shown:
            assert json.loads(one.question.partition("|")[2]) == [
                one.answer,
                *(turn for _, turn in one.further),
            ]


# World "doors".


def test_a_key_that_does_not_fit_breaks_and_what_is_left_behind_is_gone() -> None:
    world = game("doors")  # f opens B, d opens A
    broken, *_ = replies = played(world, "dfc/B//A", ["td", "ud", "tf", "uf"])
    assert [words_of(one) for one in replies] == ["B:fc:d", "xB:fc:", "B:c:f", "stuck"]
    assert [one.numbers["lost"] for one in replies] == [0, 1, 0, 0]
    assert replies[-1].done
    assert sum(one.reward for one in replies) == 0
    assert not broken.done
    left = played(world, "dfc/B/a/A", ["tf", "uf", "ta", "ua"])
    assert [words_of(one) for one in left] == ["B:dc:f", "A:a:", "A::a", "stuck"]
    assert [one.numbers["lost"] for one in left] == [0, 1, 0, 0]


def test_two_hands_carry_two_keys() -> None:
    replies = played(game("doors"), "dfc/B//A", ["td", "tc", "tf", "uc", "tf", "uf", "ud"])
    assert [one.failed for one in replies] == [False, False, True, False, False, False, False]
    assert replies[-1].reward == 1
    assert words_of(replies[2]) == "!B:f:dc"


def test_after_a_mistake_that_loses_no_actions_lead_out() -> None:
    """Tried out: every sequence of actions, legal or not, of as many turns as there are keys."""
    world = game("doors")
    problem = "dfc/B//A"
    actions = [f"{verb}{key}" for verb in "tu" for key in "dfc"]
    for lost in (["td", "ud"], ["tf", "uf"]):
        tried = product(actions, repeat=4)
        rewards = [sum(one.reward for one in played(world, problem, [*lost, *rest])) for rest in tried]
        assert max(rewards) == 0
    assert (
        max(sum(one.reward for one in played(world, problem, rest)) for rest in product(actions, repeat=4))
        == 1
    )


def test_a_state_is_lost_from_then_on() -> None:
    rng = Random(0)
    for example in map(game("doors").train, range(100)):
        where, possible = begin(example.problem), True
        for _ in range(12):
            after = moved(where, rng.choice("tu") + rng.choice(KEYS)) if where.doors else None
            if after is None:
                continue
            assert possible or not can_win(after)
            where, possible = after, can_win(after)


def test_each_door_has_a_key_of_its_own() -> None:
    assert sorted(FITS) == list("ABCDEF")
    assert sorted(FITS.values()) == list(KEYS)
    assert game("doors").example("dac/A/f/B").private == {"solution": '["td","ud","tf","uf"]', "plan": "AdBf"}


def test_plain_lessons_of_the_student_hardly_know_which_key_fits() -> None:
    rng = Random(0)
    held = [(game("doors").train(i).problem, 0) for i in range(2000)]
    right = [
        belief(problem, 0.0, rng)[begin(problem).doors[0]] == FITS[begin(problem).doors[0]]
        for problem, _ in held
    ]
    by_chance = [1 / len(begin(problem).rooms[0]) for problem, _ in held]
    assert sum(right) / len(right) == pytest.approx(sum(by_chance) / len(by_chance), abs=0.04)


def test_a_plan_is_followed_where_it_is_wrong_too() -> None:
    actions, answers = episode("dfc/B//A", {"B": "c", "A": "d"}, 0.0, Random(0))
    assert actions[:3] == ["tc", "td", "uc"]
    assert answers[2] == "xB:f:d"


# World "calculator".


def test_a_tool_answers_what_it_is_asked_and_a_wrong_call_is_counted() -> None:
    world = game("calculator")
    replies = played(world, "7@5-9@2", ["=7@5", "=1-9", "7@5", "=2-9", "=3@2", "#4"])
    assert [words_of(one) for one in replies] == ["2", "2", MALFORMED, "3", "4", ""]
    assert [one.numbers["wrong_calls"] for one in replies] == [0, 1, 0, 0, 0, 0]
    assert [one.failed for one in replies] == [False, False, True, False, False, False]
    assert replies[-1].reward == 1
    assert world.example("7@5-9@2").private["plan"] == "234"


def test_a_wrong_answer_ends_an_episode_without_reward() -> None:
    (reply,) = played(game("calculator"), "7@5-9@2", ["#5"])
    assert (reply.reward, reply.done) == (0.0, True)


def test_who_errs_as_often_as_the_students_text_wins_about_half_of_the_episodes() -> None:
    rng = Random(0)
    won = 0
    for i in range(1000):
        problem = game("calculator").train(i).problem
        turns, _ = Careless(problem, MISTAKE_RATE, rng).play()
        won += sum(one.reward for one in played(game("calculator"), problem, turns)) == 1
    assert 0.35 < won / 1000 < 0.6


# The models that ship: floors and ceilings, well beyond what their cards say.


def success(model: str, view: str, count: int = 64) -> float:
    return measure(game(model.partition("-")[0]), arena_model(model), view, count).mean


@pytest.mark.parametrize(("name", "low", "high"), [("doors", 0.1, 0.45), ("calculator", 0.15, 0.55)])
def test_a_student_leaves_room_when_it_is_asked_plainly(name: str, low: float, high: float) -> None:
    assert low < success(name, "plain") < high


@pytest.mark.parametrize(("name", "view"), [(name, view) for name in NAMES for view in ("plan", "solution")])
def test_a_student_reads_the_privileges_of_its_world(name: str, view: str) -> None:
    assert success(name, view) > 0.75


@pytest.mark.parametrize("name", NAMES)
def test_an_expert_model_wins_until_a_mistake_is_made(name: str) -> None:
    own = success(f"{name}-expert", "plain")
    assert own > 0.9
    assert success(f"{name}-expert", BLUNDER) < own - 0.3
