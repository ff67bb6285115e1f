"""Preset "auto": sizes that this machine can do, none above the paper's and none that was given."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import given as drawn
from hypothesis import strategies as st

from selfteach.api import fit
from selfteach.api.fit import AUTO, Rows, answer_tokens, chosen_sizes, fewer, sizes
from selfteach.api.machine import Machine, Work
from selfteach.api.resolve import draft
from selfteach.api.training import configured
from selfteach.cli.train import configured as configured_by_words
from selfteach.recipes import RECIPES, knobs, preset_of, with_knobs
from selfteach.words import given_names

CPU = Machine(
    "2 CPU cores, 25 GB",
    25 * 10**9,
    generating=3e10,
    passing=1e11,
    token=0.01,
    step=30,
    evaluation=30,
    run=3600,
)
FAST = dataclasses.replace(CPU, generating=1e16, passing=1e17, token=1e-4)
ROWS = [{"problem": f"What is {i} + {i + 1}?", "answer": str(2 * i + 1)} for i in range(40)]


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "machine_of", lambda config: CPU)


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch, tiny: str) -> str:
    """A model folder that is taken for one of 135 M weights and a window of 8192 tokens."""
    model = torch.nn.Linear(135_000, 1000, bias=False, device="meta")
    monkeypatch.setattr(fit, "skeleton", lambda *_, **__: model)
    monkeypatch.setattr(fit, "context_window", lambda _: 8192)
    return tiny


def chosen(recipe: str, machine: Machine, weights: int, given: set[str] | None = None) -> dict[str, int]:
    if given is None:
        given = set()
    config = draft(recipe, task=ROWS)
    work = Work(machine, weights, 128, len(config.recipe.teachers), config.recipe.generates)
    return dict(sizes(config, work, 2**20, Rows(128, None), given))


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_step_and_an_evaluation_take_no_longer_than_they_may(recipe: str) -> None:
    config = draft(recipe, task=ROWS)
    found = (
        knobs(config.recipe) | {"eval_samples": 4, "eval_problems": 128} | chosen(recipe, CPU, 135_000_000)
    )
    work = Work(CPU, 135_000_000, 128, len(config.recipe.teachers), config.recipe.generates)
    assert work.step(found["prompts"] * found["per_prompt"], found["max_tokens"]) <= CPU.step
    answers = found["eval_samples"] * found["eval_problems"]
    assert work.sampling(answers, found["max_tokens"]) <= CPU.evaluation
    assert 0 < found["steps"] <= knobs(config.recipe)["steps"]


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("weights", [10**6, 10**8, 10**10, 10**12])
def test_no_size_is_above_the_paper_s_or_below_one(recipe: str, weights: int) -> None:
    paper = {**knobs(preset_of(RECIPES[recipe])), "eval_samples": 4, "eval_problems": 128}
    for name, value in chosen(recipe, CPU, weights).items():
        assert 1 <= value <= paper[name], name


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_machine_that_can_do_the_paper_s_sizes_does_them(recipe: str) -> None:
    paper = {**knobs(preset_of(RECIPES[recipe])), "eval_samples": 4, "eval_problems": 128}
    huge = dataclasses.replace(FAST, token=1e-9)
    assert all(paper[name] == value for name, value in chosen(recipe, huge, 10**6).items())


def test_what_was_given_stays_and_the_rest_is_chosen_around_it() -> None:
    long = chosen("opsd", CPU, 135_000_000, {"max_tokens"})
    assert "max_tokens" not in long
    assert long["prompts"] == 1  # 1024 tokens leave time for one row
    assert "prompts" not in chosen("opsd", CPU, 135_000_000, {"prompts"})


def test_answers_are_twice_as_long_as_worked_solutions() -> None:
    work = Work(FAST, 10**6, 100, 1, True)
    assert answer_tokens(4096, 8, work, 8192, Rows(100, 300)) == 1024
    assert answer_tokens(4096, 8, work, 8192, Rows(100, None)) == 4096
    assert answer_tokens(4096, 8, work, 2048, Rows(100, None)) == 1024
    assert answer_tokens(4096, 8, work, 8192, Rows(100, 3)) == 128


@drawn(st.integers(32, 10**5), st.integers(1, 2000), st.none() | st.integers(1, 2000), st.integers(32, 8192))
def test_prompt_privilege_and_template_have_room_beside_an_answer(
    window: int, prompt: int, solution: int | None, paper: int
) -> None:
    """Lengths are guesses: a window that answers would fill leaves as much again as the prompt, and a template."""
    longest = answer_tokens(paper, 8, Work(FAST, 10**6, prompt, 1, True), window, Rows(prompt, solution))
    assert longest == 32 or longest + 2 * prompt + (solution or 0) + 64 <= window


@pytest.mark.parametrize(
    ("recipe", "phase"), [("dpo", "warmup"), ("reopold", "explore_steps"), ("cepo", "mix_steps")]
)
def test_phases_shrink_with_the_steps_that_were_given(recipe: str, phase: str) -> None:
    paper = knobs(preset_of(RECIPES[recipe]))
    huge = dataclasses.replace(FAST, token=1e-9)
    for steps in (max(1, paper["steps"] // 10), 10 * paper["steps"]):
        config = draft(recipe, task=ROWS)
        config = dataclasses.replace(config, recipe=with_knobs(config.recipe, {"steps": steps}))
        work = Work(huge, 10**6, 128, len(config.recipe.teachers), config.recipe.generates)
        found = dict(sizes(config, work, 2**20, Rows(128, None), {"steps"}))
        share = min(1.0, steps / paper["steps"])
        assert found[phase] == fewer(paper[phase], share, 1)


@drawn(st.integers(1, 10**6), st.floats(0.0001, 2), st.integers(1, 20))
def test_a_share_of_a_number_of_steps(paper: int, share: float, least: int) -> None:
    found = fewer(paper, share, least)
    assert 1 <= found <= paper
    assert found >= min(least, paper)
    if share >= 1:
        assert found == paper


@pytest.mark.usefixtures("cpu")
def test_train_without_a_preset_says_each_choice_beside_the_paper_s(large: str) -> None:
    config = configured("opsd", large, ROWS)
    assert config.preset == AUTO
    assert config.recipe.rollouts.max_tokens == 128
    assert "max_tokens 128 (paper: 1024)" in config.fitted
    assert "--preset paper takes the paper's" in config.fitted
    assert config.recipe.optimization.lr == preset_of(RECIPES["opsd"]).optimization.lr


@pytest.mark.usefixtures("cpu")
def test_a_named_preset_and_an_object_stay_as_they_are(large: str) -> None:
    paper = configured("opsd", large, ROWS, preset="v3-thinking")
    assert (paper.recipe, paper.fitted) == (preset_of(RECIPES["opsd"]), "")
    own = configured(preset_of(RECIPES["opsd"]), large, ROWS)
    assert (own.recipe, own.fitted) == (preset_of(RECIPES["opsd"]), "")


@pytest.mark.usefixtures("cpu")
def test_python_and_the_command_line_choose_alike(large: str, tmp_path: Any) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(f'{{"problem": "{r["problem"]}", "answer": "{r["answer"]}"}}' for r in ROWS))
    words = ["opsd", "--model", large, "--task", str(file), "--steps", "7", "--eval-samples=2"]
    by_words = configured_by_words(words)[0]
    by_python = configured("opsd", large, str(file), steps=7, eval_samples=2)
    assert by_words.recipe == by_python.recipe
    assert by_words.evaluation == by_python.evaluation
    assert by_words.recipe.optimization.steps == 7
    assert by_words.evaluation.eval_samples == 2


@pytest.mark.usefixtures("cpu")
def test_a_file_s_knobs_are_given_and_a_run_s_are_all(large: str, tmp_path: Any) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('recipe = "opsd"\nmax_tokens = 512\n')
    assert configured(None, large, ROWS, config=file).recipe.rollouts.max_tokens == 512


def test_the_arena_keeps_its_preset_and_a_small_model_the_paper_s(tiny: str) -> None:
    assert configured("opsd").preset == "arena"
    assert configured("opsd", tiny, ROWS, max_tokens=8).preset == "v3-thinking"


def test_options_are_known_by_flat_name() -> None:
    words = ["--max-tokens", "8", "--optimization.lr=1e-3", "file", "-1", "--no-alarms"]
    assert given_names(words) == {"max_tokens", "lr", "alarms"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_sizes_are_knobs_of_the_recipe_that_count(recipe: str) -> None:
    own = knobs(preset_of(RECIPES[recipe]))
    for name in RECIPES[recipe].sizes:
        assert isinstance(own[name], int | None), name


@pytest.mark.usefixtures("cpu")
def test_runs_of_one_comparison_have_the_same_sizes_whatever_their_seeds(large: str) -> None:
    rows = [{**row, "solution": "so " * (i % 7) * 40 + row["answer"]} for i, row in enumerate(ROWS * 5)]
    chosen_by = [chosen_sizes(configured("grpo", large, rows, seed=seed)) for seed in range(4)]
    assert chosen_by[0]
    assert all(one == chosen_by[0] for one in chosen_by)
    again = configured("grpo", large, rows, steps=30, eval_problems=4, eval_samples=1, **chosen_by[0])
    assert {name: knobs(again.recipe)[name] for name in chosen_by[0]} == chosen_by[0]


@pytest.mark.usefixtures("cpu")
def test_answers_are_not_made_shorter_than_worked_solutions(large: str) -> None:
    rows = [{**row, "solution": "so " * 300 + row["answer"]} for row in ROWS]
    config = configured("opsd", large, rows)
    assert config.recipe.rollouts.max_tokens >= 300
    assert config.recipe.optimization.prompts < 8


def test_why_sizes_are_the_paper_s_is_said_where_the_model_cannot_be_looked_at(tmp_path: Any) -> None:
    config = configured("opsd", tmp_path / "none", ROWS)
    assert (config.preset, config.recipe) == ("v3-thinking", preset_of(RECIPES["opsd"]))
    assert "there is no such folder" in config.fitted


@pytest.mark.parametrize(
    ("recipe", "stores"),
    [("mixsd", ["stored"]), ("sd-zero", ["srt_drafts"]), ("lightning-opd", ["stored", "sft_prompts"])],
)
def test_no_more_is_stored_than_there_are_different_rows(recipe: str, stores: list[str], tiny: str) -> None:
    few = [{**row, "solution": row["answer"]} for row in ROWS[:9] * 3]
    found = knobs(
        configured(recipe, tiny, few, prompts=2, sft_batch=2).recipe
        if "sft_prompts" in stores
        else configured(recipe, tiny, few, prompts=2).recipe
    )
    assert [found[name] for name in stores] == [7 for _ in stores]
    given = knobs(configured(recipe, tiny, few, prompts=2, **{stores[0]: 30}).recipe)
    assert given[stores[0]] == 30


def test_what_is_stored_suffices_for_a_step(tiny: str) -> None:
    few = [{**row, "solution": row["answer"]} for row in ROWS[:9]]
    assert knobs(configured("mixsd", tiny, few, prompts=12).recipe)["stored"] == 12
