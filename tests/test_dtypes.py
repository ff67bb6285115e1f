"""Numbers asked for that nothing is computed in."""

from __future__ import annotations

import pytest

from runs import run_of
from selfteach.errors import UserError


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--importance-sampling-cap", "3"), "importance_sampling_cap cuts"),
        (("--importance-sampling-cap", "3", "--sampler-dtype", "float32"), "importance_sampling_cap cuts"),
        (("--sampler-dtype", "bfloat16", "--lora-rank", "2"), "take --precision bfloat16"),
        (
            ("--sampler-dtype", "float32", "--lora-rank", "2", "--precision", "bfloat16"),
            "adapter: leave it out",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(tiny: str, words: tuple[str, ...], told: str) -> None:
    with pytest.raises(UserError, match=told):
        run_of(tiny, *words)


@pytest.mark.parametrize(
    ("recipe", "words", "told"),
    [
        ("sft", "--sampler-dtype bfloat16", "sampler_dtype: recipe sft samples nothing"),
        ("opsd", "--sampler-dtype bfloat16 --precision bfloat16", "sampler_dtype: precision bfloat16 samples"),
        ("opsd", "--sampler-dtype float32", "sampler_dtype: precision float32 samples"),
        ("grpo", "--teacher-dtype bfloat16", "teacher_dtype: it changes nothing with recipe grpo, which has no"),
        ("opsd", "--teacher-dtype bfloat16 --weights live", "whose teachers are the trained weights"),
        ("grpo", "--offload-teachers disk", "offload_teachers: it changes nothing with recipe grpo"),
        ("opsd", "--sampler-dtype bfloat16 --importance-sampling-cap 3 --teacher-dtype bfloat16", None),
    ],
)  # fmt: skip
def test_what_changes_nothing_is_said_in_a_line(tiny: str, recipe: str, words: str, told: str | None) -> None:
    said = run_of(tiny, *words.split(), recipe=recipe).progress.said
    found = [one for one in said if "_dtype" in one or "offload_teachers:" in one]
    if told is None:
        assert not found
    else:
        assert any(told in one for one in found)


@pytest.mark.parametrize(
    ("words", "others"),
    [(("--lmbda", "0", "--seq-kd"), "of teacher"), (("--lmbda", "0"), "of data"), (("--lmbda", "1"), None)],
)
def test_answers_that_the_samplers_copy_did_not_write_are_said(
    tiny: str, words: tuple[str, ...], others: str | None
) -> None:
    run = run_of(tiny, "--sampler-dtype", "bfloat16", "--teacher", tiny, *words, recipe="gkd")
    run.stepped()
    told = [one for one in run.progress.said if "own copy: it changes nothing" in one]
    assert len(told) == (others is not None)
    assert all(str(others) in one for one in told)
