"""Supports: what top-k keeps, what it does with the tail, and what that costs."""

from __future__ import annotations

import math
from typing import get_args

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
    Divergence,
    EntropyAware,
    ReverseKL,
)
from selfteach.objective.support import Chooser, Full, Support, Tail, TopK

DIVERGENCE = pytest.mark.parametrize("divergence", [kind() for kind in DIVERGENCES.values()], ids=str)
OF = pytest.mark.parametrize("of", get_args(Chooser))
TAIL = pytest.mark.parametrize("tail", get_args(Tail))
V = 7


def log_probs(*shape: int, seed: int = 0, spread: float = 1.5) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (spread * torch.randn(*shape, generator=generator, dtype=torch.float64)).log_softmax(-1)


STUDENT, TEACHER = log_probs(6, V, seed=1), log_probs(6, V, seed=2)


def value(
    divergence: Divergence, support: Support, student: Tensor = STUDENT, teacher: Tensor = TEACHER
) -> Tensor:
    return divergence(*support.restrict(student, teacher))


def gradient(
    divergence: Divergence, support: Support, logits: Tensor = STUDENT, teacher: Tensor = TEACHER
) -> Tensor:
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad(value(divergence, support, logits.log_softmax(-1), teacher).sum(), logits)[0]


@st.composite
def logit_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    shape = draw(st.tuples(st.integers(1, 3), st.integers(2, 6)))
    scale = draw(st.sampled_from([1.0, 30.0, 1e4]))
    unit = st.floats(-1, 1, width=32)
    student, teacher = (
        torch.from_numpy(scale * draw(arrays(np.float64, shape, elements=unit))) for _ in range(2)
    )
    masked = torch.from_numpy(draw(arrays(np.bool_, shape[-1])))
    masked[0] = False
    return student.masked_fill(masked, -math.inf), teacher.masked_fill(masked, -math.inf)


# ---- k = V, equality, no NaN: every divergence on every support ------------------------------------------


@DIVERGENCE
@OF
@TAIL
def test_k_equal_to_the_vocabulary_is_the_full_divergence(
    divergence: Divergence, of: Chooser, tail: Tail
) -> None:
    whole = TopK(V, of, tail)
    torch.testing.assert_close(value(divergence, whole), value(divergence, Full()))
    torch.testing.assert_close(gradient(divergence, whole), gradient(divergence, Full()))


@DIVERGENCE
@pytest.mark.parametrize("of", ["teacher", "student"])
def test_tail_bucket_of_a_single_token_is_the_full_divergence(divergence: Divergence, of: Chooser) -> None:
    torch.testing.assert_close(value(divergence, TopK(V - 1, of, "bucket")), value(divergence, Full()))
    torch.testing.assert_close(gradient(divergence, TopK(V - 1, of, "bucket")), gradient(divergence, Full()))


@DIVERGENCE
@OF
@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
@pytest.mark.parametrize("k", [1, 3])
def test_value_and_gradient_vanish_when_student_equals_teacher(
    divergence: Divergence, of: Chooser, tail: Tail, k: int
) -> None:
    logits = 2 * STUDENT
    same = logits.log_softmax(-1)
    assert value(divergence, TopK(k, of, tail), same, same).abs().max() < 1e-14
    assert gradient(divergence, TopK(k, of, tail), logits, same).abs().max() < 1e-14


@DIVERGENCE
@OF
@TAIL
@settings(max_examples=6, deadline=None)
@given(pair=logit_pairs(), k=st.integers(1, 6))
def test_extreme_and_masked_logits_never_give_nan(
    divergence: Divergence, of: Chooser, tail: Tail, pair: tuple[Tensor, Tensor], k: int
) -> None:
    support = TopK(min(k, pair[0].shape[-1]), of, tail)
    for dtype in (torch.float32, torch.float64):
        logits, teacher = pair[0].to(dtype).requires_grad_(), pair[1].to(dtype).log_softmax(-1)
        result = value(divergence, support, logits.log_softmax(-1), teacher)
        (slope,) = torch.autograd.grad(result[result.isfinite()].sum(), logits)
        assert result.dtype == dtype
        assert not result.isnan().any()
        assert slope[result.isfinite()].isfinite().all()


@DIVERGENCE
@OF
@pytest.mark.parametrize("tail", ["bucket", "renormalize"])
@settings(max_examples=6, deadline=None)
@given(pair=logit_pairs(), k=st.integers(1, 6))
def test_bucket_and_renormalized_values_are_never_negative(
    divergence: Divergence, of: Chooser, tail: Tail, pair: tuple[Tensor, Tensor], k: int
) -> None:
    student, teacher = (x.log_softmax(-1) for x in pair)
    assert (value(divergence, TopK(min(k, pair[0].shape[-1]), of, tail), student, teacher) >= -1e-11).all()


@DIVERGENCE
@OF
@TAIL
def test_gradient_passes_finite_differences(divergence: Divergence, of: Chooser, tail: Tail) -> None:
    if divergence in (DIVERGENCES["todi"](), DIVERGENCES["adaptive_kl"]()):
        pytest.skip("it holds its weights fixed; test_divergence checks it")
    logits = STUDENT.detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: value(divergence, TopK(3, of, tail), z.log_softmax(-1)), logits)


@DIVERGENCE
@OF
@TAIL
def test_perturbing_a_kept_teacher_entry_changes_the_gradient(
    divergence: Divergence, of: Chooser, tail: Tail
) -> None:
    if divergence == DIVERGENCES["total_variation"]():
        pytest.skip("its gradient sees only which side is larger")
    student = log_probs(1, V, seed=1)
    teacher = (student + 0.3 * log_probs(1, V, seed=4)).log_softmax(-1)
    nudge = 0.05 * torch.nn.functional.one_hot(student.argmax(-1), V)
    before, after = (gradient(divergence, TopK(4, of, tail), student, t) for t in (teacher, teacher + nudge))
    assert (after - before).abs().max() > 1e-5


@OF
@TAIL
def test_teacher_never_receives_a_gradient(of: Chooser, tail: Tail) -> None:
    student, teacher = STUDENT.clone().requires_grad_(), TEACHER.clone().requires_grad_()
    value(ReverseKL(), TopK(3, of, tail), student, teacher).sum().backward()
    assert teacher.grad is None
    assert student.grad is not None


# ---- which entries ---------------------------------------------------------------------------------------


def test_restrict_gathers_the_choosers_likeliest_entries_from_both_sides() -> None:
    student = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    teacher = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    ours, theirs = TopK(2, "student", "drop").restrict(student, teacher)
    torch.testing.assert_close(ours.exp(), torch.tensor([[0.5, 0.3]]))
    torch.testing.assert_close(theirs.exp(), torch.tensor([[0.1, 0.2]]))
    ours, theirs = TopK(2, "teacher", "drop").restrict(student, teacher)
    torch.testing.assert_close(ours.exp(), torch.tensor([[0.05, 0.15]]))
    torch.testing.assert_close(theirs.exp(), torch.tensor([[0.4, 0.3]]))


def test_union_counts_a_shared_entry_once_and_intersection_only_shared_ones() -> None:
    student = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    teacher = torch.tensor([[0.4, 0.1, 0.3, 0.2]]).log()
    ours, theirs = TopK(2, "union", "drop").restrict(student, teacher)
    torch.testing.assert_close(ours.exp(), torch.tensor([[0.5, 0.3, 0.0, 0.15]]))
    torch.testing.assert_close(theirs.exp(), torch.tensor([[0.4, 0.1, 0.0, 0.3]]))
    ours, theirs = TopK(2, "intersection", "drop").restrict(student, teacher)
    torch.testing.assert_close(ours.exp(), torch.tensor([[0.5, 0.0]]))
    torch.testing.assert_close(theirs.exp(), torch.tensor([[0.4, 0.0]]))


@OF
def test_bucket_holds_exactly_the_mass_outside_the_set(of: Chooser) -> None:
    for restricted in TopK(3, of, "bucket").restrict(STUDENT, TEACHER):
        torch.testing.assert_close(restricted.exp().sum(-1), torch.ones(6, dtype=torch.float64))


@OF
@settings(max_examples=40, deadline=None)
@given(pair=logit_pairs(), k=st.integers(1, 6))
def test_selected_ids_and_mask_describe_one_set(of: Chooser, pair: tuple[Tensor, Tensor], k: int) -> None:
    ids, kept, inside = TopK(min(k, pair[0].shape[-1]), of).select(*(x.log_softmax(-1) for x in pair))
    for row in range(len(ids)):
        listed = ids[row][kept[row]].tolist()
        assert sorted(listed) == inside[row].nonzero().flatten().tolist()


def test_tail_survives_where_one_minus_the_sum_would_round_to_zero() -> None:
    logits = torch.tensor([[30.0, 0.0, 0.0, 1.0]])
    (tail, _) = (x[..., -1] for x in TopK(1, "student", "bucket").restrict(*2 * (logits.log_softmax(-1),)))
    exact = logits.double().log_softmax(-1)[..., 1:].logsumexp(-1)
    assert 1 - logits.softmax(-1).max() == 0
    torch.testing.assert_close(tail.double(), exact, rtol=1e-6, atol=0)


# ---- order of the values ---------------------------------------------------------------------------------

# Data processing needs a fixed divergence; these mixes change their weights with the support.
ORDERED = pytest.mark.parametrize(
    "divergence", [kind() for kind in DIVERGENCES.values() if kind not in (EntropyAware, AdaptiveKL)], ids=str
)


@ORDERED
@OF
@settings(max_examples=8, deadline=None)
@given(pair=logit_pairs(), k=st.integers(1, 6))
def test_bucket_never_exceeds_the_full_divergence(
    divergence: Divergence, of: Chooser, pair: tuple[Tensor, Tensor], k: int
) -> None:
    student, teacher = (x.log_softmax(-1) for x in pair)
    coarse = value(divergence, TopK(min(k, student.shape[-1]), of, "bucket"), student, teacher)
    fine = value(divergence, Full(), student, teacher)
    assert (coarse <= fine + 1e-9 * fine.clamp(min=1)).all()


@ORDERED
@OF
def test_bucket_grows_with_k(divergence: Divergence, of: Chooser) -> None:
    near = (TEACHER + 0.1 * STUDENT).log_softmax(-1)  # so that the intersections are nested
    student = near if of == "intersection" else STUDENT
    values = torch.stack([value(divergence, TopK(k, of, "bucket"), student) for k in range(1, V + 1)])
    assert (values.diff(dim=0) >= -1e-12).all()
    assert (values[-1] > values[0]).all()


@DIVERGENCE
def test_renormalized_top_1_is_blind(divergence: Divergence) -> None:
    assert value(divergence, TopK(1, "student", "renormalize")).abs().max() < 1e-14


def test_renormalized_value_can_exceed_the_full_divergence() -> None:
    student = torch.tensor([[0.49, 0.02, 0.49]]).log()
    teacher = torch.tensor([[0.02, 0.49, 0.49]]).log()
    inflated = torch.tensor([[0.0, 0.0, 9.0]]) + torch.stack([student, teacher])
    student, teacher = inflated.log_softmax(-1)  # the two that differ are rare, the shared one fills the rest
    pair = TopK(2, "student", "renormalize").restrict(
        student[..., :2].log_softmax(-1), teacher[..., :2].log_softmax(-1)
    )
    assert ReverseKL()(*pair) > ReverseKL()(student, teacher)


def test_dropped_tail_can_make_the_value_negative() -> None:
    student, teacher = torch.tensor([[0.4, 0.35, 0.25]]).log(), torch.tensor([[0.45, 0.54, 0.01]]).log()
    assert value(ReverseKL(), TopK(2, "student", "drop"), student, teacher) < -0.1
    assert value(ReverseKL(), Full(), student, teacher) > 0


# ---- the bias of truncated reverse KL (card 05) ----------------------------------------------------------


def mass_gradient(logits: Tensor, teacher: Tensor, support: TopK) -> Tensor:
    inside = support.select(logits.log_softmax(-1), teacher)[2]
    logits = logits.detach().requires_grad_()
    return torch.autograd.grad((logits.softmax(-1) * inside).sum(), logits)[0]


@OF
def test_bias_of_truncated_reverse_kl_is_the_gradient_of_the_kept_mass(of: Chooser) -> None:
    support = TopK(3, of, "drop")
    biased, repaired = gradient(ReverseKL(), support), gradient(ReverseKL(detach_ratio=True), support)
    torch.testing.assert_close(biased - repaired, mass_gradient(STUDENT, TEACHER, support))


def test_detached_ratio_keeps_the_value_and_weights_it_as_the_paper_writes() -> None:
    support = TopK(3, "student", "drop")
    torch.testing.assert_close(value(ReverseKL(detach_ratio=True), support), value(ReverseKL(), support))
    logits = STUDENT.detach().requires_grad_()
    log_p = logits.log_softmax(-1)
    chosen = log_p.topk(3).indices
    p, log_q = log_p.gather(-1, chosen).exp(), TEACHER.gather(-1, chosen)
    (expected,) = torch.autograd.grad((p * log_p.gather(-1, chosen).detach() - p * log_q).sum(), logits)
    torch.testing.assert_close(gradient(ReverseKL(detach_ratio=True), support), expected)


def test_at_equality_the_dropped_tail_leaves_a_gradient_and_the_detached_ratio_none() -> None:
    support = TopK(3, "student", "drop")
    assert gradient(ReverseKL(detach_ratio=True), support, TEACHER, TEACHER).abs().max() < 1e-14
    left = gradient(ReverseKL(), support, TEACHER, TEACHER)
    torch.testing.assert_close(left, mass_gradient(TEACHER, TEACHER, support))
    assert left.abs().max() > 1e-2


def test_detached_ratio_changes_nothing_where_the_support_sums_to_one() -> None:
    for support in (Full(), TopK(3, "student", "bucket"), TopK(3, "intersection", "renormalize")):
        torch.testing.assert_close(
            gradient(ReverseKL(detach_ratio=True), support),
            gradient(ReverseKL(), support),
            rtol=1e-9,
            atol=1e-12,
        )


@pytest.mark.parametrize(
    ("divergence", "tail", "share"),
    [
        (ReverseKL(), "drop", 1 / math.e),
        (ReverseKL(detach_ratio=True), "drop", 1.0),
        (ReverseKL(), "bucket", 1.0),
    ],
)
def test_descent_on_truncated_reverse_kl_loses_all_but_1_over_e_of_the_set_unless_repaired(
    divergence: Divergence, tail: Tail, share: float
) -> None:
    teacher = torch.tensor([[4.0, 3.5, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64).log_softmax(-1)
    logits = torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    for _ in range(800):
        logits = logits - gradient(divergence, TopK(2, "teacher", tail), logits, teacher)
    torch.testing.assert_close(logits.softmax(-1)[0, :2], share * teacher.exp()[0, :2], rtol=0.02, atol=0)


def test_renormalized_support_never_touches_a_logit_outside_the_set() -> None:
    support = TopK(3, "student", "renormalize")
    outside = ~support.select(STUDENT, TEACHER)[2]
    assert gradient(ReverseKL(), support)[outside].abs().max() < 1e-15


def test_intersection_with_detached_ratio_is_the_papers_formula() -> None:
    logits = STUDENT.detach().requires_grad_()
    log_p = logits.log_softmax(-1)
    expected = torch.zeros((), dtype=torch.float64)
    for row in range(len(logits)):
        shared = sorted(set(log_p[row].topk(3).indices.tolist()) & set(TEACHER[row].topk(3).indices.tolist()))
        if shared:
            ours = log_p[row, shared].exp() / log_p[row, shared].exp().sum()
            theirs = TEACHER[row, shared].exp() / TEACHER[row, shared].exp().sum()
            expected = expected + (ours * (ours.log().detach() - theirs.log())).sum()
    support, divergence = TopK(3, "intersection", "renormalize"), ReverseKL(detach_ratio=True)
    torch.testing.assert_close(value(divergence, support).sum(), expected.detach())
    torch.testing.assert_close(gradient(divergence, support), torch.autograd.grad(expected, logits)[0])


@DIVERGENCE
@TAIL
def test_empty_intersection_contributes_neither_value_nor_gradient(
    divergence: Divergence, tail: Tail
) -> None:
    student = torch.tensor([[3.0, 2.0, 0.5, 0.0, -1.0]], dtype=torch.float64).log_softmax(-1)
    teacher = student.flip(-1)
    support = TopK(2, "intersection", tail)
    assert value(divergence, support, student, teacher).abs() < 1e-14
    assert gradient(divergence, support, student, teacher).abs().max() < 1e-14


# ---- where the tail matters ------------------------------------------------------------------------------


@TAIL
def test_no_tail_treatment_sees_how_the_teacher_spreads_its_tail(tail: Tail) -> None:
    student = torch.tensor([[0.5, 0.3, 0.1, 0.1]]).log()
    flat, steep = torch.tensor([[0.4, 0.4, 0.1, 0.1]]).log(), torch.tensor([[0.4, 0.4, 0.19, 0.01]]).log()
    one, other = (value(ReverseKL(), TopK(2, "student", tail), student, t) for t in (flat, steep))
    torch.testing.assert_close(one, other)
    assert not torch.allclose(
        value(ReverseKL(), Full(), student, flat), value(ReverseKL(), Full(), student, steep)
    )


@pytest.mark.parametrize(("tail", "sees"), [("bucket", True), ("renormalize", False)])
def test_only_the_bucket_sees_mass_that_leaves_the_set(tail: Tail, sees: bool) -> None:
    inside = torch.tensor([[0.5, 0.3]])
    student = torch.cat([inside, torch.tensor([[0.1, 0.1]])], -1).log()
    escaped = torch.cat([inside / 2, torch.tensor([[0.22, 0.38]])], -1).log()
    support = TopK(2, "teacher", tail)
    assert (value(ReverseKL(), support, escaped, student) > 0.1) == sees


@pytest.mark.parametrize("of", ["teacher", "student", "union", "intersection"])
@pytest.mark.parametrize("tail", ["bucket", "renormalize", "drop"])
def test_more_entries_than_the_vocabulary_has_are_the_whole_of_it(of: Chooser, tail: Tail) -> None:
    torch.testing.assert_close(value(ReverseKL(), TopK(100, of, tail)), value(ReverseKL(), Full()))


# ---- mistakes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match=r"k must be at least 1"):
        TopK(k)


def test_unknown_chooser_and_tail_are_refused() -> None:
    with pytest.raises(ValueError, match="of must be one of"):
        TopK(2, of="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tail must be one of"):
        TopK(2, tail="keep")  # type: ignore[arg-type]


def test_stop_gradient_tail_points_to_the_divergence_that_does_it() -> None:
    with pytest.raises(ValueError, match="detach_ratio"):
        TopK(2, tail="stop-gradient")  # type: ignore[arg-type]


@pytest.mark.parametrize("support", [Full(), TopK(2)])
def test_unequal_shapes_and_types_are_refused(support: Support) -> None:
    with pytest.raises(ValueError, match="teacher has shape"):
        support.restrict(STUDENT, TEACHER[:2])
    with pytest.raises(ValueError, match=r"teacher is torch\.float32"):
        support.restrict(STUDENT, TEACHER.float())


@OF
@TAIL
@pytest.mark.parametrize("who", ["student", "teacher"])
def test_nan_logits_are_refused_by_name_when_the_divergence_is_taken(
    of: Chooser, tail: Tail, who: str
) -> None:
    logits = {"student": torch.zeros(2, 5), "teacher": torch.zeros(2, 5)}
    logits[who][1, 3] = math.nan
    with pytest.raises(ValueError, match=f"{who} holds NaN"):
        JSD()(*TopK(2, of, tail).restrict(*(x.log_softmax(-1) for x in logits.values())))
