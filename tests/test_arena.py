"""The arena: grammar and verifier of its worlds, their splits, the tokenizer and the models that ship."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from selfteach.errors import UserError
from selfteach.task.arena import WORLDS, World, model_folder, open_world
from selfteach.task.arena.arithmetic import exact
from selfteach.task.arena.measure import measure
from selfteach.task.arena.pretrain import careless, document, pretrain, rebuild
from selfteach.task.arena.tokenizer import CHARACTERS, build_tokenizer
from selfteach.task.arena.world import is_held_out
from selfteach.task.verdict import Verdict

NAMES = sorted(WORLDS)


@pytest.fixture(params=NAMES)
def world(request: pytest.FixtureRequest) -> World:
    return open_world(request.param)


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


def test_no_training_example_and_no_pretraining_document_is_a_held_out_problem(world: World) -> None:
    rng = Random(0)
    asked = [world.train(i).problem for i in range(2000)]
    asked += [document(world, rng)[0]["content"].split("|")[0] for _ in range(2000)]
    assert not any(is_held_out(problem) for problem in asked)
    assert all(is_held_out(e.problem) for e in world.held_out(500))


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
    ["", "#", "garbage", "##", "#0#1#2", "#" * 100_000, "=" * 100_000, "7+5=" * 20_000, "\x00#\ud800"],
)
def test_garbage_gets_no_reward_and_says_what_is_missing(world: World, answer: str) -> None:
    grade = world.grade(world.train(0), answer)
    assert grade.reward == 0
    assert grade.feedback is not None
    assert "#" in grade.feedback


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


def test_every_wording_shows_the_problem_and_what_it_reveals(world: World) -> None:
    example = world.train(0)
    for view, template in world.wording.items():
        shown = template.format(problem=example.problem, **{f: example.private[f] for f in example.private})
        assert example.problem in shown
        assert example.private[view] in shown


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


def test_prompt_with_its_answer_is_tokenised_as_the_whole_conversation(world: World) -> None:
    tokenizer, example = build_tokenizer(), world.train(0)
    prompt = tokenizer.apply_chat_template(list(example.prompt), add_generation_prompt=True)["input_ids"]
    answer = tokenizer(example.private["worked"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    turn = {"role": "assistant", "content": example.private["worked"]}
    whole = tokenizer.apply_chat_template(
        [*example.prompt, turn], return_assistant_tokens_mask=True, return_dict=True
    )
    assert whole["input_ids"] == prompt + answer
    assert whole["assistant_masks"] == [0] * len(prompt) + [1] * len(answer)


def test_shipped_tokenizer_is_the_one_the_code_builds(world: World) -> None:
    shipped, built = AutoTokenizer.from_pretrained(model_folder(world.name)), build_tokenizer()
    assert shipped.get_vocab() == built.get_vocab()
    assert shipped.chat_template == built.chat_template
    assert (shipped.eos_token, shipped.pad_token) == (built.eos_token, built.pad_token)


def test_shipped_model_has_heads_of_size_32_and_tied_float32_weights(world: World) -> None:
    config = json.loads((model_folder(world.name) / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["head_dim"] == 32
    assert config["tie_word_embeddings"] is True
    assert {w.dtype for w in load_file(model_folder(world.name) / "model.safetensors").values()} == {
        torch.float32
    }


def test_shipped_folder_is_complete_and_at_most_four_megabytes(world: World) -> None:
    files = {f.name: f.stat().st_size for f in model_folder(world.name).iterdir()}
    assert sum(files.values()) <= 4_000_000
    assert files.keys() == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_shipped_model_answers_rightly_when_it_reads_the_solution(world: World) -> None:
    accuracy = measure(world, model_folder(world.name), "solution", count=64, sample=False)
    assert accuracy.mean >= 0.95


def test_shipped_model_lacks_a_skill_when_it_does_not(world: World) -> None:
    accuracy = measure(world, model_folder(world.name), "plain", count=128)
    assert 0.15 < accuracy.mean < 0.5


def test_pretraining_twice_from_one_seed_gives_the_same_weights(world: World) -> None:
    first, second = (pretrain(world, seed=3, steps=3, progress=None).state_dict() for _ in range(2))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_a_rebuilt_folder_has_the_files_of_the_shipped_one(tmp_path: Path, world: World) -> None:
    rebuild(world.name, tmp_path, seed=3, steps=2)
    assert {f.name for f in tmp_path.iterdir()} == {f.name for f in model_folder(world.name).iterdir()}
