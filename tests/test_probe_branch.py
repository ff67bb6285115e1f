"""Forced continuations on the real model of world "table"."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from selfteach.policy.draws import Sampling
from selfteach.policy.loading import Policy, load_policy
from selfteach.policy.sampler import LocalSampler
from selfteach.probe.branch import Branch, Continuation, batches, successes
from selfteach.task.arena import model_folder, open_world
from selfteach.task.example import Example
from selfteach.task.trajectory import Trajectory

LONGEST = 64
WORLD = open_world("table")


@pytest.fixture(scope="module")
def policy() -> Policy:
    return load_policy(str(model_folder("table")), device="cpu")


def rollout(policy: Policy, example: Example, ids: list[int]) -> Trajectory:
    prompt_ids = policy.renderer.prompt_ids(example.prompt)
    return Trajectory.written(example, prompt_ids, ids, policy.renderer.text(ids), group=0, finished=True)


def worked(policy: Policy, example: Example) -> Trajectory:
    """The right answer in the model's own style."""
    return rollout(policy, example, policy.renderer.completion_ids(example.private["worked"]))


def forced(
    policy: Policy, branches: Sequence[Branch], temperature: float = 1.0, longest: int = LONGEST
) -> torch.Tensor:
    sampling = Sampling(longest, temperature)
    return successes(policy, WORLD, branches, sampling, completions=3, batch_size=64)


def digit(policy: Policy, value: int) -> int:
    ids = policy.renderer.completion_ids(str(value))
    return ids[0]


def test_only_the_right_last_digit_leads_to_success(policy: Policy) -> None:
    torch.manual_seed(0)
    example = WORLD.train(0)
    right = worked(policy, example)
    last = len(right.ids) - 2  # before the stop token
    outcome = forced(policy, [Branch(right, last, digit(policy, value)) for value in range(10)])
    expected = [float(str(value) == example.private["answer"][-1]) for value in range(10)]
    assert outcome.mean(1).tolist() == expected


def test_greedy_completions_of_a_greedy_answers_own_tokens_end_as_it_did(policy: Policy) -> None:
    examples = [WORLD.train(i) for i in range(12)]
    prompts = [policy.renderer.prompt_ids(one.prompt) for one in examples]
    written = LocalSampler(policy).sample(prompts, Sampling(LONGEST, 0.0))
    rollouts = [rollout(policy, e, w.ids) for e, w in zip(examples, written, strict=True)]
    branches = [Branch(one, step, one.ids[step]) for one in rollouts for step in (0, 5, len(one.ids) - 1)]
    expected = [WORLD.grade(one.rollout.example, one.rollout.text).reward for one in branches]
    assert 0 < sum(expected) < len(expected)
    assert forced(policy, branches, temperature=0.0)[:, 0].tolist() == expected


def test_a_forced_end_is_graded_as_it_stands(policy: Policy) -> None:
    right = worked(policy, WORLD.train(1))
    stop = right.ids[-1]
    ends = [Branch(right, len(right.ids) - 1, stop), Branch(right, 3, stop)]
    assert forced(policy, ends).tolist() == [[1.0] * 3, [0.0] * 3]


def test_an_answer_without_room_to_be_finished_counts_as_it_was_cut(policy: Policy) -> None:
    right = worked(policy, WORLD.train(2))
    own = [Branch(right, step, right.ids[step]) for step in (0, 4, len(right.ids) - 2)]
    assert forced(policy, own, temperature=0.0, longest=len(right.ids) - 2)[:2].sum() == 0
    complete = forced(policy, own[-1:], temperature=0.0, longest=len(right.ids) - 1)
    assert complete.tolist() == [[1.0] * 3]


CONTINUATIONS = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=30)


@given(CONTINUATIONS, st.integers(1, 7))
def test_every_continuation_is_in_one_batch_that_fits_the_window(
    sizes: list[tuple[int, int]], size: int
) -> None:
    wanted = [Continuation(i, 0, [0] * prompt, room) for i, (prompt, room) in enumerate(sizes)]
    made = list(batches(wanted, size, window=40))
    assert sorted(one.branch for batch in made for one in batch) == list(range(len(wanted)))
    for batch in made:
        assert len(batch) <= size
        assert batch[0].room == max(one.room for one in batch)
        assert max(len(one.context) for one in batch) + batch[0].room <= 40
