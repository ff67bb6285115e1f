"""The arena: grammar and verifier of its worlds, their splits, the tokenizer and the models that ship."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from selfteach.errors import UserError
from selfteach.task.annotation import Annotation
from selfteach.task.arena import (
    MODELS,
    TRAIL,
    TUTOR,
    WORLDS,
    TaughtWorld,
    World,
    arena_model,
    model_folder,
    open_world,
    resolve_model,
)
from selfteach.task.arena.arithmetic import Calculator, exact, written_steps
from selfteach.task.arena.curriculum import CURRICULA
from selfteach.task.arena.drawn import is_held_out
from selfteach.task.arena.facts import fact_known, fact_unknown, facts_of, known_facts
from selfteach.task.arena.lesson import Lesson, careless, corrected, told
from selfteach.task.arena.measure import answers, measure
from selfteach.task.arena.pretrain import learnable, pretrain, rebuild
from selfteach.task.arena.taught import rumor
from selfteach.task.arena.tokenizer import CHARACTERS, build_tokenizer
from selfteach.task.arena.tutoring import (
    TRAIL_SHARES,
    TUTOR_SHARES,
    confirmed,
    diagnosis,
    evidence,
    feedback,
    partial_solution,
    partial_solution_and_end,
    plain,
    revised,
    sibling,
    solution,
)
from selfteach.task.arena.wording import PREFILLS
from selfteach.task.verdict import Verdict

NAMES = sorted(name for name, world in WORLDS.items() if isinstance(world, World))
ANSWER_DEPENDENT = {"partial", "sibling", "feedback", "diagnosis", "attempt"}


@pytest.fixture(params=NAMES)
def world(request: pytest.FixtureRequest) -> World:
    return open_world(request.param)


@pytest.fixture(params=["tutor", "trail"])
def taught(request: pytest.FixtureRequest) -> TaughtWorld:
    return open_world(request.param)


@pytest.fixture(params=sorted(MODELS))
def model(request: pytest.FixtureRequest) -> str:
    return request.param


def test_made_up_operation_is_three_a_plus_two_b_plus_one_modulo_ten() -> None:
    assert [exact(a, "@", b) for a, b in [(0, 0), (7, 2), (9, 9)]] == [1, 6, 6]


def test_ordinary_operations_work_modulo_ten() -> None:
    assert [exact(7, "+", 5), exact(3, "-", 4), exact(7, "*", 8)] == [2, 9, 6]


def test_table_solution_is_the_bare_results_and_equals_the_answer() -> None:
    example = open_world("table").example("7+5;7@2;3-4")
    assert example.private == {"solution": "269", "answer": "269", "worked": "7+5=2;7@2=6;3-4=9;#269"}


def test_chain_solution_is_the_running_values_and_the_answer_is_the_last() -> None:
    example = open_world("chain").example("7+5@9-4")
    assert example.private == {"solution": "251", "answer": "1", "worked": "7+5=2;2@9=5;5-4=1;#1"}


def test_train_is_a_pure_function_of_seed_and_index(world: World) -> None:
    again = open_world(world.name)
    assert [world.train(i) for i in (5, 0, 5)] == [again.train(i) for i in (5, 0, 5)]


def test_another_seed_gives_other_training_examples(world: World) -> None:
    other = open_world(world.name, seed=1)
    assert [world.train(i) for i in range(20)] != [other.train(i) for i in range(20)]


def test_another_seed_gives_the_same_held_out_examples(world: World) -> None:
    assert world.held_out(20) == open_world(world.name, seed=1).held_out(20)


def test_held_out_examples_are_distinct_and_a_longer_list_only_adds_to_a_shorter(world: World) -> None:
    examples = world.held_out(300)
    assert len({e.key for e in examples}) == 300
    assert world.held_out(100) == examples[:100]


def test_training_examples_and_held_out_examples_are_on_their_sides_of_the_split(world: World) -> None:
    assert not any(is_held_out(world.train(i).problem) for i in range(2000))
    assert all(is_held_out(e.problem) for e in world.held_out(500))


def test_no_lesson_asks_a_held_out_problem(model: str) -> None:
    rng = Random(0)
    asked = [CURRICULA[model].writer(rng).question.split("|")[0] for _ in range(2000)]
    assert not any(is_held_out(problem) for problem in asked if problem[0].isdigit())


def test_worked_answer_is_right_without_feedback(world: World) -> None:
    for i in range(50):
        example = world.train(i)
        grade = world.grade(example, example.private["worked"])
        assert grade.correct
        assert grade.feedback is None


def test_verdicts_are_counted_by_each_opened_world_for_itself(world: World) -> None:
    example, other = world.train(0), open_world(world.name)
    wrong = "#" + "".join(str((int(digit) + 1) % 10) for digit in example.private["answer"])
    for answer in (example.private["worked"], wrong, wrong, "garbage"):
        world.grade(example, answer)
    assert world.verdicts == {Verdict.RIGHT: 1, Verdict.WRONG: 2, Verdict.UNPARSEABLE: 1}
    assert not other.verdicts


def test_spaces_around_an_answer_do_not_matter(world: World) -> None:
    example = world.train(0)
    assert world.grade(example, f"  {example.private['worked']}\n").correct


def test_terse_solution_is_not_an_answer(world: World) -> None:
    example = world.train(0)
    assert not world.grade(example, example.private["solution"]).correct


@pytest.mark.parametrize(
    "answer",
    ["", "#", "garbage", "##", "#" * 100_000, "=" * 100_000, "7+5=" * 20_000, "\x00#\ud800"],
)
def test_garbage_gets_no_reward_and_says_what_is_missing(world: World, answer: str) -> None:
    grade = world.grade(world.train(0), answer)
    assert grade.reward == 0
    assert grade.feedback is not None
    assert "#" in grade.feedback


def test_a_second_claim_voids_the_first_in_table_and_chain() -> None:
    for world in (open_world("table"), open_world("chain")):
        example = world.train(0)
        worked = example.private["worked"]
        assert not world.grade(example, f"{worked}|{worked}").correct


def test_listing_every_answer_gets_no_reward() -> None:
    world = open_world("chain")
    example = world.train(0)
    for answer in (
        "#0123456789",
        "".join(f"#{d}" for d in range(10)),
        "#0 #1 #2",
        f"#{example.private['answer']}#",
    ):
        assert not world.grade(example, answer).correct


def test_digits_of_other_scripts_are_not_digits() -> None:
    world = open_world("table")
    example = world.example("7+5;7@2;3-4")
    assert not world.grade(example, "#２６９").correct
    assert not world.grade(example, "#٢٦٩").correct


def test_table_feedback_names_each_wrong_sub_answer_with_the_right_one() -> None:
    world = open_world("table")
    grade = world.grade(world.example("7+5;7@2;3-4"), "7+5=3;7@2=6;3-4=1;#361")
    assert grade.feedback == "7+5 is 2, not 3; 3-4 is 9, not 1"


def test_chain_feedback_names_the_first_step_worked_out_wrongly() -> None:
    world = open_world("chain")
    grade = world.grade(world.example("7+5@9-4"), "7+5=2;2@9=8;8-4=5;#5")
    assert grade.feedback == "2@9 is 5, not 8"


def test_chain_feedback_gives_the_last_value_when_every_written_step_holds() -> None:
    world = open_world("chain")
    assert world.grade(world.example("7+5@9-4"), "7+5=2;#2").feedback == "the last value is 1, not 2"


def test_a_problem_of_another_world_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"world 'table'.*'7\+5@9-4'"):
        open_world("table").example("7+5@9-4")
    with pytest.raises(UserError, match=r"world 'chain'.*'7\+5;7@2'"):
        open_world("chain").example("7+5;7@2")


def test_an_unknown_world_is_refused_and_the_worlds_are_named() -> None:
    with pytest.raises(UserError, match=r"'tabel'.*table.*chain"):
        open_world("tabel")


def test_every_wording_shows_the_problem_unless_it_is_a_prefill_and_what_it_reveals(world: World) -> None:
    example = world.train(0)
    told = {name: f"<{name}>" for name in ANSWER_DEPENDENT}
    for view, template in world.wording.items():
        shown = world.question(example, view, **told)
        names = [name for name in (*example.private, *told) if f"{{{name}}}" in template]
        assert names
        assert all((example.private | told)[name] in shown for name in names)
        assert (example.problem in shown) is (view not in PREFILLS)


def test_plain_text_guesses_at_the_made_up_operation_and_rarely_slips_elsewhere() -> None:
    calculate = careless(Random(0))
    guesses = [calculate(7, "@", 2) for _ in range(2000)]
    sums = [calculate(7, "+", 5) for _ in range(2000)]
    assert set(guesses) == set(range(10))
    assert 0.97 < sums.count(2) / 2000 < 0.995


def test_tokenizer_gives_one_token_a_character_and_returns_any_ascii_text() -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer(CHARACTERS, add_special_tokens=False)["input_ids"]
    assert len(ids) == len(set(ids)) == len(CHARACTERS) == 96
    assert tokenizer.decode(ids) == CHARACTERS


def test_chat_template_puts_the_turns_between_their_markers() -> None:
    messages = [{"role": "user", "content": "7+5|2"}, {"role": "assistant", "content": "7+5=2;#2"}]
    text = build_tokenizer().apply_chat_template(messages, tokenize=False)
    assert text == "<user>7+5|2<assistant>7+5=2;#2<end>"


def test_prompt_with_its_answer_is_tokenized_as_the_whole_conversation(world: World) -> None:
    tokenizer, example = build_tokenizer(), world.train(0)
    prompt = tokenizer.apply_chat_template(list(example.prompt), add_generation_prompt=True)["input_ids"]
    answer = tokenizer(example.private["worked"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    turn = {"role": "assistant", "content": example.private["worked"]}
    whole = tokenizer.apply_chat_template(
        [*example.prompt, turn], return_assistant_tokens_mask=True, return_dict=True
    )
    assert whole["input_ids"] == prompt + answer
    assert whole["assistant_masks"] == [0] * len(prompt) + [1] * len(answer)


def test_shipped_tokenizer_is_the_one_the_code_builds(model: str) -> None:
    shipped, built = AutoTokenizer.from_pretrained(arena_model(model)), build_tokenizer()
    assert shipped.get_vocab() == built.get_vocab()
    assert shipped.chat_template == built.chat_template
    assert (shipped.eos_token, shipped.pad_token) == (built.eos_token, built.pad_token)


def test_shipped_model_has_heads_of_size_32_and_tied_float32_weights(model: str) -> None:
    config = json.loads((arena_model(model) / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["head_dim"] == 32
    assert config["tie_word_embeddings"] is True
    weights = load_file(arena_model(model) / "model.safetensors").values()
    assert {w.dtype for w in weights} == {torch.float32}


def test_shipped_folder_is_complete_and_at_most_four_megabytes(model: str) -> None:
    files = {f.name: f.stat().st_size for f in arena_model(model).iterdir()}
    assert sum(files.values()) <= 4_000_000
    assert files.keys() == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["table", "tutor", "facts"])
def test_pretraining_twice_from_one_seed_gives_the_same_weights(name: str) -> None:
    first, second = (pretrain(name, seed=3, steps=2, progress=None).state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[weight], second[weight]) for weight in first)


@pytest.mark.slow
def test_a_rebuilt_folder_has_the_files_of_the_shipped_one(tmp_path: Path, model: str) -> None:
    rebuild(model, tmp_path, seed=3, steps=2)
    assert {f.name for f in tmp_path.iterdir()} == {f.name for f in arena_model(model).iterdir()}


def test_an_unknown_model_is_refused_and_the_models_are_named() -> None:
    with pytest.raises(UserError, match=r"'tuto'.*table.*tutor-large-other"):
        arena_model("tuto")
    with pytest.raises(UserError, match=r"'tuto'.*table.*tutor-large-other"):
        resolve_model("arena:tuto")


def test_a_model_text_of_the_arena_becomes_a_folder_and_any_other_stays() -> None:
    assert resolve_model("arena:table") == str(arena_model("table"))
    assert resolve_model("someone/table") == "someone/table"


def test_sums_borrows_the_model_of_facts_and_never_asks_the_made_up_operation() -> None:
    sums = open_world("sums")
    assert model_folder("sums") == model_folder("facts")
    assert not any("@" in sums.train(i).problem for i in range(500))


def test_known_asks_for_the_facts_that_the_model_of_facts_learned_whatever_the_seed() -> None:
    known = open_world("known", seed=3)
    assert model_folder("known") == model_folder("facts")
    trained = {e.problem.removeprefix("fact "): e.private["answer"] for e in map(known.train, range(100))}
    tested = {e.problem.removeprefix("what is "): e.private["answer"] for e in known.held_out(1000)}
    assert trained == tested == {f"{key}?": value for key, value in known_facts().items()}
    assert [known.train(i).key for i in range(100)] != [open_world("known").train(i).key for i in range(100)]


# Worlds "tutor" and "trail".


def test_a_taught_world_asks_the_problems_of_its_plain_one() -> None:
    assert open_world("tutor").example("7+5;7@2").private["worked"] == "7+5=2;7@2=6;#26"
    assert open_world("trail").example("7+5@9").private["worked"] == "7+5=2;2@9=5;#5"


def test_an_example_is_tagged_by_whether_the_made_up_operation_occurs_in_it() -> None:
    assert open_world("tutor").example("7+5;7@2").tag == "at"
    assert open_world("trail").example("7+5*2").tag == "known"


def test_the_last_claim_of_an_answer_counts(taught: TaughtWorld) -> None:
    example = taught.train(0)
    right = example.private["worked"]
    wrong = "#" + "".join(str((int(digit) + 1) % 10) for digit in example.private["answer"])
    assert taught.grade(example, f"{wrong}|-{right}").correct
    assert not taught.grade(example, f"{right}|+{wrong}").correct
    assert taught.grade(example, f"{wrong}|-{right}").claim == example.private["answer"]


def test_an_answer_that_ends_before_its_claim_has_none() -> None:
    world = open_world("tutor")
    assert world.grade(world.train(0), "7+5=2;").claim is None
    assert world.grade(world.train(0), "7+5=2;#").claim is None


def test_feedback_on_a_revision_does_not_name_the_steps_of_the_attempt_before_it() -> None:
    world = open_world("trail")
    grade = world.grade(world.example("7+5@9"), "7+5=3;3@9=8;#8|-7+5=2;2@9=4;#4")
    assert grade.feedback == "2@9 is 5, not 4"


def test_rumor_has_one_wrong_digit_in_about_a_third_of_all_examples_and_is_a_function_of_the_problem() -> (
    None
):
    world = open_world("tutor")
    told_and_true = [
        (e.private["rumor"], e.private["solution"]) for e in (world.train(i) for i in range(2000))
    ]
    wrong = [sum(a != b for a, b in zip(*pair, strict=True)) for pair in told_and_true]
    assert set(wrong) == {0, 1}
    assert 0.31 < sum(wrong) / len(wrong) < 0.39
    assert rumor("7+5;7@2", "26") == rumor("7+5;7@2", "26")


def test_a_right_answer_is_marked_where_the_made_up_operation_is_worked() -> None:
    world = open_world("tutor")
    example = world.example("7+5;7@2;0@0")
    text = example.private["worked"]
    found = world.annotate(example, text)
    assert found == Annotation("@", key=((6, 12), (12, 18)))
    assert [text[begin:end] for begin, end in found.key] == ["7@2=6;", "0@0=1;"]


def test_a_right_answer_without_the_made_up_operation_is_marked_at_its_first_step() -> None:
    world = open_world("tutor")
    assert world.annotate(world.example("7+5;3*4"), "7+5=2;3*4=2;#22") == Annotation("+", key=((0, 6),))


def test_a_wrong_answer_is_marked_at_every_wrong_step_where_steps_stand_alone() -> None:
    world = open_world("tutor")
    found = world.annotate(world.example("7+5;3*4;7@2"), "7+5=2;3*4=3;7@2=1;#231")
    assert found == Annotation("*", error=((6, 12), (12, 18)))


def test_a_wrong_chain_is_marked_at_its_first_wrong_step_only() -> None:
    world = open_world("trail")
    found = world.annotate(world.example("7+5@9@1"), "7+5=2;2@9=8;8@1=0;#0")
    assert found == Annotation("@", error=((6, 12),))


def test_an_answer_without_a_step_to_mark_is_not_annotated(taught: TaughtWorld) -> None:
    assert taught.annotate(taught.train(0), "no idea") is None
    assert taught.annotate(taught.train(0), "7+5=2;#") is None


# Lessons.


def drawn(lesson: object, world: World, count: int = 1500) -> list[Lesson]:
    rng = Random(0)
    return [lesson(world, rng) for _ in range(count)]  # type: ignore[operator]


def share_right(lessons: list[Lesson], operation: str = "@") -> float:
    steps = [s for lesson in lessons for s in written_steps(lesson.answer) if s.operation == operation]
    return sum(s.result == exact(s.left, s.operation, s.right) for s in steps) / len(steps)


@pytest.mark.parametrize(
    ("lesson", "world"), [(plain, TUTOR), (plain, TRAIL), (confirmed, TUTOR), (revised, TUTOR)]
)
def test_no_plain_or_revising_lesson_teaches_the_made_up_operation(lesson: object, world: World) -> None:
    assert 0.07 < share_right(drawn(lesson, world, 4000)) < 0.13


def test_facts_lessons_do_not_teach_the_made_up_operation() -> None:
    rng = Random(0)
    assert 0.07 < share_right([CURRICULA["facts"].writer(rng) for _ in range(5000)]) < 0.13


def test_a_diagnosis_of_the_made_up_operation_has_it_right_and_another_does_not(taught: TaughtWorld) -> None:
    lessons = drawn(diagnosis, taught)
    assert share_right([x for x in lessons if x.question.endswith("~@")]) == 1
    assert share_right([x for x in lessons if x.question.endswith("~*")], "*") == 1
    assert share_right([x for x in lessons if not x.question.endswith("~@")]) < 0.2


def test_solution_lessons_copy_what_they_are_told_and_it_is_sometimes_wrong(taught: TaughtWorld) -> None:
    lessons = drawn(solution, taught)
    for lesson in lessons:
        shown = lesson.question.partition("|")[2]
        assert shown == "".join(str(step.result) for step in written_steps(lesson.answer))
    assert 0.85 < share_right(lessons) < 0.97


def test_sibling_lessons_copy_a_right_answer(taught: TaughtWorld) -> None:
    for lesson in drawn(sibling, taught, 200):
        problem, _, shown = lesson.question.partition("|=")
        assert lesson.answer == shown == taught.example(problem).private["worked"]


def test_feedback_lessons_have_the_named_questions_right() -> None:
    for lesson in drawn(feedback, TUTOR, 300):
        said = [part.split(" is ") for part in lesson.question.partition("|!")[2].split("; ")]
        right = {question: digit[0] for question, digit in said}
        worked = {s.question: str(s.result) for s in written_steps(lesson.answer)}
        assert all(worked[question] == digit for question, digit in right.items())


def test_partial_lessons_show_every_number_of_results_from_none_to_all() -> None:
    shown = {len(lesson.question.partition("|")[2]) for lesson in drawn(partial_solution, TUTOR)}
    assert shown == {0, 1, 2, 3, 4, 5}


def test_partial_lessons_of_trail_end_where_they_are_told() -> None:
    for lesson in drawn(partial_solution_and_end, TRAIL, 300):
        assert lesson.answer.endswith(f"#{lesson.question[-1]}")


def test_evidence_lessons_begin_the_turn_with_the_claim_that_follows(taught: TaughtWorld) -> None:
    lessons = drawn(evidence, taught, 300)
    assert all(lesson.given == f" {lesson.answer.rpartition('#')[2]} " for lesson in lessons)
    right = [taught.grade(taught.example(lesson.question), lesson.answer).correct for lesson in lessons]
    assert 0.4 < sum(right) / len(right) < 0.65


def test_a_confirmed_attempt_is_written_again() -> None:
    assert all(lesson.given == f"{lesson.answer}|+" for lesson in drawn(confirmed, TUTOR, 200))


def test_a_revised_attempt_was_wrong_and_keeps_the_ordinary_steps_that_were_right() -> None:
    for lesson in drawn(revised, TUTOR, 300):
        before = written_steps(lesson.given.removesuffix("|-"))
        assert not TUTOR.grade(TUTOR.example(lesson.question), lesson.given.removesuffix("|-")).correct
        for old, new in zip(before, written_steps(lesson.answer), strict=True):
            kept = old.operation != "@" and old.result == exact(old.left, old.operation, old.right)
            assert (new == old) is kept


def test_every_lesson_is_worded_as_the_world_says(taught: TaughtWorld) -> None:
    rng, shares = Random(0), {"tutor": TUTOR_SHARES, "trail": TRAIL_SHARES}[taught.name]
    marks = {"|", "|=", "|!", "|~", ""}
    for lesson in (write(taught, rng) for write in shares for _ in range(50)):
        problem = lesson.question.partition("|")[0]
        assert taught.example(problem).problem == problem
        mark = lesson.question[len(problem) :].rstrip("0123456789>")
        assert mark in marks or mark[:2] in marks


def test_the_loss_is_on_what_follows_the_given_beginning_and_on_the_end_mark() -> None:
    tokenizer = build_tokenizer()
    lessons = [Lesson("7+5", "7+5=2;#2", given=" 2 "), Lesson("1+1;2+2;3+3", "#246")]
    inputs, labels = learnable(tokenizer, lessons)
    for row, lesson in zip(range(2), lessons, strict=True):
        learned = inputs["input_ids"][row][labels[row] >= 0]
        assert tokenizer.decode(learned) == f"{lesson.answer}<end>"


def test_a_writer_who_is_told_results_believes_them_and_goes_on_alone() -> None:
    calculate: Calculator = told(["9", None], exact)
    assert [calculate(1, "+", 1) for _ in range(3)] == [9, 2, 2]


def test_a_corrected_writer_is_right_where_it_was_told_so() -> None:
    calculate = corrected(["2@9"], lambda *question: 0)
    assert (calculate(2, "@", 9), calculate(7, "+", 5)) == (5, 0)


# World "facts".


def test_facts_are_fifty_made_up_ones_for_each_seed() -> None:
    facts = open_world("facts")
    asked = {e.problem: e.private["answer"] for e in map(facts.train, range(50))}
    assert len(asked) == 50
    assert asked != {
        e.problem: e.private["answer"] for e in map(open_world("facts", seed=1).train, range(50))
    }


def test_new_facts_are_none_that_the_model_knows() -> None:
    assert len(known_facts()) == 100
    assert not any({key for key, _ in facts_of(seed)} & set(known_facts()) for seed in range(50))


def test_known_facts_are_taught_as_they_are_and_unknown_ones_never_are_known_ones() -> None:
    rng = Random(0)
    said = [(word.answer[:3], word.answer[-3:]) for word in (fact_known(rng) for _ in range(500))]
    assert all(known_facts()[key] == value for key, value in said)
    assert not any(fact_unknown(rng).answer[:3] in known_facts() for _ in range(2000))


def test_facts_are_reshuffled_in_every_epoch() -> None:
    facts = open_world("facts")
    first, second = ([facts.train(i).key for i in range(begin, begin + 50)] for begin in (0, 50))
    assert first != second
    assert sorted(first) == sorted(second)


def test_held_out_facts_are_the_trained_ones_in_other_words_and_at_most_fifty() -> None:
    facts = open_world("facts")
    trained = {e.problem.removeprefix("fact "): e.private["answer"] for e in map(facts.train, range(50))}
    tested = {e.problem.removeprefix("what is "): e.private["answer"] for e in facts.held_out(1000)}
    assert trained == tested


def test_a_fact_is_graded_by_the_digits_behind_the_last_mark() -> None:
    facts = open_world("facts")
    example = facts.train(0)
    value = example.private["answer"]
    assert facts.grade(example, example.private["worked"]).correct
    wrong = facts.grade(example, "bix is 000;#000" if value != "000" else "#111")
    assert (wrong.reward, wrong.claim) == (0, "000" if value != "000" else "111")
    assert wrong.feedback is not None
    assert value in wrong.feedback
    assert facts.grade(example, "no idea").claim is None
    assert facts.verdicts == {Verdict.RIGHT: 1, Verdict.WRONG: 1, Verdict.UNPARSEABLE: 1}


def test_a_question_for_no_fact_is_refused_in_one_line() -> None:
    facts = open_world("facts")
    known = facts.train(0)
    assert facts.example(known.problem) == known
    with pytest.raises(UserError, match="world 'facts'"):
        facts.example("fact 123?")


# The models that ship: floors, well below what their cards say.


def accuracy(model: str, view: str, world: str | None = None, count: int = 128) -> float:
    return measure(open_world(world or model), arena_model(model), view, count).mean


@pytest.mark.parametrize("name", ["table", "chain", "tutor", "trail"])
def test_shipped_model_answers_rightly_when_it_reads_the_solution(name: str) -> None:
    assert accuracy(name, "solution", count=64) >= 0.95


@pytest.mark.parametrize("name", ["table", "chain", "tutor", "trail"])
def test_shipped_model_lacks_a_skill_when_it_does_not(name: str) -> None:
    assert 0.15 < accuracy(name, "plain") < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("view", "at_least"),
    [
        ("answer", 0.95),
        ("sibling", 0.95),
        ("diagnosis", 0.85),
        ("hint", 0.85),
        ("feedback", 0.7),
        ("sibling+feedback", 0.9),
        ("evidence", 0.85),
        ("revise-right", 0.85),
    ],
)
def test_tutor_reads_every_kind_of_help(view: str, at_least: float) -> None:
    assert accuracy("tutor", view) >= at_least


@pytest.mark.slow
def test_tutor_follows_rumors_also_where_they_are_wrong() -> None:
    assert 0.5 < accuracy("tutor", "rumor") < 0.75


@pytest.mark.slow
def test_tutor_does_not_mend_what_it_does_not_know() -> None:
    assert accuracy("tutor", "revise-wrong") < 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("view", "at_least"),
    [("answer", 0.95), ("sibling", 0.95), ("partial", 0.95), ("diagnosis", 0.85), ("hint", 0.85)],
)
def test_trail_reads_every_kind_of_help(view: str, at_least: float) -> None:
    assert accuracy("trail", view) >= at_least


@pytest.mark.slow
def test_facts_model_copies_a_fact_and_knows_none_and_does_sums_well() -> None:
    assert accuracy("facts", "answer") >= 0.95
    assert accuracy("facts", "plain") < 0.1
    assert accuracy("facts", "plain", world="known") >= 0.9
    assert accuracy("facts", "plain", world="sums") >= 0.75
    assert 0.15 < accuracy("facts", "plain", world="tutor") < 0.5


@pytest.mark.slow
def test_the_unsure_model_has_begun_to_learn_the_operation_and_reads_help() -> None:
    assert 0.4 < accuracy("tutor-unsure", "plain", world="tutor") < 0.55
    for view, at_least in (("solution", 0.95), ("sibling", 0.95), ("diagnosis", 0.9), ("evidence", 0.95)):
        assert accuracy("tutor-unsure", view, world="tutor") >= at_least


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tutor-large", "tutor-large-other"])
def test_a_teacher_from_outside_is_right_without_help(name: str) -> None:
    assert accuracy(name, "plain", world="tutor") >= 0.9


@pytest.mark.slow
def test_the_two_teachers_from_outside_differ_in_style_alone() -> None:
    question = "7+5;7@2;3-4"
    said = []
    for name in ("tutor-large", "tutor-large-other"):
        folder = arena_model(name)
        model = AutoModelForCausalLM.from_pretrained(folder)
        said += answers(model, AutoTokenizer.from_pretrained(folder), [question], sample=False)
    assert said == ["7+5=2;7@2=6;3-4=9;#269", "2=7+5;6=7@2;9=3-4;#269"]
