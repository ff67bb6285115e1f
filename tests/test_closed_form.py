"""The engine's closed-form gradients against autograd, its precision, and who gets to see which position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selfteach.objective.batch import STUDENT, Scored, ScoredBatch
from selfteach.objective.columns import Columns
from selfteach.objective.divergence import (
    DIVERGENCES,
    JSD,
    Divergence,
    EntropyAware,
    ForwardKL,
    ReverseKL,
)
from selfteach.objective.engine import by_autograd, evaluate_terms
from selfteach.objective.gate import ImportanceRatio, LogRatio
from selfteach.objective.head import Head
from selfteach.objective.plan import plan
from selfteach.objective.positions import Positions, Temperature
from selfteach.objective.sampled import k2, k3
from selfteach.objective.support import Chooser, Full, Tail, TopK
from selfteach.objective.target import AdvantageTilted, Consensus, FromRole, GeometricMean, Mixture
from selfteach.objective.terms import (
    Entropy,
    Match,
    NegativeLogLikelihood,
    PolicyGradient,
    Sampled,
    Signal,
    Term,
)
from selfteach.objective.top import top_ids

ROWS, STEPS, VOCABULARY = 3, 4, 17
TEACHER = FromRole("teacher")

DIVERGENCE: dict[str, Divergence] = {name: kind() for name, kind in DIVERGENCES.items()} | {
    "clipped entries": ForwardKL(clip_entry=0.05),
    "clipped tokens": ReverseKL(clip_token=1.0),
    "scaled": JSD(0.2, scaled=True),
    "detached ratio": ReverseKL(detach_ratio=True),
    "clipped ratio": ReverseKL(detach_ratio=True, clip_ratio=0.5),
    "unsure": EntropyAware(threshold=2.0, softness=1.0),
}

BEHAVIOR = -torch.rand(ROWS, STEPS, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
ADVANTAGE = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
OF_SAMPLED_TOKEN: dict[str, Term] = {
    "policy gradient to a target": Sampled(name="term", target=TEACHER, temperature=1.2),
    "control variate": Sampled(name="term", target=TEACHER, control_variate=Full(), temperature=1.2),
    "k2": Sampled(name="term", target=TEACHER, function=k2, temperature=1.2),
    "k3": Sampled(name="term", target=TEACHER, function=k3, temperature=1.2),
    "a function of one's own": Sampled(name="term", target=TEACHER, function=lambda p, q: (p - q).tanh()),
    "consensus": Sampled(name="term", target=Consensus(("teacher", "other")), function=k2),
    "normalized target": Sampled(name="term", target=AdvantageTilted("teacher", 2.0), function=k2),
    "entropy bonus": Entropy(name="term", temperature=0.7),
    "entropy penalty": Entropy(name="term", penalty=True),
    "policy gradient": PolicyGradient(name="term", advantage=ADVANTAGE),
    "clipped surrogate": PolicyGradient(name="term", advantage=ADVANTAGE, behavior=BEHAVIOR, clip=(0.2, 0.3)),
    "advantage at the position": PolicyGradient(name="term", advantage=LogRatio(BEHAVIOR), temperature=1.2),
    "bounded advantage at the position": PolicyGradient(
        name="term", advantage=LogRatio(BEHAVIOR, bound=0.5, temperature=0.9)
    ),
    "negative log-likelihood": NegativeLogLikelihood(name="term", temperature=0.8),
}


def random(*shape: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def positions(scale: float = 2.0) -> Positions:
    row, step = (
        index.flatten() for index in torch.meshgrid(torch.arange(ROWS), torch.arange(STEPS), indexing="ij")
    )
    ids = torch.randint(VOCABULARY, (len(row),), generator=torch.Generator().manual_seed(0))
    logits = {
        role: random(len(row), VOCABULARY, seed=seed, scale=scale)
        for seed, role in enumerate((STUDENT, "teacher", "other"))
    }
    return Positions(ids, row, step, logits)


def assert_closed_form_is_autograd(term: Term, at: Positions) -> None:
    with torch.no_grad():
        closed = term.logit_gradient(at)
    assert closed is not None
    for ours, reference in zip(closed, by_autograd(term, at), strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", DIVERGENCE)
@pytest.mark.parametrize(
    "temperature",
    [
        1.0,
        1.7,
        torch.tensor([0.5, 1.0, 2.0]),
        1 + torch.arange(12.0).reshape(ROWS, STEPS) / 5,
        lambda at: 1 + at.logits[STUDENT].std(-1) / 3,
    ],
    ids=["none", "number", "per row", "per token", "a function"],
)
def test_the_closed_form_of_matching_is_autograds(name: str, temperature: Temperature) -> None:
    term = Match(name="term", target=TEACHER, divergence=DIVERGENCE[name], temperature=temperature)
    assert_closed_form_is_autograd(term, positions())


@pytest.mark.parametrize(
    "target", [Mixture({"teacher": 0.3, "other": 0.7}), GeometricMean({"teacher": 0.5, "other": 0.5})]
)
def test_the_closed_form_holds_for_several_teachers(target: Mixture | GeometricMean) -> None:
    assert_closed_form_is_autograd(Match(name="term", target=target, divergence=JSD(0.3)), positions())


def test_a_gate_weighs_the_loss_and_its_gradient_and_is_no_part_of_either() -> None:
    given = small_batch(n=ROWS, t=STEPS)
    gate = ImportanceRatio(BEHAVIOR, 1.5)
    plain = Sampled(name="term", target=TEACHER)
    student = given.roles[STUDENT]
    log_prob = student.head.logits(student.states).log_softmax(-1).gather(1, given.columns.ids.reshape(-1, 1))
    ratio = (log_prob.detach().reshape(ROWS, STEPS) - BEHAVIOR).exp().clamp(max=1.5)
    gated = evaluate_terms(given, plan([replace(plain, gate=gate)], given.columns)).loss
    by_hand = full_logits_loss(given, [replace(plain, weight=ratio)])
    torch.testing.assert_close(gated, by_hand)
    for a, b in zip(gradients(gated, given), gradients(by_hand, given), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bound", [None, 0.5])
def test_an_advantage_at_the_position_is_the_column_of_the_same_numbers(bound: float | None) -> None:
    given = small_batch(n=ROWS, t=STEPS)
    student = given.roles[STUDENT]
    own = student.head.logits(student.states.detach()).log_softmax(-1)
    column = BEHAVIOR - own.gather(1, given.columns.ids.reshape(-1, 1)).reshape(ROWS, STEPS).detach()
    column = column if bound is None else column.clamp(-bound, bound)
    at_position = PolicyGradient(name="term", advantage=LogRatio(BEHAVIOR, bound))
    outcome = evaluate_terms(given, plan([at_position], given.columns), chunk_bytes=500)
    by_hand = full_logits_loss(given, [replace(at_position, advantage=column)])
    torch.testing.assert_close(outcome.loss, by_hand)
    torch.testing.assert_close(outcome.token["advantage/term"], given.layout.at(column))
    for a, b in zip(gradients(outcome.loss, given), gradients(by_hand, given), strict=True):
        torch.testing.assert_close(a, b)


def test_distillation_on_sampled_tokens_notes_its_advantage_baseline_included() -> None:
    at = positions()
    p, q = (at.logits[role].log_softmax(-1) for role in (STUDENT, "teacher"))
    own, theirs = (one.gather(1, at.ids.unsqueeze(1)).squeeze(1) for one in (p, q))
    expected = theirs - own + (p.exp() * (p - q)).sum(1)
    term = Sampled(name="term", target=TEACHER, control_variate=Full(), temperature=1.0)
    torch.testing.assert_close(term.noted(at)["advantage"], expected)
    assert replace(term, function=k2).noted(at) == {}


def test_an_unknown_target_of_an_advantage_is_refused() -> None:
    given = small_batch(n=ROWS, t=STEPS)
    unknown = BEHAVIOR.clone()
    unknown[1, 2] = torch.nan
    term = PolicyGradient(name="term", advantage=LogRatio(unknown))
    with pytest.raises(ValueError, match=r"term 'term': the advantage's target is nan at row 1, position 2"):
        evaluate_terms(given, plan([term], given.columns))


@pytest.mark.parametrize("ceiling", [0.3, 1.0, 100.0])
def test_a_ceiling_bounds_a_tokens_loss_and_takes_the_gradient_of_what_exceeds_it(ceiling: float) -> None:
    term = Match(name="term", target=TEACHER, divergence=ReverseKL(), ceiling=ceiling)
    assert_closed_form_is_autograd(term, positions())
    loss, gradient = term.logit_gradient(positions())  # type: ignore[misc]
    free, whole = replace(term, ceiling=None).logit_gradient(positions())  # type: ignore[misc]
    torch.testing.assert_close(loss, free.clamp(max=ceiling))
    torch.testing.assert_close(gradient, whole * (free <= ceiling).unsqueeze(1))


@pytest.mark.parametrize("name", OF_SAMPLED_TOKEN)
def test_the_closed_form_of_the_sampled_token_is_autograds(name: str) -> None:
    assert_closed_form_is_autograd(OF_SAMPLED_TOKEN[name], positions())


@pytest.mark.parametrize("name", DIVERGENCE)
def test_the_closed_form_survives_a_masked_vocabulary_and_extreme_logits(name: str) -> None:
    at = positions(scale=100.0)
    for logits in at.logits.values():
        logits[:, 3:6] = -torch.inf
    term = Match(name="term", target=TEACHER, divergence=DIVERGENCE[name])
    assert_closed_form_is_autograd(term, at)
    with torch.no_grad():
        _, gradient = term.logit_gradient(at)  # type: ignore[misc]
    assert torch.isfinite(gradient).all()
    assert (gradient[:, 3:6] == 0).all()


def batch_of(
    hidden: Tensor, weight: Tensor, teacher: Tensor, teacher_weight: Tensor, mask: Tensor | None = None
) -> ScoredBatch:
    """A batch whose student may be trained in hidden states and head."""
    n, t = hidden.shape[:2]
    ids = torch.randint(len(weight), (n, t), generator=torch.Generator().manual_seed(9))
    mask = torch.ones(n, t, dtype=torch.bool) if mask is None else mask
    small = (ids, mask, torch.arange(n), torch.zeros(n))
    columns = Columns(*(column.to(hidden.device) for column in small))
    student = Scored(hidden.requires_grad_(), Head(weight.requires_grad_()))
    roles = {STUDENT: student, "teacher": Scored(teacher, Head(teacher_weight))}
    return ScoredBatch.padded(columns, roles)


def with_role(given: ScoredBatch, name: str, scored: Scored) -> ScoredBatch:
    return replace(given, roles={**given.roles, name: scored})


def small_batch(n: int = 3, t: int = 5, vocabulary: int = 19, width: int = 4) -> ScoredBatch:
    return batch_of(
        random(n, t, width, seed=1),
        random(vocabulary, width, seed=2),
        random(n, t, 3, seed=3),
        random(vocabulary, 3, seed=4),
    )


def full_logits_loss(given: ScoredBatch, terms: list[Term]) -> Tensor:
    n, t = given.columns.mask.nonzero(as_tuple=True)
    logits = {name: s.head.logits(s.states) for name, s in given.roles.items()}
    at = Positions(given.columns.ids[n, t], n, t, logits)
    weighted = plan(terms, given.columns)
    return torch.stack([(w.coefficients[n, t] * w.term.token_loss(at)).sum() for w in weighted]).sum()


def gradients(loss: Tensor, given: ScoredBatch) -> tuple[Tensor, ...]:
    student = given.roles[STUDENT]
    return torch.autograd.grad(loss, [student.states, *student.head.tensors])


def assert_engine_is_full_logits(given: ScoredBatch, terms: list[Term], **options: object) -> None:
    ours = evaluate_terms(given, plan(terms, given.columns), **options).loss  # type: ignore[arg-type]
    reference = full_logits_loss(given, terms)
    torch.testing.assert_close(ours, reference)
    for a, b in zip(gradients(ours, given), gradients(reference, given), strict=True):
        torch.testing.assert_close(a, b)


@dataclass(frozen=True, kw_only=True)
class WithoutClosedForm(Term):
    """The reverse KL to the teacher, of which nothing is known but its value."""

    @property
    def own_reads(self) -> Mapping[str, Signal]:
        return {STUDENT: "full", "teacher": "full"}

    def token_loss(self, at: Positions) -> Tensor:
        return ReverseKL()(at.log_probs(), at.log_probs("teacher").detach())


def test_a_term_without_a_closed_form_is_left_to_autograd() -> None:
    term = WithoutClosedForm(name="term")
    assert term.logit_gradient(positions()) is None
    assert_engine_is_full_logits(small_batch(), [term])


# --- top-k supports ---------------------------------------------------------------------------------------------

SUPPORT = pytest.mark.parametrize(
    "support", [TopK(5, of, tail) for of in get_args(Chooser) for tail in get_args(Tail)],
    ids=lambda one: f"{one.of}-{one.tail}",
)  # fmt: skip


@SUPPORT
@pytest.mark.parametrize("name", DIVERGENCE)
def test_the_closed_form_on_a_support_is_autograds(name: str, support: TopK) -> None:
    at = positions()
    term = Match(name="term", target=TEACHER, divergence=DIVERGENCE[name], support=support, temperature=1.7)
    for k in (1, 5, 16, 17, 40):
        assert_closed_form_is_autograd(replace(term, support=replace(support, k=k)), at)


@SUPPORT
@pytest.mark.parametrize("name", DIVERGENCE)
def test_the_closed_form_on_a_support_survives_excluded_tokens_and_ties(name: str, support: TopK) -> None:
    at = positions(scale=30.0)
    for logits in at.logits.values():
        logits[:, 3:6] = -torch.inf
        logits[:, 8:12] = logits[:, 7:8]
        logits[0] = 0.0  # every token alike
    term = Match(name="term", target=TEACHER, divergence=DIVERGENCE[name], support=support)
    for k in (1, 5, 16, 40):
        assert_closed_form_is_autograd(replace(term, support=replace(support, k=k)), at)


@SUPPORT
@pytest.mark.parametrize("of_student", [True, False])
def test_the_closed_form_on_a_support_knows_tokens_that_one_side_alone_excludes(
    support: TopK, of_student: bool
) -> None:
    """The skewed and symmetric divergences stay finite there."""
    at = positions()
    at.logits[STUDENT if of_student else "teacher"][:, 2:9] = -torch.inf
    for divergence in (JSD(0.3), DIVERGENCES["total_variation"](), DIVERGENCES["skew_forward_kl"]()):
        term = Match(name="term", target=TEACHER, divergence=divergence, support=support)
        assert_closed_form_is_autograd(term, at)


@SUPPORT
def test_the_closed_form_on_a_support_knows_ceiling_and_temperatures(support: TopK) -> None:
    rows = torch.tensor([0.5, 1.0, 2.0])
    for fields in (
        {"ceiling": 0.05},
        {"temperature": rows},
        {"temperature": lambda at: 1 + at.logits[STUDENT].std(-1) / 3},
        {"temperature": 1.3, "target_temperature": 0.7},
    ):
        term = Match(name="term", target=TEACHER, divergence=JSD(0.3), support=support, **fields)  # type: ignore[arg-type]
        assert_closed_form_is_autograd(term, positions())


@SUPPORT
def test_the_engine_takes_a_support_without_autograd(support: TopK, monkeypatch: pytest.MonkeyPatch) -> None:
    term = Match(name="term", target=TEACHER, divergence=ReverseKL(), support=support, temperature=1.3)
    assert_engine_is_full_logits(small_batch(), [term], chunk_bytes=2000)
    monkeypatch.setattr("selfteach.objective.engine.by_autograd", None)
    evaluate_terms(small_batch(), plan([term], small_batch().columns)).loss.backward()


def test_the_bucket_of_a_student_that_is_sure_of_the_set_keeps_its_gradient() -> None:
    """Its probabilities are 0 in float32, their shares of the bucket are not."""
    at = positions()
    logits = {STUDENT: torch.zeros(12, VOCABULARY), "teacher": torch.zeros(12, VOCABULARY)}
    logits[STUDENT][:, 0] = 120.0
    logits[STUDENT][:, 1] = 3.0
    term = Match(name="term", target=TEACHER, divergence=ForwardKL(), support=TopK(1, "student"))
    with torch.no_grad():
        single = term.logit_gradient(replace(at, logits=logits))[1]
        exact = by_autograd(term, replace(at, logits={k: v.double() for k, v in logits.items()}))[1]
    torch.testing.assert_close(single.double(), exact, rtol=1e-5, atol=0)
    assert (single[:, 1:] < -0.01).all()


@pytest.mark.parametrize("k", [1, 5, 100])
@pytest.mark.parametrize("width", [4096, 5003, 20_000])
def test_the_top_of_a_wide_row_is_torchs(width: int, k: int) -> None:
    draws = torch.Generator().manual_seed(3)
    values = torch.stack([torch.randperm(width, generator=draws).float() for _ in range(7)])
    values[2, 100:] = -torch.inf
    values[3, 77] = torch.nan
    values[4, -1] = 1e6
    values[5] = (values[5] / 7).floor()  # ties, at the border too
    values[6] = 0.0
    ids = top_ids(values, k)
    expected = values.topk(k)
    assert all(len(set(row)) == k for row in ids.tolist())
    torch.testing.assert_close(values.gather(1, ids), expected.values, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(ids[[0, 1, 4]], expected.indices[[0, 1, 4]])
    assert torch.equal(ids, torch.stack([top_ids(row, k) for row in values]))


def test_a_chunk_of_several_blocks_gives_the_gradient_of_full_logits() -> None:
    given = small_batch(n=4, t=100, vocabulary=4096)
    assert_engine_is_full_logits(given, [Match(name="term", target=TEACHER, divergence=ReverseKL())])


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(1, 4),
    t=st.integers(1, 6),
    vocabulary=st.integers(2, 30),
    width=st.integers(1, 5),
    chunk_bytes=st.integers(1, 20_000),
    seed=st.integers(0, 10_000),
    name=st.sampled_from(sorted(DIVERGENCE)),
)
def test_no_shape_and_no_chunk_length_changes_the_gradient(
    n: int, t: int, vocabulary: int, width: int, chunk_bytes: int, seed: int, name: str
) -> None:
    mask = torch.rand(n, t, generator=torch.Generator().manual_seed(seed)) < 0.7
    given = batch_of(
        random(n, t, width, seed=seed, scale=3.0),
        random(vocabulary, width, seed=seed + 1),
        random(n, t, width, seed=seed + 2, scale=3.0),
        random(vocabulary, width, seed=seed + 3),
        mask,
    )
    terms: list[Term] = [
        Match(name="match", target=TEACHER, divergence=DIVERGENCE[name], mean_over="sequences"),
        NegativeLogLikelihood(name="nll", where=torch.arange(n) % 2 == 0, coefficient=0.3),
    ]
    assert_engine_is_full_logits(given, terms, chunk_bytes=chunk_bytes)


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_a_compiler_changes_nothing(compiler: str) -> None:
    terms: list[Term] = [
        Match(name="match", target=TEACHER, divergence=JSD(), temperature=1.1),
        NegativeLogLikelihood(name="nll"),
    ]
    assert_engine_is_full_logits(small_batch(), terms, compiler=compiler, chunk_bytes=3000)


@dataclass(frozen=True, kw_only=True)
class SeesOnly(Term):
    """A term that breaks when shown another row than the one given."""

    row: int

    def token_loss(self, at: Positions) -> Tensor:
        assert (at.row == self.row).all(), "shown a position it did not select"
        return -at.sampled()


@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
def test_a_term_sees_only_the_positions_it_selects(chunk_bytes: int) -> None:
    given = small_batch()
    terms: list[Term] = [
        SeesOnly(name=f"row {row}", row=row, where=torch.arange(3) == row, mean_over="sum")
        for row in range(3)
    ]
    outcome = evaluate_terms(given, plan(terms, given.columns), chunk_bytes=chunk_bytes)
    everywhere: list[Term] = [NegativeLogLikelihood(name="nll", mean_over="sum")]
    torch.testing.assert_close(outcome.loss, full_logits_loss(given, everywhere))
    assert outcome.token["loss/row 1"].isnan().sum() == 10


def test_a_teacher_that_is_undefined_where_nobody_asks_it_does_no_harm() -> None:
    given = small_batch()
    teacher = given.roles["teacher"]
    states = teacher.states.masked_fill((given.layout.row == 1).unsqueeze(1), torch.nan)
    blind = with_role(given, "teacher", replace(teacher, states=states))
    terms: list[Term] = [
        Match(name="match", target=TEACHER, divergence=ForwardKL(), where=torch.tensor([True, False, True])),
        NegativeLogLikelihood(name="nll"),
    ]
    for a, b in zip(
        gradients(evaluate_terms(blind, plan(terms, blind.columns)).loss, blind),
        gradients(evaluate_terms(given, plan(terms, given.columns)).loss, given),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


def test_a_head_cut_to_the_vocabulary_gives_padding_no_gradient() -> None:
    given = small_batch(vocabulary=19)
    given = with_role(given, "teacher", replace(given.roles["teacher"], head=Head(random(15, 3, seed=4))))
    own = given.roles[STUDENT]
    for student in (
        replace(own, head=replace(own.head, vocabulary=15)),
        Scored(random(15, 19, seed=6).requires_grad_(), Head(vocabulary=15)),
    ):
        padded = with_role(given, STUDENT, student)
        terms: list[Term] = [Match(name="match", target=TEACHER, divergence=ReverseKL())]
        padded = replace(padded, columns=replace(padded.columns, ids=padded.columns.ids.clamp(max=14)))
        assert_engine_is_full_logits(padded, terms)


def test_several_teachers_keep_their_own_heads_and_widths() -> None:
    given = small_batch()
    other = Scored(random(15, 7, seed=6), Head(random(19, 7, seed=7), bias=random(19, seed=8), softcap=4.0))
    both = with_role(given, "other", other)
    target = Mixture({"teacher": 0.4, "other": 0.6})
    assert_engine_is_full_logits(both, [Match(name="match", target=target, divergence=ForwardKL())])


def test_tied_embeddings_get_the_gradients_of_both_their_uses() -> None:
    given = small_batch()
    table = random(19, 4, seed=2).requires_grad_()
    found = []
    for loss in (
        lambda batch, terms: evaluate_terms(batch, plan(terms, batch.columns), chunk_bytes=2000).loss,
        full_logits_loss,
    ):
        hidden = torch.tanh(torch.nn.functional.embedding(given.columns.ids, table))
        tied = with_role(given, STUDENT, Scored(hidden.flatten(0, 1), Head(table)))
        found.append(
            torch.autograd.grad(
                loss(tied, [Match(name="match", target=TEACHER, divergence=ReverseKL())]), table
            )
        )
    torch.testing.assert_close(*found)


def test_the_upstream_gradient_scales_all_of_it() -> None:
    given = small_batch()
    weighted = plan([Match(name="match", target=TEACHER, divergence=ReverseKL())], given.columns)
    once = gradients(evaluate_terms(given, weighted).loss, given)
    thrice = gradients(3 * evaluate_terms(given, weighted).loss, given)
    for a, b in zip(once, thrice, strict=True):
        torch.testing.assert_close(3 * a, b)


def test_a_loss_differentiated_twice_says_so() -> None:
    given = small_batch()
    loss = evaluate_terms(given, plan([NegativeLogLikelihood(name="nll")], given.columns)).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated already"):
        loss.backward()


def test_without_gradient_the_loss_is_the_same() -> None:
    given = small_batch()
    weighted = plan([Match(name="match", target=TEACHER, divergence=JSD())], given.columns)
    with torch.no_grad():
        blind = evaluate_terms(given, weighted).loss
    assert not blind.requires_grad
    torch.testing.assert_close(blind, evaluate_terms(given, weighted).loss.detach())


# --- precision --------------------------------------------------------------------------------------------------


def confident_batch(dtype: torch.dtype, device: str = "cpu") -> ScoredBatch:
    """Logits of ± 20, as a trained model has them, in ``dtype``: there bfloat16 is 0.06 apart."""
    n, t, width, vocabulary = 2, 24, 64, 500
    student, teacher = random(n, t, width, seed=1), random(n, t, width, seed=2)
    weight, other = random(vocabulary, width, seed=3), random(vocabulary, width, seed=4)
    tensors = (student, 0.6 * weight, student + 0.3 * teacher, 0.6 * weight + 0.05 * other)
    return batch_of(*(x.to(device, dtype) for x in tensors))


def exactly(given: ScoredBatch) -> ScoredBatch:
    """The same numbers in float64."""
    student, teacher = given.roles[STUDENT], given.roles["teacher"]
    assert teacher.head.weight is not None
    assert student.head.weight is not None
    shape = given.columns.ids.shape  # nothing is masked in these batches
    tensors = (student.states, student.head.weight, teacher.states, teacher.head.weight)
    exact = [x.detach().double() for x in tensors]
    return batch_of(exact[0].unflatten(0, shape), exact[1], exact[2].unflatten(0, shape), exact[3])


def relative_error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


def gradient_errors(given: ScoredBatch, term: Term, **options: object) -> list[float]:
    reference = exactly(given)
    ours = evaluate_terms(given, plan([term], given.columns), **options).loss  # type: ignore[arg-type]
    exact = full_logits_loss(reference, [term])
    return [
        relative_error(a, b) for a, b in zip(gradients(ours, given), gradients(exact, reference), strict=True)
    ]


PRECISE: dict[str, Term] = {
    "forward KL": Match(name="term", target=TEACHER, divergence=ForwardKL()),
    "reverse KL": Match(name="term", target=TEACHER, divergence=ReverseKL()),
    "JSD": Match(name="term", target=TEACHER, divergence=JSD()),
    "top 20": Match(name="term", target=TEACHER, divergence=ReverseKL(), support=TopK(20)),
    "control variate": Sampled(name="term", target=TEACHER, control_variate=Full()),
    "likelihood": NegativeLogLikelihood(name="term"),
}


@pytest.mark.parametrize("name", PRECISE)
def test_float32_gradients_are_within_1e_5_of_float64(name: str) -> None:
    assert max(gradient_errors(confident_batch(torch.float32), PRECISE[name])) < 1e-5


@pytest.mark.parametrize("chunk_bytes", [1, 2**20])
@pytest.mark.parametrize("name", PRECISE)
def test_bfloat16_gradients_are_within_one_percent_of_float64(name: str, chunk_bytes: int) -> None:
    errors = gradient_errors(confident_batch(torch.bfloat16), PRECISE[name], chunk_bytes=chunk_bytes)
    assert max(errors) < 0.01


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator here")
@pytest.mark.parametrize("compiler", [None, "inductor"])
@pytest.mark.parametrize("name", PRECISE)
def test_bfloat16_gradients_on_the_device_are_within_one_percent_too(name: str, compiler: str | None) -> None:
    given = confident_batch(torch.bfloat16, "cuda")
    assert max(gradient_errors(given, PRECISE[name], compiler=compiler)) < 0.01


def test_logits_rounded_to_bfloat16_would_miss_that_by_far() -> None:
    given = confident_batch(torch.bfloat16)
    reference = exactly(given)
    rounded = [
        (scored.states @ scored.head.weight.T).float()  # type: ignore[union-attr]
        for scored in given.roles.values()
    ]
    loss = ReverseKL()(rounded[0].log_softmax(-1), rounded[1].log_softmax(-1).detach()).mean()
    exact = full_logits_loss(reference, [PRECISE["reverse KL"]])
    errors = [
        relative_error(a, b) for a, b in zip(gradients(loss, given), gradients(exact, reference), strict=True)
    ]
    assert min(errors) > 0.02


def test_log_probs_keep_their_digits_on_a_wide_vocabulary() -> None:
    logits = random(3, 262_144, seed=1, scale=3.0).float()
    at = Positions(*(torch.zeros(3, dtype=torch.long) for _ in range(3)), {STUDENT: logits})
    torch.testing.assert_close(at.log_probs().double(), logits.double().log_softmax(-1), rtol=0, atol=4e-6)


def test_log_probs_of_excluded_tokens_and_large_logits_are_torchs_own_with_its_gradient() -> None:
    logits = random(4, 12, seed=2, scale=1e4)
    logits[0, 3:] = -torch.inf
    logits.requires_grad_()
    at = Positions(*(torch.zeros(4, dtype=torch.long) for _ in range(3)), {STUDENT: logits})
    weight = torch.zeros(4, 12, dtype=torch.float64).index_fill_(1, torch.tensor([0, 2]), 1.0)
    ours = torch.autograd.grad((weight * at.log_probs()).sum_to_size(1)[0], logits)[0]
    theirs = torch.autograd.grad((weight * logits.log_softmax(-1)).sum_to_size(1)[0], logits)[0]
    torch.testing.assert_close(at.log_probs(), logits.log_softmax(-1))
    torch.testing.assert_close(ours, theirs)


def test_bfloat16_logits_are_those_of_float32() -> None:
    hidden, weight = random(7, 64, seed=1).bfloat16(), random(50, 64, seed=2).bfloat16()
    logits = Head(weight).logits(hidden)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, hidden.float() @ weight.float().T)


def test_autocast_around_the_loss_does_not_reach_it() -> None:
    given = confident_batch(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        errors = gradient_errors(given, PRECISE["reverse KL"])
    assert max(errors) < 1e-5
