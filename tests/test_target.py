"""Targets: each against its formula in numpy, its optimality, its identities and its extremes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from selfteach.objective.divergence import ForwardKL, ReverseKL
from selfteach.objective.target import (
    AdvantageTilted,
    Consensus,
    Extrapolation,
    FromRole,
    GeometricMean,
    Likeliest,
    Mixture,
    StudentMix,
    Target,
    TrustRegion,
)


def log_probs(*shape: int, seed: int = 0, spread: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(-1)


STUDENT = log_probs(4, 6, seed=1)
TEACHERS = {name: log_probs(4, 6, seed=seed) for seed, name in enumerate("abc", start=2)}
P, A, B, C = (x.exp().numpy() for x in (STUDENT, *TEACHERS.values()))


def normal(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum(-1, keepdims=True)


def consensus_in_numpy(p: np.ndarray, *views: np.ndarray) -> np.ndarray:
    deltas = np.stack([np.log(view) - np.log(p) for view in views])
    shared = deltas.mean(0)
    residual = np.log(np.mean(views, axis=0)) - np.mean([np.log(view) for view in views], axis=0)
    agreement = np.abs(shared) / (np.abs(deltas).mean(0) + 1e-8)
    reliability = np.abs(shared) / (np.abs(shared) + residual + 1e-8)
    return p * np.exp(shared + agreement * reliability * residual)


CASES: dict[str, tuple[Target, np.ndarray]] = {
    "teacher": (FromRole("a"), A),
    "likeliest, whole": (Likeliest("a", 9), A),
    "mixture": (Mixture({"a": 0.2, "b": 0.5, "c": 0.3}), 0.2 * A + 0.5 * B + 0.3 * C),
    "product": (GeometricMean({"a": 0.3, "b": 0.7}), normal(A**0.3 * B**0.7)),
    "raw product": (GeometricMean({"a": 0.3, "b": 0.7}, renormalize=False), A**0.3 * B**0.7),
    "extrapolation": (Extrapolation("a", "b", 1.25), normal(B**-0.25 * A**1.25)),
    "trust region": (TrustRegion("a", "b", 0.1), normal(B**0.9 * A**0.1)),
    "tilted student": (AdvantageTilted("a", 4.0), normal(P * np.exp((np.log(A) - np.log(P)) / 4))),
    "tilted by the privilege": (
        AdvantageTilted("a", 0.5, baseline="b"),
        normal(P * np.exp((np.log(A) - np.log(B)) / 0.5)),
    ),
    "tilted third": (
        AdvantageTilted("a", 2.0, base="c", baseline="b"),
        normal(C * np.exp((np.log(A) - np.log(B)) / 2)),
    ),
    "student mix": (StudentMix("a", 0.3), 0.7 * P + 0.3 * A),
    "consensus": (Consensus(("a", "b", "c")), consensus_in_numpy(P, A, B, C)),
}
ALL = pytest.mark.parametrize("name", CASES)
UNNORMALIZED = {"raw product", "consensus"}


@st.composite
def distributions(draw: st.DrawFn) -> tuple[Tensor, dict[str, Tensor]]:
    """Student and three teachers up to ±1e4, one masked vocabulary on all (token 0 stays)."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 6)))
    scale = draw(st.sampled_from([1.0, 30.0, 1e4]))
    masked = torch.from_numpy(draw(arrays(np.bool_, shape[-1])))
    masked[0] = False

    def one() -> Tensor:
        logits = torch.from_numpy(
            scale * draw(arrays(np.float64, shape, elements=st.floats(-1, 1, width=32)))
        )
        return logits.masked_fill(masked, -math.inf).log_softmax(-1)

    return one(), {name: one() for name in "abc"}


@ALL
def test_target_equals_its_formula_in_numpy(name: str) -> None:
    target, expected = CASES[name]
    np.testing.assert_allclose(target.log_probs(STUDENT, TEACHERS).exp().numpy(), expected, rtol=1e-12)


@ALL
def test_target_carries_no_gradient(name: str) -> None:
    student = STUDENT.clone().requires_grad_()
    teachers = {key: value.clone().requires_grad_() for key, value in TEACHERS.items()}
    assert not CASES[name][0].log_probs(student, teachers).requires_grad


@ALL
def test_target_names_exactly_the_teachers_it_reads(name: str) -> None:
    target, _ = CASES[name]
    needed = {key: TEACHERS[key] for key in target.names}
    torch.testing.assert_close(target.log_probs(STUDENT, needed), target.log_probs(STUDENT, TEACHERS))
    for missing in target.names:
        with pytest.raises(ValueError, match=f"roles lack '{missing}'"):
            target.log_probs(STUDENT, {key: value for key, value in TEACHERS.items() if key != missing})


@ALL
def test_perturbing_any_named_teacher_changes_the_target(name: str) -> None:
    target, _ = CASES[name]
    before = target.log_probs(STUDENT, TEACHERS)
    for key in target.names:
        nudged = TEACHERS | {
            key: (TEACHERS[key] + 0.1 * torch.eye(4, 6, dtype=torch.float64)).log_softmax(-1)
        }
        assert (target.log_probs(STUDENT, nudged) - before).abs().max() > 1e-4


@ALL
def test_target_is_the_teacher_when_all_agree(name: str) -> None:
    same = dict.fromkeys("abc", STUDENT)
    torch.testing.assert_close(CASES[name][0].log_probs(STUDENT, same), STUDENT)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(max_examples=40, deadline=None)
@given(given_=distributions())
def test_extreme_and_masked_log_probs_give_a_distribution(
    name: str, dtype: torch.dtype, given_: tuple[Tensor, dict[str, Tensor]]
) -> None:
    student, teachers = given_[0].to(dtype), {key: value.to(dtype) for key, value in given_[1].items()}
    result = CASES[name][0].log_probs(student, teachers)
    assert result.dtype == dtype
    assert not result.isnan().any()
    assert (result < math.inf).all()
    assert (result[student == -math.inf] == -math.inf).all()
    if name not in UNNORMALIZED:
        torch.testing.assert_close(result.logsumexp(-1), torch.zeros_like(result[..., 0]), rtol=0, atol=1e-5)


@ALL
def test_unequal_shapes_are_refused_by_the_teachers_name(name: str) -> None:
    target, _ = CASES[name]
    key = target.names[0]
    with pytest.raises(ValueError, match=f"{key} has shape"):
        target.log_probs(STUDENT, TEACHERS | {key: TEACHERS[key][:2]})


@ALL
def test_nan_of_a_teacher_is_not_swallowed(name: str) -> None:
    target, _ = CASES[name]
    broken = TEACHERS[target.names[0]].clone()
    broken[0] = math.nan
    assert target.log_probs(STUDENT, TEACHERS | {target.names[0]: broken})[0].isnan().all()


def test_the_likeliest_tokens_are_rescaled_and_all_others_get_nothing() -> None:
    for k in (1, 3, 6):
        expected = normal(np.where(np.sort(A)[:, [-k]] <= A, A, 0.0))
        found = Likeliest("a", k).log_probs(STUDENT, TEACHERS)
        np.testing.assert_allclose(found.exp().numpy(), expected, rtol=1e-12)
        assert (found == -math.inf).sum() == 4 * (6 - k)
    broken = TEACHERS["a"].clone().requires_grad_()
    assert not Likeliest("a", 2).log_probs(STUDENT, {"a": broken}).requires_grad
    with torch.no_grad():
        broken[0, 4] = math.nan
    found = Likeliest("a", 2).log_probs(STUDENT, {"a": broken})
    assert found[0].isnan().all()
    assert not found[1:].isnan().any()
    with pytest.raises(ValueError, match="k must be at least 1"):
        Likeliest("a", 0)


# ---- pooling teachers (cards 05, 19) ---------------------------------------------------------------------


@pytest.mark.parametrize(("pool", "divergence"), [(Mixture, ForwardKL()), (GeometricMean, ReverseKL())])
def test_pool_minimizes_the_average_divergence_to_the_teachers(
    pool: type[Mixture], divergence: ForwardKL
) -> None:
    weights = {"a": 0.2, "b": 0.5, "c": 0.3}
    best = pool(weights).log_probs(STUDENT, TEACHERS)

    def gradient(student: Tensor) -> Tensor:
        return sum(
            (w * divergence.logit_gradient(student, TEACHERS[n]) for n, w in weights.items()), torch.zeros(())
        )

    assert gradient(best).abs().max() < 1e-14
    for seed in range(20):
        other = (best + 0.1 * log_probs(4, 6, seed=seed)).log_softmax(-1)
        costs = [sum(w * divergence(s, TEACHERS[n]).sum() for n, w in weights.items()) for s in (best, other)]
        assert costs[0] < costs[1]


def test_product_vetoes_what_one_teacher_excludes_and_mixture_does_not() -> None:
    never = TEACHERS["a"].clone()
    never[:, 2] = -math.inf
    teachers = TEACHERS | {"a": never.log_softmax(-1)}
    weights = {"a": 0.5, "b": 0.5}
    assert (GeometricMean(weights).log_probs(STUDENT, teachers)[:, 2] == -math.inf).all()
    assert Mixture(weights).log_probs(STUDENT, teachers)[:, 2].isfinite().all()


def test_product_of_teachers_that_share_no_token_is_refused() -> None:
    one, other = torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]])
    with pytest.raises(ValueError, match="no token"):
        GeometricMean({"a": 0.5, "b": 0.5}).log_probs(one, {"a": one, "b": other})


# ---- extrapolation and trust region (cards 28, 33) -------------------------------------------------------


def test_extrapolation_ends_at_reference_and_teacher() -> None:
    for reference in "bc":
        torch.testing.assert_close(
            Extrapolation("a", reference, 1.0).log_probs(STUDENT, TEACHERS), TEACHERS["a"], rtol=0, atol=1e-14
        )
    torch.testing.assert_close(
        Extrapolation("a", "b", 0.0).log_probs(STUDENT, TEACHERS), TEACHERS["b"], rtol=0, atol=1e-14
    )


def test_extrapolation_is_the_optimum_of_the_extrapolated_reward() -> None:
    strength = 1.7
    best = Extrapolation("a", "b", strength).log_probs(STUDENT, TEACHERS)
    advantage = strength * (TEACHERS["a"] - TEACHERS["b"]) - (best - TEACHERS["b"])
    torch.testing.assert_close(advantage, advantage.mean(-1, keepdim=True).expand_as(advantage))


def test_bernoulli_extrapolation_is_linear_in_the_logit() -> None:
    teacher, reference = torch.tensor([[0.6, 0.4]]).double().log(), torch.tensor([[0.9, 0.1]]).double().log()
    best = Extrapolation("q", "b", 1.25).log_probs(teacher, {"q": teacher, "b": reference})
    logit = [(x[..., 0] - x[..., 1]) for x in (best, teacher, reference)]
    torch.testing.assert_close(logit[0], 1.25 * logit[1] - 0.25 * logit[2])


@pytest.mark.parametrize("strength", [0.5, 1.25, 2.0])
def test_extrapolation_leaves_out_what_either_side_excludes(strength: float) -> None:
    teacher = torch.tensor([[0.0, 1.0, -math.inf]]).log_softmax(-1)
    reference = torch.tensor([[-math.inf, 1.0, 2.0]]).log_softmax(-1)
    result = Extrapolation("q", "b", strength).log_probs(teacher, {"q": teacher, "b": reference})
    torch.testing.assert_close(result.exp(), torch.tensor([[0.0, 1.0, 0.0]]))


def test_side_of_power_zero_excludes_nothing() -> None:
    whole, narrow = torch.tensor([[0.0, 1.0, 2.0]]).log_softmax(-1), torch.tensor([[0.0, 1.0, -math.inf]])
    teachers = {"whole": whole, "narrow": narrow.log_softmax(-1)}
    for target in (Extrapolation("whole", "narrow", 1.0), TrustRegion("narrow", "whole", 0.0)):
        torch.testing.assert_close(target.log_probs(whole, teachers), whole)


def test_trust_region_is_a_lerp_of_logits() -> None:
    live, frozen = 3 * log_probs(4, 6, seed=8), 3 * log_probs(4, 6, seed=9) + 5
    teachers = {"live": live.log_softmax(-1), "frozen": frozen.log_softmax(-1)}
    for rate in (0.0, 0.01, 0.5, 1.0):
        expected = torch.lerp(frozen, live, rate).log_softmax(-1)
        torch.testing.assert_close(TrustRegion("live", "frozen", rate).log_probs(STUDENT, teachers), expected)


# ---- tilts and walks from the student (cards 16, 23) -----------------------------------------------------


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_reverse_kl_to_the_tilted_student_descends_along_the_ideal_gradient_of_the_advantage(
    temperature: float,
) -> None:
    target = AdvantageTilted("a", temperature).log_probs(STUDENT, TEACHERS)
    advantage = TEACHERS["a"] - STUDENT
    ideal = STUDENT.exp() * (advantage - (STUDENT.exp() * advantage).sum(-1, keepdim=True))
    torch.testing.assert_close(-temperature * ReverseKL().logit_gradient(STUDENT, target), ideal)


def test_tilt_at_temperature_one_is_the_teacher_and_goes_to_the_student_as_it_rises() -> None:
    torch.testing.assert_close(AdvantageTilted("a", 1.0).log_probs(STUDENT, TEACHERS), TEACHERS["a"])
    torch.testing.assert_close(AdvantageTilted("a", 1e9).log_probs(STUDENT, TEACHERS), STUDENT)


def test_tilt_of_a_reference_by_its_own_advantage_is_extrapolation() -> None:
    tilted = AdvantageTilted("a", 1 / 1.25, base="b", baseline="b").log_probs(STUDENT, TEACHERS)
    torch.testing.assert_close(tilted, Extrapolation("a", "b", 1.25).log_probs(STUDENT, TEACHERS))


def test_student_mix_walks_from_student_to_teacher() -> None:
    torch.testing.assert_close(StudentMix("a", 0.0).log_probs(STUDENT, TEACHERS), STUDENT)
    torch.testing.assert_close(StudentMix("a", 1.0).log_probs(STUDENT, TEACHERS), TEACHERS["a"])
    distance = [
        float(ForwardKL()(StudentMix("a", share).log_probs(STUDENT, TEACHERS), TEACHERS["a"]).sum())
        for share in (0.0, 0.3, 0.6, 1.0)
    ]
    assert sorted(distance, reverse=True) == distance


def test_gradient_towards_the_student_mix_is_the_share_of_the_teachers_gradient() -> None:
    target = StudentMix("a", 0.3).log_probs(STUDENT, TEACHERS)
    torch.testing.assert_close(
        ForwardKL().logit_gradient(STUDENT, target), 0.3 * ForwardKL().logit_gradient(STUDENT, TEACHERS["a"])
    )


# ---- consensus (card 19) ---------------------------------------------------------------------------------

VIEWS = ("a", "b", "c")


@settings(max_examples=60, deadline=None)
@given(given_=distributions())
def test_consensus_gate_lies_in_the_unit_interval_and_residual_is_not_negative(
    given_: tuple[Tensor, dict[str, Tensor]],
) -> None:
    _, residual, gate = Consensus(VIEWS).parts(*given_)
    assert (residual >= 0).all()
    assert ((gate >= 0) & (gate <= 1 + 1e-9)).all()


@settings(max_examples=60, deadline=None)
@given(given_=distributions())
def test_consensus_residual_never_flips_the_sign_of_the_shared_advantage(
    given_: tuple[Tensor, dict[str, Tensor]],
) -> None:
    student, teachers = given_
    geometric, residual, gate = Consensus(VIEWS).parts(student, teachers)
    seen = geometric.isfinite() & student.isfinite()
    shared = (geometric - student)[seen]
    assert ((gate * residual)[seen] <= shared.abs() + 1e-9).all()
    moved = (Consensus(VIEWS).log_probs(student, teachers) - student)[seen]
    assert (moved * shared >= -1e-9).all()


@pytest.mark.parametrize("renormalize", [False, True])
def test_consensus_of_one_view_is_that_view(renormalize: bool) -> None:
    target = Consensus(("a",), renormalize=renormalize).log_probs(STUDENT, TEACHERS)
    torch.testing.assert_close(target, TEACHERS["a"], rtol=0, atol=1e-14)


def test_consensus_residual_is_zero_exactly_where_the_views_agree() -> None:
    other = TEACHERS["a"].clone()
    other[0] = TEACHERS["b"][0]
    _, residual, _ = Consensus(("a", "d")).parts(STUDENT, TEACHERS | {"d": other})
    assert residual[1:].abs().max() < 1e-15
    assert residual[0].max() > 1e-3


def test_consensus_gate_closes_where_the_views_cancel() -> None:
    student = torch.full((1, 4), 0.25, dtype=torch.float64).log()
    swing = torch.tensor([[0.3, -0.3, 0.2, -0.2]], dtype=torch.float64)
    _, residual, gate = Consensus(("up", "down")).parts(
        student, {"up": student + swing, "down": student - swing}
    )
    assert gate.abs().max() < 1e-6
    assert residual.min() > 1e-3


def test_consensus_limits_where_a_side_has_no_mass() -> None:
    student = torch.tensor([[0.5, 0.5, 0.0]]).log()
    first, second = torch.tensor([[0.4, 0.2, 0.4]]).log(), torch.tensor([[0.0, 0.9, 0.1]]).log()
    target = Consensus(("first", "second")).log_probs(student, {"first": first, "second": second}).exp()
    assert target[0, 0] == 0  # one view excludes it
    torch.testing.assert_close(target[0, 2], torch.tensor(0.25))  # new to the student: the arithmetic mean


def test_consensus_works_on_single_tokens_as_on_the_vocabulary() -> None:
    ids = torch.tensor([0, 3, 5, 2]).unsqueeze(-1)
    picked = {key: value.gather(-1, ids) for key, value in TEACHERS.items()}
    sampled = Consensus(VIEWS).log_probs(STUDENT.gather(-1, ids), picked)
    torch.testing.assert_close(sampled, Consensus(VIEWS).log_probs(STUDENT, TEACHERS).gather(-1, ids))


def test_renormalized_consensus_is_a_distribution() -> None:
    target = Consensus(VIEWS, renormalize=True).log_probs(STUDENT, TEACHERS)
    torch.testing.assert_close(target.exp().sum(-1), torch.ones(4, dtype=torch.float64))


# ---- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", [Mixture, GeometricMean])
@pytest.mark.parametrize("weights", [{}, {"a": 0.5, "b": 0.4}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}])
def test_weights_that_are_no_distribution_are_refused(pool: type[Mixture], weights: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="weights"):
        pool(weights)


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_share_and_rate_outside_the_unit_interval_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="share"):
        StudentMix("a", bad)
    with pytest.raises(ValueError, match="rate"):
        TrustRegion("a", "b", bad)


@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan])
def test_strength_and_temperature_out_of_range_are_refused(bad: float) -> None:
    with pytest.raises(ValueError, match="strength"):
        Extrapolation("a", "b", bad)
    with pytest.raises(ValueError, match="temperature"):
        AdvantageTilted("a", bad)


def test_consensus_refuses_no_view_a_repeated_view_and_a_zero_eps() -> None:
    for names in ((), ("a", "a")):
        with pytest.raises(ValueError, match="names"):
            Consensus(names)
    with pytest.raises(ValueError, match="eps"):
        Consensus(("a",), eps=0.0)


@pytest.mark.parametrize("renormalize", [False, True])
def test_the_gate_of_a_consensus_is_a_share_and_never_turns_the_mean_of_the_deltas(renormalize: bool) -> None:
    """On candidate sets too, where q_G is renormalized (card 19): A_G stays the mean of the Δ."""
    for seed in range(20):
        own, *views = (log_probs(50, 5, seed=10 * seed + i, spread=2.0) for i in range(4))
        roles = dict(zip("abc", views, strict=True))
        _, residual, gate = Consensus(VIEWS, renormalize=renormalize).parts(own, roles)
        shared = torch.stack([view - own for view in views]).mean(0).abs()
        assert (gate >= 0).all()
        assert (gate <= 1).all()
        assert (gate * residual <= shared + 1e-12).all()
