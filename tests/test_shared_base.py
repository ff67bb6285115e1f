"""Teachers that are adapters of one base: the base is in memory once, and each says what it would say merged."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from runs import TextRun, run_of, scoring, with_task
from selfteach.policy.loading import LoraConfig, Policy, bare, load_policy
from selfteach.policy.scorer import LocalScorer
from selfteach.task.example import Example, Task

CONTEXT, ANSWER = [5, 6, 7, 8], [9, 10, 11]


@pytest.fixture
def experts(tiny: str, tmp_path: Path) -> dict[str, str]:
    """Two adapters on the tiny model, unlike each other."""
    found = {}
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        policy = load_policy(tiny, lora=LoraConfig(rank=4))
        with torch.no_grad():
            for place, one in policy.model.named_parameters():
                if "lora_B" in place:
                    one.normal_(std=0.2)
        policy.save(tmp_path / name)
        found[name] = str(tmp_path / name)
    return found


def states(policy: Policy) -> torch.Tensor:
    with torch.no_grad():
        return LocalScorer().states(policy, [CONTEXT], [ANSWER])


def taught(tiny: str, experts: dict[str, str], *words: str) -> TextRun:
    teachers = ",".join(f"{tag}={folder}" for tag, folder in experts.items())
    run = run_of(tiny, "--teacher", teachers, *words, recipe="uni-opd")
    return with_task(run, Tagged(run.learner.task))


class Tagged:
    """Every other problem is of tag "a", the rest of "b"."""

    def __init__(self, task: Task) -> None:
        self.task = task

    def train(self, i: int) -> Example:
        return replace(self.task.train(i), tag="ab"[i % 2])

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)


def places(policy: Policy) -> set[int]:
    """Where the base's numbers are."""
    whole = bare(policy.model)
    return {one.data_ptr() for name, one in whole.named_parameters() if "lora_" not in name}


def everybody(run: TextRun) -> dict[str, Policy]:
    external = run.learner.models.weights.external
    return {Path(name).name: policy for name, policy in external.items()}


@pytest.mark.parametrize("words", [("--lora-rank", "4"), ("--lora-rank", "0")])
def test_adapters_share_their_base(tiny: str, experts: dict[str, str], words: tuple[str, ...]) -> None:
    run = taught(tiny, experts, *words)
    held = everybody(run)
    assert held.keys() == {"a", "b"}
    assert places(held["a"]) == places(held["b"])
    shared = places(run.learner.policy) == places(held["a"])
    assert shared == (words[1] == "4")  # weights that train are no base for others
    for name, folder in experts.items():
        merged = load_policy(folder, trained=False)
        torch.testing.assert_close(states(held[name]), states(merged), rtol=1e-3, atol=1e-4)
    assert (states(held["a"]) - states(held["b"])).abs().max() > 1e-3


def test_training_moves_no_teacher_on_the_same_base(tiny: str, experts: dict[str, str]) -> None:
    run = taught(tiny, experts, "--lora-rank", "4", "--lr", "0.05")
    before = {name: states(policy) for name, policy in everybody(run).items()}
    own = states(run.learner.policy)
    run.stepped()
    run.stepped()
    assert (states(run.learner.policy) - own).abs().max() > 1e-4
    for name, policy in everybody(run).items():
        assert torch.equal(states(policy), before[name])
    assert not any(
        one.requires_grad for policy in everybody(run).values() for one in policy.model.parameters()
    )
    with scoring(run, "teacher-a") as policy:
        assert torch.equal(states(policy), before["a"])


@pytest.mark.parametrize("rank", ["0", "4"])
def test_one_adapter_alone_is_merged(tiny: str, experts: dict[str, str], rank: str) -> None:
    """To the bit as it is elsewhere, whatever else stands on its base; and a merged one computes faster."""
    run = run_of(tiny, "--teacher", experts["a"], "--lora-rank", rank, recipe="uni-opd")
    (policy,) = everybody(run).values()
    assert not policy.adapted
    assert torch.equal(states(policy), states(load_policy(experts["a"], trained=False)))


def test_another_dtype_is_another_base(tiny: str, experts: dict[str, str]) -> None:
    run = taught(tiny, experts, "--lora-rank", "4", "--teacher-dtype", "bfloat16")
    held = everybody(run)
    assert places(held["a"]) == places(held["b"])
    assert not places(held["a"]) & places(run.learner.policy)
    stored = {one.dtype for name, one in bare(held["a"].model).named_parameters() if "lora_" not in name}
    assert stored == {torch.bfloat16}


def test_teachers_that_wait_on_the_cpu(tiny: str, experts: dict[str, str]) -> None:
    run = taught(tiny, experts, "--lora-rank", "4", "--offload-teachers", "cpu")
    run.stepped()
    assert run.progress.rows[-1]["loss"] == pytest.approx(
        taught(tiny, experts, "--lora-rank", "4").stepped()["loss"], rel=1e-5
    )
