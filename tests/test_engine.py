"""The chunked engine against plain autograd on full logits."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from selfteach.objective.batch import Scored, ScoredBatch
from selfteach.objective.columns import Columns
from selfteach.objective.divergence import ForwardKL, ReverseKL
from selfteach.objective.engine import evaluate_terms
from selfteach.objective.head import Head, LowRank
from selfteach.objective.layout import Layout
from selfteach.objective.plan import plan
from selfteach.objective.positions import Positions
from selfteach.objective.record import measure
from selfteach.objective.sampled import k3
from selfteach.objective.statistics import Statistics, entropy
from selfteach.objective.support import Full
from selfteach.objective.target import FromRole
from selfteach.objective.terms import Match, NegativeLogLikelihood, PolicyGradient, Sampled, Term

ROWS, STEPS, VOCABULARY, WIDTH = 5, 7, 23, 6
LENGTHS = torch.tensor([7, 3, 5, 1, 6])


def columns() -> Columns:
    generator = torch.Generator().manual_seed(0)
    return Columns(
        ids=torch.randint(VOCABULARY, (ROWS, STEPS), generator=generator),
        mask=torch.arange(STEPS) < LENGTHS.unsqueeze(1),
        group=torch.tensor([0, 0, 1, 1, 1]),
        reward=torch.tensor([1.0, 0, 0, 1, 1], dtype=torch.float64),
        behavior=-torch.rand(ROWS, STEPS, generator=generator, dtype=torch.float64),
    )


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch(head: Head | None = None) -> ScoredBatch:
    head = head or Head(random(VOCABULARY, WIDTH, seed=1).requires_grad_())
    return ScoredBatch.padded(
        columns(),
        {
            "student": Scored(random(ROWS, STEPS, WIDTH, seed=2).requires_grad_(), head),
            "teacher": Scored(random(ROWS, STEPS, 4, seed=3), Head(random(VOCABULARY, 4, seed=4))),
        },
    )


def with_role(given: ScoredBatch, name: str, scored: Scored) -> ScoredBatch:
    return replace(given, roles={**given.roles, name: scored})


TERMS: dict[str, Term] = {
    "match": Match(name="match", target=FromRole("teacher"), divergence=ReverseKL(), temperature=1.3),
    "clipped": Match(
        name="clipped",
        target=FromRole("teacher"),
        divergence=ForwardKL(clip_entry=0.05),
        mean_over="sequences",
    ),
    "sampled": Sampled(name="sampled", target=FromRole("teacher"), control_variate=Full()),
    "k3": Sampled(name="k3", target=FromRole("teacher"), function=k3, mean_over="sum"),
    "policy": PolicyGradient(
        name="policy",
        advantage=torch.tensor([1.0, -1, 0.5, 0, 2], dtype=torch.float64),
        behavior=columns().behavior,
        clip=(0.2, 0.2),
    ),
    "nll": NegativeLogLikelihood(
        name="nll", where=torch.tensor([True, False, True, True, False]), mean_over="selected"
    ),
}


def plain_loss(given: ScoredBatch, terms: list[Term]) -> Tensor:
    """The same sum without chunks: every position's logits at once."""
    n, t = given.columns.mask.nonzero(as_tuple=True)
    logits = {name: scored.head.logits(scored.states) for name, scored in given.roles.items()}
    at = Positions(given.columns.ids[n, t], n, t, logits)
    weighted = plan(terms, given.columns)
    return sum((w.coefficients[n, t] * w.term.token_loss(at)).sum() for w in weighted)  # type: ignore[return-value]


def gradients(loss: Tensor, given: ScoredBatch) -> list[Tensor]:
    student = given.roles["student"]
    wanted = [t for t in (student.states, *student.head.tensors) if t.requires_grad]
    return list(torch.autograd.grad(loss, wanted, allow_unused=True))


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize("chunk_bytes", [1, 5000, 2**20])
def test_chunks_give_the_loss_and_gradients_of_full_logits(name: str, chunk_bytes: int) -> None:
    given, terms = batch(), [TERMS[name]]
    ours = evaluate_terms(given, plan(terms, given.columns), chunk_bytes=chunk_bytes).loss
    theirs = plain_loss(given, terms)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(gradients(ours, given), gradients(theirs, given), strict=True):
        torch.testing.assert_close(a, b)


def test_several_terms_add_up() -> None:
    given, terms = batch(), list(TERMS.values())
    outcome = evaluate_terms(given, plan(terms, given.columns), chunk_bytes=4000)
    torch.testing.assert_close(outcome.loss, plain_loss(given, terms))
    torch.testing.assert_close(sum(outcome.terms.values()), outcome.loss.detach())


@pytest.mark.parametrize("softcap", [None, 5.0])
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_bias_lora_scale_and_soft_cap_get_exact_gradients(scale: float, softcap: float | None) -> None:
    head = Head(
        random(VOCABULARY + 3, WIDTH, seed=1).requires_grad_(),
        bias=random(VOCABULARY + 3, seed=5).requires_grad_(),
        lora=LowRank(
            random(2, WIDTH, seed=6).requires_grad_(), random(VOCABULARY + 3, 2, seed=7).requires_grad_(), 0.5
        ),
        scale=scale,
        softcap=softcap,
        vocabulary=VOCABULARY,
    )
    given, terms = batch(head), [TERMS["match"]]
    ours = evaluate_terms(given, plan(terms, given.columns), chunk_bytes=3000).loss
    for a, b in zip(gradients(ours, given), gradients(plain_loss(given, terms), given), strict=True):
        torch.testing.assert_close(a, b)


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_the_same() -> None:
    free, frozen = batch(), batch(Head(random(VOCABULARY, WIDTH, seed=1)))
    terms = [TERMS["match"]]
    with_head = gradients(evaluate_terms(free, plan(terms, free.columns)).loss, free)
    without = gradients(evaluate_terms(frozen, plan(terms, frozen.columns)).loss, frozen)
    assert len(without) == 1
    torch.testing.assert_close(without[0], with_head[0])


@pytest.mark.parametrize("name", ["match", "clipped", "sampled", "k3"])
def test_changing_the_teacher_changes_the_gradient(name: str) -> None:
    given = batch()
    teacher = given.roles["teacher"]
    other = with_role(given, "teacher", replace(teacher, states=teacher.states + 0.1))
    a, b = (gradients(evaluate_terms(x, plan([TERMS[name]], x.columns)).loss, x)[0] for x in (given, other))
    assert (a - b).abs().max() > 1e-4


def part_of(given: ScoredBatch, rows: Tensor) -> ScoredBatch:
    """Some rows of a batch as a micro-batch of it."""
    here = torch.isin(given.layout.row, rows)
    roles = {name: replace(one, states=one.states[here]) for name, one in given.roles.items()}
    return ScoredBatch(given.columns, roles, Layout(given.layout.row[here], given.layout.step[here]))


@pytest.mark.parametrize("name", TERMS)
def test_micro_batches_sum_to_the_whole_batch(name: str) -> None:
    given = batch()
    weighted = plan([TERMS[name]], given.columns)
    whole = evaluate_terms(given, weighted).loss
    parts = [
        evaluate_terms(part_of(given, rows), weighted).loss
        for rows in (torch.tensor([0, 1]), torch.tensor([2, 3, 4]))
    ]
    torch.testing.assert_close(sum(parts), whole)
    for a, b in zip(gradients(sum(parts), given), gradients(whole, given), strict=True):  # type: ignore[arg-type]
        torch.testing.assert_close(a, b)


def test_padded_states_of_some_rows_are_the_flat_ones_of_these_rows() -> None:
    given, rows = batch(), torch.tensor([3, 1])
    hidden = random(ROWS, STEPS, WIDTH, seed=2)
    short = ScoredBatch.padded(columns(), {"student": Scored(hidden[rows, :3])}, rows)
    assert short.layout.row.tolist() == [3, 1, 1, 1]
    assert short.layout.step.tolist() == [0, 0, 1, 2]
    torch.testing.assert_close(short.roles["student"].states, hidden[short.layout.row, short.layout.step])
    whole = given.roles["student"].states[torch.isin(given.layout.row, rows)]
    torch.testing.assert_close(short.roles["student"].states.sum(0), whole.sum(0))


def test_padded_states_that_end_before_the_rows_do_are_refused() -> None:
    with pytest.raises(ValueError, match="wrote beyond"):
        ScoredBatch.padded(columns(), {"student": Scored(random(ROWS, 4, WIDTH, seed=2))})


def test_padding_does_not_change_the_loss_or_reach_the_gradient() -> None:
    hidden = random(ROWS, STEPS, WIDTH, seed=2)
    poisoned = hidden.masked_fill(~columns().mask.unsqueeze(2), torch.nan).requires_grad_()
    given = batch()
    student = Scored(poisoned, given.roles["student"].head)
    same = ScoredBatch.padded(given.columns, {"student": student})
    same = with_role(same, "teacher", given.roles["teacher"])
    terms = [TERMS["match"]]
    a, b = (evaluate_terms(x, plan(terms, x.columns)).loss for x in (given, same))
    torch.testing.assert_close(a, b)
    gradient = torch.autograd.grad(b, poisoned)[0]
    assert (gradient[~given.columns.mask] == 0).all()


def test_rows_whose_teacher_sees_nothing_are_not_selected() -> None:
    given = batch()
    blind = replace(given.columns, available={"teacher": torch.tensor([True, False, True, False, True])})
    weighted = plan([replace(TERMS["match"], mean_over="selected")], blind)
    assert (weighted[0].coefficients[[1, 3]] == 0).all()
    assert float(weighted[0].coefficients.sum()) == pytest.approx(1)


def test_an_empty_selection_gives_zero_loss_and_zero_gradient() -> None:
    given = batch()
    nothing = replace(TERMS["match"], where=torch.zeros(ROWS, dtype=torch.bool), mean_over="selected")
    loss = evaluate_terms(given, plan([nothing], given.columns)).loss
    assert float(loss.detach()) == 0
    assert all((g == 0).all() for g in gradients(loss, given))


def test_an_infinite_loss_outside_a_terms_selection_does_not_poison_it() -> None:
    logits = random(ROWS, STEPS, VOCABULARY, seed=8)
    logits[1, :, 0] = -torch.inf
    hidden = logits.requires_grad_()
    roles = {"student": Scored(hidden), "teacher": Scored(random(ROWS, STEPS, VOCABULARY, seed=9))}
    flat = ScoredBatch.padded(columns(), roles)
    where = torch.tensor([True, False, True, True, True])
    terms = [
        Match(name="match", target=FromRole("teacher"), divergence=ForwardKL(), where=where),
        replace(TERMS["nll"], where=None),
    ]
    clean = replace(flat.columns, ids=flat.columns.ids.clamp(min=1))
    loss = evaluate_terms(replace(flat, columns=clean), plan(terms, clean)).loss
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, hidden)[0]).all()


def test_reductions_are_what_their_names_say() -> None:
    given = columns()
    each = {
        how: plan([NegativeLogLikelihood(name="nll", mean_over=how)], given)[0].coefficients  # type: ignore[arg-type]
        for how in ("tokens", "sequences", "sum")
    }
    torch.testing.assert_close(each["tokens"], given.mask.double() / int(LENGTHS.sum()))
    torch.testing.assert_close(each["sequences"], given.mask.double() / LENGTHS.unsqueeze(1) / ROWS)
    torch.testing.assert_close(each["sum"], given.mask.double())


def test_terms_can_share_a_denominator() -> None:
    given = columns()
    routed = given.mask & (given.group == 0).unsqueeze(1)
    terms = [
        NegativeLogLikelihood(name="a", where=routed, mean_over=given.mask),
        NegativeLogLikelihood(name="b", where=~routed, mean_over=given.mask),
    ]
    a, b = plan(terms, given)
    torch.testing.assert_close(a.coefficients + b.coefficients, given.mask.double() / given.mask.sum())


def test_statistics_are_measured_once_and_only_when_read() -> None:
    given, calls = batch(), []

    def counted(wanted):  # type: ignore[no-untyped-def]
        calls.append(sorted(wanted))
        return {name: given.spread(values) for name, values in measure(given, wanted).items()}

    stats = Statistics(given.columns, step=0, temperature=1.0, roles=["teacher"], measure=counted)
    assert calls == []
    student = given.roles["student"]
    logits = student.head.logits(student.states.detach())
    expected = given.spread(entropy(torch.log_softmax(logits, -1)))
    torch.testing.assert_close(stats.entropy(), expected, equal_nan=True)
    stats.log_prob()
    assert calls == [["entropy/student", "log_prob/student"]]
    stats.log_prob("teacher")
    assert calls[1:] == [["entropy/teacher", "log_prob/teacher"]]
    stats.divergence("teacher", ForwardKL())
    stats.divergence("teacher", ForwardKL())
    assert len(calls) == 3


def test_different_vocabulary_widths_are_refused() -> None:
    given = batch()
    teacher = given.roles["teacher"]
    wide = with_role(given, "teacher", replace(teacher, head=Head(random(30, 4, seed=4))))
    with pytest.raises(ValueError, match="vocabulary widths differ"):
        evaluate_terms(wide, plan([TERMS["match"]], wide.columns))


@pytest.mark.parametrize("name", ["mask", "behavior", "group", "reward"])
def test_a_misshapen_column_is_named(name: str) -> None:
    good = columns()
    with pytest.raises(ValueError, match=name):
        replace(good, **{name: torch.ones(2, 2, dtype=getattr(good, name).dtype)})


def test_two_terms_of_one_name_are_refused() -> None:
    given = batch()
    with pytest.raises(ValueError, match="two terms"):
        evaluate_terms(given, plan([TERMS["match"], TERMS["match"]], given.columns))
