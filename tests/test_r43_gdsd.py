"""Card 43: the losses' identities, tabular denoisers, masks and scores, the sampler, the puzzles, and runs."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertForMaskedLM

import selfteach
from cut import QUIET, require_goes_on
from outputs import require_slopes
from selfteach.objective.denoising import drawn_masks, sequence_scores, stratified_counts, token_scores
from selfteach.recipes import with_knobs
from selfteach.recipes.r43_gdsd import GDSD
from selfteach.task.sudoku import CELLS, Puzzles, Sudoku, board, grids, solutions, solved
from selfteach.testing import evaluate_outputs
from selfteach.training.clock import Clock
from selfteach.training.masked.denoiser import Denoiser
from selfteach.training.masked.learner import MaskedLearner, Rollouts, Synced, told
from selfteach.training.masked.sampling import confidence, drawn_tokens, plan, sample
from selfteach.training.trainer import Settings

N, K, LENGTH = 4, 3, 8
Arrays = dict[str, np.ndarray]
PAPER = {"form": "paper", "epsilon": None, "coupled": False}
BOUND = {"elbo_weighted": True}
"""What the baselines read."""
SMALL: dict[str, Any] = {
    "width": 8, "depth": 1, "blanks": 6, "pretrain_steps": 3, "pretrain_batch_size": 8, "steps": 4, "batch_size": 6,
    "per_prompt": 3, "num_iterations": 3, "num_mc": 2, "diffusion_steps": 2, "eval_prompts": 10, "lr": 1e-2,
    "ref_sync_every": 4, "temperature": 1.0,
}  # fmt: skip


def given(seed: int = 0, **changed: Any) -> Arrays:
    rng = np.random.default_rng(seed)
    scores = {name: rng.normal(-9, 1, size=(N, K)) for name in ("s", "s_old", "s_ref")}
    return {**scores, "L": np.array([8.0, 8, 5, 3]), "A": rng.normal(size=N), **changed}


def evaluated(arrays: Arrays, **knobs: Any) -> tuple[float, dict[str, np.ndarray]]:
    out = evaluate_outputs("gdsd", arrays, overrides=knobs)
    return out["losses"]["network"], out["grads"]["network"]


# --- the loss -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("knobs", [{}, {"epsilon": None}, {"epsilon": 0.2}])
def test_at_the_old_weights_it_is_a_policy_gradient_on_scores(knobs: dict[str, Any]) -> None:
    """∂L/∂s = −(2ψ/L) A/n, whatever the clamp."""
    arrays = given()
    arrays["s_old"] = arrays["s"]
    _, grads = evaluated(arrays, psi=3.0, beta=0.0, **knobs)
    expected = -2 * 3.0 * arrays["A"][:, None] / arrays["L"][:, None] / N
    np.testing.assert_allclose(grads["s"], np.repeat(expected, K, 1), rtol=1e-12)
    _, others = evaluated(arrays, objective="reinforce", beta=0.0, **BOUND)
    np.testing.assert_allclose(grads["s"], 6.0 * others["s"], rtol=1e-12)


@pytest.mark.parametrize("knobs", [{}, PAPER, {"epsilon": None}])
def test_without_advantage_and_prior_the_old_weights_are_the_target(knobs: dict[str, Any]) -> None:
    arrays = given(A=np.zeros(N))
    arrays["s_old"] = arrays["s"]
    loss, grads = evaluated(arrays, beta=0.0, **knobs)
    assert loss == 0
    assert not grads["s"].any()


def test_the_papers_loss_is_zero_at_the_tilted_scores() -> None:
    arrays = given()
    arrays["s"] = arrays["s_old"] + 2.0 * arrays["A"][:, None]
    loss, grads = evaluated(arrays, psi=2.0, beta=0.0, **PAPER)
    assert loss == pytest.approx(0, abs=1e-20)
    np.testing.assert_allclose(grads["s"], 0, atol=1e-12)
    arrays["s_ref"] = arrays["s"] - 0.5
    assert evaluated(arrays, psi=2.0, beta=0.1, **PAPER)[0] == pytest.approx(0.1 * 0.25, rel=1e-10)


def test_its_minimum_mixes_old_and_reference() -> None:
    """(s − s_old − ψA)² + β (s − s_ref)²: at s_old + ψA where both agree, between them else (weights 1 and β)."""
    arrays, beta, psi = given(), 0.25, 2.0
    target = arrays["s_old"] + psi * arrays["A"][:, None]
    arrays["s"] = (target + beta * arrays["s_ref"]) / (1 + beta)
    _, grads = evaluated(arrays, psi=psi, beta=beta, **PAPER)
    np.testing.assert_allclose(grads["s"], 0, atol=1e-12)


def test_the_released_loss_by_hand() -> None:
    arrays, epsilon = given(), 0.3
    s, old, ref, A = (arrays[name] for name in ("s", "s_old", "s_ref", "A"))
    expected = 0.0
    for b, k in itertools.product(range(N), range(K)):
        change = min(max(s[b, k] - old[b, k], math.log(1 - epsilon)), math.log(1 + epsilon))
        expected += (change / arrays["L"][b] - 10.0 * A[b]) ** 2 / N
        expected += 0.7 * (s[b, k] - ref[b, k]) ** 2 / 2 / arrays["L"][b] / (N * K)
    assert evaluated(arrays, epsilon=epsilon, beta=0.7)[0] == pytest.approx(expected, rel=1e-12)


def test_beyond_the_clamp_there_is_no_gradient() -> None:
    arrays, epsilon = given(), 4e-4
    edge = np.array([-1.01, -0.99, 0.0, 0.99, 1.01]) * epsilon
    arrays["s"] = np.repeat(arrays["s_old"][:1, :1] + edge, N, 0)
    arrays["s_old"] = arrays["s_ref"] = np.full((N, 5), arrays["s_old"][0, 0])
    _, grads = evaluated(arrays, epsilon=epsilon, beta=0.0)
    assert (grads["s"] != 0).tolist() == [[False, True, True, True, False]] * N
    assert (evaluated(arrays, epsilon=None, beta=0.0)[1]["s"] != 0).all()
    # what is left of the residual is −ψA: the clamped change of a token is at most ε/L
    loss, _ = evaluated(arrays, epsilon=epsilon, beta=0.0)
    assert loss == pytest.approx(5 * (100 * arrays["A"] ** 2).mean(), rel=1e-4)


def test_espo_is_ppo_on_the_length_normalized_ratio() -> None:
    arrays = given()
    for row, (change, A) in enumerate(((2.0, 1.0), (-2.0, 1.0), (2.0, -1.0), (-2.0, -1.0))):
        arrays["s"][row], arrays["A"][row] = arrays["s_old"][row] + change, A
    loss, grads = evaluated(arrays, objective="espo", epsilon=0.1, beta=0.0, **BOUND)
    ratio = np.exp((arrays["s"] - arrays["s_old"]) / arrays["L"][:, None])
    assert ratio[0, 0] > 1.1
    assert ratio[3, 0] < 0.9
    best = np.minimum(ratio * arrays["A"][:, None], ratio.clip(0.9, 1.1) * arrays["A"][:, None])
    assert loss == pytest.approx(-best.sum(1).mean(), rel=1e-12)
    # what went too far in the direction that its advantage asks for is held; what went against it is not
    assert (grads["s"] != 0).any(1).tolist() == [False, True, True, False]
    unclipped, _ = evaluated(arrays, objective="espo", epsilon=None, beta=0.0, **BOUND)
    assert unclipped == pytest.approx(-(ratio * arrays["A"][:, None]).sum(1).mean(), rel=1e-12)


@pytest.mark.parametrize("knobs", [
    {"epsilon": 0.9, "psi": 1.0, "beta": 0.3}, {"epsilon": None, "beta": 0.3}, {**PAPER, "beta": 0.3},
    {"objective": "espo", "epsilon": 0.9, **BOUND},
    {"objective": "reinforce", **BOUND},
])  # fmt: skip
def test_gradients_are_finite_differences_and_reach_the_student_alone(knobs: dict[str, Any]) -> None:
    require_slopes("gdsd", given(L=np.full(N, 8.0)), "network", ("s",), **knobs)


# --- a denoiser of one position, all of whose categories are seen as often as the old one says ---------------------

V = 5


def tabular() -> tuple[Tensor, Tensor, Tensor]:
    """(old logits, whose mean is 0; A of each category, in the mean over ``old`` 0; old probabilities)."""
    generator = torch.Generator().manual_seed(3)
    old, reward = torch.randn(2, V, generator=generator, dtype=torch.float64)
    old = old - old.mean()
    p = old.softmax(0)
    return old, reward - (p * reward).sum(), p


def fitted(
    scores: Callable[[Tensor], Tensor], old: Tensor, target: Tensor, p: Tensor
) -> tuple[Tensor, float]:
    """Logits that minimize Σ p (scores(z) − target)², by Gauss and Newton's steps from ``old``; and what is left."""
    z, weight = old, p.sqrt()
    for _ in range(60):
        slopes = weight[:, None] * torch.autograd.functional.jacobian(scores, z)
        z = z - torch.linalg.pinv(slopes, rtol=1e-9) @ (weight * (scores(z) - target))
    return z, float((p * (scores(z) - target).square()).sum())


def centered_table(z: Tensor) -> Tensor:
    return token_scores(z.expand(V, V), torch.arange(V), centered=True)


def softmax_table(z: Tensor) -> Tensor:
    return token_scores(z.expand(V, V), torch.arange(V))


def test_raw_logits_reach_the_tilted_denoiser() -> None:
    old, A, p = tabular()
    z, left = fitted(lambda z: z, old, old + 0.7 * A, p)
    assert left < 1e-24
    torch.testing.assert_close(z.softmax(0), (p.log() + 0.7 * A).softmax(0), rtol=1e-8, atol=1e-10)


def test_centered_scores_reach_it_where_b_is_the_mean_over_the_vocabulary() -> None:
    old, A, p = tabular()
    z, left = fitted(centered_table, old, centered_table(old) + 0.7 * (A - A.mean()), p)
    assert left < 1e-24
    torch.testing.assert_close(z.softmax(0), (p.log() + 0.7 * A).softmax(0), rtol=1e-7, atol=1e-9)


def test_scores_of_the_softmax_cannot_without_b() -> None:
    """The target is not normalized: with b = log Σ p exp(ψA) nothing is left, without it something is."""
    old, A, p = tabular()
    b = (p.log() + 0.7 * A).logsumexp(0)
    assert b > 0.05
    z, left = fitted(softmax_table, old, softmax_table(old) + 0.7 * A - b, p)
    assert left < 1e-24
    torch.testing.assert_close(z.softmax(0), (p.log() + 0.7 * A).softmax(0), rtol=1e-7, atol=1e-9)
    z, left = fitted(softmax_table, old, softmax_table(old) + 0.7 * A, p)
    assert left > 0.1 * float(b) ** 2
    at_tilted = softmax_table((p.log() + 0.7 * A).softmax(0).log())
    residual = at_tilted - (softmax_table(old) + 0.7 * A)
    torch.testing.assert_close(residual, (-b).expand(V))


def test_centered_scores_without_b_are_slightly_off() -> None:
    """They add up to 0, so that the best fit is s_old + ψA − μ/p_old(v), with μ = Σ ψA / Σ 1/p_old."""
    old, A, p = tabular()
    z, left = fitted(centered_table, old, centered_table(old) + 0.7 * A, p)
    mu = 0.7 * A.sum() / (1 / p).sum()
    expected = centered_table(old) + 0.7 * A - mu / p
    assert float(expected.sum()) == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(centered_table(z), expected, rtol=1e-7, atol=1e-8)
    assert left > 1e-4
    off = (z.softmax(0) - (p.log() + 0.7 * A).softmax(0)).abs().max()
    assert 1e-3 < float(off) < 0.2


def test_a_softmax_does_not_see_what_is_taken_off_all_logits() -> None:
    """Centered before a softmax, scores are as without; centered scores in its place are log p − mean log p."""
    z = torch.randn(6, V, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    tokens = torch.arange(6) % V
    torch.testing.assert_close(token_scores(z - z.mean(-1, keepdim=True), tokens), token_scores(z, tokens))
    log_p = z.log_softmax(-1)
    expected = log_p[torch.arange(6), tokens] - log_p.mean(-1)
    torch.testing.assert_close(token_scores(z, tokens, centered=True), expected)
    assert (token_scores(z, tokens, centered=True) - token_scores(z, tokens)).abs().min() > 0.1


# --- masks and scores ---------------------------------------------------------------------------------------------


def test_counts_are_spread_over_a_batch() -> None:
    for n, length, start in ((6, 8, 0), (6, 8, 5), (18, 8, 3), (9, 8, 8)):
        exact = [Fraction(start) + Fraction(b * (length + 1), n) for b in range(n)]
        expected = [math.floor(one + Fraction(1, 2)) % (length + 1) for one in exact]
        assert stratified_counts(n, length, start).tolist() == expected
    for start in range(9):
        assert stratified_counts(18, 8, start).bincount(minlength=9).min() >= 1


@pytest.mark.parametrize("n", [1, 2, 5, 6, 16, 96, 128])
@pytest.mark.parametrize("length", [1, 6, 7, 8, 11])
def test_over_all_starts_every_sequence_has_every_count_once(n: int, length: int) -> None:
    """Halves, as of 16 sequences of 7 tokens, are where rounding to even prefers even numbers."""
    every = torch.stack([stratified_counts(n, length, start) for start in range(length + 1)])
    assert torch.equal(every.sort(0).values, torch.arange(length + 1)[:, None].expand(-1, n))


def test_masks_have_their_counts_and_no_favorite_place() -> None:
    torch.manual_seed(0)
    masks = drawn_masks(torch.full((6000,), 3), 8)
    assert (masks.sum(1) == 3).all()
    torch.testing.assert_close(masks.double().mean(0), torch.full((8,), 3 / 8).double(), rtol=0, atol=0.03)
    assert drawn_masks(torch.tensor([0, 8]), 8).sum(1).tolist() == [0, 8]


def test_coupled_halves_count_each_token_once() -> None:
    inside, outside = torch.randn(2, 5, 8, dtype=torch.float64)
    masked = drawn_masks(torch.tensor([0, 3, 5, 8, 1]), 8)
    coupled = sequence_scores(inside, masked, outside)
    by_hand = [
        sum(float(inside[b, n] if masked[b, n] else outside[b, n]) for n in range(8)) / 2 for b in range(5)
    ]
    torch.testing.assert_close(coupled, torch.tensor(by_hand, dtype=torch.float64))
    ones = torch.ones(5, 8, dtype=torch.float64)
    assert sequence_scores(ones, masked, ones).tolist() == [4.0] * 5
    assert sequence_scores(inside, masked).tolist() == pytest.approx((inside * masked).sum(1).tolist())
    # either half is read off the copy in which the token is masked: the other copy's number does not matter
    moved = sequence_scores(inside + ~masked * 7.0, masked, outside + masked * 9.0)
    torch.testing.assert_close(moved, coupled)


@pytest.mark.parametrize("coupled", [True, False])
def test_weighted_scores_are_the_lower_bound(coupled: bool) -> None:
    """Σ over all masks, x even on 0 … L: L · mean over x = 1 … L of (1/x) Σ log p(n | masks of x tokens)."""
    length = 4
    generator = torch.Generator().manual_seed(0)
    table = {
        mask: torch.randn(length, generator=generator, dtype=torch.float64)
        for mask in itertools.product((False, True), repeat=length)
    }
    found, bound = 0.0, 0.0
    for mask, own in table.items():
        chance = 1 / math.comb(length, sum(mask)) / (length + 1)
        masked = torch.tensor([mask])
        other = table[tuple(not one for one in mask)][None] if coupled else None
        found += chance * float(sequence_scores(own[None], masked, other, elbo_weighted=True))
        if any(mask):
            bound += float(own[masked[0]].sum()) / sum(mask) / math.comb(length, sum(mask))
    assert found == pytest.approx(bound, rel=1e-12)


def test_weights_of_a_copy_without_masks_do_not_spoil_gradients() -> None:
    inside = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    masked = torch.tensor([[False] * 4, [True] * 4])
    sequence_scores(inside, masked, inside, elbo_weighted=True).sum().backward()
    assert inside.grad is not None
    torch.testing.assert_close(inside.grad, torch.full((2, 4), 5 / 4 / 2, dtype=torch.float64))


# --- sampling -----------------------------------------------------------------------------------------------------


class Scripted(Denoiser):
    """Whatever it reads, these logits; it keeps what it was shown."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__(logits.shape[1], len(logits), 4, 1)
        self.said, self.shown = logits, []

    def forward(self, tokens: Tensor) -> Tensor:
        self.shown.append(tokens.clone())
        return self.said.expand(len(tokens), -1, -1)


def test_a_plan_unmasks_every_token_once() -> None:
    assert list(plan(8, 4, 32)) == [(0, 8, 2)] * 4
    assert list(plan(8, 3, 8)) == [(0, 8, 3), (0, 8, 3), (0, 8, 2)]
    assert list(plan(5, 64, 32)) == [(0, 5, 1)] * 5
    assert list(plan(7, 4, 3)) == [(0, 3, 3), (3, 6, 3), (6, 7, 1)]
    assert list(plan(6, 4, 3)) == [(0, 3, 2), (0, 3, 1), (3, 6, 2), (3, 6, 1)]
    for length, steps, block in itertools.product((1, 5, 12), (1, 2, 7, 40), (1, 4, 12, 40)):
        assert sum(count for *_, count in plan(length, steps, block)) == length


@pytest.mark.parametrize(("remasking", "order"), [("low_confidence", [2, 0, 1]), ("entropy", [0, 2, 1])])
def test_the_surest_are_unmasked_first(remasking: Any, order: list[int]) -> None:
    """Place 2 has the likeliest token, place 0 the least entropy."""
    p = torch.tensor([[0.60, 0.399, 0.001], [0.4, 0.35, 0.25], [0.62, 0.19, 0.19]])
    network = Scripted(torch.cat([torch.zeros(1, 3), p.log()]))
    tokens, places = torch.tensor([[1, 2, 2, 2]]), torch.tensor([[1, 2, 3]])
    how = {"block_length": 3, "temperature": 0.0, "remasking": remasking}
    done = sample(network, tokens, places, steps=3, **how)
    assert done.tolist() == [[1, 0, 0, 0]]
    masked = [(one[0, 1:] == network.mask_token_id).nonzero()[:, 0].tolist() for one in network.shown]
    assert masked == [[0, 1, 2], sorted(order[1:]), order[2:]]
    assert all(one[0, 0] == 1 for one in network.shown), "the prompt is never masked"


def test_blocks_are_unmasked_in_turn() -> None:
    logits = torch.zeros(4, 3)
    logits[2:, 1] = 5.0  # surer, and yet behind
    network = Scripted(logits)
    tokens, places = torch.zeros(1, 4, dtype=torch.long), torch.arange(4)[None]
    how: dict[str, Any] = {"temperature": 0.0, "remasking": "low_confidence"}
    sample(network, tokens, places, steps=4, block_length=2, **how)
    masked = [(one[0] == network.mask_token_id).nonzero()[:, 0].tolist() for one in network.shown]
    assert [len(one) for one in masked] == [4, 3, 2, 1]
    assert masked[2] == [2, 3]


def test_sampled_tokens_follow_the_tempered_softmax() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([1.0, 0.0, -1.0, 2.0])
    for temperature in (0.5, 1.0, 2.0):
        found = drawn_tokens(logits.expand(1, 40_000, 4), temperature)[0].bincount(minlength=4) / 40_000
        torch.testing.assert_close(found, (logits / temperature).softmax(0), rtol=0, atol=0.01)
    before = torch.get_rng_state()
    assert (drawn_tokens(logits.expand(2, 3, 4), 0.0) == 3).all()
    assert torch.equal(torch.get_rng_state(), before)


def test_confidence_is_probability_or_minus_entropy() -> None:
    p = torch.tensor([[[0.5, 0.25, 0.25]]], dtype=torch.float64)
    guess = torch.tensor([[1]])
    assert float(confidence(p.log(), guess, "low_confidence").exp()) == pytest.approx(0.25)
    assert float(confidence(p.log(), guess, "entropy")) == pytest.approx(-1.5 * math.log(2))


# --- puzzles ------------------------------------------------------------------------------------------------------


def test_there_are_288_solved_grids() -> None:
    assert len(grids()) == 288
    assert len(grids().unique(dim=0)) == 288
    for grid in grids()[::37]:
        rows = grid.reshape(4, 4)
        quarters = [rows[i : i + 2, j : j + 2].flatten() for i in (0, 2) for j in (0, 2)]
        assert all(sorted(one.tolist()) == [0, 1, 2, 3] for one in (*rows, *rows.T, *quarters))
    latin = torch.tensor([[0, 1, 2, 3, 1, 2, 3, 0, 2, 3, 0, 1, 3, 0, 1, 2]])  # rows and columns alone
    assert not solved(latin)


def test_puzzles_have_one_solution_and_held_out_ones_are_apart() -> None:
    world = Sudoku(9, seed=1)
    torch.manual_seed(0)
    puzzles, held = world.draw(200), world.held_out(200, torch.Generator().manual_seed(0))
    assert puzzles.blanks.shape == (200, 9)
    assert (puzzles.blanks.diff(dim=1) > 0).all()
    trained, tested = ({tuple(one) for one in part.solution.tolist()} for part in (puzzles, held))
    assert not trained & tested
    assert len(world.test) == 58
    for part in (puzzles, held):
        for solution, blanks in zip(part.solution[:20], part.blanks[:20], strict=True):
            shown = [i for i in range(CELLS) if i not in blanks.tolist()]
            assert sum(bool((one[shown] == solution[shown]).all()) for one in grids()) == 1
    empty = Puzzles(grids()[:1], torch.arange(CELLS)[None])
    assert solutions(empty).tolist() == [288]


def test_the_reward_is_the_share_of_blank_cells() -> None:
    puzzles = Puzzles(grids()[:1], torch.tensor([[0, 5, 9, 15]]))
    filled = grids()[:1].clone()
    assert puzzles.reward(filled).tolist() == [1.0]
    filled[0, 5] = (filled[0, 5] + 1) % 4
    assert puzzles.reward(filled).tolist() == [0.75]
    row = told(puzzles, filled, 0)
    assert (row["reward"], row["outcome"]) == (0.75, "wrong")
    assert row["problem"].split() == [
        "." if i in (0, 5, 9, 15) else str(digit + 1) for i, digit in enumerate(grids()[0].tolist())
    ]
    assert board(grids()[0]) == row["reference"]


# --- the learner --------------------------------------------------------------------------------------------------


def learner(**knobs: Any) -> MaskedLearner:
    made = MaskedLearner(with_knobs(GDSD(), {**SMALL, **knobs}), Settings(device="cpu"))
    made.clock = Clock()
    torch.manual_seed(0)
    made.enter(len(made.stages) - 1)
    made.roles(made.modules())
    return made


def test_the_denoiser_reads_both_ways_and_never_says_the_mask() -> None:
    network = Denoiser(4, 6, 8, 1)
    tokens = torch.tensor([[0, 1, 2, 3, 0, 1]])
    assert network(tokens).shape == (1, 6, 4)
    for place in (0, 5):
        changed = tokens.clone()
        changed[0, place] = 3
        moved = (network(changed) - network(tokens))[0].abs().sum(-1) > 0
        assert moved.all(), place
    places, masked = torch.tensor([[1, 4, 5]]), torch.tensor([[True, False, True]])
    assert network.masked_copies(tokens, places, masked).tolist() == [[0, 4, 2, 3, 0, 4]]
    torch.testing.assert_close(network.at(tokens, places), network(tokens)[:, [1, 4, 5]])


@pytest.mark.parametrize("knobs", [{}, {"coupled": False}, {"elbo_weighted": True}, {"centered": True}])
def test_scores_are_those_of_each_masked_copy(knobs: dict[str, Any]) -> None:
    """Completion by completion and draw by draw."""
    made = learner(**knobs)
    batch = made.collect(0)
    assert batch.masked.shape == (3, 2, 6, 6)
    found = made.outputs(batch, 1)["s"].detach()
    recipe, (_, blanks) = made.recipe, batch.puzzles
    for b, k in itertools.product(range(6), range(2)):
        mask, total = batch.masked[1, k, b], 0.0
        for own in (mask, ~mask) if recipe.coupled else (mask,):
            shown = batch.filled[b].clone()
            shown[blanks[b][own]] = 4
            with torch.no_grad():
                logits = made.network(shown[None])[0]
            norm = logits.mean(-1) if recipe.centered else logits.logsumexp(-1)
            weight = 7 / int(own.sum()) if recipe.elbo_weighted and own.any() else 1.0
            total += weight * sum(float(logits[n, batch.filled[b, n]] - norm[n]) for n in blanks[b][own])
        assert float(found[b, k]) == pytest.approx(total / 2 if recipe.coupled else total, rel=1e-4)


def test_old_reference_and_student_are_scored_under_the_same_masks() -> None:
    made = learner()
    batch = made.collect(0)
    for i in range(3):
        torch.testing.assert_close(made.outputs(batch, i)["s"].detach(), batch.s_old[i])
    torch.testing.assert_close(batch.s_ref, batch.s_old)
    assert not torch.equal(batch.masked[0], batch.masked[1])
    with torch.no_grad():
        made.reference.module.bert.cls.predictions.bias[:4] += torch.arange(4.0)
    assert (made.collect(1).s_ref - made.collect(1).s_old).abs().max() > 0.1
    counts = batch.masked.sum(-1)
    assert ((counts >= 0) & (counts <= 6)).all()
    assert all(len(one.unique()) >= 4 for one in counts.flatten(0, 1))


def test_advantages_leave_one_out_within_a_prompt() -> None:
    batch = learner().collect(0)
    assert (batch.puzzles.solution[:3] == batch.puzzles.solution[0]).all()
    for group in (range(3), range(3, 6)):
        for b in group:
            others = sum(float(batch.reward[o]) for o in group if o != b) / 2
            assert float(batch.advantage[b]) == pytest.approx(float(batch.reward[b]) - others, abs=1e-6)
    given = torch.ones_like(batch.filled).scatter(1, batch.puzzles.blanks, 0).bool()
    assert torch.equal(batch.filled[given], batch.puzzles.solution[given])


def test_pretraining_masks_at_least_one_cell_and_learns_these() -> None:
    made = learner(pretrain_batch_size=60)
    made.enter(0)
    batch = made.collect(0)
    assert set(batch.masked.sum(1).tolist()) == set(range(1, 7))
    (update,) = made.updates(batch)
    loss = update.backward()["loss"]
    solution, blanks = batch.puzzles
    total, count = 0.0, 0
    for b in range(60):
        shown = solution[b].clone()
        shown[blanks[b][batch.masked[b]]] = 4
        with torch.no_grad():
            log_p = made.network(shown[None])[0].log_softmax(-1)
        for n in blanks[b][batch.masked[b]]:
            total, count = total - float(log_p[n, solution[b, n]]), count + 1
    assert loss == pytest.approx(total / count, rel=1e-5)


def test_the_reference_becomes_the_student_now_and_then() -> None:
    source = Denoiser(4, 6, 8, 1)
    copy, never = Synced(source, 3), Synced(source, None)
    before = copy.module.bert.cls.predictions.bias.clone()
    with torch.no_grad():
        source.bert.cls.predictions.bias += 1
    for update in range(1, 7):
        copy.after_step(("network",))
        never.after_step(("network",))
        moved = not torch.equal(copy.module.bert.cls.predictions.bias, before)
        assert moved == (update >= 3)
    assert torch.equal(never.module.bert.cls.predictions.bias, before)
    again = Synced(source, 3)
    again.load_state({**copy.state(), "updates": 2})
    with torch.no_grad():
        source.bert.cls.predictions.bias += 1
    again.after_step(("network",))
    assert torch.equal(again.module.bert.cls.predictions.bias, source.bert.cls.predictions.bias)


def test_measures_of_a_batch() -> None:
    made = learner()
    batch: Rollouts = made.collect(0)
    reward = torch.tensor([0.5, 0.5, 0.5, 0.0, 1.0, 0.5])
    found = made.metrics(batch._replace(reward=reward), ())
    assert found["reward/mean"] == pytest.approx(0.5)
    assert found["reward/std"] == pytest.approx(float(np.std(reward.numpy(), ddof=1)))
    assert found["reward/zero_std"] == 0.5
    (first, *_) = made.updates(batch._replace(s_old=batch.s_old + torch.tensor([1e-5, 1e-2])))
    numbers = first.backward()
    assert numbers["score/clamped"] == 0.5
    assert numbers["score/change"] == pytest.approx(5e-3, rel=2e-2)


# --- runs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_run_that_breaks_goes_on_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """Cut in either stage; the reference is synced in the middle of a batch's updates."""
    saved = require_goes_on(MaskedLearner, "gdsd", tmp_path, monkeypatch, total=7, at=at, **SMALL)
    for kind in ("/weights/network", "/optimizers/network", "/roles/reference"):
        assert any(place.startswith(kind) for place in saved), kind


def test_updates_raise_the_scores_of_what_was_better_than_its_groups_others() -> None:
    """Thirty updates on one batch: where the reward is above the others' mean s rises against where it is below."""
    made = learner(num_iterations=30, epsilon=None, batch_size=30, beta=0.0, lr=1e-3)
    batch, optimizer = made.collect(0), made.optimizers(made.modules())["network"].optimizer
    for update in made.updates(batch):
        optimizer.zero_grad()
        update.backward()
        optimizer.step()
    change = (made.outputs(batch, 0)["s"].detach() - batch.s_old[0]).mean(1)
    better, worse = (change[batch.advantage * sign > 0.1] for sign in (1, -1))
    assert min(len(better), len(worse)) >= 5
    assert better.mean() > worse.mean() + 0.1


@pytest.mark.slow
def test_it_learns_what_pretraining_left(tmp_path: Path) -> None:
    run = selfteach.train("gdsd", out=tmp_path / "run", **QUIET)
    ended = {int(step): value for step, value in run.curve("eval/headline")}
    assert ended[max(ended)] > ended[190] + 0.04, ended


def test_the_trained_model_is_one_of_transformers_and_boards_are_shown(tmp_path: Path) -> None:
    run = selfteach.train("gdsd", out=tmp_path / "run", **QUIET, **{**SMALL, "samples_every": 2})
    loaded = BertForMaskedLM.from_pretrained(tmp_path / "run" / "model")
    assert loaded.config.vocab_size == 5
    rows = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert {row["phase"] for row in rows} == {"before", "train", "after"}
    assert all(len(row["answer"].split()) == CELLS for row in rows)
    page = (tmp_path / "run" / "report.html").read_text()
    assert rows[0]["problem"] in page
    assert run.summary["unit"] == "tokens"
    assert run.summary["spent"] == 6 * (3 * 8 + 4 * 6)


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"blanks": 13}, "at most 12"),
        ({"batch_size": 7}, "no multiple of per_prompt 3"),
        ({"per_prompt": 1, "batch_size": 6}, "2 or more"),
        ({"width": 10}, "multiple of 4"),
        ({"objective": "espo", "centered": True, **BOUND}, "gdsd's"),
        ({"objective": "reinforce", **PAPER, **BOUND}, "gdsd's"),
        ({"objective": "espo"}, "give --elbo-weighted"),
        ({"objective": "reinforce"}, "give --elbo-weighted"),
        ({"form": "paper"}, "take --preset paper"),
        ({"form": "paper", "epsilon": None}, "--no-coupled"),
        ({"epsilon": 1.0}, "epsilon"),
        ({"remasking": "random"}, "remasking"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, knobs: dict[str, Any], said: str) -> None:
    with pytest.raises(selfteach.UserError, match=said):
        selfteach.train("gdsd", out=tmp_path / "run", **QUIET, **{**SMALL, **knobs})
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
