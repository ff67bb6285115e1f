"""Families of models: one function in every pass, all of it trained, and the same again from its folder."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers

from families import DROPOUT, FAMILIES, WRONG_IN_BATCHES, family_folder, family_model
from runs import run_of
from selfteach.objective.batch import STUDENT
from selfteach.policy.loading import Policy, load_policy, policy_of
from selfteach.training.text.batch import Scoring
from selfteach.training.text.preflight import examined
from tiny import tiny_tokenizer

IDS = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 12]])
QUICK = {"gpt2", "gpt_oss", "qwen2_moe", "mamba"}
"""Of the default set: dropout, stacks of experts, a shared expert and dense layers, state-space blocks."""


def marked(names: object, quick: set[str]) -> list[object]:
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in sorted(names)]  # type: ignore[call-overload]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    transformers.utils.logging.set_verbosity_error()


@torch.no_grad()
def logits(policy: Policy) -> torch.Tensor:
    return policy.model(IDS).logits


def student_states(scoring: Scoring, *, trained: bool) -> torch.Tensor:
    """What the student's scores of a batch are made of, in a pass with gradient or in one without."""
    scoring.kept.clear()
    torch.manual_seed(2 + trained)  # where anything is drawn while scoring, the two differ
    part = scoring.parts()[0]
    return scoring.batch(part, (STUDENT,) if trained else ()).roles[STUDENT].states.detach()


@pytest.mark.parametrize("name", marked(DROPOUT, {"gpt2", "opt", "phi", "mixtral"}))
@pytest.mark.parametrize(
    "words",
    [(), ("--gradient-checkpointing",), ("--gradient-checkpointing", "selective")],
    ids=["plain", "checkpointing", "selective"],
)
def test_a_pass_that_trains_computes_what_a_pass_that_measures_computes(
    tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    run = run_of(str(family_folder(tmp_path, name)), *words, "--lora-rank", "0", recipe="grpo")
    scoring = run.learner.collect(0).scoring
    before = student_states(scoring, trained=False)
    assert torch.equal(student_states(scoring, trained=True), before)
    run.stepped()
    after = student_states(scoring, trained=False)
    assert torch.equal(student_states(scoring, trained=True), after)


@pytest.mark.parametrize("words", [("--lora-rank", "0"), ("--lora-rank", "4")], ids=["full", "lora"])
@pytest.mark.parametrize("name", marked(FAMILIES, QUICK))
def test_it_passes_the_preflight_trains_and_is_the_same_from_its_folder(
    tmp_path: Path, name: str, words: tuple[str, ...]
) -> None:
    alone = ("--sample-batch", "1") if name in WRONG_IN_BATCHES else ()
    run = run_of(str(family_folder(tmp_path / "base", name)), *words, *alone, "--lr", "1e-2")
    assert [check.detail for check in examined(run.learner) if not check.ok] == []
    before = logits(run.learner.policy)
    for _ in range(2):
        run.stepped()
    trained = logits(run.learner.policy)
    assert (trained - before).abs().max() > 1e-3
    for place, options in {"saved": {}, "merged": {"merge": True}}.items():
        run.learner.policy.save(tmp_path / place, **options)
        again = logits(load_policy(str(tmp_path / place)))
        torch.testing.assert_close(again, trained, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", sorted(WRONG_IN_BATCHES))
def test_one_that_samples_from_another_policy_in_batches_is_refused_with_the_numbers(
    tmp_path: Path, name: str
) -> None:
    run = run_of(str(family_folder(tmp_path, name)), "--lora-rank", "0")
    found = {check.name: check for check in examined(run.learner) if not check.ok}
    assert "sampler" in found
    assert "differ by up to" in found["sampler"].detail
    assert "--sample-batch 1" in found["sampler"].detail


def test_evaluating_rwkv_leaves_its_weights_as_they_are() -> None:
    network = family_model("rwkv")
    own = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    expected = network(IDS).logits  # which rescales them in place, as transformers has it
    policy = policy_of(network, tiny_tokenizer(), name="rwkv")
    torch.testing.assert_close(logits(policy), expected, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(tensor, own[name]) for name, tensor in policy.model.state_dict().items())
