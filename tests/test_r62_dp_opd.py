"""Card 62: clipped gradients of single records, noise for an epsilon, and Poisson samples."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import selfteach
from arrays import arrays, log_softmax, mean_of_sequences
from doors import run_of_recipe
from selfteach.control.accountant import epsilon
from selfteach.errors import UserError
from selfteach.recipes import Recipe, recipe_named, with_knobs
from selfteach.studies.laptop import laptop_of
from selfteach.testing import evaluate
from selfteach.training.jsonrows import read_rows
from selfteach.training.text.learner import TextLearner

FREE = {"epsilon": None, "noise_multiplier": 0.0}
SMALL = {"max_tokens": 6, "prompts": 4, "steps": 2, "poisson_records": 12, "delta": 1e-2, "lr": 1e-3}


def recipe(teacher: str, **knobs: Any) -> Recipe:
    return with_knobs(recipe_named("dp-opd"), {"teacher": teacher, **SMALL, **knobs})


def gradients(learner: TextLearner) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in learner.policy.trainable().values()])  # type: ignore[union-attr]


def run_in_double(one: Recipe, model: str, out: Path) -> tuple[Any, TextLearner]:
    run, learner = run_of_recipe(one, model, out)
    for policy in learner.models.weights.external.values():
        policy.model.double()
    return run, learner


def gradient_of(one: Recipe, model: str, out: Path) -> tuple[torch.Tensor, Any, int]:
    """(the first step's gradient, its numbers, the records drawn)."""
    _, learner = run_in_double(one, model, out)
    batch = learner.collect(0)
    numbers = learner.backward(batch, learner.recipe.updates(0)[0], False)
    return gradients(learner), numbers, len(batch.rows)


# --- a record's loss ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("tau", [1.0, 2.0])
def test_the_loss_is_gkds_with_both_sides_at_the_distillation_temperature(beta: float, tau: float) -> None:
    given = arrays()
    p, q = (log_softmax(x, tau) for x in (given["student_logits"], given["teacher_logits"]["teacher"]))
    if beta in (0, 1):
        token = (np.exp(q) * (q - p)).sum(-1) if beta == 0 else (np.exp(p) * (p - q)).sum(-1)
    else:
        m = np.log(beta * np.exp(q) + (1 - beta) * np.exp(p))
        token = beta * (np.exp(q) * (q - m)).sum(-1) + (1 - beta) * (np.exp(p) * (p - m)).sum(-1)
    out = evaluate("dp-opd", given, overrides={"beta": beta, "distill_temperature": tau})
    assert out["loss"] == pytest.approx(mean_of_sequences(token, given["mask"]), rel=1e-12)


# --- the step -------------------------------------------------------------------------------------------------------


def test_without_noise_and_with_a_wide_clip_it_is_gkds_step(tiny: str, other: str, tmp_path: Path) -> None:
    """But for the divisor, which is the mean number of records and not that of the draw."""
    free = {**FREE, "clip_norm": 1e9, "lmbda": 1.0}
    private, numbers, drawn = gradient_of(recipe(other, **free), tiny, tmp_path)
    plain = with_knobs(
        recipe_named("gkd"),
        {
            "teacher": other,
            "max_tokens": 6,
            "prompts": 4,
            "steps": 2,
            "lr": 1e-3,
            "poisson_records": 12,
            "warmup": 0,
        },
    )
    gkd, _, same = gradient_of(plain, tiny, tmp_path)
    assert drawn == same > 0
    assert numbers["clipped"] == 0
    # Teachers score in passes of other shapes, and the divergence of two tiny random models is small.
    assert float((private * 4 / drawn - gkd).norm() / gkd.norm()) < 1e-4


def test_no_record_moves_the_sum_by_more_than_the_clip(tiny: str, other: str, tmp_path: Path) -> None:
    clipped, numbers, drawn = gradient_of(recipe(other, **FREE, clip_norm=1e-4), tiny, tmp_path)
    assert numbers["clipped"] == 1.0
    assert 0 < float(clipped.norm()) <= drawn * 1e-4 / 4 * (1 + 1e-9)


def test_a_teacher_that_is_the_student_leaves_pure_noise_of_deviation_sigma_c_over_b(
    tiny: str, tmp_path: Path
) -> None:
    one = recipe(tiny, epsilon=None, noise_multiplier=3.0, clip_norm=0.5)
    found, numbers, _ = gradient_of(one, tiny, tmp_path)
    assert numbers["loss"] == pytest.approx(0, abs=1e-9)
    assert float(found.std()) == pytest.approx(3.0 * 0.5 / 4, rel=0.02)


def test_with_no_text_of_its_own_the_student_writes_nothing(tiny: str, other: str, tmp_path: Path) -> None:
    run, learner = run_in_double(recipe(other, lmbda=0.0), tiny, tmp_path)
    batch = learner.collect(0)
    assert batch.spent == 0
    assert {one.origin for one in batch.rows} <= {"data"}
    run.step()


# --- Poisson samples ------------------------------------------------------------------------------------------------


def test_each_record_is_drawn_by_itself_with_the_stated_chance(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(recipe(tiny), tiny, tmp_path)
    stream, records, rate, steps = learner.writing.prompts, 40, 0.25, 400
    counts, sizes = np.zeros(records), []
    keys = [stream.task.train(i).key for i in range(records)]
    for step in range(steps):
        drawn = [one.example.key for one in stream.sample(records, rate, f"seed {step}")]
        assert len(drawn) == len(set(drawn))
        sizes.append(len(drawn))
        counts += np.isin(keys, drawn)
    deviation = math.sqrt(rate * (1 - rate))
    assert np.abs(counts / steps - rate).max() < 4.5 * deviation / math.sqrt(steps)
    assert np.var(sizes) == pytest.approx(records * rate * (1 - rate), rel=0.25)
    again, same = (stream.sample(records, rate, "seed 0") for _ in range(2))
    assert [one.prompt_ids for one in again] == [one.prompt_ids for one in same]


def test_the_processes_share_one_draw_and_one_coin(tiny: str, tmp_path: Path) -> None:
    _, learner = run_of_recipe(recipe(tiny, prompts=6), tiny, tmp_path)
    writing = learner.writing
    whole = [one.example.key for one in writing.drawn(6, 3)]
    coins, parts = [], []
    for rank in (0, 1):
        writing.now.rank, writing.now.processes = rank, 2
        parts.append([one.example.key for one in writing.drawn(6, 3)])
        tools = writing.tools(3)
        coins.append((tools.random("source", shared=True).random(), tools.random("source").random()))
    assert sorted(whole) == sorted(parts[0] + parts[1])
    assert abs(len(parts[0]) - len(parts[1])) <= 1
    assert coins[0][0] == coins[1][0]
    assert coins[0][1] != coins[1][1]


# --- epsilon --------------------------------------------------------------------------------------------------------


def test_the_noise_keeps_epsilon_over_all_steps() -> None:
    one: Any = with_knobs(recipe_named("dp-opd"), {"steps": 500, "prompts": 512})
    assert epsilon(512 / 100_000, one.per_record.noise, 500, 1e-6) <= 2.0
    assert epsilon(512 / 100_000, one.per_record.noise * 0.99, 500, 1e-6) > 2.0
    assert (one.per_record.clip, one.per_record.expected, one.per_record.delta) == (1.0, 512, 1e-6)


def test_what_is_spent_is_written_down_and_other_noise_is_refused_later(tiny: str, tmp_path: Path) -> None:
    rows = [{"problem": f"What is {i} + 1?", "solution": f"{i + 1}", "answer": f"{i + 1}"} for i in range(40)]
    given = {**SMALL, "teacher": tiny, "eval_problems": 0, "checkpoint_every": 1}
    first = selfteach.train("dp-opd", tiny, rows, out=tmp_path / "run", **given)
    spent = [row["privacy/epsilon"] for row in read_rows(first.folder / "metrics.jsonl") if "loss" in row]
    noise = recipe(tiny).per_record.noise  # type: ignore[union-attr]
    assert spent == [pytest.approx(epsilon(4 / 12, noise, steps, 1e-2)) for steps in (1, 2)]
    assert spent[0] < spent[1] <= 2.0
    with pytest.raises(UserError, match="noise and clipping were others"):
        selfteach.train("dp-opd", tiny, rows, out=tmp_path / "run", resume=True, steps=3)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"poisson_records": 0}, "name how many private records"),
        ({"noise_multiplier": 1.0}, "give one of them"),
        ({"epsilon": None}, "give one of them"),
        ({"delta": 1e-3}, "not below 1 / poisson_records"),
        ({"epsilon": 1e-6}, "no noise gives epsilon"),
        ({"poisson_records": 1000, "delta": 1e-5}, "is above poisson_records"),
    ],
)
def test_what_cannot_be_meant_is_refused(knobs: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        with_knobs(recipe_named("dp-opd"), knobs)


def test_more_records_than_there_are_rows_and_stored_answers_are_refused(tiny: str, tmp_path: Path) -> None:
    rows = [{"problem": f"What is {i} + 1?", "solution": f"{i + 1}", "answer": f"{i + 1}"} for i in range(20)]
    few = {**SMALL, "teacher": tiny, "out": tmp_path / "run"}
    with pytest.raises(UserError, match=r"poisson_records is 90, but there are 1\d rows"):
        selfteach.train("dp-opd", tiny, rows, **{**few, "poisson_records": 90})
    with pytest.raises(UserError, match="leave one of them out"):
        selfteach.train("dp-opd", tiny, rows, **few, stored=8)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Another model of the same tokenizer."""
    from tiny import tiny_model_folder

    return str(tiny_model_folder(tmp_path_factory.mktemp("other") / "model", seed=3))


def test_the_arenas_text_of_the_data_is_an_answer() -> None:
    """Trained on the bare solution a student would fail by the grammar, whatever the claim says."""
    assert laptop_of(recipe_named("dp-opd").__class__).knobs["reference"] == "worked"
