"""Every divergence: value against numpy, gradient against finite differences, and its promises."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from selfteach.objective.divergence import (
    DIVERGENCES,
    JSD,
    AdaptiveKL,
    Alpha,
    Divergence,
    EntropyAware,
    ForwardKL,
    Jeffreys,
    MixedKL,
    Renyi,
    ReverseKL,
    SkewForwardKL,
    SkewReverseKL,
    ToDi,
    TotalVariation,
    gkd_jsd,
    make_divergence,
)

# ---- an independent float64 reference on probabilities, entry by entry, in plain loops -------------------


def kl(a: np.ndarray, b: np.ndarray) -> float:
    return float(
        sum(
            x * (math.log(x) - math.log(y)) if y > 0 else math.inf for x, y in zip(a, b, strict=True) if x > 0
        )
    )


def generated(f: Callable[[float], float]) -> Callable[[np.ndarray, np.ndarray], float]:
    """Csiszár's Σ p f(q / p) for p > 0 everywhere: the f-divergence of card 23."""
    return lambda p, q: float(sum(x * f(y / x) for x, y in zip(p, q, strict=True)))


def xlogx(u: float) -> float:
    return u * math.log(u) if u > 0 else 0.0


def reference_jsd(beta: float) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda p, q: (
        beta * kl(q, beta * q + (1 - beta) * p) + (1 - beta) * kl(p, beta * q + (1 - beta) * p)
    )


def reference_alpha(alpha: float) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda p, q: (1 - float(np.sum(q**alpha * p ** (1 - alpha)))) / (alpha * (1 - alpha))


def reference_renyi(alpha: float) -> Callable[[np.ndarray, np.ndarray], float]:
    return lambda p, q: math.log(float(np.sum(q**alpha * p ** (1 - alpha)))) / (alpha - 1)


def reference_entropy_aware(p: np.ndarray, q: np.ndarray) -> float:
    entropy = -sum(xlogx(y) for y in q)
    forward = 1 / (1 + math.exp(-(entropy - 0.8) / 0.1))
    return forward * kl(q, p) + (1 - forward) * kl(p, q)


def reference_todi(p: np.ndarray, q: np.ndarray) -> float:
    total = 0.0
    for x, y in zip(p, q, strict=True):
        if x > 0 or y > 0:
            total += (
                y / (x + y) * y * math.log(y / x) + x / (x + y) * x * math.log(x / y)
                if x * y > 0
                else math.inf
            )
    return total


def reference_adaptive(p: np.ndarray, q: np.ndarray) -> float:
    order = np.argsort(-q, kind="stable")
    head, mass = [], 0.0
    for j in order:
        if mass >= 0.5 * q.sum():
            break
        head.append(j)
        mass += q[j]
    gap = np.abs(q - p)
    share = gap[head].sum() / gap.sum() if gap.sum() else 0.5
    return float(share * kl(q, p) + (1 - share) * kl(p, q))


Reference = Callable[[np.ndarray, np.ndarray], float]
CASES: dict[str, tuple[Divergence, Reference]] = {
    "forward KL": (ForwardKL(), lambda p, q: kl(q, p)),
    "reverse KL": (ReverseKL(), lambda p, q: kl(p, q)),
    "reverse KL, detached ratio": (ReverseKL(detach_ratio=True), lambda p, q: kl(p, q)),
    "JSD ½": (JSD(), reference_jsd(0.5)),
    "JSD .2": (JSD(0.2), reference_jsd(0.2)),
    "JSD .2 scaled": (JSD(0.2, scaled=True), lambda p, q: reference_jsd(0.2)(p, q) / 0.16),
    "skew forward KL": (SkewForwardKL(0.1), lambda p, q: kl(q, 0.1 * q + 0.9 * p)),
    "skew reverse KL": (SkewReverseKL(0.3), lambda p, q: kl(p, 0.7 * q + 0.3 * p)),
    "total variation": (TotalVariation(), lambda p, q: 0.5 * float(np.abs(p - q).sum())),
    "alpha ½": (Alpha(), lambda p, q: 2 * float(((np.sqrt(p) - np.sqrt(q)) ** 2).sum())),
    "alpha .3": (Alpha(0.3), reference_alpha(0.3)),
    "Rényi .6": (Renyi(0.6), reference_renyi(0.6)),
    "Jeffreys": (Jeffreys(), lambda p, q: kl(p, q) + kl(q, p)),
    "mixed KL": (MixedKL(0.3), lambda p, q: 0.3 * kl(q, p) + 0.7 * kl(p, q)),
    "entropy-aware": (EntropyAware(), reference_entropy_aware),
    "ToDi": (ToDi(), reference_todi),
    "adaptive KL": (AdaptiveKL(), reference_adaptive),
}
# f with f(1) = 0 such that D = Σ p f(q/p); u = teacher / student.
GENERATORS: dict[str, Callable[[float], float]] = {
    "forward KL": xlogx,
    "reverse KL": lambda u: -math.log(u),
    "JSD ½": lambda u: 0.5 * (u * math.log(2 * u / (u + 1)) + math.log(2 / (u + 1))),
    "JSD .2": lambda u: 0.2 * xlogx(u) - (0.2 * u + 0.8) * math.log(0.2 * u + 0.8),
    "skew forward KL": lambda u: u * math.log(u / (0.1 * u + 0.9)),
    "skew reverse KL": lambda u: -math.log(0.7 * u + 0.3),
    "total variation": lambda u: 0.5 * abs(u - 1),
    "alpha .3": lambda u: (0.3 * u + 0.7 - u**0.3) / 0.21,
    "Jeffreys": lambda u: (u - 1) * math.log(u),
    "ToDi": lambda u: (u - 1) * math.log(u),
}
ALL = pytest.mark.parametrize("name", CASES)


def log_probs(*shape: int, seed: int = 0, spread: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(-1)


def logit_gradient_by_autograd(divergence: Divergence, logits: Tensor, teacher: Tensor) -> Tensor:
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(divergence(logits.log_softmax(-1), teacher).sum(), logits)[0]


@st.composite
def logit_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Student and teacher logits up to ±1e4, one masked vocabulary on both sides (token 0 stays)."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 7)))
    scale = draw(st.sampled_from([1e-3, 1.0, 30.0, 1e4]))
    unit = st.floats(-1, 1, width=32)
    student, teacher = (
        torch.from_numpy(scale * draw(arrays(np.float64, shape, elements=unit))) for _ in range(2)
    )
    masked = torch.from_numpy(draw(arrays(np.bool_, shape[-1])))
    masked[0] = False
    return student.masked_fill(masked, -math.inf), teacher.masked_fill(masked, -math.inf)


# ---- values ----------------------------------------------------------------------------------------------


@ALL
def test_value_equals_the_reference(name: str) -> None:
    divergence, reference = CASES[name]
    student, teacher = log_probs(6, 9, seed=1), log_probs(6, 9, seed=2)
    expected = [reference(p, q) for p, q in zip(student.exp().numpy(), teacher.exp().numpy(), strict=True)]
    np.testing.assert_allclose(divergence(student, teacher).numpy(), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("name", GENERATORS)
def test_value_equals_its_f_generator(name: str) -> None:
    student, teacher = log_probs(6, 9, seed=3), log_probs(6, 9, seed=4)
    pairs = zip(student.exp().numpy(), teacher.exp().numpy(), strict=True)
    expected = [generated(GENERATORS[name])(p, q) for p, q in pairs]
    np.testing.assert_allclose(CASES[name][0](student, teacher).numpy(), expected, rtol=1e-11)


@ALL
def test_masked_vocabulary_leaves_the_value_of_the_rest(name: str) -> None:
    divergence, _ = CASES[name]
    student, teacher = torch.randn(2, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    wide = torch.full((5, 3), -math.inf, dtype=torch.float64)
    masked = [torch.cat([x, wide], -1).log_softmax(-1) for x in (student, teacher)]
    small = divergence(student.log_softmax(-1), teacher.log_softmax(-1))
    torch.testing.assert_close(divergence(*masked), small, rtol=1e-12, atol=1e-14)


@ALL
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_result_has_the_type_and_leading_shape_of_the_input(name: str, dtype: torch.dtype) -> None:
    student, teacher = log_probs(2, 3, 5, seed=1).to(dtype), log_probs(2, 3, 5, seed=2).to(dtype)
    divergence = CASES[name][0]
    assert (divergence(student, teacher).dtype, divergence(student, teacher).shape) == (dtype, (2, 3))
    assert (divergence.entries(student, teacher).dtype, divergence.entries(student, teacher).shape) == (
        dtype,
        (2, 3, 5),
    )
    assert divergence.logit_gradient(student, teacher).dtype == dtype


@ALL
def test_entries_sum_to_the_value(name: str) -> None:
    student, teacher = log_probs(4, 6, seed=1), log_probs(4, 6, seed=2)
    divergence = CASES[name][0]
    torch.testing.assert_close(divergence.entries(student, teacher).sum(-1), divergence(student, teacher))


@ALL
@settings(max_examples=60, deadline=None)
@given(pair=logit_pairs())
def test_value_is_never_nan_nor_negative(name: str, pair: tuple[Tensor, Tensor]) -> None:
    for dtype, slack in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
        student, teacher = (x.to(dtype).log_softmax(-1) for x in pair)
        value = CASES[name][0](student, teacher)
        assert not value.isnan().any()
        assert (value >= -slack).all()


@ALL
def test_float32_agrees_with_float64(name: str) -> None:
    student, teacher = log_probs(50, 40, seed=1, spread=3), log_probs(50, 40, seed=2, spread=3)
    single = CASES[name][0](student.float(), teacher.float())
    torch.testing.assert_close(single.double(), CASES[name][0](student, teacher), rtol=1e-5, atol=1e-6)


# ---- zero at equality ------------------------------------------------------------------------------------


@ALL
@settings(max_examples=30, deadline=None)
@given(pair=logit_pairs())
def test_value_and_gradient_vanish_when_student_equals_teacher(
    name: str, pair: tuple[Tensor, Tensor]
) -> None:
    divergence, logits = CASES[name][0], pair[0]
    teacher = logits.log_softmax(-1)
    zeros = torch.zeros_like(logits)
    torch.testing.assert_close(divergence(teacher, teacher), zeros[..., 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(
        logit_gradient_by_autograd(divergence, logits, teacher), zeros, rtol=0, atol=1e-12
    )
    torch.testing.assert_close(divergence.logit_gradient(teacher, teacher), zeros, rtol=0, atol=1e-12)


# ---- gradients -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("ToDi", "adaptive KL")])
@pytest.mark.parametrize(
    "clips", [{}, {"clip_token": 0.3}, {"clip_entry": 0.04}], ids=["plain", "token", "entry"]
)
def test_gradient_passes_finite_differences(name: str, clips: dict[str, float]) -> None:
    divergence = CASES[name][0]
    if isinstance(divergence, Renyi) and "clip_entry" in clips:
        pytest.skip("Rényi refuses an entry clip")
    if clips and divergence == ReverseKL(detach_ratio=True):
        pytest.skip("with a clip the detached form is no longer the gradient of its value")
    divergence = type(divergence)(**(vars(divergence) | clips))
    logits, teacher = log_probs(5, 6, seed=7).requires_grad_(), log_probs(5, 6, seed=8)
    assert torch.autograd.gradcheck(lambda z: divergence(z.log_softmax(-1), teacher), logits)


def test_a_clipped_ratio_is_a_policy_gradient_with_clipped_advantages() -> None:
    logits, teacher = log_probs(5, 6, seed=7).requires_grad_(), log_probs(5, 6, seed=8)
    divergence = ReverseKL(detach_ratio=True, clip_ratio=0.4)
    p = logits.detach().exp()
    advantage = (teacher - logits.detach()).clamp(-0.4, 0.4)
    expected = -p * (advantage - (p * advantage).sum(-1, keepdim=True))
    assert ((teacher - logits.detach()).abs() > 0.4).any()
    torch.testing.assert_close(logit_gradient_by_autograd(divergence, logits, teacher), expected)
    torch.testing.assert_close(divergence.logit_gradient(logits.detach(), teacher), expected)
    wide = ReverseKL(detach_ratio=True, clip_ratio=100.0)
    torch.testing.assert_close(wide(logits, teacher), ReverseKL()(logits, teacher))


def test_a_clipped_ratio_needs_the_detached_form() -> None:
    with pytest.raises(ValueError, match="needs detach_ratio"):
        ReverseKL(clip_ratio=5.0)


def test_adaptive_gradient_passes_finite_differences_with_its_weights_held_fixed() -> None:
    logits, teacher = log_probs(5, 6, seed=7), log_probs(5, 6, seed=8)
    forward, reverse = AdaptiveKL().weights(logits, teacher)

    def frozen(z: Tensor) -> Tensor:
        p = z.log_softmax(-1)
        return (forward * teacher.exp() * (teacher - p) + reverse * p.exp() * (p - teacher)).sum()

    numeric = torch.zeros_like(logits)
    for index in np.ndindex(*logits.shape):
        step = torch.zeros_like(logits)
        step[index] = 1e-6
        numeric[index] = (frozen(logits + step) - frozen(logits - step)) / 2e-6
    torch.testing.assert_close(AdaptiveKL().logit_gradient(logits, teacher), numeric, rtol=1e-6, atol=1e-8)


def test_the_head_is_learned_by_forward_kl_and_the_tail_by_reverse() -> None:
    teacher = torch.tensor([0.6, 0.2, 0.1, 0.1], dtype=torch.float64).log()
    wrong_head = torch.tensor([0.3, 0.35, 0.175, 0.175], dtype=torch.float64).log()
    wrong_tail = torch.tensor([0.6, 0.1, 0.15, 0.15], dtype=torch.float64).log()
    assert AdaptiveKL().weights(wrong_head, teacher)[0].item() == pytest.approx(0.5)
    assert AdaptiveKL().weights(wrong_tail, teacher)[0].item() == pytest.approx(0.0)
    assert AdaptiveKL(head=0.7).weights(wrong_tail, teacher)[0].item() == pytest.approx(0.5)
    assert AdaptiveKL().weights(teacher, teacher)[0].item() == 0.5


def test_todi_gradient_passes_finite_differences_with_its_weights_held_fixed() -> None:
    logits, teacher = log_probs(5, 6, seed=7), log_probs(5, 6, seed=8)
    share = (teacher - logits).sigmoid()  # log_probs are normalized, so these logits are log-probs

    def frozen(z: Tensor) -> Tensor:
        p = z.log_softmax(-1)
        return (share * teacher.exp() * (teacher - p) + (1 - share) * p.exp() * (p - teacher)).sum()

    numeric = torch.zeros_like(logits)
    for index in np.ndindex(*logits.shape):
        step = torch.zeros_like(logits)
        step[index] = 1e-6
        numeric[index] = (frozen(logits + step) - frozen(logits - step)) / 2e-6
    torch.testing.assert_close(ToDi().logit_gradient(logits, teacher), numeric, rtol=1e-6, atol=1e-8)


@ALL
@settings(max_examples=60, deadline=None)
@given(pair=logit_pairs(), clip=st.sampled_from([{}, {"clip_entry": 0.02}, {"clip_token": 0.1}, "both"]))
def test_closed_form_gradient_equals_autograd(name: str, pair: tuple[Tensor, Tensor], clip: object) -> None:
    divergence = CASES[name][0]
    clips = {"clip_entry": 0.02, "clip_token": 0.1} if clip == "both" else dict(clip)  # type: ignore[call-overload]
    if isinstance(divergence, Renyi):
        clips.pop("clip_entry", None)
    divergence = type(divergence)(**(vars(divergence) | clips))
    teacher = pair[1].log_softmax(-1)
    closed = divergence.logit_gradient(pair[0].log_softmax(-1), teacher)
    scale = max(1.0, float(closed.abs().max()))
    torch.testing.assert_close(
        closed, logit_gradient_by_autograd(divergence, pair[0], teacher), rtol=1e-9, atol=1e-11 * scale
    )


@ALL
def test_logit_gradient_sums_to_zero(name: str) -> None:
    gradient = CASES[name][0].logit_gradient(log_probs(8, 12, seed=1), log_probs(8, 12, seed=2))
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(8, dtype=torch.float64), rtol=0, atol=1e-13)


@ALL
def test_perturbing_the_teacher_changes_the_gradient(name: str) -> None:
    student, teacher = log_probs(1, 6, seed=1), log_probs(1, 6, seed=2)
    nudged = (teacher + 0.1 * torch.eye(6, dtype=torch.float64)[:1]).log_softmax(-1)
    divergence = CASES[name][0]
    if isinstance(divergence, TotalVariation):  # its gradient sees only which side is larger
        nudged = student.flip(-1)
    change = divergence.logit_gradient(student, nudged) - divergence.logit_gradient(student, teacher)
    assert change.abs().max() > 1e-4
    assert (divergence(student, nudged) - divergence(student, teacher)).abs() > 1e-4


@ALL
def test_teacher_never_receives_a_gradient(name: str) -> None:
    student, teacher = log_probs(3, 5, seed=1).requires_grad_(), log_probs(3, 5, seed=2).requires_grad_()
    CASES[name][0](student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


@pytest.mark.parametrize(
    ("name", "formula"),
    [
        ("forward KL", lambda p, q: p - q),
        ("reverse KL", lambda p, q: p * ((p / q).log() - (p * (p / q).log()).sum(-1, keepdim=True))),
        (
            "JSD .2",
            lambda p, q: (
                0.8 * p * ((p / (m := 0.2 * q + 0.8 * p)).log() - (p * (p / m).log()).sum(-1, keepdim=True))
            ),
        ),
        (
            "alpha .3",
            lambda p, q: (p * (a := q**0.3 * p**0.7).sum(-1, keepdim=True) - a) / 0.3,
        ),
        ("Rényi .6", lambda p, q: p - (t := q**0.6 * p**0.4) / t.sum(-1, keepdim=True)),
    ],
)
def test_logit_gradient_is_the_published_formula(
    name: str, formula: Callable[[Tensor, Tensor], Tensor]
) -> None:
    student, teacher = log_probs(4, 7, seed=1), log_probs(4, 7, seed=2)
    expected = formula(student.exp(), teacher.exp())
    torch.testing.assert_close(
        CASES[name][0].logit_gradient(student, teacher), expected, rtol=1e-11, atol=1e-14
    )


def test_forward_kl_at_high_temperature_is_the_logit_mse() -> None:
    tau, student, teacher = 1e5, log_probs(1, 8, seed=1), log_probs(1, 8, seed=2)
    gradient = tau * ForwardKL().logit_gradient(
        (student / tau).log_softmax(-1), (teacher / tau).log_softmax(-1)
    )
    gap = student - teacher
    torch.testing.assert_close(gradient, (gap - gap.mean()) / 8, rtol=1e-3, atol=1e-4)


# ---- extremes --------------------------------------------------------------------------------------------

ONE_MISSES = (
    torch.tensor([[0.0, 0.0, -math.inf]]).log_softmax(-1),
    torch.tensor([[0.0, 1.0, 2.0]]).log_softmax(-1),
)
INFINITE_IF_STUDENT_MISSES = {"forward KL", "Jeffreys", "mixed KL", "entropy-aware", "ToDi", "adaptive KL"}
INFINITE_IF_TEACHER_MISSES = INFINITE_IF_STUDENT_MISSES - {"forward KL"} | {
    "reverse KL",
    "reverse KL, detached ratio",
}


@ALL
def test_token_only_the_teacher_allows_gives_infinity_or_a_number_but_no_nan(name: str) -> None:
    narrow, wide = ONE_MISSES
    assert CASES[name][0](narrow, wide).isinf().all() == (name in INFINITE_IF_STUDENT_MISSES)


@ALL
def test_token_only_the_student_allows_gives_infinity_or_a_number_but_no_nan(name: str) -> None:
    narrow, wide = ONE_MISSES
    assert CASES[name][0](wide, narrow).isinf().all() == (name in INFINITE_IF_TEACHER_MISSES)


def test_infinite_forward_kl_still_has_the_gradient_p_minus_q() -> None:
    narrow, wide = ONE_MISSES
    torch.testing.assert_close(
        logit_gradient_by_autograd(ForwardKL(), narrow, wide), narrow.exp() - wide.exp()
    )


@pytest.mark.parametrize(
    "divergence", [ReverseKL(clip_entry=1.0), Jeffreys(clip_entry=1.0), ReverseKL(clip_token=1.0)]
)
def test_clip_makes_an_infinite_reverse_kl_finite(divergence: Divergence) -> None:
    narrow, wide = ONE_MISSES
    assert divergence(wide, narrow).isfinite().all()
    if divergence.clip_entry is not None:
        assert divergence.logit_gradient(wide, narrow).isfinite().all()


def test_renyi_of_disjoint_supports_is_infinite() -> None:
    one, other = torch.tensor([[0.0, -math.inf]]), torch.tensor([[-math.inf, 0.0]])
    assert Renyi()(one, other).isposinf().all()


@ALL
def test_opposite_certainties_at_scale_1e4_stay_finite_in_float32(name: str) -> None:
    student = torch.tensor([[1e4, 0.0, -1e4]]).log_softmax(-1)
    divergence = CASES[name][0]
    assert divergence(student, student.flip(-1)).isfinite().all()
    assert divergence.logit_gradient(student, student.flip(-1)).isfinite().all()


@ALL
def test_nothing_compared_with_nothing_is_zero_with_zero_gradient(name: str) -> None:
    student = torch.full((1, 4), -math.inf, dtype=torch.float64, requires_grad=True)
    value = CASES[name][0](student, student.detach())
    value.sum().backward()
    assert value.item() == 0
    assert student.grad is not None
    assert (student.grad == 0).all()


def test_infinite_part_of_weight_zero_counts_as_zero() -> None:
    narrow, wide = ONE_MISSES
    only_forward, only_reverse = (EntropyAware(threshold=threshold) for threshold in (-99.0, 99.0))
    torch.testing.assert_close(only_forward(wide, narrow), ForwardKL()(wide, narrow))
    torch.testing.assert_close(only_reverse(narrow, wide), ReverseKL()(narrow, wide))
    torch.testing.assert_close(
        logit_gradient_by_autograd(only_forward, wide, narrow), ForwardKL().logit_gradient(wide, narrow)
    )
    torch.testing.assert_close(
        only_forward.logit_gradient(wide, narrow), ForwardKL().logit_gradient(wide, narrow)
    )


# ---- bounds, order, symmetry -----------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(pair=logit_pairs(), share=st.floats(0.01, 0.99))
def test_bounded_divergences_keep_their_bounds(pair: tuple[Tensor, Tensor], share: float) -> None:
    student, teacher = (x.log_softmax(-1) for x in pair)
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    bounds = {
        JSD(): math.log(2),
        JSD(share): entropy,
        SkewForwardKL(share): -math.log(share),
        SkewReverseKL(share): -math.log(share),
        TotalVariation(): 1.0,
        Alpha(share): 1 / (share * (1 - share)),
    }
    for divergence, bound in bounds.items():
        assert (divergence(student, teacher) <= bound + 1e-9).all(), divergence


@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs())
def test_pinsker_and_hellinger_inequalities_hold(pair: tuple[Tensor, Tensor]) -> None:
    student, teacher = (x.log_softmax(-1) for x in pair)
    distance = TotalVariation()(student, teacher)
    for divergence in (ForwardKL(), ReverseKL()):
        assert (2 * distance.square() <= divergence(student, teacher) + 1e-12).all()
    hellinger = Alpha(0.5)(student, teacher) / 4
    assert (hellinger <= distance + 1e-12).all()
    assert (distance <= (2 * hellinger).clamp(min=0).sqrt() + 1e-7).all()


@pytest.mark.parametrize(
    ("one", "mirrored"),
    [
        (ForwardKL(), ReverseKL()),
        (JSD(), JSD()),
        (JSD(0.2), JSD(0.8)),
        (SkewForwardKL(0.3), SkewReverseKL(0.3)),
        (TotalVariation(), TotalVariation()),
        (Jeffreys(), Jeffreys()),
        (MixedKL(0.3), MixedKL(0.7)),
        (Alpha(0.3), Alpha(0.7)),
        (Renyi(0.5), Renyi(0.5)),
    ],
)
def test_swapping_the_roles_gives_the_mirrored_divergence(one: Divergence, mirrored: Divergence) -> None:
    student, teacher = log_probs(5, 7, seed=1), log_probs(5, 7, seed=2)
    torch.testing.assert_close(one(student, teacher), mirrored(teacher, student))


def test_forward_kl_is_not_reverse_kl() -> None:
    student, teacher = log_probs(1, 7, seed=1), log_probs(1, 7, seed=2)
    assert (ForwardKL()(student, teacher) - ReverseKL()(student, teacher)).abs() > 1e-2


# ---- limits ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("near", "limit", "factor"),
    [
        (JSD(1e-6), ForwardKL(), 1e-6),
        (JSD(1 - 1e-6), ReverseKL(), 1e-6),
        (JSD(1e-6, scaled=True), ForwardKL(), 1.0),
        (JSD(1 - 1e-6, scaled=True), ReverseKL(), 1.0),
        (JSD(0.5, scaled=True), JSD(), 4.0),
        (SkewForwardKL(1e-7), ForwardKL(), 1.0),
        (SkewReverseKL(1e-7), ReverseKL(), 1.0),
        (Alpha(1 - 1e-6), ForwardKL(), 1.0),
        (Alpha(1e-6), ReverseKL(), 1.0),
        (Renyi(1 - 1e-6), ForwardKL(), 1.0),
        (MixedKL(1 - 1e-7), ForwardKL(), 1.0),
        (MixedKL(0.5), Jeffreys(), 0.5),
        (EntropyAware(threshold=0.0, softness=1e-3), ForwardKL(), 1.0),
        (EntropyAware(threshold=9.0, softness=1e-3), ReverseKL(), 1.0),
    ],
    ids=str,
)
def test_limit_holds_in_value_and_gradient(near: Divergence, limit: Divergence, factor: float) -> None:
    student, teacher = log_probs(5, 7, seed=1), log_probs(5, 7, seed=2)
    torch.testing.assert_close(near(student, teacher), factor * limit(student, teacher), rtol=1e-4, atol=0)
    torch.testing.assert_close(
        near.logit_gradient(student, teacher),
        factor * limit.logit_gradient(student, teacher),
        rtol=1e-3,
        atol=1e-5 * factor,
    )


@pytest.mark.parametrize("beta", [0.0, 1.0])
def test_unscaled_jsd_is_refused_where_it_would_be_silently_zero(beta: float) -> None:
    with pytest.raises(ValueError, match="beta"):
        JSD(beta)


def test_gkd_beta_jumps_to_the_pure_kls_at_its_ends() -> None:
    assert gkd_jsd(0) == ForwardKL()
    assert gkd_jsd(1, clip_entry=0.1) == ReverseKL(clip_entry=0.1)
    assert gkd_jsd(0.3, clip_token=2.0) == JSD(0.3, clip_token=2.0)


@pytest.mark.parametrize("beta", [0.1, 0.5, 0.8])
def test_scaled_jsd_has_the_curvature_of_a_kl(beta: float) -> None:
    teacher = log_probs(1, 6, seed=1)
    near = (teacher + 1e-3 * log_probs(1, 6, seed=2)).log_softmax(-1)
    torch.testing.assert_close(
        JSD(beta, scaled=True)(near, teacher), ForwardKL()(near, teacher), rtol=5e-3, atol=0
    )


def test_entropy_aware_weight_rises_with_the_teachers_entropy() -> None:
    teacher = log_probs(1, 9, seed=1).repeat(20, 1) * torch.linspace(6, 0, 20, dtype=torch.float64).unsqueeze(
        -1
    )
    forward, reverse = EntropyAware().weights(log_probs(20, 9, seed=2), teacher.log_softmax(-1))
    assert isinstance(forward, Tensor)
    assert (forward.squeeze(-1).diff() > 0).all()
    torch.testing.assert_close(forward + reverse, torch.ones_like(forward))


def test_todi_has_the_value_of_jeffreys_but_not_its_gradient() -> None:
    student, teacher = log_probs(5, 7, seed=1), log_probs(5, 7, seed=2)
    torch.testing.assert_close(ToDi().entries(student, teacher), Jeffreys().entries(student, teacher))
    gap = ToDi().logit_gradient(student, teacher) - Jeffreys().logit_gradient(student, teacher)
    assert gap.abs().max() > 1e-2


# ---- clips -----------------------------------------------------------------------------------------------


def test_clip_acts_on_each_entry_before_the_sum() -> None:
    student, teacher = log_probs(6, 8, seed=1), log_probs(6, 8, seed=2)
    plain = (teacher.exp() * (teacher - student)).numpy()
    clipped = ForwardKL(clip_entry=0.05)(student, teacher)
    np.testing.assert_allclose(clipped.numpy(), np.minimum(plain, 0.05).sum(-1), rtol=1e-12)
    assert (clipped < ForwardKL()(student, teacher)).all()


def test_clipped_sum_can_be_negative_though_the_kl_is_not() -> None:
    student, teacher = torch.tensor([[0.2, 0.8]]).log(), torch.tensor([[0.8, 0.2]]).log()
    assert ForwardKL()(student, teacher) > 0
    assert ForwardKL(clip_entry=0.05)(student, teacher) < -0.2


def test_clipped_forward_kl_has_the_gradient_of_card_01_and_pushes_clipped_tokens_down() -> None:
    student, teacher = log_probs(6, 8, seed=1), log_probs(6, 8, seed=2)
    p, q = student.exp(), teacher.exp()
    free = q * (teacher - student) <= 0.05
    expected = p * (q * free).sum(-1, keepdim=True) - q * free
    gradient = ForwardKL(clip_entry=0.05).logit_gradient(student, teacher)
    torch.testing.assert_close(gradient, expected)
    assert (gradient[~free] > 0).all()
    assert (~free).any()


def test_infinite_clip_changes_nothing() -> None:
    student, teacher = log_probs(6, 8, seed=1), log_probs(6, 8, seed=2)
    unclipped = ForwardKL(clip_entry=math.inf, clip_token=math.inf)
    torch.testing.assert_close(unclipped(student, teacher), ForwardKL()(student, teacher))
    torch.testing.assert_close(
        unclipped.logit_gradient(student, teacher), ForwardKL().logit_gradient(student, teacher)
    )


def test_token_clip_caps_the_sum_and_stops_the_gradient_there() -> None:
    student, teacher = log_probs(30, 8, seed=1), log_probs(30, 8, seed=2)
    plain = ReverseKL()(student, teacher)
    cap = float(plain.median())
    clipped = ReverseKL(clip_token=cap)
    torch.testing.assert_close(clipped(student, teacher), plain.clamp(max=cap))
    gradient = clipped.logit_gradient(student, teacher)
    assert (gradient[plain > cap] == 0).all()
    torch.testing.assert_close(
        gradient[plain < cap], ReverseKL().logit_gradient(student, teacher)[plain < cap]
    )


def test_renyi_refuses_an_entry_clip() -> None:
    with pytest.raises(ValueError, match="clip_entry"):
        Renyi(clip_entry=0.1)


# ---- registry and mistakes -------------------------------------------------------------------------------


def test_every_registered_divergence_is_in_the_table_of_this_file() -> None:
    assert {type(divergence) for divergence, _ in CASES.values()} == set(DIVERGENCES.values())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_registry_builds_each_divergence_with_options_and_its_docstring_names_it(name: str) -> None:
    assert make_divergence(name, clip_token=2.0) == DIVERGENCES[name](clip_token=2.0)
    assert (DIVERGENCES[name].__doc__ or "").startswith(f"``{name}``")


def test_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="'reverse_kl'"):
        make_divergence("revers_kl")


def test_unknown_option_is_named() -> None:
    with pytest.raises(ValueError, match="beta"):
        make_divergence("forward_kl", beta=0.5)


@pytest.mark.parametrize("clip", ["clip_entry", "clip_token"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_clip_that_is_not_positive_is_refused_by_name(clip: str, value: float) -> None:
    with pytest.raises(ValueError, match=clip):
        ForwardKL(**{clip: value})


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        (JSD, "beta"),
        (SkewForwardKL, "alpha"),
        (SkewReverseKL, "alpha"),
        (Alpha, "alpha"),
        (Renyi, "alpha"),
        (MixedKL, "forward"),
    ],
)
@pytest.mark.parametrize("value", [-0.1, 0.0, 1.0, 1.5, math.nan])
def test_share_outside_the_open_unit_interval_is_refused_by_name(
    kind: type, option: str, value: float
) -> None:
    with pytest.raises(ValueError, match=option):
        kind(**{option: value})


def test_softness_must_be_positive() -> None:
    with pytest.raises(ValueError, match="softness"):
        EntropyAware(softness=0.0)


METHODS = pytest.mark.parametrize("method", ["__call__", "entries", "logit_gradient"])


@METHODS
def test_unequal_shapes_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"teacher has shape \[2, 6\], student \[2, 5\]"):
        getattr(ForwardKL(), method)(log_probs(2, 5), log_probs(2, 6))


@METHODS
def test_shapes_that_would_broadcast_are_refused(method: str) -> None:
    with pytest.raises(ValueError, match="teacher"):
        getattr(ForwardKL(), method)(log_probs(2, 5), log_probs(1, 5))


@METHODS
@pytest.mark.parametrize("shape", [(), (3, 0)])
def test_input_without_a_vocabulary_is_refused(method: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="student"):
        getattr(ForwardKL(), method)(torch.zeros(shape), torch.zeros(shape))


@METHODS
def test_half_precision_is_refused(method: str) -> None:
    half = log_probs(2, 5).bfloat16()
    with pytest.raises(ValueError, match=r"student is torch\.bfloat16"):
        getattr(ForwardKL(), method)(half, half)


@METHODS
def test_mixed_precision_is_refused(method: str) -> None:
    with pytest.raises(ValueError, match=r"teacher is torch\.float32"):
        getattr(ForwardKL(), method)(log_probs(2, 5), log_probs(2, 5).float())


@ALL
@METHODS
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_nan_logits_are_refused_by_name(name: str, method: str, who: str) -> None:
    logits = {"student": torch.zeros(2, 5), "teacher": torch.zeros(2, 5)}
    logits[who][1, 3] = math.nan
    with pytest.raises(ValueError, match=f"{who} holds NaN"):
        getattr(CASES[name][0], method)(*(x.log_softmax(-1) for x in logits.values()))
